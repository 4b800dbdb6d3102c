/* drill: see drill.h. */
#include "tools/demo/drill.h"

#include "tools/demo/run.h"
#include "tools/demo/view.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    AGENTS_UP_MS = 15000,
    GUEST_UP_MS = 120000,
    PROTECT_MS = 120000,
    UNPROTECT_MS = 30000,
    FAILOVER_MS = 30000,
    POLL_MS = 100,
    QUICK_POLL_MS = 20,
    VERIFY_MS = 60000,
    LAST_LOOK_MS = 200 /* before the loss: the counters of the worker that will die */
};

static struct host *active(struct drill *d)
{
    return &d->hosts[d->active];
}

static struct host *standby(struct drill *d)
{
    return &d->hosts[!d->active];
}

/* Looks at the active host; once per second at everything, and shows it. */
static void look(struct drill *d)
{
    static int64_t last;
    bool second = now_ms() - last >= 1000;
    struct replica_status replica;
    tracker_poll(d->tracker, active(d), second, &d->status);
    if (d->status.sync_total && !vm_is_protected(&d->status))
        view_progress("  first sync", d->status.sync_done, d->status.sync_total);
    if (!second)
        return;
    last = now_ms();
    tracker_poll_replica(d->tracker, standby(d), &replica);
    if (vm_is_protected(&d->status))
        view_live(active(d), &d->status);
}

/* For how long something is waited for that takes so many ms at most on a machine of today. */
static int within(const struct drill *d, int ms)
{
    return d->options->patience ? ms * (int)d->options->patience : ms;
}

static int wait_agents(struct drill *d, struct host *h, struct errmsg *e)
{
    int64_t end = now_ms() + within(d, AGENTS_UP_MS);
    char secondary[108];
    struct vm_status s;
    snprintf(secondary, sizeof secondary, "%s/secondary.sock", h->run_dir);
    while (tracker_poll(d->tracker, h, false, &s) || access(secondary, F_OK)) {
        if (now_ms() > end)
            return errmsg_set(e, "%s: its agents do not answer after %d s", h->name, within(d, AGENTS_UP_MS) / 1000);
        sleep_ms(POLL_MS);
    }
    return 0;
}

static int boot(struct drill *d, struct host *h, struct errmsg *e)
{
    char path[192];
    if (host_boot(h, d->options, e) || wait_agents(d, h, e))
        return -1;
    snprintf(path, sizeof path, "%s/pid", h->dir);
    return write_file(e, path, "%d\n", h->pid);
}

static int report(struct drill *d, struct errmsg *e)
{
    if (d->client && client_report(d->client, &d->results.client))
        return errmsg_set(e, "the client's process died");
    return 0;
}

/* Until an answer came that was not there at the time of the call. */
static int wait_reply(struct drill *d, int timeout_ms, struct errmsg *e)
{
    int64_t end = now_ms() + timeout_ms;
    if (report(d, e))
        return -1;
    uint64_t before = d->results.client.replies;
    while (d->client && d->results.client.replies == before) {
        if (now_ms() > end)
            return errmsg_set(e, "the guest does not answer the client after %d s", timeout_ms / 1000);
        sleep_ms(QUICK_POLL_MS);
        if (report(d, e))
            return -1;
    }
    return 0;
}

static void set_phase(struct drill *d, enum client_phase phase)
{
    if (d->client)
        client_phase(d->client, phase);
}

int drill_boot(struct drill *d, struct errmsg *e)
{
    for (int i = 0; i < 2; i++)
        if (boot(d, &d->hosts[i], e))
            return -1;
    view_say("host-a and host-b are up, their agents too");
    return 0;
}

int drill_start_vm(struct drill *d, struct errmsg *e)
{
    const struct options *o = d->options;
    int64_t begin = now_ms();
    if (host_hikae(active(d), o, e, (const char *const[]){"start", "demo", NULL}))
        return -1;
    if (!d->client) {
        view_say("the VM (%u MB) starts on %s", o->memory_mb, active(d)->name);
        return 0;
    }
    if (wait_reply(d, within(d, GUEST_UP_MS), e))
        return -1;
    view_say("the VM (%u MB, writes %u pages/s) runs on %s; first answer after %.1f s", o->memory_mb, o->rate,
             active(d)->name, (double)(now_ms() - begin) / 1e3);
    if (!o->baseline_s)
        return 0;
    view_say("measuring %u s without protection", o->baseline_s);
    sleep_ms(500); /* the boot's last work */
    set_phase(d, CLIENT_UNPROTECTED);
    sleep_ms((int64_t)o->baseline_s * 1000);
    set_phase(d, CLIENT_IDLE);
    return 0;
}

static int wait_protected(struct drill *d, struct errmsg *e)
{
    int64_t end = now_ms() + within(d, PROTECT_MS);
    do {
        if (now_ms() > end)
            return errmsg_set(e, "not protected after %d s: %s is %s %s", within(d, PROTECT_MS) / 1000, active(d)->name,
                              d->status.present ? d->status.state : "without the VM", d->status.reason);
        sleep_ms(QUICK_POLL_MS);
        look(d);
    } while (!vm_is_protected(&d->status));
    return 0;
}

int drill_protect(struct drill *d, struct errmsg *e)
{
    if (d->options->migrate)
        return 0;
    int64_t begin = now_ms();
    const char *const words[] = {"protect", "demo", "--to", standby(d)->name, "--no-wait", NULL};
    if (host_hikae(active(d), d->options, e, words) || wait_protected(d, e))
        return -1;
    set_phase(d, CLIENT_PROTECTED);
    view_say("protected: %s -> %s, after %.1f s", active(d)->name, standby(d)->name, (double)(now_ms() - begin) / 1e3);
    return 0;
}

int drill_unprotect(struct drill *d, struct errmsg *e)
{
    int64_t end = now_ms() + within(d, UNPROTECT_MS);
    if (host_hikae(active(d), d->options, e, (const char *const[]){"unprotect", "demo", NULL}))
        return -1;
    do {
        if (now_ms() > end)
            return errmsg_set(e, "the VM is still protected: %s", d->status.state);
        sleep_ms(QUICK_POLL_MS);
        tracker_poll(d->tracker, active(d), false, &d->status);
    } while (!vm_runs(&d->status) || vm_is_protected(&d->status));
    return 0;
}

/* xorshift64*: the schedule of the losses is that of the seed. */
static uint64_t random_below(struct drill *d, uint64_t n)
{
    d->random ^= d->random >> 12;
    d->random ^= d->random << 25;
    d->random ^= d->random >> 27;
    return (d->random * 0x2545f4914f6cdd1dU >> 16) % n;
}

/* Until the moment of the loss, and the VM must be protected then. */
static int wait_for_the_moment(struct drill *d, struct errmsg *e)
{
    const struct options *o = d->options;
    int64_t moment = now_ms() + o->kill_min_ms + (int64_t)random_below(d, o->kill_max_ms - o->kill_min_ms + 1);
    if (o->migrate) {
        sleep_ms(moment - now_ms());
        return 0;
    }
    for (;;) {
        int64_t left = moment - now_ms();
        if (left <= LAST_LOOK_MS) {
            tracker_poll(d->tracker, active(d), true, &d->status);
            if (vm_is_protected(&d->status))
                break;
            if (wait_protected(d, e))
                return -1;
            moment = now_ms() + LAST_LOOK_MS + (int64_t)random_below(d, 1000);
            continue;
        }
        sleep_ms(left - LAST_LOOK_MS < POLL_MS ? left - LAST_LOOK_MS : POLL_MS);
        look(d);
    }
    int64_t left = moment - now_ms();
    if (left > 0)
        sleep_ms(left);
    return 0;
}

/* The VM at the other host, and a client that hears from it. */
static int wait_survivor(struct drill *d, struct failover_times *times, struct errmsg *e)
{
    int64_t end = now_ms() + within(d, FAILOVER_MS) + d->options->detect_ms;
    d->active = !d->active;
    for (;;) {
        tracker_poll(d->tracker, active(d), false, &d->status);
        if (vm_runs(&d->status))
            break;
        host_look_for_end(standby(d));
        if (now_ms() > end)
            return errmsg_set(e, "%s does not run the VM %d s after the loss (%s %s)", active(d)->name,
                              within(d, FAILOVER_MS) / 1000, d->status.present ? d->status.state : "no VM",
                              d->status.reason);
        sleep_ms(QUICK_POLL_MS);
    }
    double seen = wall_ms();
    if (wait_reply(d, within(d, FAILOVER_MS) + (int)d->options->detect_ms, e))
        return -1;
    tracker_poll(d->tracker, active(d), false, &d->status); /* the announcement may be newer */
    times->agent = d->status.timeline;
    if (times->agent.running <= 0)
        times->agent.running = seen;
    times->first_reply = d->results.client.after_gap_ms;
    times->gap_ms = d->results.client.gap_ms;
    return 0;
}

static int move(struct drill *d, struct errmsg *e)
{
    const char *to = standby(d)->name;
    const char *const over[] = {"switchover", "demo", NULL}, *const away[] = {"migrate", "demo", to, NULL};
    return host_hikae(active(d), d->options, e, d->options->migrate ? away : over);
}

/* The VM stood still from `paused` to `running`. */
static int planned(struct drill *d, struct failover_times *times, struct errmsg *e)
{
    if (move(d, e) || wait_survivor(d, times, e))
        return -1;
    times->lost = times->agent.paused;
    return 0;
}

/* What the admin does who knows that the other host is off, and he alone. */
static int force_failover(struct drill *d, struct errmsg *e)
{
    int64_t end = now_ms() + within(d, FAILOVER_MS);
    while (host_hikae(standby(d), d->options, e, (const char *const[]){"failover", "demo", "--force", NULL})) {
        if (now_ms() > end)
            return -1;
        sleep_ms(POLL_MS);
    }
    return 0;
}

static int unplanned(struct drill *d, struct host *lost, struct failover_times *times, struct errmsg *e)
{
    if (d->options->power_cut)
        host_cut(lost);
    times->lost = wall_ms();
    host_kill(lost);
    int bad = (d->options->no_arbiter && force_failover(d, e)) || wait_survivor(d, times, e) ? -1 : 0;
    host_wait_gone(lost);
    return bad;
}

/* What the survivor's disks are, beside what its memory says. */
static int verify_disks(struct drill *d, struct errmsg *e)
{
    int64_t end = now_ms() + within(d, VERIFY_MS);
    const struct options *o = d->options;
    const struct client_report *r = &d->results.client;
    if (!o->disk_mb || !d->client)
        return 0;
    uint64_t verified = r->disk_verified, checked = r->database_checked;
    client_verify_disks(d->client);
    while (r->disk_verified == verified || (o->database && r->database_checked == checked)) {
        if (now_ms() > end)
            return errmsg_set(e, "the guest has not read its disks within %d s", within(d, VERIFY_MS) / 1000);
        sleep_ms(POLL_MS);
        if (report(d, e))
            return -1;
    }
    return 0;
}

/* All that client and guest have found wrong so far. */
static uint64_t complaints(const struct client_report *c)
{
    return client_errors(c) + c->violations + c->memory_errors + c->disk_errors + c->database_errors;
}

static int failover(struct drill *d, unsigned number, struct errmsg *e)
{
    struct host *lost = active(d);
    struct results *r = &d->results;
    struct failover_times times = {0};

    if (report(d, e))
        return -1;
    uint64_t errors = complaints(&r->client);
    set_phase(d, CLIENT_IDLE);
    if (d->client)
        client_mark(d->client);
    r->failovers++;
    double ordered = wall_ms();
    if (d->options->planned ? planned(d, &times, e) : unplanned(d, lost, &times, e))
        return -1;
    if (verify_disks(d, e))
        return -1;
    view_timeline(number, d->options->failovers, lost->name, active(d)->name, &times, !d->options->brief);
    if (complaints(&r->client) == errors) {
        r->to_running_ms[r->failovers_ok] = times.agent.running - times.lost;
        r->gap_ms[r->failovers_ok] = times.gap_ms;
        r->total_ms[r->failovers_ok] = times.agent.running - ordered;
        r->timelines[r->failovers_ok] = times.agent;
        r->failovers_ok++;
    } else {
        view_say("    but: %lu errors at the client, %lu output violations, %lu memory errors, %lu disk errors, %lu "
                 "database errors so far",
                 (unsigned long)client_errors(&r->client), (unsigned long)r->client.violations,
                 (unsigned long)r->client.memory_errors, (unsigned long)r->client.disk_errors,
                 (unsigned long)r->client.database_errors);
    }
    if (host_fsck(lost, d->options, e))
        return -1;
    return d->options->planned ? 0 : boot(d, lost, e);
}

int drill_failovers(struct drill *d, struct errmsg *e)
{
    for (unsigned i = 1; i <= d->options->failovers; i++)
        if (wait_for_the_moment(d, e) || failover(d, i, e) || drill_protect(d, e))
            return -1;
    /* A last look at everything: memory errors show when the guest comes by the page. */
    int64_t end = now_ms() + 2000;
    while (now_ms() < end) {
        sleep_ms(POLL_MS);
        look(d);
    }
    tracker_poll(d->tracker, active(d), true, &d->status);
    return report(d, e);
}
