/*
 * report: what this worker tells its supervisor of itself: its status a few times a second and at every change of
 * state, the histograms once a second. Promise 5: the age of the replica is that of the last *acknowledged* epoch.
 */
#include "common/config_parse.h"
#include "common/self.h"
#include "disk/client.h"
#include "disk/guard.h"
#include "primary/worker.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { REPORTS_PER_SECOND = 10 };

static struct json_object *real(double v)
{
    char text[32]; /* three decimals are all that anybody reads */
    snprintf(text, sizeof text, "%.3f", v);
    return json_object_new_double_s(v, text);
}

static void add_u64(struct json_object *j, const char *key, uint64_t v)
{
    json_object_object_add(j, key, json_object_new_uint64(v));
}

static void add_text(struct json_object *j, const char *key, const char *v)
{
    json_object_object_add(j, key, json_object_new_string(v));
}

/* Of disks whose stores somebody has extended. */
static void add_growth(struct json_object *all, const struct worker *w)
{
    char text[320];
    uint64_t disk, store;
    for (unsigned i = 0; w->disks.guard && i < w->disks.n; i++) {
        if (!disk_guard_has_grown(w->disks.guard, i, &disk, &store))
            continue;
        snprintf(text, sizeof text,
                 "the store of disk %u has grown from %" PRIu64 " to %" PRIu64
                 " bytes, the VM has the first ones still: extend it to the same on the other host, then `hikae grow "
                 "%s`",
                 i, disk, store, w->name);
        json_object_array_add(all, json_object_new_string(text));
    }
}

/* Of a store that takes its time: the VM's packets wait for it, and whoever misses them shall find out why. */
static void add_slow_flush(struct json_object *all, const struct worker *w)
{
    enum { PATIENCE_S = 1 };
    const struct disks *d = &w->disks;
    int64_t seconds = (clock_now() - d->owed_from) / 1000000000;
    char text[256];
    if (!d->owed_since || !disks_hold_checkpoints(w) || seconds < PATIENCE_S)
        return;
    snprintf(
        text, sizeof text,
        "the stores of the VM's disks have been at a flush for %" PRId64
        " s: until it is done there is no checkpoint and the VM's packets wait; see what slows this host's storage",
        seconds);
    json_object_array_add(all, json_object_new_string(text));
}

/* Likewise of output that is free, but for that. */
static void add_waiting_output(struct json_object *all, const struct worker *w)
{
    if (disks_output_waits(w))
        json_object_array_add(all, json_object_new_string("the VM's packets wait until what it wrote is durable on its "
                                                          "disks; see what slows this host's storage"));
}

static void add_warnings(struct json_object *j, const struct worker *w)
{
    struct json_object *all = json_object_new_array();
    add_growth(all, w);
    add_slow_flush(all, w);
    add_waiting_output(all, w);
    if (w->state == PROTECTION_AT_RISK)
        json_object_array_add(all, json_object_new_string("AT RISK: output is open by isolated = open, without the "
                                                          "arbiter's word; the VM may run twice"));
    if (w->disks.n && !w->disks.client) {
        char text[sizeof w->disks.trouble.text + 64];
        snprintf(text, sizeof text, "the VM waits for its disks: %s",
                 w->disks.trouble.text[0] ? w->disks.trouble.text : "their server is started again");
        json_object_array_add(all, json_object_new_string(text));
    }
    if (w->config->fault_release_early)
        json_object_array_add(all, json_object_new_string("FAULT INJECTION: output is not held (release = early)"));
    if (w->config->fault_drop_page)
        json_object_array_add(all, json_object_new_string("FAULT INJECTION: pages are dropped (drop_page)"));
    if (w->config->fault_stall)
        json_object_array_add(all, json_object_new_string("FAULT INJECTION: the worker will stop itself (stall)"));
    json_object_object_add(j, "warnings", all);
}

static uint64_t disk_octets_done(const struct worker *w)
{
    return w->checkpoint.pipeline ? pipeline_disk_blocks_done(w->checkpoint.pipeline) * VM_PAGE_SIZE : 0;
}

static void add_progress(struct json_object *j, const struct worker *w)
{
    const struct checkpoint *c = &w->checkpoint;
    uint64_t done = c->pipeline ? pipeline_pages_done(c->pipeline) : 0;
    add_u64(j, "sync_total", c->sync.total);
    add_u64(j, "sync_done", done < c->sync.total ? done : c->sync.total);
    json_object_object_add(j, "sync_differences", json_object_new_boolean(c->sync.differences));
    add_u64(j, "sync_sent", c->sync.sent);
    add_u64(j, "sync_bytes", c->sync.bytes);
    add_u64(j, "sync_memory_bytes", c->sync.total * VM_PAGE_SIZE);
    bool has_replica =
        w->state == PROTECTION_PROTECTED || w->state == PROTECTION_ISOLATED || w->state == PROTECTION_DISPUTED;
    add_u64(j, "epoch", has_replica ? c->flight.acked : 0);
    if (has_replica && c->flight.acked)
        json_object_object_add(j, "replica_age_ms", real((double)(clock_now() - c->flight.acked_age) / 1e6));
}

static void add_buffer(struct json_object *j, const struct worker *w)
{
    struct netbuf_counts sum = {0};
    for (unsigned i = 0; i < w->outlet_count; i++) {
        struct netbuf_counts c = outlet_counts(w->outlets[i]);
        sum.frames += c.frames;
        sum.bytes += c.bytes;
        sum.released += c.released;
        sum.dropped += c.dropped;
    }
    add_u64(j, "held_packets", sum.frames);
    add_u64(j, "held_bytes", sum.bytes);
    add_u64(j, "released_packets", sum.released);
}

/* Only while they are being synced. */
static void add_disk_sync(struct json_object *j, const struct worker *w)
{
    const struct disks *d = &w->disks;
    uint64_t total = d->populated * VM_PAGE_SIZE, done = disk_octets_done(w);
    if (w->state != PROTECTION_SYNCING || !d->n)
        return;
    add_u64(j, "disk_sync_total", total);
    add_u64(j, "disk_sync_done", done < total ? done : total);
    add_u64(j, "disk_sync_speed", (uint64_t)d->speed.per_s);
    double eta = speed_eta(&d->speed, done < total ? total - done : 0);
    if (eta >= 0)
        json_object_object_add(j, "disk_sync_eta_s", real(eta));
}

static void add_disks(struct json_object *j, const struct worker *w)
{
    const struct disks *d = &w->disks;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < d->n; i++)
        bytes += d->at[i].bytes;
    add_u64(j, "disks", d->n);
    add_u64(j, "disk_bytes", bytes);
    add_u64(j, "disk_log_bytes", d->tracking && d->client ? disk_used(d->client) : 0);
    add_u64(j, "disk_sync_rate", disks_sync_rate(w));
    add_disk_sync(j, w);
}

static struct json_object *status(const struct worker *w)
{
    struct json_object *j = json_object_new_object();
    const struct session *s = &w->session;
    uint64_t wire = s->bytes_before + (s->link ? link_bytes_sent(s->link) : 0);
    add_text(j, "vm", w->name);
    add_text(j, "state", protection_state_name(w->state));
    add_text(j, "reason", w->reason);
    add_text(j, "peer", w->peer);
    add_text(j, "origin", w->origin);
    add_u64(j, "term", w->term);
    add_text(j, "mode", w->record.mode == TRIGGER_PERIODIC ? "periodic" : "on-output");
    add_u64(j, "interval_ms", w->record.interval_ms);
    add_text(j, "failover", config_has_arbiter(w->config) ? "automatic" : "by hand");
    add_text(j, "isolated", config_isolated_name(w->record.isolated));
    add_u64(j, "pages", w->info.pages);
    add_text(j, "note", w->info.note);
    add_u64(j, "vm_pid", (uint64_t)w->info.pid);
    add_progress(j, w);
    move_report(w, j);
    add_buffer(j, w);
    add_disks(j, w);
    verify_report(w, j);
    add_u64(j, "checkpoints", w->metrics.checkpoints);
    add_u64(j, "dirty_pages", w->metrics.last_pages);
    add_u64(j, "bytes_dirty", w->metrics.pages_dirty * VM_PAGE_SIZE);
    add_u64(j, "wire_bytes", wire);
    add_u64(j, "bytes_wire", wire);
    json_object_object_add(j, "pause_ms_p50", real((double)hist_percentile(w->metrics.pause, 50) / 1e6));
    json_object_object_add(j, "pause_ms_p99", real((double)hist_percentile(w->metrics.pause, 99) / 1e6));
    self_add_memory(j);
    json_object_object_add(j, "outdated", json_object_new_boolean(self_is_outdated()));
    add_warnings(j, w);
    char id[48];
    snprintf(id, sizeof id, "%s:%d:%p", w->config->name, (int)getpid(), (const void *)w);
    add_text(j, "worker", id);
    if (w->timeline)
        json_object_object_add(j, "timeline", json_object_get(w->timeline));
    return j;
}

static struct json_object *histograms(const struct metrics *m)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "pause", hist_to_json(m->pause));
    json_object_object_add(j, "stop", hist_to_json(m->stop));
    json_object_object_add(j, "net", hist_to_json(m->net));
    json_object_object_add(j, "scan", hist_to_json(m->scan));
    json_object_object_add(j, "copy", hist_to_json(m->copy));
    json_object_object_add(j, "state", hist_to_json(m->state));
    json_object_object_add(j, "resume", hist_to_json(m->resume));
    json_object_object_add(j, "commit", hist_to_json(m->commit));
    json_object_object_add(j, "pages", hist_to_json(m->pages));
    return j;
}

static void send_report(struct worker *w, bool with_histograms)
{
    if (!w->supervisor)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "status", status(w));
    if (with_histograms)
        json_object_object_add(j, "hist", histograms(&w->metrics));
    control_send(w->supervisor, j);
    json_object_put(j);
}

void report_now(struct worker *w)
{
    send_report(w, false);
}

static void on_report(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    static unsigned turn;
    struct worker *w = t->data;
    speed_note(&w->disks.speed, disk_octets_done(w), clock_now());
    send_report(w, turn++ % REPORTS_PER_SECOND == 0);
}

void report_mark(struct worker *w, const char *what)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (!w->timeline)
        w->timeline = json_object_new_object();
    json_object_object_add(w->timeline, what, real((double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6));
}

void report_init(struct worker *w)
{
    struct metrics *m = &w->metrics;
    struct hist **all[] = {&m->pause, &m->stop,   &m->net,    &m->scan, &m->copy,
                           &m->state, &m->resume, &m->commit, &m->pages};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        *all[i] = hist_new();
    ev_timer_init(&w->report, on_report, 1. / REPORTS_PER_SECOND, 1. / REPORTS_PER_SECOND);
    w->report.data = w;
    ev_timer_start(w->loop, &w->report);
}

void report_end(struct worker *w)
{
    struct metrics *m = &w->metrics;
    struct hist *all[] = {m->pause, m->stop, m->net, m->scan, m->copy, m->state, m->resume, m->commit, m->pages};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        hist_free(all[i]);
    json_object_put(w->timeline);
}
