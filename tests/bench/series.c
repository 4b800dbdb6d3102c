/* series: see series.h. */
#include "tests/bench/series.h"

#include "tools/demo/report.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const keys[SERIES_COLUMNS] = {
    [SERIES_PAUSE] = "vm_pause_ms", [SERIES_GAP] = "client_gap_ms",   [SERIES_PAGES] = "last_pages",
    [SERIES_TOTAL] = "total_ms",    [SERIES_CAPTURE] = "capture",     [SERIES_SEND] = "send",
    [SERIES_RECEIVE] = "receive",   [SERIES_LOAD] = "load",           [SERIES_CLAIM] = "claim",
    [SERIES_RESUME] = "resume",     [SERIES_DOWNTIME] = "downtime_ms"};

void series_begin(struct series *s, const char *name, const char *title, unsigned wanted)
{
    *s = (struct series){.name = name, .title = title, .wanted = wanted};
    for (int i = 0; i < SERIES_COLUMNS; i++)
        if (!(s->values[i] = calloc(wanted + 1, sizeof(double))))
            abort();
}

void series_end(struct series *s)
{
    for (int i = 0; i < SERIES_COLUMNS; i++)
        free(s->values[i]);
}

void series_add(struct series *s, const double row[SERIES_COLUMNS], const bool used[SERIES_COLUMNS])
{
    if (s->n == s->wanted)
        return;
    for (int i = 0; i < SERIES_COLUMNS; i++)
        s->values[i][s->n] = row[i];
    memcpy(s->used, used, sizeof s->used);
    s->n++;
}

bool series_ok(const struct series *all, unsigned n, const struct verdict *v)
{
    bool ok = !v->broken && !v->client_errors && !v->violations && !v->memory_errors;
    for (unsigned i = 0; i < n; i++)
        ok = ok && all[i].n == all[i].wanted;
    return ok;
}

static double of(const struct series *s, enum column c, unsigned percent)
{
    return report_percentile(s->values[c], s->n, percent);
}

const char *series_goal(const struct series *s)
{
    if (!s->n || of(s, SERIES_PAGES, 100) > GOAL_PAGES)
        return "not asked";
    return of(s, SERIES_PAUSE, 99) <= GOAL_PAUSE_MS ? "met" : "missed";
}

static void put(struct json_object *j, const char *key, struct json_object *value)
{
    json_object_object_add(j, key, value);
}

static struct json_object *real(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.3f", x);
    return json_object_new_double_s(x, text);
}

static struct json_object *one(const struct series *s)
{
    struct json_object *j = json_object_new_object(), *parts = json_object_new_object();
    put(j, "moves", json_object_new_uint64(s->n));
    for (int i = 0; i < SERIES_COLUMNS; i++)
        if (s->used[i])
            put(i >= SERIES_CAPTURE && i <= SERIES_RESUME ? parts : j, keys[i], report_spread(s->values[i], s->n));
    if (json_object_object_length(parts))
        put(j, "pause_parts_ms", json_object_get(parts));
    json_object_put(parts);
    if (s->downtime_limit > 0)
        put(j, "downtime_limit_ms", real(s->downtime_limit));
    return j;
}

struct json_object *series_to_json(const struct series *all, unsigned n, const struct verdict *v)
{
    struct json_object *j = json_object_new_object(), *limits = json_object_new_object(),
                       *goal = json_object_new_object();
    for (unsigned i = 0; i < n; i++) {
        put(j, all[i].name, one(&all[i]));
        if (all[i].downtime_limit <= 0)
            put(goal, all[i].name, json_object_new_string(series_goal(&all[i])));
    }
    put(limits, "pages", json_object_new_int(GOAL_PAGES));
    put(limits, "memcpy_ms", real(v->memcpy_ms));
    put(limits, "tcp_round_trip_ms", real(v->round_trip_ms));
    put(goal, "pages", json_object_new_int(GOAL_PAGES));
    put(goal, "vm_pause_p99_ms", json_object_new_int(GOAL_PAUSE_MS));
    put(j, "limits", limits);
    put(j, "goal", goal);
    put(j, "moves", json_object_new_uint64(v->moves));
    put(j, "client_errors", json_object_new_uint64(v->client_errors));
    put(j, "output_violations", json_object_new_uint64(v->violations));
    put(j, "memory_errors", json_object_new_uint64(v->memory_errors));
    put(j, "ok", json_object_new_boolean(series_ok(all, n, v)));
    return j;
}

static void print_one(FILE *out, const struct series *s)
{
    if (!s->n) {
        fprintf(out, "  %-34s none\n", s->title);
        return;
    }
    fprintf(out, "  %-34s %3u  %7.1f %7.1f %7.1f  %7.0f %7.0f  %6.0f %6.0f  %7.0f\n", s->title, s->n,
            of(s, SERIES_PAUSE, 50), of(s, SERIES_PAUSE, 99), of(s, SERIES_PAUSE, 100), of(s, SERIES_GAP, 50),
            of(s, SERIES_GAP, 99), of(s, SERIES_PAGES, 50), of(s, SERIES_PAGES, 100), of(s, SERIES_TOTAL, 50));
    if (!s->used[SERIES_CAPTURE])
        return;
    fprintf(out, "  %-34s", "    parts of the pause, p50/p99");
    for (int i = SERIES_CAPTURE; i <= SERIES_RESUME; i++)
        fprintf(out, " %s %.1f/%.1f", keys[i], of(s, (enum column)i, 50), of(s, (enum column)i, 99));
    fprintf(out, "\n");
}

void series_print(const struct series *all, unsigned n, const struct verdict *v, bool to_stderr)
{
    FILE *out = to_stderr ? stderr : stdout;
    fprintf(out,
            "\n%s: the client saw %" PRIu64 " errors and %" PRIu64 " output violations, the guest %" PRIu64
            " memory errors\n\n",
            series_ok(all, n, v) ? "OK" : "FAILED", v->client_errors, v->violations, v->memory_errors);
    fprintf(out, "  %-34s %3s  %7s %7s %7s  %7s %7s  %6s %6s  %7s\n", "", "n", "pause", "", "", "gap", "", "pages", "",
            "total");
    fprintf(out, "  %-34s %3s  %7s %7s %7s  %7s %7s  %6s %6s  %7s\n", "ms", "", "p50", "p99", "max", "p50", "p99",
            "p50", "max", "p50");
    for (unsigned i = 0; i < n; i++)
        print_one(out, &all[i]);
    fprintf(out, "\n  here %d pages are copied in %.2f ms, and a byte goes to the other host and back in %.3f ms\n",
            GOAL_PAGES, v->memcpy_ms, v->round_trip_ms);
    for (unsigned i = 0; i < n; i++)
        if (all[i].downtime_limit <= 0)
            fprintf(out, "  goal, %s: pause p99 at most %d ms with up to %d pages: %s\n", all[i].name, GOAL_PAUSE_MS,
                    GOAL_PAGES, series_goal(&all[i]));
}
