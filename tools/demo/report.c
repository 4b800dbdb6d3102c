/* report: see report.h. */
#include "tools/demo/report.h"

#include "common/hist.h"
#include "tools/demo/limit.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *room(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    if (!p)
        abort();
    return p;
}

void results_begin(struct results *r, unsigned failovers)
{
    *r = (struct results){.to_running_ms = room(failovers, sizeof(double)),
                          .gap_ms = room(failovers, sizeof(double)),
                          .total_ms = room(failovers, sizeof(double)),
                          .timelines = room(failovers, sizeof(struct timeline)),
                          .unprotected = hist_new(),
                          .protected = hist_new()};
}

void results_end(struct results *r)
{
    free(r->to_running_ms);
    free(r->gap_ms);
    free(r->total_ms);
    free(r->timelines);
    hist_free(r->unprotected);
    hist_free(r->protected);
}

bool results_violated(const struct results *r)
{
    return client_errors(&r->client) || r->client.memory_errors || r->client.violations || r->client.disk_errors ||
           r->client.database_errors;
}

bool results_ok(const struct results *r, const struct options *o)
{
    return !r->broken && r->failovers == o->failovers && r->failovers_ok == o->failovers && !results_violated(r) &&
           r->client.replies > 0 && r->client.beacons > 0 && (!o->disk_mb || r->client.disk_flushed) &&
           (!o->database || r->client.database_rows);
}

static double ms(const struct hist *h, double percent)
{
    return (double)hist_percentile(h, percent) / 1e6;
}

static void put(struct json_object *j, const char *key, struct json_object *value)
{
    json_object_object_add(j, key, value);
}

static struct json_object *number(uint64_t n)
{
    return json_object_new_uint64(n);
}

/* Three digits after the point: microseconds. */
static struct json_object *millis(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.3f", x);
    return json_object_new_double_s(x, text);
}

static struct json_object *spread(const struct hist *h, bool with_max)
{
    struct json_object *j = json_object_new_object();
    put(j, "p50", millis(ms(h, 50)));
    put(j, "p99", millis(ms(h, 99)));
    if (with_max)
        put(j, "max", millis((double)hist_max(h) / 1e6));
    return j;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double *sorted_copy(const double *values, unsigned n)
{
    double *sorted = room(n, sizeof *sorted);
    if (n)
        memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    return sorted;
}

/* Nearest rank, as hist_percentile. */
double report_percentile(const double *values, unsigned n, unsigned percent)
{
    double *sorted = sorted_copy(values, n);
    unsigned rank = (n * percent + 99) / 100;
    double value = sorted[rank ? rank - 1 : 0];
    free(sorted);
    return value;
}

struct json_object *report_spread(const double *values, unsigned n)
{
    struct json_object *j = json_object_new_object(), *all = json_object_new_array();
    put(j, "p50", n ? millis(report_percentile(values, n, 50)) : NULL); /* null: there is none */
    put(j, "p99", n ? millis(report_percentile(values, n, 99)) : NULL);
    put(j, "max", n ? millis(report_percentile(values, n, 100)) : NULL);
    for (unsigned i = 0; i < n; i++)
        json_object_array_add(all, millis(values[i]));
    put(j, "all", all);
    return j;
}

static struct json_object *pauses(const struct totals *t)
{
    static const enum stage parts[] = {STAGE_STOP, STAGE_SCAN, STAGE_COPY, STAGE_STATE, STAGE_NET, STAGE_RESUME};
    struct json_object *j = spread(t->stages[STAGE_PAUSE], true), *stages = json_object_new_object();
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        put(stages, stage_names[parts[i]], spread(t->stages[parts[i]], true));
    put(j, "stages", stages);
    return j;
}

static struct json_object *latencies(const struct results *r)
{
    struct json_object *j = json_object_new_object();
    put(j, "unprotected", spread(r->unprotected, false));
    put(j, "protected", spread(r->protected, false));
    return j;
}

static struct json_object *to_json(const struct results *r, const struct totals *t, const struct options *o)
{
    struct json_object *j = json_object_new_object(), *rss = json_object_new_object();
    uint64_t dirty = hist_percentile(t->stages[STAGE_PAGES], 50);
    put(j, "failovers", number(r->failovers));
    put(j, "failovers_ok", number(r->failovers_ok));
    put(j, "client_errors", number(client_errors(&r->client)));
    put(j, "memory_errors", number(r->client.memory_errors));
    if (o->disk_mb) {
        put(j, "disk_errors", number(r->client.disk_errors));
        put(j, "disk_verified", number(r->client.disk_verified));
        put(j, "disk_flushed", number(r->client.disk_flushed));
    }
    if (o->database) {
        put(j, "database_errors", number(r->client.database_errors));
        put(j, "database_checked", number(r->client.database_checked));
        put(j, "database_rows", number(r->client.database_rows));
    }
    put(j, "output_violations", number(r->client.violations));
    put(j, "checkpoints", number(t->checkpoints));
    put(j, "pause_ms", pauses(t));
    put(j, "reply_latency_ms", latencies(r));
    put(j, o->planned ? "vm_pause_ms" : "kill_to_running_ms", report_spread(r->to_running_ms, r->failovers_ok));
    put(j, "client_gap_ms", report_spread(r->gap_ms, r->failovers_ok));
    put(j, "bytes_dirty", number(t->bytes_dirty));
    put(j, "bytes_wire", number(t->bytes_wire));
    put(rss, "primary", number(t->rss_primary));
    put(rss, "secondary", number(t->rss_secondary));
    put(j, "rss_bytes", rss);
    put(j, "guest_bytes", number((uint64_t)o->memory_mb << 20));
    put(j, "dirty_pages_p50", number(dirty));
    put(j, "memcpy_limit_ms", millis(limit_memcpy_ms(dirty)));
    put(j, "replies", number(r->client.replies));
    put(j, "beacons", number(r->client.beacons));
    put(j, "mode", json_object_new_string(o->mode));
    put(j, "interval_ms", number(o->interval_ms));
    put(j, "seed", number(o->seed));
    put(j, "ok", json_object_new_boolean(results_ok(r, o)));
    return j;
}

int report_write(struct json_object *j, const char *file, struct errmsg *e)
{
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
    if (!strcmp(file, "-")) {
        puts(text);
        return 0;
    }
    FILE *f = fopen(file, "we");
    bool bad = !f || fprintf(f, "%s\n", text) < 0;
    if (f && fclose(f))
        bad = true;
    return bad ? errmsg_set(e, "%s cannot be written", file) : 0;
}

int report_json(const struct results *r, const struct totals *t, const struct options *o, struct errmsg *e)
{
    struct json_object *j = to_json(r, t, o);
    int bad = report_write(j, o->json, e);
    json_object_put(j);
    return bad;
}

static void print_spread(FILE *out, const char *name, const double *values, unsigned n)
{
    if (n)
        fprintf(out, "  %-22s p50 %.0f ms, max %.0f ms\n", name, report_percentile(values, n, 50),
                report_percentile(values, n, 100));
}

static void print_pause(FILE *out, const struct totals *t)
{
    fprintf(out, "  %-22s p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", "pause", ms(t->stages[STAGE_PAUSE], 50),
            ms(t->stages[STAGE_PAUSE], 99), (double)hist_max(t->stages[STAGE_PAUSE]) / 1e6);
    fprintf(out, "  %-22s", "  of it (p50)");
    for (int i = STAGE_STOP; i <= STAGE_RESUME; i++)
        fprintf(out, " %s %.2f", stage_names[i], ms(t->stages[i], 50));
    fprintf(out, "\n");
}

void report_print(const struct results *r, const struct totals *t, const struct options *o)
{
    FILE *out = o->json && !strcmp(o->json, "-") ? stderr : stdout;
    const struct client_report *c = &r->client;
    const double mb = 1024 * 1024;

    fprintf(out,
            "\n%s: %u of %u failovers; the client saw %" PRIu64 " lost, %" PRIu64 " doubled, %" PRIu64
            " going back, %" PRIu64 " broken connections;\n    %" PRIu64 " output violations in %" PRIu64
            " beacons; %" PRIu64 " memory errors in the guest\n",
            results_ok(r, o) ? "OK" : "FAILED", r->failovers_ok, o->failovers, c->lost, c->doubled, c->back,
            c->disconnects, c->violations, c->beacons, c->memory_errors);
    if (o->disk_mb)
        fprintf(out, "    %" PRIu64 " disk errors, read %" PRIu64 " times; %" PRIu64 " operations flushed\n",
                c->disk_errors, c->disk_verified, c->disk_flushed);
    if (o->database)
        fprintf(out, "    %" PRIu64 " database errors, read %" PRIu64 " times; %" PRIu64 " transactions acknowledged\n",
                c->database_errors, c->database_checked, c->database_rows);
    fprintf(out, "  %-22s %" PRIu64 " (%s, %u ms, seed %" PRIu64 ")\n", "checkpoints", t->checkpoints, o->mode,
            o->interval_ms, o->seed);
    if (t->checkpoints)
        print_pause(out, t);
    fprintf(out, "  %-22s p50 %.1f ms, p99 %.1f ms; unprotected %.1f, %.1f\n", "reply latency", ms(r->protected, 50),
            ms(r->protected, 99), ms(r->unprotected, 50), ms(r->unprotected, 99));
    print_spread(out, o->planned ? "VM stood still" : "host lost to running", r->to_running_ms, r->failovers_ok);
    print_spread(out, "client's gap", r->gap_ms, r->failovers_ok);
    fprintf(out, "  %-22s %.0f MB dirty, %.0f MB on the wire\n", "sent", (double)t->bytes_dirty / mb,
            (double)t->bytes_wire / mb);
    fprintf(out, "  %-22s primary %.0f MB, secondary %.0f MB, guest %u MB\n", "memory of the workers",
            (double)t->rss_primary / mb, (double)t->rss_secondary / mb, o->memory_mb);
}
