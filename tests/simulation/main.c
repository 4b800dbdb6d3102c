/*
 * sim: runs the world from a seed. Phases of chaos, in which things fail, and of calm, after which the VM must be
 * protected or run alone, alternate. In some calms one host's arbiter stays away: the VM on the other host must not
 * suffer from it.
 *
 *   sim --seed S --steps N     one run
 *   sim --seconds T [--seed S] runs with one seed after the other for so long
 *   --open                     the VM's policy is `isolated = open`: it may run twice while its admin's risk lasts, but
 *                              no longer than until the arbiter answers, and its output is never held for long
 *   --trace                    says what happens
 */
#include "tests/simulation/sim.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct {
    int64_t ends_at;
    unsigned kills;      /* in this chaos */
    bool lost_is_a_bug;  /* the first one hit a VM that was protected, and nothing else has failed since */
    bool power;          /* it was power: then cuts, stalls and a lost arbiter are no excuse either */
    int without_arbiter; /* in this calm: host, -1: none */
} phase;

/* ---- the guest and the supervisors: every few ms ---- */

static void guest_sends(int host)
{
    struct host *h = &sim.hosts[host];
    struct process *p = primary_of(host);
    uint8_t frame[16];
    if (h->still)
        return;
    if (p && (p->stalled_until > sim.now || netbuf_full(p->held)))
        return; /* its socket is not read: the guest waits */
    h->content.frames++;
    frame_write(frame, &h->content);
    if (p && p->gate == GATE_OPEN)
        observe(frame, sizeof frame, NULL);
    else if (p && p->gate == GATE_HOLD && netbuf_hold(p->held, frame, sizeof frame))
        abort();
}

/* At any time, in calm and in chaos; but a calm ends with everything in its place. */
static void admin_protects_and_moves(struct process *p)
{
    bool ends_soon = !sim.chaos && phase.ends_at - sim.now < MOVE_LIMIT + 2 * SECOND;
    if (p->stalled_until > sim.now || ends_soon)
        return;
    if (p->state == PROTECTION_OPEN && !p->wants && one_in(300)) {
        if (one_in(2)) {
            move_migrate(p);
            return;
        }
        p->wants = true;
        primary_event(p, EVENT_WANT);
    } else if (p->state == PROTECTION_PROTECTED && one_in(1500)) {
        move_switchover(p);
    } else if (one_in(50)) {
        move_abort(p);
    }
}

static void look_after(int host)
{
    struct host *h = &sim.hosts[host];
    struct process *p = primary_of(host);
    if (h->vm)
        guest_sends(host);
    else if (p && !p->only_look && p->stalled_until <= sim.now)
        primary_event(p, EVENT_VM_GONE);
    p = primary_of(host);
    if (h->up && h->record_running && !p && h->restart_at <= sim.now) {
        say("host %d: primary worker is back", host);
        primary_start(host);
    }
    p = primary_of(host);
    if (!p)
        return;
    if (p->stalled_until <= sim.now)
        check_move(p);
    admin_protects_and_moves(p);
}

static void on_tick(struct process *none, const struct event *e)
{
    (void)none, (void)e;
    for (int i = 0; i < HOSTS; i++)
        look_after(i);
    event_add(event_new(MS + (int64_t)chance(3 * MS), on_tick));
}

/* ---- faults ---- */

static struct process *any(enum kind kind)
{
    int first = (int)chance(PROCESSES);
    for (int i = 0; i < PROCESSES; i++) {
        struct process *p = &sim.processes[(first + i) % PROCESSES];
        if (p->alive && p->kind == kind)
            return p;
    }
    return NULL;
}

static bool is_well(void)
{
    bool well = !sim.arbiter_slow;
    for (int i = 0; i < HOSTS; i++)
        well = well && sim.cut_until[i] <= sim.now && sim.hosts[i].arbiter_away_until <= sim.now && sim.hosts[i].up;
    int protected = 0;
    for (int i = 0; i < HOSTS; i++) {
        struct process *p = primary_of(i), *q = p ? replica_of(p) : NULL;
        protected += p && p->state == PROTECTION_PROTECTED && sim.hosts[i].vm && sim.now - p->acked_at < SECOND && q &&
                     q->standby == STANDBY_READY && p->stalled_until <= sim.now && q->stalled_until <= sim.now;
    }
    return well && protected == 1;
}

static void kills(const char *what, int host)
{
    say("FAULT: host %d: %s", host, what);
    phase.power = false;
    phase.lost_is_a_bug = !phase.kills++ && is_well();
}

static void disturbs(const char *what, int host)
{
    say("FAULT: host %d: %s", host, what);
    phase.lost_is_a_bug &= phase.power;
}

static int64_t some_time(int64_t most)
{
    int64_t left = phase.ends_at - sim.now, t = MS + (int64_t)chance((uint64_t)(one_in(2) ? most / 10 : most));
    return t < left ? t : left > 0 ? left : 0;
}

static void stall(struct process *p)
{
    if (!p)
        return;
    disturbs(p->kind == KIND_PRIMARY ? "primary stands still" : "secondary stands still", p->host);
    p->stalled_until = sim.now + some_time(1500 * MS);
}

static void kill_process(struct process *p)
{
    if (!p)
        return;
    kills(p->kind == KIND_PRIMARY ? "primary worker dies" : "secondary worker dies", p->host);
    sim.hosts[p->host].restart_at = sim.now + RESTART + (one_in(5) ? some_time(SECOND) : 0);
    process_end(p);
}

static void power(int host)
{
    struct host *h = &sim.hosts[host];
    if (!h->up)
        return;
    kills("power", host);
    phase.power = primary_of(host);
    for (int i = 0; i < PROCESSES; i++)
        if (sim.processes[i].alive && sim.processes[i].host == host)
            process_vanish(&sim.processes[i]);
    h->up = h->vm = h->still = false;
}

static void reset(struct process *p)
{
    if (!p || p->connection < 0)
        return;
    disturbs("the connection is reset", p->host);
    struct process *q = replica_of(p);
    hang_up(p, false);
    timer_stop(p, TIMER_HEARTBEAT);
    if (q && one_in(2)) {
        hang_up(q, false);
        timer_stop(q, TIMER_HEARTBEAT);
        standby_event(q, STANDBY_EVENT_RESET);
    }
    primary_event(p, EVENT_LINK_DOWN);
}

static void forget_replicas(int host)
{
    disturbs("the secondary's supervisor is restarted", host);
    for (int i = 0; i < PROCESSES; i++)
        if (sim.processes[i].alive && sim.processes[i].host == host)
            sim.processes[i].registered = false;
}

static void admin(void)
{
    struct process *p = any(one_in(2) ? KIND_PRIMARY : KIND_SECONDARY);
    if (!p || p->stalled_until > sim.now)
        return;
    if (p->kind == KIND_SECONDARY && (p->standby == STANDBY_READY || p->standby == STANDBY_GRACE)) {
        disturbs("failover by the admin", p->host);
        standby_event(p, STANDBY_EVENT_FAILOVER);
    } else if (p->kind == KIND_PRIMARY && one_in(4)) {
        kills("the guest shuts down", p->host);
        phase.lost_is_a_bug = false;
        primary_event(p, EVENT_VM_SHUT_DOWN);
    } else if (p->kind == KIND_PRIMARY && p->move.kind == MOVE_NONE) { /* refused during a move */
        disturbs("unprotect", p->host);
        p->wants = false;
        primary_event(p, EVENT_UNWANT);
    }
}

static void damage(struct process *p)
{
    if (!p || p->stalled_until > sim.now || !p->has_replica)
        return;
    kills("the replica's process dies", p->host);
    p->damaged = true;
    standby_event(p, STANDBY_EVENT_DAMAGED);
}

static void vm_dies(int host)
{
    if (!sim.hosts[host].vm)
        return;
    kills("the VM's process dies", host);
    sim.hosts[host].vm = sim.hosts[host].still = false;
}

static void fail_something(void)
{
    int host = (int)chance(HOSTS);
    switch (chance(16)) {
    case 0:
    case 1:
        stall(any(KIND_PRIMARY));
        break;
    case 2:
    case 3:
        stall(any(KIND_SECONDARY));
        break;
    case 4:
    case 5:
        disturbs("what it sends is lost", host);
        sim.cut_until[host] = sim.now + some_time(1500 * MS);
        break;
    case 6:
    case 7:
        reset(any(KIND_PRIMARY));
        break;
    case 8:
        disturbs("no arbiter", host);
        sim.hosts[host].arbiter_away_until = sim.now + some_time(3 * SECOND);
        break;
    case 9:
        kill_process(any(KIND_PRIMARY));
        break;
    case 10:
        kill_process(any(KIND_SECONDARY));
        break;
    case 11:
        vm_dies(host);
        break;
    case 12:
        power(host);
        break;
    case 13:
        damage(any(KIND_SECONDARY));
        break;
    case 14:
        forget_replicas(host);
        break;
    default:
        admin();
        break;
    }
}

static void on_fault(struct process *none, const struct event *e)
{
    (void)none, (void)e;
    if (!sim.chaos)
        return;
    fail_something();
    event_add(event_new(MS + (int64_t)chance(one_in(3) ? 60 * MS : 2 * SECOND), on_fault));
}

/* ---- phases ---- */

static void begin_life(void)
{
    for (int i = 0; i < PROCESSES; i++)
        if (sim.processes[i].alive)
            process_vanish(&sim.processes[i]);
    int host = (int)chance(HOSTS);
    struct host *h = &sim.hosts[host];
    sim.hosts[1 - host].record_running = false;
    sim.registered = (struct registered){.term = sim.registered.term + 1, .owner = host};
    h->vm = true;
    h->content = (struct content){.branch = branch_new(NULL)};
    observer_reset(h->content.branch);
    say("the admin starts the VM on host %d", host);
    primary_adopt(host, sim.registered.term, false);
}

static void check_calm(void)
{
    bool lives = false, goes_on = false, waits = false;
    for (int i = 0; i < HOSTS; i++) {
        struct process *p = primary_of(i);
        bool protected = p && p->state == PROTECTION_PROTECTED && sim.now - p->acked_at < SECOND;
        lives |= sim.hosts[i].vm;
        goes_on |= sim.hosts[i].vm && !sim.hosts[i].still && p && (p->gate == GATE_OPEN || protected);
        bool opens = sim.open && p && p->state == PROTECTION_ISOLATED;
        waits |= sim.hosts[i].vm && i == phase.without_arbiter && !opens; /* it may need the arbiter, and has none */
    }
    for (int i = 0; i < PROCESSES; i++)
        waits |= sim.processes[i].alive && sim.processes[i].kind == KIND_SECONDARY && !lives &&
                 sim.processes[i].standby == STANDBY_CLAIMING && sim.processes[i].host == phase.without_arbiter;
    if (lives && !goes_on && !waits)
        violated("after a long calm the VM's output is still held (without arbiter: host %d)", phase.without_arbiter);
    if (phase.without_arbiter < 0 && sim.hosts[0].vm && sim.hosts[1].vm)
        violated("after a long calm two VMs live");
    if (phase.without_arbiter < 0)
        sim.at_risk = false;
    if (!lives && !waits && phase.lost_is_a_bug)
        violated("the VM is lost after a single fault");
    if (!lives && !waits) {
        sim.lost++;
        begin_life();
    }
}

static void on_phase(struct process *none, const struct event *e)
{
    (void)none, (void)e;
    if (!sim.chaos && phase.ends_at)
        check_calm();
    sim.chaos = !sim.chaos;
    int64_t length = sim.chaos ? SECOND / 2 + (int64_t)chance(6 * SECOND) : 16 * SECOND;
    phase.ends_at = sim.now + length;
    sim.arbiter_slow = sim.chaos && one_in(8);
    if (sim.chaos) {
        phase.kills = 0;
        phase.lost_is_a_bug = false;
        for (int i = 0; i < HOSTS; i++)
            sim.hosts[i].arbiter_away_until = 0;
        event_add(event_new((int64_t)chance(200 * MS), on_fault));
    } else {
        sim.calms++;
        phase.without_arbiter = one_in(3) ? (int)chance(HOSTS) : -1;
        for (int i = 0; i < HOSTS; i++) {
            sim.hosts[i].up = true;
            sim.hosts[i].restart_at = sim.now + (int64_t)chance(SECOND);
        }
        if (phase.without_arbiter >= 0)
            sim.hosts[phase.without_arbiter].arbiter_away_until = phase.ends_at;
        say("calm%s", phase.without_arbiter >= 0 ? ", but one host has no arbiter" : "");
    }
    event_add(event_new(length, on_phase));
}

/* ---- main ---- */

static void run(uint64_t seed, uint64_t steps, bool open, bool trace)
{
    world_reset();
    sim = (struct sim){.seed = seed, .random = seed, .open = open, .trace = trace};
    memset(&phase, 0, sizeof phase);
    phase.without_arbiter = -1;
    for (int i = 0; i < HOSTS; i++)
        sim.hosts[i].up = true;
    begin_life();
    event_add(event_new(MS, on_tick));
    sim.chaos = true; /* the first phase is calm: the VM gets protected */
    event_add(event_new(0, on_phase));
    while (sim.steps < steps && event_next())
        ;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},    {"steps", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 't'}, {"open", no_argument, NULL, 'o'},
        {"trace", no_argument, NULL, 'v'},         {0}};
    uint64_t seed = 1, steps = 1000000, total = 0, first;
    unsigned failovers = 0, lost = 0, protections = 0, calms = 0, risks = 0, moves = 0, failed = 0;
    double limit = 0, begin = seconds();
    bool trace = false, open = false;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            steps = strtoull(optarg, NULL, 10);
            break;
        case 't':
            limit = strtod(optarg, NULL);
            break;
        case 'o':
            open = true;
            break;
        case 'v':
            trace = true;
            break;
        default:
            fprintf(stderr, "usage: sim [--seed S] [--steps N] [--seconds T] [--open] [--trace]\n");
            return 2;
        }
    }
    first = seed;
    do {
        run(seed++, steps, open, trace);
        total += sim.steps;
        failovers += sim.failovers;
        lost += sim.lost;
        protections += sim.protections;
        calms += sim.calms;
        risks += sim.risks;
        moves += sim.moves;
        failed += sim.moves_failed;
    } while (seconds() - begin < limit);
    double took = seconds() - begin;
    printf(
        "seeds %llu to %llu: %llu steps in %.1f s (%.2f million/s), %u calms, %u times protected, %u failovers, %u VMs "
        "lost to more than one fault, %u planned moves, %u more that failed, opened at risk %u times; nothing "
        "violated\n",
        (unsigned long long)first, (unsigned long long)seed - 1, (unsigned long long)total, took,
        (double)total / took / 1e6, calms, protections, failovers, lost, moves, failed, risks);
    return 0;
}
