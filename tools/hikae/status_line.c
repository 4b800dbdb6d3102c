#include "tools/hikae/status_line.h"
#include "common/jsonget.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct text {
    char *at;
    size_t left;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->at, t->left, format, args);
    va_end(args);
    if (n < 0 || !t->left)
        return;
    size_t used = (size_t)n < t->left ? (size_t)n : t->left - 1;
    t->at += used;
    t->left -= used;
}

/* "14 ms", "2.5 s", "3 min" */
static void add_time(struct text *t, double ms)
{
    if (ms < 10)
        add(t, "%.1f ms", ms);
    else if (ms < 1000)
        add(t, "%.0f ms", ms);
    else if (ms < 60000)
        add(t, "%.1f s", ms / 1000);
    else
        add(t, "%.0f min", ms / 60000);
}

static void add_bytes(struct text *t, uint64_t bytes)
{
    double n = (double)bytes;
    const char *units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    for (; n >= 1024 && unit < 4; unit++)
        n /= 1024;
    add(t, unit && n < 10 ? "%.1f %s" : "%.0f %s", n, units[unit]);
}

static void add_reason(struct text *t, struct json_object *j)
{
    const char *reason = json_get_text(j, "reason", "");
    if (*reason)
        add(t, ": %s", reason);
}

/* Where the VM came from is of interest until it is protected again. */
static void add_origin(struct text *t, struct json_object *j)
{
    const char *origin = json_get_text(j, "origin", "");
    if (*origin)
        add(t, ", %s", origin);
}

static void add_term(struct text *t, struct json_object *j)
{
    uint64_t term = json_get_u64(j, "term", 0);
    if (term)
        add(t, ", term %llu", (unsigned long long)term);
}

static void add_warnings(struct text *t, struct json_object *j)
{
    struct json_object *all = json_get_array(j, "warnings");
    for (size_t i = 0; all && i < json_object_array_length(all); i++) {
        struct json_object *one = json_object_array_get_idx(all, i);
        if (json_object_is_type(one, json_type_string))
            add(t, "  [%s]", json_object_get_string(one));
    }
    if (json_get_bool(j, "outdated", false))
        add(t, "  [its agent is older than the installed program: `hikae upgrade`]");
}

static void add_progress(struct text *t, struct json_object *j)
{
    uint64_t done = json_get_u64(j, "sync_done", 0), total = json_get_u64(j, "sync_total", 0);
    if (total)
        add(t, ", %.0f %% of %llu pages", 100. * (double)done / (double)total, (unsigned long long)total);
}

/* "disks 2.0 of 64 GiB at 98 MiB/s (at most 100 MiB/s), 11 min to go" */
static void add_disk_sync(struct text *t, struct json_object *j)
{
    uint64_t done = json_get_u64(j, "disk_sync_done", 0), total = json_get_u64(j, "disk_sync_total", 0);
    uint64_t speed = json_get_u64(j, "disk_sync_speed", 0), rate = json_get_u64(j, "disk_sync_rate", 0);
    double eta = json_get_double(j, "disk_sync_eta_s", -1);
    if (!total)
        return;
    add(t, ", disks ");
    add_bytes(t, done);
    add(t, " of ");
    add_bytes(t, total);
    if (done >= total)
        return;
    if (speed) {
        add(t, " at ");
        add_bytes(t, speed);
        add(t, "/s");
    }
    if (rate) {
        add(t, " (at most ");
        add_bytes(t, rate);
        add(t, "/s)");
    }
    if (eta >= 0) {
        add(t, ", ");
        add_time(t, eta < 1 ? 1000 : eta * 1000);
        add(t, " to go");
    }
}

static void protected_by(struct text *t, struct json_object *j, const char *peer)
{
    double age = json_get_double(j, "replica_age_ms", -1), pause = json_get_double(j, "pause_ms_p50", -1);
    if (*peer)
        add(t, " by %s", peer);
    if (age >= 0) {
        add(t, ", replica ");
        add_time(t, age);
        add(t, " old");
    } else {
        add(t, ", age of the replica unknown");
    }
    uint64_t disks = json_get_u64(j, "disks", 0);
    if (disks)
        add(t, ", with %llu disk%s", (unsigned long long)disks, disks > 1 ? "s" : "");
    add_term(t, j);
    if (!strcmp(json_get_text(j, "failover", ""), "by hand"))
        add(t, ", failover by hand");
    const char *mode = json_get_text(j, "mode", "");
    if (*mode)
        add(t, ", %s", mode);
    if (!strcmp(mode, "periodic") && json_get_u64(j, "interval_ms", 0))
        add(t, " %llu ms", (unsigned long long)json_get_u64(j, "interval_ms", 0));
    if (pause > 0) {
        add(t, ", pause ");
        add_time(t, pause);
    }
}

/* What a state means for the one who reads it. */
static const struct {
    const char *state, *says;
    bool term;
} plain[] = {
    {"CLAIMING", ", asks the arbiter before it may run", false},
    {"UNPROTECTED", "", false},
    {"CONNECTING", ", not protected", false},
    {"ISOLATED", ", output is held until the arbiter or the replica answers", true},
    {"AT_RISK", ", not protected, output is open without the arbiter's word: the VM may run twice", true},
    {"HANDING_OVER", ", stands still for a moment", true},
    {"MOVED", "", true},
    {"ALONE", ", not protected", true},
    {0},
};

void status_line_vm(struct json_object *j, int width, char *out, size_t size)
{
    struct text t = {out, size};
    const char *state = json_get_text(j, "state", "UNKNOWN"), *peer = json_get_text(j, "peer", "");
    add(&t, "%-*s  %s", width, json_get_text(j, "vm", "?"), state);
    if (!strcmp(state, "PROTECTED")) {
        protected_by(&t, j, peer);
    } else if (!strcmp(state, "SYNCING")) {
        if (*peer)
            add(&t, " to %s", peer);
        add(&t, ", not yet protected");
        add_progress(&t, j);
        add_disk_sync(&t, j);
        add_origin(&t, j);
        add_reason(&t, j);
    } else {
        if (!strcmp(state, "CONNECTING") && *peer)
            add(&t, " to %s", peer);
        for (size_t i = 0; plain[i].state; i++)
            if (!strcmp(plain[i].state, state)) {
                add(&t, "%s", plain[i].says);
                if (plain[i].term)
                    add_term(&t, j);
            }
        add_origin(&t, j);
        add_reason(&t, j);
    }
    add_warnings(&t, j);
}

void status_line_replica(struct json_object *j, int width, char *out, size_t size)
{
    struct text t = {out, size};
    const char *state = json_get_text(j, "state", "UNKNOWN"), *from = json_get_text(j, "from", "");
    uint64_t epoch = json_get_u64(j, "epoch", 0), staged = json_get_u64(j, "staged_bytes", 0);
    double age = json_get_double(j, "replica_age_ms", json_get_double(j, "age_ms", -1));
    bool standby = !strcmp(state, "STANDBY");
    add(&t, "%-*s  %s", width, json_get_text(j, "vm", "?"), state);
    if (*from)
        add(&t, standby ? " for %s" : " from %s", from);
    if (epoch) {
        add(&t, ", epoch %llu committed", (unsigned long long)epoch);
        if (age >= 0) {
            add(&t, " ");
            add_time(&t, age);
            add(&t, " ago");
        }
    } else if (!strcmp(state, "SYNCING")) {
        add(&t, ", no whole epoch yet");
    }
    struct json_object *disks = json_get(j, "disks");
    uint64_t behind = disks ? json_get_u64(disks, "queued_bytes", 0) : 0;
    if (behind) {
        add(&t, ", disks ");
        add_bytes(&t, behind);
        add(&t, " behind");
    }
    if (!strcmp(state, "SYNCING") && staged) {
        add(&t, ", ");
        add_bytes(&t, staged);
        add(&t, " staged");
    }
    if (!standby)
        add_reason(&t, j);
    add_warnings(&t, j);
}
