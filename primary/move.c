/*
 * move: planned moves by the stream of protection. Switchover: a protected VM goes to its replica. Migration: an
 * unprotected VM is synced to a host and goes there. Both end with a last epoch after which the VM is not resumed, and
 * HANDOVER; what follows is the secondary's failover, and for us the loss of the VM by the arbiter's word. Until that
 * word any failure leaves the VM here, unhurt.
 */
#include "common/log.h"
#include "primary/worker.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Loading a replica and claiming takes well under a second; a secondary that lives but needs longer has met trouble. */
static const double LIMIT_S = 5.;

static double wall_clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void begin(struct worker *w, enum move_kind kind, const char *to)
{
    struct move *m = &w->move;
    verify_abort(w, "the VM is being moved");
    m->kind = kind;
    m->epoch = 0;
    m->sent = m->warm = false;
    m->result = "running";
    m->error[0] = 0;
    snprintf(m->to, sizeof m->to, "%s", to);
    log_info("%s to %s begins", kind == MOVE_MIGRATE ? "migration" : "switchover", to);
}

/* Between HANDOVER and the secondary's word each side may think that the other has the VM; only an arbiter knows. */
static const char *check_arbiter(const struct worker *w)
{
    return config_has_arbiter(w->config) ? NULL
                                         : "with arbiter = none nobody could tell whose the VM is if the connection "
                                           "broke just then: planned moves need an arbiter";
}

static const char being_replaced[] = "the VM's agent process is just being replaced: try again in a moment";

const char *move_switchover(struct worker *w)
{
    if (check_arbiter(w))
        return check_arbiter(w);
    if (w->move.kind != MOVE_NONE)
        return "the VM is being moved already";
    if (upgrade_is_under_way(w))
        return being_replaced;
    if (w->state != PROTECTION_PROTECTED)
        return "the VM has no replica to switch over to: protect it, and wait until it is PROTECTED; or `hikae "
               "migrate` it";
    begin(w, MOVE_SWITCHOVER, w->peer);
    checkpoint_arm(w);
    return NULL;
}

const char *move_migrate(struct worker *w, const char *to)
{
    if (check_arbiter(w))
        return check_arbiter(w);
    if (w->move.kind != MOVE_NONE)
        return "the VM is being moved already";
    if (upgrade_is_under_way(w))
        return being_replaced;
    if (w->state != PROTECTION_OPEN || *w->peer)
        return "the VM is protected, or is to be: `hikae switchover` moves it to its replica; or `hikae unprotect` it "
               "first";
    begin(w, MOVE_MIGRATE, to);
    worker_want_peer(w, to, "");
    return NULL;
}

const char *move_forbids(const struct worker *w)
{
    if (w->move.kind == MOVE_NONE)
        return NULL;
    return w->move.epoch ? "not now: the VM is being handed over; in a moment it runs elsewhere, or goes on here"
                         : "not while the VM is being moved: wait until that is done, or `hikae abort` it first";
}

static void fail(struct worker *w, const char *why)
{
    struct move *m = &w->move;
    log_warn("the move to %s has failed: %s; the VM goes on here", m->to, why);
    m->result = "failed";
    snprintf(m->error, sizeof m->error, "%s", why);
    enum move_kind kind = m->kind;
    m->kind = MOVE_NONE;
    ev_timer_stop(w->loop, &m->limit);
    if (kind == MOVE_MIGRATE)
        worker_want_peer(w, "", why);
}

const char *move_abort(struct worker *w)
{
    if (w->move.kind == MOVE_NONE)
        return "the VM is not being moved";
    if (w->move.epoch)
        return "it is too late: the VM is being handed over; if that fails it goes on here";
    fail(w, "aborted by the admin");
    checkpoint_arm(w);
    return NULL;
}

bool move_holds_checkpoints(const struct worker *w)
{
    return w->move.kind == MOVE_SWITCHOVER && w->move.warm && w->checkpoint.flight.n;
}

bool move_is_due(const struct worker *w)
{
    return w->move.kind != MOVE_NONE;
}

bool move_is_last(const struct worker *w)
{
    const struct move *m = &w->move;
    return m->kind == MOVE_MIGRATE || (m->kind == MOVE_SWITCHOVER && m->warm && !w->checkpoint.flight.n);
}

static void on_limit(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    worker_event(w, EVENT_LINK_DOWN, "%s has not taken the VM over within %.0f s", w->move.to, LIMIT_S);
}

void move_captured(struct worker *w, uint64_t epoch, int64_t paused_at, uint64_t pages, bool last)
{
    struct move *m = &w->move;
    m->warm = m->kind != MOVE_NONE;
    if (!last)
        return;
    m->epoch = epoch;
    m->captured_at = wall_clock_ms();
    m->paused_at = m->captured_at - (double)(clock_now() - paused_at) / 1e6;
    m->pages = pages;
    ev_timer_set(&m->limit, LIMIT_S, 0.);
    ev_timer_start(w->loop, &m->limit);
    worker_event(w, EVENT_HAND_OVER, "handing over to %s", m->to);
}

void move_acked(struct worker *w, uint64_t epoch)
{
    struct move *m = &w->move;
    if (m->kind == MOVE_NONE || m->epoch != epoch)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "protect", json_object_new_boolean(m->kind == MOVE_SWITCHOVER));
    json_object_object_add(j, "paused_at", json_object_new_double(m->paused_at));
    json_object_object_add(j, "captured_at", json_object_new_double(m->captured_at));
    json_object_object_add(j, "sent_at", json_object_new_double(wall_clock_ms()));
    json_object_object_add(j, "pages", json_object_new_uint64(m->pages));
    session_hand_over(w, epoch, j);
    m->sent = true;
}

void move_follow(struct worker *w, enum protection_event event)
{
    struct move *m = &w->move;
    if (m->kind == MOVE_NONE)
        return;
    bool never_began = m->kind == MOVE_MIGRATE && event == EVENT_LINK_DOWN && w->state == PROTECTION_CONNECTING;
    bool came_back = m->epoch && (w->state == PROTECTION_OPEN || w->state == PROTECTION_CONNECTING);
    bool not_protected = m->kind == MOVE_SWITCHOVER && !m->epoch && w->state != PROTECTION_PROTECTED;
    if (w->state == PROTECTION_LOST && m->sent) {
        m->result = "done";
        m->kind = MOVE_NONE;
        snprintf(w->reason, sizeof w->reason, "handed over to %s", m->to);
    } else if (never_began || came_back || not_protected || w->state == PROTECTION_ENDED ||
               w->state == PROTECTION_LOST) {
        char why[sizeof m->error];
        snprintf(why, sizeof why, "%s", w->reason);
        fail(w, why);
    }
}

bool move_is_done(const struct worker *w)
{
    return w->move.result && !strcmp(w->move.result, "done");
}

void move_report(const struct worker *w, struct json_object *status)
{
    const struct move *m = &w->move;
    if (!m->result)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "to", json_object_new_string(m->to));
    json_object_object_add(j, "result", json_object_new_string(m->result));
    json_object_object_add(j, "error", json_object_new_string(m->error));
    json_object_object_add(j, "round", json_object_new_int((int)w->checkpoint.sync.round));
    json_object_object_add(j, "round_pages", json_object_new_uint64(w->checkpoint.sync.round_pages));
    json_object_object_add(status, "move", j);
}

void move_init(struct worker *w)
{
    ev_timer_init(&w->move.limit, on_limit, LIMIT_S, 0.);
    w->move.limit.data = w;
}
