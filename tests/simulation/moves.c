/* moves: planned moves in the simulated world, to be read beside primary/move.c. */
#include "tests/simulation/sim.h"

static void begin(struct process *p, enum move_kind kind)
{
    p->move = (struct move){.kind = kind};
    say("host %d: %s by the admin", p->host, kind == MOVE_MIGRATE ? "migration" : "switchover");
}

void move_switchover(struct process *p)
{
    if (p->move.kind != MOVE_NONE || p->state != PROTECTION_PROTECTED)
        return;
    begin(p, MOVE_SWITCHOVER);
    checkpoint_arm(p);
}

void move_migrate(struct process *p)
{
    if (p->move.kind != MOVE_NONE || p->state != PROTECTION_OPEN || p->wants)
        return;
    begin(p, MOVE_MIGRATE);
    p->wants = true;
    primary_event(p, EVENT_WANT);
}

static void fail(struct process *p)
{
    enum move_kind kind = p->move.kind;
    say("host %d: the move has failed", p->host);
    sim.moves_failed++;
    p->move.kind = MOVE_NONE;
    timer_stop(p, TIMER_MOVE);
    if (kind != MOVE_MIGRATE)
        return;
    p->wants = false;
    primary_event(p, EVENT_UNWANT);
}

void move_abort(struct process *p)
{
    if (p->move.kind == MOVE_NONE || p->move.epoch)
        return;
    fail(p);
    if (p->alive)
        checkpoint_arm(p);
}

bool move_holds_checkpoints(const struct process *p)
{
    return p->move.kind == MOVE_SWITCHOVER && p->move.warm && p->flight.n;
}

bool move_is_last(const struct process *p)
{
    const struct move *m = &p->move;
    return m->kind == MOVE_MIGRATE || (m->kind == MOVE_SWITCHOVER && m->warm && !p->flight.n);
}

static void on_limit(struct process *p, const struct event *e)
{
    (void)e;
    primary_event(p, EVENT_LINK_DOWN);
}

void move_captured(struct process *p, uint64_t epoch, bool last)
{
    p->move.warm = p->move.kind != MOVE_NONE;
    if (!last)
        return;
    p->move.epoch = epoch;
    p->move.paused_at = sim.now;
    sim.hosts[p->host].still = true;
    timer_set(p, TIMER_MOVE, MOVE_LIMIT, on_limit);
    primary_event(p, EVENT_HAND_OVER);
}

void move_acked(struct process *p, uint64_t epoch)
{
    struct move *m = &p->move;
    if (m->kind == MOVE_NONE || m->epoch != epoch)
        return;
    send_to_peer(p, MESSAGE_HANDOVER, m->kind == MOVE_SWITCHOVER, NULL, NULL);
    m->sent = true;
}

void move_follow(struct process *p, enum protection_event event)
{
    struct move *m = &p->move;
    if (m->kind == MOVE_NONE)
        return;
    bool never_began = m->kind == MOVE_MIGRATE && event == EVENT_LINK_DOWN && p->state == PROTECTION_CONNECTING;
    bool came_back = m->epoch && (p->state == PROTECTION_OPEN || p->state == PROTECTION_CONNECTING);
    bool not_protected = m->kind == MOVE_SWITCHOVER && !m->epoch && p->state != PROTECTION_PROTECTED;
    if (p->state == PROTECTION_LOST && m->sent) {
        sim.moves++;
        m->kind = MOVE_NONE;
    } else if (never_began || came_back || not_protected || p->state == PROTECTION_LOST) {
        fail(p);
    }
}
