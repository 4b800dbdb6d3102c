/*
 * disks: what the worker does for the VM's disks. Their server (disk/server.h) outlives this process as the VM does; it
 * applies what the guest writes at once, and while a replica is wanted it logs it as well: the pipeline makes DISK
 * records of the log, in the epoch in which it was written.
 */
#include "common/log.h"
#include "disk/account_place.h"
#include "disk/client.h"
#include "disk/guard.h"
#include "disk/kernel.h"
#include "disk/prepare.h"
#include "disk/server.h"
#include "disk/shared.h"
#include "primary/watched.h"
#include "primary/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PUSH_BYTES = 1 << 20, GONE_MS = 1000 };
static const double PUSH_S = 0.005;

void disks_dir(const struct worker *w, char out[DISKS_DIR_MAX])
{
    snprintf(out, DISKS_DIR_MAX, "%s/disks/%s", w->config->run_dir, w->name);
}

/* ---- the server ---- */

static void on_events(struct ev_loop *loop, ev_io *io, int events);

static void hang_up(struct worker *w)
{
    struct disks *d = &w->disks;
    if (!d->client)
        return;
    ev_io_stop(w->loop, &d->event);
    ev_timer_stop(w->loop, &d->push);
    disk_disconnect(d->client);
    d->client = NULL;
    account_file_close(d->written.file);
    d->written.file = NULL;
}

/* Its server notes what the VM writes, or nobody counts on what it once noted. */
static int open_account(struct worker *w, const char *dir, struct errmsg *e)
{
    struct errmsg why;
    struct written *written = &w->disks.written;
    if (w->disks.n == w->disks.shared.disks || !w->ops->drains_disks)
        return 0; /* they are the other host's as well, or what was noted would be forgotten too early */
    written->file = account_served(w->config, w->name, dir, &why);
    if (written->file)
        return 0;
    log_warn("%s: re-syncs will compare all of the disks", why.text);
    return account_remove(w->config, w->name, e);
}

static int connect_server(struct worker *w, struct errmsg *e)
{
    struct disks *d = &w->disks;
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    d->client = disk_connect(dir, e);
    if (!d->client)
        return -1;
    d->n = disk_count(d->client);
    d->shared.disks = disk_shared(d->client);
    for (unsigned i = 0; i < d->n; i++) {
        struct vm_disk *disk = &d->at[i];
        if (snprintf(disk->socket, sizeof disk->socket, "%s/nbd.sock", dir) >= (int)sizeof disk->socket)
            return errmsg_set(e, "%s: too long for a unix socket: choose a shorter run_dir", dir);
        snprintf(disk->export_name, sizeof disk->export_name, "%u", i);
        disk->bytes = disk_bytes(d->client, i);
    }
    if (open_account(w, dir, e))
        return -1;
    ev_io_init(&d->event, on_events, disk_fd(d->client), EV_READ);
    d->event.data = w;
    ev_io_start(w->loop, &d->event);
    return 0;
}

/* To the server that the guard has started; until it has, this fails. */
static void connect_again(struct worker *w)
{
    struct errmsg e;
    if (connect_server(w, &e))
        hang_up(w);
    else
        log_info("the VM's disks are served again");
}

static void tell_lost(struct worker *w)
{
    hang_up(w);
    worker_event(w, EVENT_VM_GONE, "%s",
                 "the VM's disk server has ended with writes to shared disks that were not let out yet");
}

bool disks_are_lost(struct worker *w)
{
    char dir[DISKS_DIR_MAX];
    bool lost = false;
    disks_dir(w, dir);
    if (!w->disks.client || disk_is_whole(w->disks.client))
        return false;
    /* Its connections break one by one: it is on its way out. */
    for (int waited = 0; !(lost = shared_are_lost(w)) && disk_server_is_holding(dir) && waited < GONE_MS; waited++)
        usleep(1000);
    if (lost)
        tell_lost(w);
    return lost;
}

/* The server died: the guest's requests wait for the next one (promise 4). Its log is lost with it, so the stream can't
 * go on. */
static void on_gone(struct worker *w)
{
    if (disks_are_lost(w))
        return;
    w->disks.trouble.text[0] = 0;
    worker_event(w, EVENT_LINK_DOWN, "%s", "the VM's disk server has ended");
    hang_up(w);
    connect_again(w);
}

/* Of the guard: a server serves again, or why none does. */
static void on_news(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct worker *w = io->data;
    struct disks *d = &w->disks;
    struct errmsg e;
    bool serves = disk_guard_news(d->guard, &e);
    if (d->client && !disk_is_whole(d->client))
        on_gone(w);
    if (!d->guard)
        return; /* that was the end of the VM */
    if (serves && !d->client)
        connect_again(w);
    if (!serves && !d->client && shared_are_lost(w)) {
        tell_lost(w);
    } else if (!serves && !d->client) {
        d->trouble = e;
        worker_event(w, EVENT_LINK_DOWN, "the VM's disks: %s", e.text);
    }
}

/* ---- the guard ---- */

static int begin_guarding(struct worker *w, const char *dir, struct errmsg *e)
{
    struct disks *d = &w->disks;
    struct watch_bounds bounds = {.pause_ms = w->config->pause_bound_ms, .worker_ms = w->config->worker_bound_ms};
    d->guard = disk_guard_start(dir, &bounds, watched_is_paused, e);
    if (!d->guard)
        return -1;
    ev_io_init(&d->news, on_news, disk_guard_fd(d->guard), EV_READ);
    d->news.data = w;
    ev_io_start(w->loop, &d->news);
    return 0;
}

static void end_guarding(struct worker *w)
{
    struct disks *d = &w->disks;
    if (!d->guard)
        return;
    ev_io_stop(w->loop, &d->news);
    disk_guard_stop(d->guard);
    d->guard = NULL;
}

/* A server that hangs takes a while to be found out. A hypervisor that has its disks from the kernel does not connect
 * anew by itself. */
static int serve(struct worker *w, const char *dir, const struct disk_paths *paths, struct errmsg *e)
{
    watched_allow(VM_SETUP_MS);
    end_guarding(w); /* of one that was found, of a VM that was not */
    hang_up(w);
    int result = disk_server_start_shared(dir, paths->n ? paths->at : NULL, paths->n, paths->shared, false, e) ||
                         kernel_disks_reconnect(dir, e) || connect_server(w, e) || begin_guarding(w, dir, e)
                     ? -1
                     : 0;
    watched_allow(0);
    return result;
}

int disks_start(struct worker *w, struct errmsg *e)
{
    struct store_paths stores;
    struct disk_paths paths;
    char dir[DISKS_DIR_MAX];
    if (store_paths(w->config, w->name, &stores, e) || disk_paths(w->config, w->name, &stores, &paths, e))
        return -1;
    if (!paths.n)
        return 0;
    disks_dir(w, dir);
    if (disks_prepare(w->config, w->name, dir, &stores, w->term - 1, w->ops->drains_disks, e))
        return -1;
    return serve(w, dir, &paths, e);
}

int disks_find(struct worker *w, struct errmsg *e)
{
    static const struct disk_paths those_it_had = {.n = 0};
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    return disk_server_exists(dir) ? serve(w, dir, &those_it_had, e) : 0;
}

/* ---- the end ---- */

static int is_anothers(const struct kernel_disk *k, void *arg)
{
    const struct disks *d = arg;
    return !d->has_owner || k->domid != d->owner;
}

static int take_owner(const struct kernel_disk *k, void *arg)
{
    struct disks *d = arg;
    d->has_owner = true;
    d->owner = k->domid;
    return 1;
}

void disks_note_owner(struct worker *w)
{
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    (void)kernel_disks(dir, take_owner, &w->disks);
}

void disks_cut(struct worker *w)
{
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    kernel_disks_disconnect(dir);
}

/* A domain that reboots is another one at once, and may have its disks of the same server by now. */
static void end_server(struct worker *w, const char *dir)
{
    struct errmsg e;
    if (kernel_disks(dir, is_anothers, &w->disks)) {
        log_info("another domain has the disks of the VM: their server stays");
        return;
    }
    if (disk_server_exists(dir) && disk_server_stop(dir, &e))
        log_warn("the VM's disk server: %s", e.text);
    disks_cut(w); /* of a domain of ours that is still to end: requests that wait would keep its devices from going */
}

void disks_end(struct worker *w)
{
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    watched_allow(VM_SETUP_MS);
    ev_timer_stop(w->loop, &w->disks.grow);
    end_guarding(w);
    hang_up(w);
    disks_stop_freeing(w);
    end_server(w, dir);
    w->disks.n = w->disks.shared.disks = 0;
    watched_allow(0);
}

void disks_let_go(struct worker *w)
{
    ev_timer_stop(w->loop, &w->disks.grow);
    disks_end_sync(w);
    end_guarding(w);
    hang_up(w);
    disks_stop_freeing(w);
}

/* ---- the log ---- */

/* What was logged goes on its way before the epoch ends, when it is worth it. */
static void push(struct worker *w, uint64_t least)
{
    struct disks *d = &w->disks;
    uint64_t mark = disk_mark(d->client);
    if (mark - d->pushed < least || !w->checkpoint.pipeline || w->state == PROTECTION_HANDING)
        return;
    d->pushed = mark;
    pipeline_disks(w->checkpoint.pipeline, w->checkpoint.flight.last + 1, mark);
}

static void on_push(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    push(t->data, PUSH_BYTES);
}

static void on_events(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct worker *w = io->data;
    struct disks *d = &w->disks;
    unsigned what = disk_events(d->client);
    if (what & DISK_EVENT_GONE) {
        on_gone(w);
        return;
    }
    shared_on_events(w, what);
    if (what & DISK_EVENT_FLUSHED)
        disks_flushed(w);
    if (what & (DISK_EVENT_BROKEN | DISK_EVENT_ERROR)) /* the pipeline comes upon it, and says what it is */
        push(w, 1);
}

/* Lets go of an epoch's output: promise 1, and what the guest was told to be on its disk is there before anybody hears
 * of it. A flush that was answered in the pause that ended epoch e may be known to the guest in epoch e already: on Xen
 * it runs on until it has suspended itself. */
void disks_release(struct worker *w, uint64_t epoch)
{
    struct disks *d = &w->disks;
    if (d->owed_since && epoch >= d->owed_since && d->client && disk_owes_flush(d->client)) {
        d->waiting = epoch;
        return;
    }
    for (unsigned i = 0; i < w->outlet_count; i++)
        outlet_release(w->outlets[i], epoch);
}

void disks_captured(struct worker *w, uint64_t epoch, uint64_t mark)
{
    struct disks *d = &w->disks;
    shared_captured(w, epoch, mark);
    if (!d->client || !disk_owes_flush(d->client))
        d->owed_since = 0;
    else if (!d->owed_since) {
        d->owed_since = epoch;
        d->owed_from = clock_now();
    }
}

/* What the guest writes waits for an owed flush, and a pause would wait for that: it would last as long as the disk
 * does, and this host be taken for lost. So the epoch lasts longer instead. */
bool disks_hold_checkpoints(const struct worker *w)
{
    return w->disks.client && disk_owes_flush(w->disks.client);
}

void disks_flushed(struct worker *w)
{
    struct disks *d = &w->disks;
    uint64_t epoch = d->waiting;
    if (disk_owes_flush(d->client))
        return; /* another one, by now: that will be told too */
    d->owed_since = d->waiting = 0;
    if (epoch && (w->state == PROTECTION_PROTECTED || w->state == PROTECTION_HANDING))
        disks_release(w, epoch);
    checkpoint_arm(w);
}

void disks_stop(struct worker *w)
{
    struct disks *d = &w->disks;
    struct errmsg e;
    ev_timer_stop(w->loop, &d->push);
    if (d->tracking && d->client && disk_track(d->client, false, &e))
        log_warn("the log of the VM's disks: %s", e.text);
    d->tracking = false;
    d->owed_since = d->waiting = d->populated = 0;
    shared_stop(w);
    disks_end_sync(w);
}

void disks_init(struct worker *w)
{
    struct disks *d = &w->disks;
    ev_timer_init(&d->push, on_push, 0., PUSH_S);
    d->push.data = w;
    disks_init_out(w);
    disks_init_growing(w);
}
