/*
 * ownership: the shell around the arbiter. A claim is always for the term after the one we know; what we know is read
 * first when this process has not owned the VM yet.
 */
#include "common/log.h"
#include "primary/worker.h"

#include <inttypes.h>
#include <string.h>

enum { ANSWER_MS = 1000 };
static const double RETRY_S = 0.2;

static const char *consequence(const struct worker *w)
{
    return w->state == PROTECTION_AT_RISK ? ": output is open, and the VM may run elsewhere as well"
                                          : ": output is held until it does";
}

/* Policy `open`: counted claim by claim, each for no more than it may take. A process that stood still for a while must
 * not take that for silence of the arbiter. */
static void count_unanswered(struct worker *w)
{
    struct ownership *o = &w->ownership;
    int64_t took = clock_now() - o->asked_at, most = ANSWER_MS * INT64_C(1000000);
    o->unanswered += (took < most ? took : most) + (int64_t)(RETRY_S * 1e9);
    bool may_open = w->record.isolated == ISOLATED_OPEN && !w->disks.shared.disks; /* two writers would ruin a disk */
    if (w->state != PROTECTION_ISOLATED || !may_open || o->unanswered < (int64_t)w->record.open_after_ms * 1000000)
        return;
    log_error("AT RISK: neither the replica nor the arbiter has answered for %" PRId64
              " ms, and isolated = open: the VM's output is opened, though the VM may run elsewhere as well",
              o->unanswered / 1000000);
    worker_event(w, EVENT_UNANSWERED, "neither the replica nor the arbiter answers, and isolated = open");
}

/* A register never goes back. One that has is another one: a share that isn't mounted, a restored backup. */
static bool has_gone_back(struct worker *w, const struct arbiter_register *now)
{
    uint64_t known = w->term > w->term_seen ? w->term : w->term_seen;
    if (now->term >= known)
        return false;
    worker_event(w, EVENT_NO_ANSWER,
                 "the arbiter says term %" PRIu64 ", this host has known term %" PRIu64
                 ": is the arbiter's folder mounted, and the right one?",
                 now->term, known);
    count_unanswered(w);
    return true;
}

static void on_claimed(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct worker *w = arg;
    w->ownership.request = NULL;
    bool ours =
        answer != ARBITER_NO_ANSWER && now->term == w->ownership.want.term && !strcmp(now->owner, w->config->name);
    if (ours) /* also when an earlier claim of the same term, in another mode, was carried out without an answer */
        answer = ARBITER_GRANTED;
    else if (answer == ARBITER_REFUSED && has_gone_back(w, now))
        return;
    switch (answer) {
    case ARBITER_GRANTED:
        w->term = now->term;
        w->force = false;
        log_info("the VM is ours, term %" PRIu64, w->term);
        worker_event(w, EVENT_GRANTED, "%s", "");
        break;
    case ARBITER_REFUSED:
        worker_event(w, EVENT_REFUSED, "the VM belongs to %s since term %" PRIu64, now->owner, now->term);
        break;
    case ARBITER_NO_ANSWER:
        worker_event(w, EVENT_NO_ANSWER, "the arbiter does not answer (%s)%s", why, consequence(w));
        count_unanswered(w);
        break;
    }
}

static void claim(struct worker *w)
{
    struct ownership *o = &w->ownership;
    o->want = (struct arbiter_register){.term = w->term + (w->force ? ARBITER_FORCED_LEAP : 1)};
    strncpy(o->want.owner, w->config->name, sizeof o->want.owner - 1);
    strncpy(o->want.mode, w->state == PROTECTION_STOPPING ? "stopped" : "alone", sizeof o->want.mode - 1);
    o->request = arbiter_claim(o->arbiter, w->name, &o->want, ANSWER_MS, on_claimed, w);
}

/* arbiter = none: a VM that ended here other than by order may have been started from its replica meanwhile. */
static bool is_danger(const struct worker *w, const struct arbiter_register *now)
{
    bool mine = !now->term || !strcmp(now->owner, w->config->name);
    bool ended_by_order = mine && !strcmp(now->mode, "stopped");
    bool rebooted = w->cold_boot && *w->peer; /* its replica may have been started in the meantime */
    return !w->force && !ended_by_order && (!mine || w->may_run_elsewhere || rebooted);
}

static void on_read(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct worker *w = arg;
    w->ownership.request = NULL;
    if (w->ownership.only_look) {
        bool elsewhere = answer != ARBITER_NO_ANSWER && now->term && strcmp(now->owner, w->config->name);
        if (elsewhere)
            worker_event(w, EVENT_REFUSED, "the VM belongs to %s since term %" PRIu64, now->owner, now->term);
        else
            worker_event(w, EVENT_VM_GONE, "the VM's process is gone");
        return;
    }
    if (answer == ARBITER_NO_ANSWER) {
        worker_event(w, EVENT_NO_ANSWER, "the arbiter does not answer (%s)%s", why, consequence(w));
        return;
    }
    if (has_gone_back(w, now))
        return;
    if (!config_has_arbiter(w->config) && !w->vm && is_danger(w, now)) {
        worker_event(w, EVENT_REFUSED,
                     "DANGER: the VM may run on %s, and there is no arbiter to ask; make sure that it is off there, "
                     "then `hikae start %s --force`",
                     strcmp(now->owner, w->config->name) ? now->owner : "the host that held its replica", w->name);
        return;
    }
    if (w->force) {
        w->term = now->term > w->term_seen ? now->term : w->term_seen;
        w->ownership.register_read = true;
        claim(w);
        return;
    }
    bool mine = now->term == 0 || !strcmp(now->owner, w->config->name), stopped = !strcmp(now->mode, "stopped");
    bool free_for_all = stopped && !w->vm && !w->cold_boot; /* nobody has asked for it to be started */
    if (!mine && !free_for_all) {
        worker_event(w, EVENT_REFUSED, "the VM belongs to %s since term %" PRIu64, now->owner, now->term);
        return;
    }
    if (w->cold_boot && stopped && w->state == PROTECTION_CLAIMING) {
        worker_event(w, EVENT_VM_GONE, "it was stopped before this host was rebooted");
        return;
    }
    if (clock_now() < w->ownership.not_before) {
        worker_event(w, EVENT_NO_ANSWER, "this host was rebooted: the replica on %s is given the time to take over",
                     w->peer);
        return;
    }
    w->term = now->term;
    w->ownership.register_read = true;
    claim(w);
}

static int open_arbiter(struct worker *w)
{
    struct errmsg e;
    if (!w->ownership.arbiter)
        w->ownership.arbiter = arbiter_open_config(w->loop, w->config, &e);
    if (w->ownership.arbiter)
        return 0;
    worker_event(w, EVENT_NO_ANSWER, "no arbiter: %s", e.text);
    count_unanswered(w);
    return -1;
}

static void ask(struct worker *w)
{
    if (w->ownership.request)
        return; /* its answer will do */
    w->ownership.asked_at = clock_now();
    if (w->state == PROTECTION_DISPUTED && !config_has_arbiter(w->config)) {
        /* planned moves need an arbiter: it can but be the secondary's word that it took over */
        worker_event(w, EVENT_REFUSED, "%s runs the VM by its admin's order", w->peer);
        return;
    }
    if (open_arbiter(w))
        return;
    if (w->ownership.register_read)
        claim(w);
    else
        w->ownership.request = arbiter_read(w->ownership.arbiter, w->name, ANSWER_MS, on_read, w);
}

void ownership_claim(struct worker *w)
{
    w->ownership.unanswered = 0;
    if (w->state == PROTECTION_DISPUTED && !config_has_arbiter(w->config))
        ownership_claim_later(w); /* there is nobody to ask; what led here is done first */
    else
        ask(w);
}

static void on_retry(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    ask(t->data);
}

void ownership_claim_later(struct worker *w)
{
    ev_timer_stop(w->loop, &w->ownership.retry);
    ev_timer_set(&w->ownership.retry, RETRY_S, 0.);
    ev_timer_start(w->loop, &w->ownership.retry);
}

struct arbiter_request *ownership_read(struct worker *w, arbiter_callback *done)
{
    struct errmsg e;
    if (!w->ownership.arbiter)
        w->ownership.arbiter = arbiter_open_config(w->loop, w->config, &e);
    return w->ownership.arbiter ? arbiter_read(w->ownership.arbiter, w->name, ANSWER_MS, done, w) : NULL;
}

void ownership_wait(struct worker *w, unsigned ms)
{
    w->ownership.not_before = clock_now() + ms * INT64_C(1000000);
}

void ownership_init(struct worker *w)
{
    ev_timer_init(&w->ownership.retry, on_retry, RETRY_S, 0.);
    w->ownership.retry.data = w;
}

void ownership_end(struct worker *w)
{
    ev_timer_stop(w->loop, &w->ownership.retry);
    arbiter_free(w->ownership.arbiter);
    w->ownership.arbiter = NULL;
}
