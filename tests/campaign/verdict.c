/* verdict: what a ledger says: a line per event, the JSON file, and the verdict for people. */
#include "tests/campaign/ledger.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static void put(struct json_object *j, const char *key, struct json_object *value)
{
    json_object_object_add(j, key, value);
}

static struct json_object *number(uint64_t n)
{
    return json_object_new_uint64(n);
}

static struct json_object *real(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.1f", x);
    return json_object_new_double_s(x, text);
}

static struct json_object *kinds(const struct ledger *l)
{
    struct json_object *j = json_object_new_object();
    for (int i = 0; i < KINDS; i++) {
        struct json_object *one = json_object_new_object();
        put(one, "events", number(l->done[i]));
        put(one, "moved", number(l->moved[i]));
        put(j, kind_info((enum kind)i)->name, one);
    }
    return j;
}

/* From the loss on, in ms. */
static struct json_object *times(const struct ledger *l, enum notice n)
{
    struct json_object *j = json_object_new_object();
    put(j, "detected", figures_to_json(&l->detected[n]));
    put(j, "running", figures_to_json(&l->running[n]));
    put(j, "client_gap", figures_to_json(&l->gap[n]));
    put(j, "goal_running", number(n == NOTICE_CLEAN ? 150 : 700));
    return j;
}

static struct json_object *machine(void)
{
    struct json_object *j = json_object_new_object();
    struct utsname u;
    char line[256], model[128] = "";
    double load[3];
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && !*model && fgets(line, sizeof line, f))
        (void)sscanf(line, "model name : %127[^\n]", model);
    if (f)
        fclose(f);
    uname(&u);
    put(j, "cpu", json_object_new_string(model));
    put(j, "processors", number((uint64_t)sysconf(_SC_NPROCESSORS_ONLN)));
    put(j, "load", getloadavg(load, 3) == 3 ? real(load[2]) : NULL); /* of 15 minutes: others may work here too */
    put(j, "kernel", json_object_new_string(u.release));
    return j;
}

static struct json_object *to_json(const struct ledger *l)
{
    struct json_object *j = json_object_new_object(), *again = json_object_new_object();
    put(j, "seed", number(l->seed));
    put(j, "failovers", number(l->failovers));
    put(j, "events", number(l->events));
    put(j, "dual_active", number(l->dual_active));
    put(j, "terms_granted", number(l->terms_granted));
    put(j, "terms_granted_twice", number(l->terms_twice));
    put(j, "output_violations", number(l->client.violations));
    put(j, "client_errors", number(client_errors(&l->client)));
    put(j, "memory_errors", number(l->client.memory_errors));
    put(j, "vm_left_paused", number(l->left_paused));
    put(j, "unneeded_failovers", number(l->unneeded_failovers));
    put(j, "missed_failovers", number(l->missed));
    put(j, "leftovers", number(l->leftovers));
    put(j, "not_protected_again", number(l->not_settled));
    put(j, "frames_overlooked", number(l->overlooked));
    put(j, "tolerated_failovers", number(l->tolerated_failovers));
    put(j, "blips_overrun", number(l->overruns));
    put(j, "unneeded_claims", number(l->unneeded_claims));
    put(j, "protect_commands", number(l->helped));
    put(j, "replies", number(l->client.replies));
    put(j, "beacons", number(l->client.beacons));
    put(j, "clean_ms", times(l, NOTICE_CLEAN));
    put(j, "silent_ms", times(l, NOTICE_SILENT));
    put(j, "client_gap_without_failover_ms", figures_to_json(&l->stay_gap));
    put(again, "ms", figures_to_json(&l->reprotect_ms));
    put(again, "megabytes", figures_to_json(&l->reprotect_mb));
    put(again, "link_megabytes_per_s", real(l->link_rate / 1e6));
    put(j, "reprotection", again);
    put(j, "kinds", kinds(l));
    put(j, "machine", machine());
    put(j, "ok", json_object_new_boolean(ledger_is_clean(l) && l->failovers >= l->wanted));
    return j;
}

int ledger_write(const struct ledger *l, const char *path, struct errmsg *e)
{
    struct json_object *j = to_json(l);
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
    FILE *f = strcmp(path, "-") ? fopen(path, "we") : stdout;
    int bad = !f || fprintf(f, "%s\n", text) < 0;
    if (f && f != stdout && fclose(f))
        bad = 1;
    json_object_put(j);
    return bad ? errmsg_set(e, "%s can't be written", path) : 0;
}

void ledger_line(const struct ledger *l, const struct outcome *o, char *text, size_t size)
{
    const struct kind_info *k = kind_info(o->event.kind);
    char moved[128] = "stays", again[96] = "";
    if (o->moved)
        snprintf(moved, sizeof moved, "moves: detected %.0f ms, runs %.0f ms", o->survivor.detected - o->at,
                 o->survivor.running - o->at);
    if (o->reprotect_ms >= 0)
        snprintf(again, sizeof again, "; protected again after %.1f s, %.0f MB%s", o->reprotect_ms / 1e3,
                 (double)o->wire_bytes / 1e6, o->helped ? ", told to" : "");
    snprintf(text, size, "%3u failovers | #%u %s %u ms: %s; client's gap %.0f ms; %" PRIu64 " terms%s%s%s",
             l->failovers, o->event.number, k->name, o->event.hold_ms, moved, o->gap_ms, o->terms, again,
             *o->text ? " | " : "", o->text);
}

static void print_times(const struct ledger *l, enum notice n, const char *what, unsigned goal)
{
    if (!l->running[n].count)
        return;
    fprintf(stderr,
            "  %-28s %zu: detected p50 %.0f p99 %.0f, running p50 %.0f p99 %.0f (goal %u), client's gap p50 %.0f p99 "
            "%.0f ms\n",
            what, l->running[n].count, figures_percentile(&l->detected[n], 50), figures_percentile(&l->detected[n], 99),
            figures_percentile(&l->running[n], 50), figures_percentile(&l->running[n], 99), goal,
            figures_percentile(&l->gap[n], 50), figures_percentile(&l->gap[n], 99));
}

void ledger_print(const struct ledger *l, bool broken)
{
    const char *word = broken ? "BROKEN" : ledger_is_clean(l) ? "OK" : "FAILED";
    fprintf(stderr,
            "\n%s: %u of %u failovers in %u events, seed %" PRIu64 "\n"
            "  dual active %" PRIu64 ", terms granted twice %u of %u, output violations %" PRIu64
            ", client errors %" PRIu64 ", memory errors %" PRIu64 ", VM left paused %" PRIu64
            ",\n  unneeded failovers %u, missed %u, leftovers %" PRIu64
            ", not protected again %u\n  tolerated failovers %u (%u blips were longer than planned), unneeded claims "
            "%u, told to protect %u times\n",
            word, l->failovers, l->wanted, l->events, l->seed, l->dual_active, l->terms_twice, l->terms_granted,
            l->client.violations, client_errors(&l->client), l->client.memory_errors, l->left_paused,
            l->unneeded_failovers, l->missed, l->leftovers, l->not_settled, l->tolerated_failovers, l->overruns,
            l->unneeded_claims, l->helped);
    print_times(l, NOTICE_CLEAN, "clean deaths", 150);
    print_times(l, NOTICE_SILENT, "silent deaths", 700);
    if (l->reprotect_ms.count)
        fprintf(stderr, "  %-28s p50 %.1f p99 %.1f s, p50 %.0f MB, over a link of %.0f MB/s\n", "protected again after",
                figures_percentile(&l->reprotect_ms, 50) / 1e3, figures_percentile(&l->reprotect_ms, 99) / 1e3,
                figures_percentile(&l->reprotect_mb, 50), l->link_rate / 1e6);
}
