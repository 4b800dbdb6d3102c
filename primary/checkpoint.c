/*
 * checkpoint: the first sync and the cycle after it.
 *
 * First sync: arm dirty tracking, send all populated memory while the guest runs (or, to a replica that did not begin
 * empty, what differs from what its host tells of it), then rounds of what was dirtied meanwhile, until little is left
 * or rounds stop helping. All of that is epoch 1, which the next checkpoint closes; from its pause on output is held.
 *
 * Cycle: the trigger says when; a checkpoint needs a free capture and room in flight. A link that can't keep up thus
 * lengthens the epochs.
 */
#include "common/log.h"
#include "primary/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    CAPTURE_PAGES = 4096,
    CAPTURE_EAGER_MAX = 65536,
    SYNC_ENOUGH_PAGES = 2048,
    SYNC_ROUNDS_MAX = 8,
    BACKLOG_ENOUGH = 64 << 10
};
static const double PACE_S = 0.001, STUCK_LOOK_S = 0.2;

static void set_timer(struct checkpoint *c, int64_t at)
{
    struct itimerspec spec = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
    timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static bool is_cycling(const struct worker *w)
{
    return w->state == PROTECTION_SEALED || w->state == PROTECTION_PROTECTED;
}

static bool can_capture(const struct worker *w)
{
    const struct checkpoint *c = &w->checkpoint;
    return is_cycling(w) && c->free_count && flight_has_room(&c->flight) && !move_holds_checkpoints(w) &&
           !shared_hold_checkpoints(w) && !disks_hold_checkpoints(w) && !ev_is_active(&c->stuck);
}

void checkpoint_arm(struct worker *w)
{
    struct checkpoint *c = &w->checkpoint;
    if (!can_capture(w)) {
        set_timer(c, 0); /* disarmed: an ack or a capture that comes back arms it */
        return;
    }
    int64_t due = move_is_due(w) ? 1 : trigger_due(&c->trigger);
    set_timer(c, due > 0 ? due : 1);
}

/* What was dirtied in one epoch may be so in the next: memory that is first touched in the pause costs more than all
 * the rest of it. Beyond a limit it is not worth what it would keep. */
static void make_room(struct checkpoint *c, uint64_t pages)
{
    uint64_t wanted = pages + pages / 2;
    for (unsigned i = 0; i < c->free_count; i++)
        if (pages > c->free[i]->capacity / 4 * 3 && wanted <= CAPTURE_EAGER_MAX)
            capture_make_room(c->free[i], wanted);
}

/* The stream can't go on, or the VM has ended, or as good as ended. If there is no replica yet that can take a stuck
 * one over, whoever opens the gate tries to resume it again and again. */
static void fail(struct worker *w, bool stuck, const char *what)
{
    struct checkpoint *c = &w->checkpoint;
    if (worker_check_vm(w) || disks_are_lost(w))
        return;
    if (!stuck || w->state != PROTECTION_PROTECTED) {
        worker_event(w, EVENT_LINK_DOWN, "a checkpoint failed: %s", what);
        return;
    }
    log_error("the VM stands still and can't be resumed: %s; it goes on at %s as soon as that is heard from", what,
              w->peer);
    snprintf(w->reason, sizeof w->reason, "the VM stands still and can't be resumed: %.200s", what);
    errmsg_set(&c->stuck_why, "%s", what);
    c->stuck_heard = 0;
    ev_now_update(w->loop); /* it is that of before the call that took so long */
    ev_timer_again(w->loop, &c->stuck);
}

/* To end it here takes the VM's last copy if the secondary was lost as well. What came while the VM was waited for has
 * been read by the first turn, and says nothing about now. */
static void on_stuck(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    struct checkpoint *c = &w->checkpoint;
    if (!c->stuck_heard)
        c->stuck_heard = w->session.heard_at;
    else if (w->session.heard_at > c->stuck_heard)
        worker_event(w, EVENT_VM_STUCK, "the VM stands still: %s", c->stuck_why.text);
}

static void account(struct worker *w, const struct capture *c)
{
    struct metrics *m = &w->metrics;
    const struct capture_times *t = &c->times;
    hist_add(m->pause, (uint64_t)t->total);
    hist_add(m->stop, (uint64_t)t->stop);
    hist_add(m->net, (uint64_t)t->net);
    hist_add(m->scan, (uint64_t)t->scan);
    hist_add(m->copy, (uint64_t)t->copy);
    hist_add(m->state, (uint64_t)t->state);
    hist_add(m->resume, (uint64_t)t->resume);
    hist_add(m->pages, c->n);
    m->checkpoints++;
    m->pages_dirty += c->n;
    m->last_pages = c->n;
}

static void checkpoint(struct worker *w)
{
    struct checkpoint *c = &w->checkpoint;
    struct capture *capture = c->free[--c->free_count];
    struct errmsg e;
    bool first = c->flight.last == 0, last = move_is_last(w);
    struct capture_source from = {.ops = w->ops,
                                  .vm = w->vm,
                                  .outlets = w->outlets,
                                  .outlet_count = w->outlet_count,
                                  .disks = w->disks.tracking ? w->disks.client : NULL};
    if (first && shared_begin_holding(w, &e)) {
        c->free[c->free_count++] = capture;
        fail(w, false, e.text);
        return;
    }
    if (capture_checkpoint(&from, c->flight.last + 1, last, &c->dirty, capture, &e)) {
        c->free[c->free_count++] = capture;
        if (first) /* nothing that a replica could start from has left: output is free again */
            disks_free_output(w);
        fail(w, capture->stuck, e.text);
        return;
    }
    disks_captured(w, c->flight.last + 1, capture->disk_mark);
    w->disks.pushed = capture->disk_mark;
    flight_open(&c->flight, capture->times.paused_at);
    if (w->config->fault_release_early) /* a negative control of the tests: promise 1 broken on purpose */
        disks_free_output(w);
    if (!last)
        account(w, capture);
    int64_t paused_at = c->trigger.paused_at = capture->times.paused_at;
    uint64_t pages = last ? c->dirty.pages : capture->n;
    c->trigger.resumed_at = clock_now();
    c->trigger.output = c->trigger.full = false;
    if (last) /* the VM stands still: its pages are read where they are, and nobody will need them as a base */
        pipeline_round(c->pipeline, c->flight.last, &c->dirty, true);
    pipeline_epoch(c->pipeline, capture, first ? &c->initial : NULL);
    if (first) {
        vm_blob_free(&c->initial);
        worker_event(w, EVENT_CHECKPOINTED, "%s", "");
    }
    move_captured(w, c->flight.last, paused_at, pages, last);
    checkpoint_arm(w);
}

static void on_timer(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct worker *w = io->data;
    uint64_t times;
    if (read(w->checkpoint.timer_fd, &times, sizeof times) < 0)
        return; /* it was set anew since */
    if (can_capture(w))
        checkpoint(w);
}

/* ---- first sync ---- */

static uint64_t sent_over_link(const struct worker *w)
{
    return w->session.link ? link_bytes_sent(w->session.link) : 0;
}

static void next_round(struct worker *w)
{
    struct checkpoint *c = &w->checkpoint;
    struct sync *s = &c->sync;
    if (s->round > 1 && (s->round_pages <= SYNC_ENOUGH_PAGES || s->round >= SYNC_ROUNDS_MAX)) {
        checkpoint(w);
        return;
    }
    struct errmsg e;
    page_ranges_clear(&c->dirty);
    disks_begin_pause(w);
    int result = w->ops->dirty_running(w->vm, &c->dirty, &e);
    disks_end_pause(w);
    if (result) {
        fail(w, false, e.text);
        return;
    }
    s->round++;
    s->round_pages = c->dirty.pages;
    w->metrics.pages_dirty += c->dirty.pages;
    log_info("first sync: round %u, %" PRIu64 " pages were dirtied meanwhile", s->round, s->round_pages);
    make_room(c, s->round_pages);
    pipeline_round(c->pipeline, 1, &c->dirty, false);
}

/* Has everything that the first round compares been told and compared? */
static bool is_compared(struct worker *w)
{
    struct sync *s = &w->checkpoint.sync;
    if (s->round > 1)
        return true;
    bool told = disks_are_told(w) && (!s->differences || regions_all_told(&s->told));
    if (--s->spans || !told)
        return false;
    if (!s->differences)
        return true;
    s->sent = pipeline_pages_sent(w->checkpoint.pipeline);
    page_ranges_free(&s->populated);
    w->metrics.pages_dirty += s->sent;
    log_info("re-sync to %s: %" PRIu64 " pages compared, %" PRIu64 " sent", w->peer, s->total, s->sent);
    return true;
}

/* The next round is taken when the last one is out: what is written meanwhile goes once, and the last epoch, for which
 * the VM of a planned move stands still, finds the way free. */
static bool is_way_free(const struct worker *w)
{
    return (!w->session.link || link_backlog(w->session.link) <= BACKLOG_ENOUGH) && !disks_hold_checkpoints(w) &&
           !disks_output_waits(w);
}

static void go_on(struct worker *w)
{
    if (is_way_free(w))
        next_round(w);
    else
        ev_timer_start(w->loop, &w->checkpoint.pace);
}

static void on_pace(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    if (w->state == PROTECTION_SYNCING)
        go_on(w);
}

static void on_round_done(void *arg)
{
    struct worker *w = arg;
    if (w->state == PROTECTION_SYNCING && is_compared(w))
        go_on(w);
}

int checkpoint_regions(struct worker *w, const struct record *r, struct proto_error *e)
{
    struct checkpoint *c = &w->checkpoint;
    struct sync *s = &c->sync;
    uint64_t first = s->told.head.end;
    if (w->state != PROTECTION_SYNCING)
        return 0; /* this sync was given up meanwhile */
    if (regions_check(&s->told, r->payload, r->length, e))
        return -1;
    struct resync_span *span = resync_span_new(&s->told, first, r->payload, r->length, &s->populated, &s->cursor);
    if (!span) {
        fail(w, false, "no memory to compare with what the secondary holds");
        return 0;
    }
    s->spans++;
    pipeline_resync(c->pipeline, 1, span);
    return 0;
}

static void on_captured(struct capture *done, void *arg)
{
    struct worker *w = arg;
    w->checkpoint.free[w->checkpoint.free_count++] = done;
    make_room(&w->checkpoint, done->n);
    checkpoint_arm(w);
}

static void on_looked(const struct looked *at, void *arg)
{
    verify_looked(arg, at);
}

static void on_output(void *arg)
{
    session_pump(arg);
}

static void on_failed(const char *what, void *arg)
{
    fail(arg, false, what);
}

static int refill_captures(struct checkpoint *c, struct errmsg *e)
{
    while (c->free_count < FLIGHT_MAX) { /* those that were in the pipeline when it was ended went with it */
        struct capture *capture = capture_new(CAPTURE_PAGES, e);
        if (!capture)
            return -1;
        c->free[c->free_count++] = capture;
    }
    return 0;
}

static int begin_sync(struct worker *w, struct errmsg *e)
{
    static const struct pipeline_handlers handlers = {.output = on_output,
                                                      .captured = on_captured,
                                                      .round_done = on_round_done,
                                                      .looked = on_looked,
                                                      .failed = on_failed};
    struct checkpoint *c = &w->checkpoint;
    flight_reset(&c->flight);
    page_ranges_free(&c->sync.populated);
    c->sync = (struct sync){.round = 1,
                            .differences = w->session.told_regions,
                            .sent_before = sent_over_link(w),
                            .told = {.pages = w->info.pages}};
    vm_blob_free(&c->initial);
    page_ranges_clear(&c->dirty);
    if (refill_captures(c, e) || disks_begin_sync(w, e))
        return -1;
    disks_begin_pause(w);
    int result = w->ops->arm(w->vm, &c->initial, e);
    disks_end_pause(w);
    if (result || w->ops->populated(w->vm, &c->dirty, e))
        return -1;
    struct pipeline_config pc = {.pages = w->info.pages,
                                 .memory = w->ops->memory(w->vm),
                                 .disks = w->disks.client,
                                 .first_shared = w->disks.n - w->disks.shared.disks,
                                 .disk_count = w->disks.n,
                                 .refers = w->disks.n && w->session.knows_disk_pages,
                                 .disk_sync_rate = disks_sync_rate(w),
                                 .delta_cache_bytes = w->settings->delta_cache_bytes,
                                 .drop_page = w->config->fault_drop_page};
    for (unsigned i = pc.first_shared; i < pc.disk_count; i++)
        pc.disk_fds[i] = w->disks.sync[i].fd;
    if (getrandom(&pc.seed, sizeof pc.seed, 0) != (ssize_t)sizeof pc.seed)
        return errmsg_set(e, "getrandom: %s", strerror(errno));
    c->pipeline = pipeline_new(w->loop, &pc, &handlers, w, e);
    if (!c->pipeline)
        return -1;
    c->sync.round_pages = c->dirty.pages;
    c->sync.total = c->dirty.pages + w->disks.populated;
    log_info("first sync to %s: %" PRIu64 " of %" PRIu64 " pages and %" PRIu64 " blocks of disks hold something%s",
             w->peer, c->dirty.pages, w->info.pages, w->disks.populated,
             c->sync.differences ? ", it tells what it holds already" : "");
    if (c->sync.differences) {
        c->sync.populated = c->dirty; /* until REGIONS come */
        c->dirty = (struct page_ranges){0};
        return 0;
    }
    c->sync.sent = c->sync.round_pages;
    w->metrics.pages_dirty += c->sync.round_pages;
    c->sync.spans = 1;
    pipeline_round(c->pipeline, 1, &c->dirty, true);
    return 0;
}

void checkpoint_sync(struct worker *w)
{
    struct errmsg e;
    if (begin_sync(w, &e))
        fail(w, false, e.text);
}

void checkpoint_stop(struct worker *w)
{
    struct checkpoint *c = &w->checkpoint;
    set_timer(c, 0);
    ev_timer_stop(w->loop, &c->pace);
    ev_timer_stop(w->loop, &c->stuck);
    pipeline_free(c->pipeline);
    c->pipeline = NULL;
    verify_stop(w);
    disks_stop(w);
    struct errmsg e;
    if (w->vm && w->state != PROTECTION_ENDED && w->ops->disarm(w->vm, &e)) /* one that ends needs none of it */
        log_warn("dirty tracking could not be ended: %s", e.text);
}

/* ---- acks ---- */

void checkpoint_acked(struct worker *w, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE])
{
    struct flight_epoch done;
    struct proto_error e;
    if (!is_cycling(w) && w->state != PROTECTION_HANDING)
        return; /* late: the epoch's output is decided by the arbiter now */
    if (flight_ack(&w->checkpoint.flight, epoch, digest, &done, &e)) {
        worker_event(w, EVENT_LINK_DOWN, "%s: %s", w->peer, e.text);
        return;
    }
    if (w->disks.shared.disks)
        shared_acked(w, epoch);
    else
        disks_release(w, epoch);
    hist_add(w->metrics.commit, (uint64_t)(clock_now() - done.paused_at));
    if (w->state == PROTECTION_SEALED) {
        written_synced(&w->disks.written);
        w->checkpoint.sync.bytes = sent_over_link(w) - w->checkpoint.sync.sent_before;
        log_info("%s after %" PRIu64 " bytes, its memory is %" PRIu64, w->peer, w->checkpoint.sync.bytes,
                 w->checkpoint.sync.total * VM_PAGE_SIZE);
        worker_event(w, EVENT_ACKED, "%s", "");
    }
    if (!w->disks.shared.disks)
        move_acked(w, epoch);
    checkpoint_arm(w);
}

/* ---- life ---- */

void checkpoint_configure(struct worker *w)
{
    struct trigger *t = &w->checkpoint.trigger;
    t->on_output = w->record.mode == TRIGGER_ON_OUTPUT;
    t->interval = w->record.interval_ms * INT64_C(1000000);
    t->max_interval = w->settings->max_interval_ms * INT64_C(1000000);
    t->min_interval = w->settings->min_interval_ms * INT64_C(1000000);
    checkpoint_arm(w);
}

int checkpoint_init(struct worker *w, struct errmsg *e)
{
    struct checkpoint *c = &w->checkpoint;
    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (c->timer_fd < 0)
        return errmsg_set(e, "timerfd: %s", strerror(errno));
    ev_io_init(&c->timer, on_timer, c->timer_fd, EV_READ);
    ev_timer_init(&c->pace, on_pace, PACE_S, 0.);
    ev_timer_init(&c->stuck, on_stuck, 0., STUCK_LOOK_S);
    c->timer.data = c->pace.data = c->stuck.data = w;
    ev_io_start(w->loop, &c->timer);
    return 0;
}

void checkpoint_end(struct worker *w)
{
    struct checkpoint *c = &w->checkpoint;
    pipeline_free(c->pipeline);
    c->pipeline = NULL;
    while (c->free_count)
        capture_free(c->free[--c->free_count]);
    vm_blob_free(&c->initial);
    page_ranges_free(&c->dirty);
    page_ranges_free(&c->sync.populated);
    ev_io_stop(w->loop, &c->timer);
    close(c->timer_fd);
}
