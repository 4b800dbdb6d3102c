/*
 * failover: the primary is lost. Claim the VM (compare-and-set at the arbiter), give the replica its devices, and
 * become the VM's primary worker by exec: from there on it is the very path of a primary agent that was restarted and
 * finds its VM paused.
 */
#include "common/log.h"
#include "secondary/fence.h"
#include "secondary/worker.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MS = 1000 };
static const double RETRY_S = 0.2;

void failover_mark(struct worker *w, const char *what)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (!w->timeline)
        w->timeline = json_object_new_object();
    json_object_object_add(w->timeline, what, json_object_new_double((double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6));
}

static int open_arbiter(struct worker *w, struct errmsg *e)
{
    if (!w->arbiter)
        w->arbiter = arbiter_open_config(w->loop, w->config, e);
    return w->arbiter ? 0 : -1;
}

void failover_read_register(struct worker *w, arbiter_callback *done)
{
    struct errmsg e;
    if (open_arbiter(w, &e))
        done(ARBITER_NO_ANSWER, NULL, e.text, w);
    else
        w->request = arbiter_read(w->arbiter, w->vm_name, ANSWER_MS, done, w);
}

void failover_note_primary(struct worker *w, arbiter_callback *done)
{
    struct arbiter_register is = {.term = w->term};
    struct errmsg e;
    snprintf(is.owner, sizeof is.owner, "%s", w->peer->name);
    snprintf(is.mode, sizeof is.mode, "alone");
    if (open_arbiter(w, &e))
        done(ARBITER_NO_ANSWER, NULL, e.text, w);
    else
        w->request = arbiter_claim(w->arbiter, w->vm_name, &is, ANSWER_MS, done, w);
}

static void on_warm(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    (void)answer, (void)now, (void)why; /* the claim finds out for itself */
    struct worker *w = arg;
    w->request = NULL;
    w->warming = false;
}

void failover_warm(struct worker *w)
{
    if (w->request || !config_has_arbiter(w->config))
        return;
    w->warming = true;
    failover_read_register(w, on_warm);
}

static void end_warming(struct worker *w)
{
    if (!w->warming)
        return;
    if (w->request)
        arbiter_cancel(w->request);
    w->request = NULL;
    w->warming = false;
}

static void on_claimed(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct worker *w = arg;
    w->request = NULL;
    switch (answer) {
    case ARBITER_GRANTED:
        w->term = now->term;
        failover_mark(w, "claimed");
        worker_event(w, STANDBY_EVENT_GRANTED, "term %" PRIu64, now->term);
        break;
    case ARBITER_REFUSED:
        if (now->term < w->term) { /* a register never goes back: this is another one */
            worker_event(w, STANDBY_EVENT_NO_ANSWER,
                         "the arbiter's register has gone back to term %" PRIu64
                         ": is its folder mounted, and the right one?",
                         now->term);
            return;
        }
        worker_event(w, STANDBY_EVENT_REFUSED, "the VM belongs to %s, term %" PRIu64, now->owner, now->term);
        break;
    case ARBITER_NO_ANSWER:
        worker_event(w, STANDBY_EVENT_NO_ANSWER, "the arbiter does not answer: %s", why);
        break;
    }
}

static void on_retry(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    failover_claim(t->data);
}

/* Before the claim: a replica that can't be loaded must not take the VM away from a primary that may live. It stays
 * paused; if the claim is refused it is dropped. */
static int load(struct worker *w)
{
    struct errmsg e;
    if (w->loaded)
        return 0;
    replica_abort(w->replica); /* promise 2: what is not committed never was */
    if (w->ops->load(w->vm, replica_initial(w->replica), replica_state(w->replica), &e)) {
        log_error("the replica of epoch %" PRIu64 " can't be started: %s", w->epoch, e.text);
        worker_event(w, STANDBY_EVENT_REFUSED, "not claimed, since it can't be started: %s", e.text);
        return -1;
    }
    w->loaded = true;
    failover_mark(w, "loaded");
    return 0;
}

void failover_claim(struct worker *w)
{
    struct arbiter_register want = {.term = w->term + (config_has_arbiter(w->config) ? 1 : ARBITER_FORCED_LEAP)};
    struct errmsg e;
    end_warming(w);
    if (w->request)
        return;
    ev_timer_stop(w->loop, &w->claim_retry);
    ev_timer_init(&w->claim_retry, on_retry, RETRY_S, 0.);
    w->claim_retry.data = w;
    /* Before the claim, as loading: disks that can't be those of the epoch must not take the VM away from a primary
     * that may live. Before loading: what a crash leaves of us from there on is started, with the disks as they are. */
    if (!disks_are_sealed(w) || load(w))
        return;
    snprintf(want.owner, sizeof want.owner, "%s", w->config->name);
    snprintf(want.mode, sizeof want.mode, "alone");
    if (open_arbiter(w, &e))
        worker_event(w, STANDBY_EVENT_NO_ANSWER, "%s", e.text);
    else
        w->request = arbiter_claim(w->arbiter, w->vm_name, &want, ANSWER_MS, on_claimed, w);
    network_open(&w->network, &w->info); /* while it thinks */
}

/* It runs before anything else is done, which takes a while: the guest feels each millisecond. If it can't be resumed
 * now, the primary worker tries again. */
void failover_run(struct worker *w)
{
    struct errmsg e;
    if (w->ops->resume(w->vm, &e)) {
        log_warn("%s", e.text);
    } else {
        failover_mark(w, "running");
        network_announce(&w->network, &w->info);
    }
    session_bye(w, BYE_TAKEN_OVER, w->reason);
    worker_event(w, STANDBY_EVENT_LOADED, "%s", "");
}

static void on_fence_failed(const char *why, void *arg)
{
    struct worker *w = arg;
    snprintf(w->reason, sizeof w->reason, "%s", why);
    report_now(w);
}

static void on_fenced(void *arg)
{
    struct worker *w = arg;
    failover_end_fencing(w);
    failover_mark(w, "fenced");
    disks_bring(w);
}

void failover_end_fencing(struct worker *w)
{
    fence_free(w->fence);
    w->fence = NULL;
}

/* Who hands it over has paused it, and is well. So is who says that the VM has crashed: its other VMs must not be shot
 * for that. But what it still holds of shared disks' writes may be on its way to them. */
static bool needs_fencing(const struct worker *w)
{
    return fence_command(w->config, w->vm_name) && !w->handed && (!w->crashed || disks_are_shared(w));
}

void failover_start(struct worker *w)
{
    static const struct fence_handlers handlers = {.failed = on_fence_failed, .done = on_fenced};
    if (!needs_fencing(w)) {
        disks_bring(w);
        return;
    }
    session_bye(w, BYE_TAKEN_OVER, w->reason);
    w->fence = fence_begin(w->loop, w->config, w->vm_name, w->term, w->peer->name, &handlers, w);
}

/* The primary worker reads the record that was written when the replica was made, and the addresses that came since. */
static void ensure_record(struct worker *w)
{
    struct errmsg e;
    if (vm_record_save(w->config->state_dir, &w->record, &e))
        log_warn("%s", e.text);
}

void failover_become_primary(struct worker *w)
{
    ensure_record(w);
    ev_io_stop(w->loop, &w->vm_event);
    w->ops->detach(w->vm);
    w->vm = NULL;
    char origin[128];
    snprintf(origin, sizeof origin, "%s %s", w->handed ? "handed over by" : "taken over from", w->peer->name);
    setenv("HIKAE_ORIGIN", origin, 1);
    setenv("HIKAE_TIMELINE", json_object_to_json_string(w->timeline), 1);
    exec_primary(w->program, w->config, w->vm_name, w->term, &w->network);
}
