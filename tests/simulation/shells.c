/*
 * shells: what the tables' actions do, in the simulated world. To be read beside the agents:
 *
 *   here                 there
 *   act_primary          primary/worker.c: act
 *   claim, primary_answer  primary/ownership.c
 *   primary_message      primary/session.c: on_record, on_bye, on_closed
 *   on_checkpoint, acked primary/checkpoint.c, primary/capture.c: barrier
 *   act_standby          secondary/worker.c: act
 *   standby_message      secondary/session.c: on_record, on_bye, on_closed; secondary/supervisor.c: admit
 *   standby_answer       secondary/session.c: on_register_read; secondary/failover.c: on_claimed
 */
#include "tests/simulation/sim.h"

#include <string.h>

static void on_claim_retry(struct process *p, const struct event *e);
static void on_connect(struct process *p, const struct event *e);
static void on_checkpoint(struct process *p, const struct event *e);
static void on_grace_over(struct process *p, const struct event *e);

/* ==== the primary ==== */

static bool is_cycling(const struct process *p)
{
    return p->state == PROTECTION_SEALED || p->state == PROTECTION_PROTECTED;
}

static bool waits_for_acks(const struct process *p)
{
    return is_cycling(p) || p->state == PROTECTION_HANDING;
}

static void claim(struct process *p)
{
    if (p->claim.under_way)
        return;
    ask_arbiter(p, !p->register_read, p->term + 1, p->state == PROTECTION_STOPPING);
}

static void let_go(struct process *p)
{
    p->gate = GATE_OPEN;
    check_gates();
    netbuf_release_all(p->held, observe, NULL);
}

static void stop_sync(struct process *p)
{
    timer_stop(p, TIMER_CHECKPOINT);
    timer_stop(p, TIMER_ENCODED);
}

static void bye(struct process *p, enum bye why)
{
    if (p->connection >= 0)
        send_to_peer(p, MESSAGE_BYE, why, NULL, NULL);
    timer_stop(p, TIMER_HEARTBEAT);
    hang_up(p, true);
}

static void open_gate(struct process *p)
{
    let_go(p);
    sim.hosts[p->host].still = false;
    sim.hosts[p->host].record_running = true;
    if (p->wants)
        primary_event(p, EVENT_WANT);
}

static void end_vm(struct process *p)
{
    struct host *h = &sim.hosts[p->host];
    p->gate = GATE_SEALED;
    netbuf_drop_all(p->held);
    h->vm = h->still = false;
    h->record_running = false;
    process_end(p);
}

static void act_primary(struct process *p, unsigned actions)
{
    unsigned generation = p->generation;
    if (actions & ACTION_CLAIM) {
        p->unanswered = 0;
        claim(p);
    }
    if (actions & ACTION_CLAIM_LATER)
        timer_set(p, TIMER_RETRY, RETRY, on_claim_retry);
    if (actions & ACTION_CONNECT)
        on_connect(p, NULL);
    if (actions & ACTION_CONNECT_LATER)
        timer_set(p, TIMER_CONNECT, RECONNECT, on_connect);
    if (actions & ACTION_SYNC) {
        flight_reset(&p->flight);
        p->encoded = 0;
        timer_set(p, TIMER_CHECKPOINT, 50 * MS + (int64_t)chance(300 * MS), on_checkpoint);
    }
    if (actions & ACTION_STOP_SYNC)
        stop_sync(p);
    if (actions & ACTION_RESUME)
        sim.hosts[p->host].still = false;
    if (actions & ACTION_BYE_UNPROTECT)
        bye(p, GOODBYE_UNPROTECT);
    if (actions & ACTION_BYE_STOPPED)
        bye(p, GOODBYE_STOPPED);
    if (actions & ACTION_BYE_CRASHED)
        bye(p, GOODBYE_CRASHED);
    if (actions & ACTION_HANG_UP) {
        timer_stop(p, TIMER_HEARTBEAT);
        hang_up(p, one_in(2));
    }
    if (actions & ACTION_OPEN_GATE)
        open_gate(p);
    if (actions & ACTION_CLOSE_GATE)
        p->gate = GATE_HOLD;
    if (actions & ACTION_DESTROY && p->alive && p->generation == generation)
        end_vm(p);
}

void primary_event(struct process *p, enum protection_event event)
{
    enum protection_state before = p->state;
    unsigned generation = p->generation, actions = protection_step(&p->state, event);
    if (before != p->state) {
        say("host %d primary: %s (%d) -> %s (%d): %s", p->host, protection_state_name(before), before,
            protection_state_name(p->state), p->state, protection_event_name(event));
        sim.protections += p->state == PROTECTION_PROTECTED;
    }
    if (p->state == PROTECTION_LOST)
        move_follow(p, event);
    act_primary(p, actions);
    if (!p->alive || p->generation != generation)
        return;
    move_follow(p, event);
    check_move(p);
    if (p->gate == GATE_OPEN && protection_gate_is_closed(p->state))
        violated("host %d's gate is open in state %s", p->host, protection_state_name(p->state));
}

static void on_claim_retry(struct process *p, const struct event *e)
{
    (void)e;
    claim(p);
}

static void no_answer(struct process *p)
{
    primary_event(p, EVENT_NO_ANSWER);
    p->unanswered += ANSWER_TIMEOUT + RETRY;
    if (!sim.open || p->state != PROTECTION_ISOLATED || p->unanswered < OPEN_AFTER)
        return;
    sim.at_risk = true;
    sim.risks++;
    primary_event(p, EVENT_UNANSWERED);
}

void primary_answer(struct process *p, const struct event *e)
{
    struct host *h = &sim.hosts[p->host];
    bool elsewhere = e->answer != ANSWER_NONE && e->want.term && e->want.owner != p->host;
    if (p->only_look)
        primary_event(p, elsewhere ? EVENT_REFUSED : EVENT_VM_GONE);
    else if (e->answer == ANSWER_NONE)
        no_answer(p);
    else if (p->claim.is_read && elsewhere && !(e->want.stopped && !h->vm))
        primary_event(p, EVENT_REFUSED);
    else if (p->claim.is_read) {
        p->term = e->want.term;
        p->register_read = true;
        claim(p);
    } else if (elsewhere || e->want.term != p->claim.want.term) /* ours in another mode is ours */
        primary_event(p, EVENT_REFUSED);
    else {
        p->term = p->claim.want.term;
        primary_event(p, EVENT_GRANTED);
    }
}

static void on_primary_heartbeat(struct process *p, const struct event *e)
{
    (void)e;
    timer_set(p, TIMER_HEARTBEAT, HEARTBEAT, on_primary_heartbeat);
    if (sim.now - p->heard_at > (p->ready ? DETECT : 20 * DETECT + DETECT))
        primary_event(p, EVENT_LINK_DOWN);
    else if (waits_for_acks(p) && p->flight.n && sim.now - p->flight.at[0].paused_at > ACK_LIMIT)
        primary_event(p, EVENT_LINK_DOWN);
    else
        send_to_peer(p, MESSAGE_HEARTBEAT, 0, NULL, NULL);
}

static void on_connect(struct process *p, const struct event *e)
{
    (void)e;
    if (p->state != PROTECTION_CONNECTING)
        return;
    timer_stop(p, TIMER_HEARTBEAT);
    hang_up(p, true);
    int other = 1 - p->host;
    if (!sim.hosts[other].up || sim.cut_until[0] > sim.now || sim.cut_until[1] > sim.now) {
        primary_event(p, EVENT_LINK_DOWN);
        return;
    }
    struct process *worker = process_new(KIND_SECONDARY, other);
    connect_to(p, worker);
    standby_begin(worker);
    p->heard_at = sim.now;
    p->ready = false;
    send_to_peer(p, MESSAGE_HELLO, p->term, NULL, NULL);
    timer_set(p, TIMER_HEARTBEAT, HEARTBEAT, on_primary_heartbeat);
}

/* ---- checkpoints ---- */

static void digest_of(uint8_t out[PROTO_DIGEST_SIZE], const struct content *c)
{
    memset(out, 0, PROTO_DIGEST_SIZE);
    memcpy(out, &c->branch, sizeof c->branch);
    memcpy(out + 8, &c->frames, sizeof c->frames);
}

static void on_encoded(struct process *p, const struct event *e)
{
    (void)e;
    if (p->encoded == p->flight.last)
        return;
    uint64_t epoch = ++p->encoded;
    const struct content *c = &p->captured[epoch % (FLIGHT_MAX + 1)];
    uint8_t digest[PROTO_DIGEST_SIZE];
    digest_of(digest, c);
    flight_sent(&p->flight, epoch, digest);
    send_to_peer(p, MESSAGE_PAGES, epoch, c, digest);
    send_to_peer(p, MESSAGE_COMMIT, epoch, c, digest);
    if (p->encoded < p->flight.last)
        timer_set(p, TIMER_ENCODED, (int64_t)chance(5 * MS), on_encoded);
}

static bool can_capture(const struct process *p)
{
    return is_cycling(p) && flight_has_room(&p->flight) && !move_holds_checkpoints(p);
}

void checkpoint_arm(struct process *p)
{
    if (can_capture(p))
        timer_set(p, TIMER_CHECKPOINT, p->move.kind != MOVE_NONE ? 1 : INTERVAL, on_checkpoint);
    else
        timer_stop(p, TIMER_CHECKPOINT); /* an ack arms it */
}

static void on_checkpoint(struct process *p, const struct event *e)
{
    (void)e;
    struct host *h = &sim.hosts[p->host];
    bool last = move_is_last(p);
    if (!h->vm || !(can_capture(p) || p->state == PROTECTION_SYNCING))
        return;
    p->gate = GATE_HOLD;
    uint64_t epoch = p->flight.last + 1;
    p->captured[epoch % (FLIGHT_MAX + 1)] = h->content;
    netbuf_barrier(p->held, epoch);
    flight_open(&p->flight, sim.now);
    if (p->flight.last - p->encoded == 1)
        timer_set(p, TIMER_ENCODED, MS / 2 + (int64_t)chance(5 * MS), on_encoded);
    if (epoch == 1) {
        p->acked_at = sim.now;
        primary_event(p, EVENT_CHECKPOINTED);
    }
    move_captured(p, epoch, last);
    checkpoint_arm(p);
}

static void emit_acked(const uint8_t *frame, size_t n, void *arg)
{
    struct content c = {0};
    uint64_t branch;
    memcpy(&branch, frame, 8);
    memcpy(&c.frames, frame + 8, 8);
    c.branch = (uint32_t)branch;
    check_release(&c);
    observe(frame, n, arg);
}

static void acked(struct process *p, const struct event *e)
{
    struct flight_epoch done;
    struct proto_error why;
    if (!waits_for_acks(p))
        return;
    if (flight_ack(&p->flight, e->number, e->digest, &done, &why)) {
        primary_event(p, EVENT_LINK_DOWN);
        return;
    }
    p->acked_at = sim.now;
    netbuf_release(p->held, e->number, emit_acked, NULL);
    move_acked(p, e->number);
    if (p->state == PROTECTION_SEALED)
        primary_event(p, EVENT_ACKED);
    checkpoint_arm(p);
}

void primary_message(struct process *p, const struct event *e)
{
    p->heard_at = sim.now;
    switch (e->message) {
    case MESSAGE_HELLO_BACK:
        send_to_peer(p, MESSAGE_CONFIG, 0, NULL, NULL);
        break;
    case MESSAGE_READY:
        p->ready = true;
        primary_event(p, EVENT_READY);
        break;
    case MESSAGE_ACK:
        acked(p, e);
        break;
    case MESSAGE_BYE:
        primary_event(p, e->number == GOODBYE_TAKEN_OVER && waits_for_acks(p) ? EVENT_TAKEN_OVER : EVENT_LINK_DOWN);
        break;
    case MESSAGE_CLOSED:
        primary_event(p, EVENT_LINK_DOWN);
        break;
    default:
        break;
    }
}

struct process *primary_of(int host)
{
    for (int i = 0; i < PROCESSES; i++)
        if (sim.processes[i].alive && sim.processes[i].kind == KIND_PRIMARY && sim.processes[i].host == host)
            return &sim.processes[i];
    return NULL;
}

static struct process *new_primary(int host, enum protection_state state, bool wants)
{
    struct process *p = process_new(KIND_PRIMARY, host);
    p->held = netbuf_new(1 << 20);
    p->gate = GATE_HOLD;
    p->state = state;
    p->wants = wants;
    return p;
}

void primary_adopt(int host, uint64_t term, bool protect)
{
    struct process *p = new_primary(host, PROTECTION_OPEN, protect);
    p->term = term;
    p->register_read = true;
    open_gate(p);
}

void primary_start(int host)
{
    struct process *p = new_primary(host, PROTECTION_CLAIMING, true);
    sim.hosts[host].still = false;
    p->only_look = !sim.hosts[host].vm; /* a claim would fence the replica, which may take over */
    claim(p);
}

/* ==== the secondary ==== */

static void drop_session(struct process *p)
{
    timer_stop(p, TIMER_HEARTBEAT);
    hang_up(p, one_in(2));
}

static void bye_to_primary(struct process *p, enum bye why)
{
    send_to_peer(p, MESSAGE_BYE, why, NULL, NULL);
    timer_stop(p, TIMER_HEARTBEAT);
    hang_up(p, true);
}

static void turn_away(struct process *p)
{
    bye_to_primary(p, GOODBYE_TROUBLE);
    standby_event(p, STANDBY_EVENT_TROUBLE);
}

static void claim_vm(struct process *p)
{
    if (p->claim.under_way)
        return;
    p->is_staged = false;
    if (!p->is_loaded)
        p->loaded = p->committed; /* what comes after the claim is not in it */
    p->is_loaded = true;
    if (p->damaged)
        standby_event(p, STANDBY_EVENT_REFUSED); /* it is loaded first: what can't be started claims nothing */
    else
        ask_arbiter(p, false, p->term + 1, false);
}

static void on_standby_retry(struct process *p, const struct event *e)
{
    (void)e;
    claim_vm(p);
}

static void start_vm(struct process *p)
{
    bye_to_primary(p, GOODBYE_TAKEN_OVER);
    standby_event(p, STANDBY_EVENT_LOADED);
}

static void become_primary(struct process *p)
{
    struct host *h = &sim.hosts[p->host];
    int host = p->host;
    uint64_t term = p->term;
    struct content from = p->loaded;
    bool damaged = p->damaged /* since it was loaded */, protect = !p->migrated;
    if (h->vm)
        violated("host %d starts a second VM", host);
    check_handed(p);
    process_end(p);
    h->vm = !damaged;
    h->record_running = true;
    h->content = (struct content){.branch = branch_new(&from), .frames = from.frames};
    sim.failovers++;
    say("host %d starts the VM from frame %llu, term %llu", host, (unsigned long long)from.frames,
        (unsigned long long)term);
    primary_adopt(host, term, protect);
}

static void act_standby(struct process *p, unsigned actions)
{
    if (actions & STANDBY_ACT_SAY_READY)
        send_to_peer(p, MESSAGE_READY, 0, NULL, NULL);
    if (actions & STANDBY_ACT_APPLY) {
        p->committed = p->staged;
        p->is_staged = false;
        note_committed(&p->committed);
        send_to_peer(p, MESSAGE_ACK, p->epoch, NULL, p->digest);
    }
    if (actions & STANDBY_ACT_WAIT) {
        p->is_staged = false;
        timer_set(p, TIMER_GRACE, GRACE, on_grace_over);
    }
    if (actions & STANDBY_ACT_CLAIM)
        claim_vm(p);
    if (actions & STANDBY_ACT_CLAIM_LATER)
        timer_set(p, TIMER_RETRY, RETRY, on_standby_retry);
    if (actions & STANDBY_ACT_HANG_UP)
        drop_session(p);
    if (actions & STANDBY_ACT_START)
        start_vm(p);
    if (actions & STANDBY_ACT_BECOME_PRIMARY)
        become_primary(p);
    if (actions & STANDBY_ACT_DROP) {
        bye_to_primary(p, GOODBYE_TROUBLE);
        process_end(p);
    }
}

void standby_event(struct process *p, enum standby_event event)
{
    enum standby_state before = p->standby;
    unsigned actions = standby_step(&p->standby, event);
    if (before != p->standby)
        say("host %d replica %d: %s -> %s: %s", p->host, (int)(p - sim.processes), standby_state_name(before),
            standby_state_name(p->standby), standby_event_name(event));
    act_standby(p, actions);
}

static void on_grace_over(struct process *p, const struct event *e)
{
    (void)e;
    standby_event(p, STANDBY_EVENT_GRACE_OVER);
}

static void on_detector(struct process *p, const struct event *e)
{
    (void)e;
    timer_set(p, TIMER_HEARTBEAT, HEARTBEAT, on_detector);
    if (sim.now - p->heard_at > (p->epoch ? DETECT : 20 * DETECT + DETECT))
        standby_event(p, STANDBY_EVENT_SILENT);
    else if (p->greeted)
        send_to_peer(p, MESSAGE_HEARTBEAT, 0, NULL, NULL);
}

void standby_begin(struct process *p)
{
    p->heard_at = sim.now;
    timer_set(p, TIMER_HEARTBEAT, HEARTBEAT, on_detector);
}

/* An older replica of the VM has to let go first; one that its supervisor does not know of is not asked. One that
 * stands still does not answer: then this one is turned away when its peer loses patience; here, at once. */
static void ask_admission(struct process *p)
{
    for (int i = 0; i < PROCESSES; i++) {
        struct process *q = &sim.processes[i];
        if (q == p || !q->alive || q->kind != KIND_SECONDARY || q->host != p->host || !q->registered)
            continue;
        if (q->stalled_until <= sim.now)
            standby_event(q, STANDBY_EVENT_YIELD);
        if (q->alive && q->kind == KIND_SECONDARY && q->standby != STANDBY_DROPPED) {
            turn_away(p);
            return;
        }
    }
    p->registered = true;
    p->greeted = true;
    send_to_peer(p, MESSAGE_HELLO_BACK, 0, NULL, NULL);
}

void standby_answer(struct process *p, const struct event *e)
{
    if (p->claim.is_read) {
        bool former_self = sim.hosts[p->host].record_running; /* its agent is about to find out that it must end */
        if (e->answer == ANSWER_NONE || e->want.term != p->term || e->want.owner == p->host || former_self) {
            turn_away(p);
            return;
        }
        ask_admission(p);
        return;
    }
    if (e->answer == ANSWER_GRANTED)
        p->term = p->claim.want.term;
    static const enum standby_event events[] = {
        [ANSWER_GRANTED] = STANDBY_EVENT_GRANTED,
        [ANSWER_REFUSED] = STANDBY_EVENT_REFUSED,
        [ANSWER_NONE] = STANDBY_EVENT_NO_ANSWER,
    };
    standby_event(p, events[e->answer]);
}

static void commit(struct process *p, const struct event *e)
{
    if (!p->is_staged)
        return; /* aborted by the claim: its beginning is missing */
    p->epoch = e->number;
    memcpy(p->digest, e->digest, sizeof p->digest);
    standby_event(p, STANDBY_EVENT_COMMIT);
}

void standby_message(struct process *p, const struct event *e)
{
    p->heard_at = sim.now;
    switch (e->message) {
    case MESSAGE_HELLO:
        p->term = e->number;
        ask_arbiter(p, true, 0, false);
        break;
    case MESSAGE_CONFIG:
        p->has_replica = true;
        standby_event(p, STANDBY_EVENT_MADE);
        break;
    case MESSAGE_PAGES:
        p->staged = e->content;
        p->is_staged = true;
        break;
    case MESSAGE_COMMIT:
        commit(p, e);
        break;
    case MESSAGE_HANDOVER:
        p->migrated = !e->number;
        p->handed = p->standby == STANDBY_READY;
        standby_event(p, STANDBY_EVENT_HANDED);
        break;
    case MESSAGE_BYE:
        standby_event(p, e->number == GOODBYE_CRASHED   ? STANDBY_EVENT_CRASHED
                         : e->number == GOODBYE_TROUBLE ? STANDBY_EVENT_TROUBLE
                                                        : STANDBY_EVENT_RELEASED);
        break;
    case MESSAGE_CLOSED:
        drop_session(p);
        standby_event(p, STANDBY_EVENT_RESET);
        break;
    default:
        break;
    }
}
