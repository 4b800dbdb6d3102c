/* status: see status.h. */
#include "tools/demo/status.h"

#include "common/control.h"
#include "common/hist.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const stage_names[STAGES] = {"pause", "stop", "scan", "copy", "state", "net", "resume", "commit", "pages"};

enum { MAX_WORKERS = 1024, TIMEOUT_MS = 1000 };

/* One worker process's counters, the last that it told. They only grow, so the last is the sum. */
struct worker {
    char id[96];
    uint64_t checkpoints, bytes_dirty, bytes_wire;
    struct hist *stages[STAGES];
};

struct tracker {
    struct worker *workers[MAX_WORKERS];
    size_t count;
    struct totals totals;
};

struct tracker *tracker_new(void)
{
    struct tracker *t = calloc(1, sizeof *t);
    if (!t)
        abort();
    return t;
}

static void free_stages(struct hist *stages[STAGES])
{
    for (int i = 0; i < STAGES; i++)
        if (stages[i])
            hist_free(stages[i]);
}

void tracker_free(struct tracker *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++) {
        free_stages(t->workers[i]->stages);
        free(t->workers[i]);
    }
    free_stages(t->totals.stages);
    free(t);
}

static struct worker *worker_by_id(struct tracker *t, const char *id)
{
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->workers[i]->id, id))
            return t->workers[i];
    if (t->count == MAX_WORKERS)
        return t->workers[MAX_WORKERS - 1];
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        abort();
    snprintf(w->id, sizeof w->id, "%s", id);
    t->workers[t->count++] = w;
    return w;
}

/* ---- JSON ---- */

static struct json_object *member(struct json_object *j, const char *key)
{
    return j ? json_object_object_get(j, key) : NULL;
}

static uint64_t number(struct json_object *j, const char *key)
{
    return json_object_get_uint64(member(j, key));
}

static double real(struct json_object *j, const char *key)
{
    return json_object_get_double(member(j, key));
}

static void text(struct json_object *j, const char *key, char *out, size_t size)
{
    const char *s = json_object_get_string(member(j, key));
    snprintf(out, size, "%s", s ? s : "");
}

/* The entry of our VM in list `key` of an agent's status. */
static struct json_object *find_vm(struct json_object *status, const char *key)
{
    struct json_object *list = member(status, key);
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *vm = json_object_array_get_idx(list, i);
        const char *name = json_object_get_string(member(vm, "vm"));
        if (name && !strcmp(name, "demo"))
            return vm;
    }
    return NULL;
}

static struct json_object *call(const struct host *h, const char *agent, bool with_hist)
{
    char path[108];
    struct errmsg ignored;
    struct json_object *request = json_object_new_object();
    json_object_object_add(request, "cmd", json_object_new_string("status"));
    if (with_hist)
        json_object_object_add(request, "hist", json_object_new_boolean(true));
    snprintf(path, sizeof path, "%s/%s.sock", h->run_dir, agent);
    struct json_object *answer = control_call(path, request, TIMEOUT_MS, &ignored);
    json_object_put(request);
    return answer;
}

static struct timeline read_timeline(struct json_object *j)
{
    return (struct timeline){.paused = real(j, "paused"),
                             .captured = real(j, "captured"),
                             .sent = real(j, "sent"),
                             .pages = (unsigned)real(j, "pages"),
                             .last_commit = real(j, "last_commit"),
                             .detected = real(j, "detected"),
                             .claimed = real(j, "claimed"),
                             .sealed = real(j, "sealed"),
                             .loaded = real(j, "loaded"),
                             .running = real(j, "running"),
                             .announced = real(j, "announced")};
}

static void keep_worker(struct tracker *t, const struct host *h, struct json_object *vm, struct vm_status *out)
{
    char id[96];
    const char *told = json_object_get_string(member(vm, "worker"));
    struct json_object *hists = member(vm, "hist");

    /* Process ids repeat from one life of a host to the next. */
    snprintf(id, sizeof id, "%s/%u/%s", h->name, h->boots, told ? told : "");
    struct worker *w = worker_by_id(t, id);
    w->checkpoints = number(vm, "checkpoints");
    w->bytes_dirty = number(vm, "bytes_dirty");
    w->bytes_wire = number(vm, "bytes_wire");
    for (int i = 0; hists && i < STAGES; i++) {
        struct json_object *j = member(hists, stage_names[i]);
        struct hist *got = hist_new();
        if (j && hist_from_json(got, j) == 0) {
            if (w->stages[i])
                hist_free(w->stages[i]);
            w->stages[i] = got;
        } else {
            hist_free(got);
        }
    }
    if (w->stages[STAGE_PAUSE]) {
        out->pause_p50_ms = (double)hist_percentile(w->stages[STAGE_PAUSE], 50) / 1e6;
        out->pause_p99_ms = (double)hist_percentile(w->stages[STAGE_PAUSE], 99) / 1e6;
    }
}

int tracker_poll(struct tracker *t, const struct host *h, bool with_hist, struct vm_status *out)
{
    *out = (struct vm_status){0};
    struct json_object *answer = call(h, "primary", with_hist), *vm = find_vm(answer, "vms");
    if (!answer)
        return -1;
    if (vm) {
        out->present = true;
        text(vm, "state", out->state, sizeof out->state);
        text(vm, "reason", out->reason, sizeof out->reason);
        out->term = number(vm, "term");
        out->report_age_ms = real(vm, "report_age_ms");
        out->epoch = number(vm, "epoch");
        out->sync_done = number(vm, "sync_done");
        out->sync_total = number(vm, "sync_total");
        out->dirty_pages = number(vm, "dirty_pages");
        out->wire_bytes = number(vm, "bytes_wire");
        out->held_packets = number(vm, "held_packets");
        out->rss_bytes = number(vm, "rss_bytes");
        out->checkpoints = number(vm, "checkpoints");
        out->replica_age_ms = real(vm, "replica_age_ms");
        out->timeline = read_timeline(member(vm, "timeline"));
        keep_worker(t, h, vm, out);
        if (out->rss_bytes > t->totals.rss_primary)
            t->totals.rss_primary = out->rss_bytes;
    }
    json_object_put(answer);
    return 0;
}

int tracker_poll_replica(struct tracker *t, const struct host *h, struct replica_status *out)
{
    *out = (struct replica_status){0};
    struct json_object *answer = call(h, "secondary", false), *vm = find_vm(answer, "replicas");
    if (!answer)
        return -1;
    if (vm) {
        out->present = true;
        text(vm, "state", out->state, sizeof out->state);
        out->epoch = number(vm, "epoch");
        out->rss_bytes = number(vm, "rss_bytes");
        if (out->rss_bytes > t->totals.rss_secondary)
            t->totals.rss_secondary = out->rss_bytes;
    }
    json_object_put(answer);
    return 0;
}

const struct totals *tracker_totals(struct tracker *t)
{
    struct totals *s = &t->totals;
    s->checkpoints = s->bytes_dirty = s->bytes_wire = 0;
    free_stages(s->stages);
    for (int i = 0; i < STAGES; i++)
        s->stages[i] = hist_new();
    for (size_t k = 0; k < t->count; k++) {
        const struct worker *w = t->workers[k];
        s->checkpoints += w->checkpoints;
        s->bytes_dirty += w->bytes_dirty;
        s->bytes_wire += w->bytes_wire;
        for (int i = 0; i < STAGES; i++)
            if (w->stages[i])
                hist_merge(s->stages[i], w->stages[i]);
    }
    return s;
}

bool vm_is_protected(const struct vm_status *s)
{
    return s->present && !strcmp(s->state, "PROTECTED");
}

bool vm_runs(const struct vm_status *s)
{
    static const char *const running[] = {"ALONE", "UNPROTECTED", "RUNNING", "PROTECTED", "SYNCING", "CONNECTING"};
    for (size_t i = 0; s->present && i < sizeof running / sizeof *running; i++)
        if (!strcmp(s->state, running[i]))
            return true;
    return false;
}
