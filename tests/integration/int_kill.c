/*
 * int_kill: SIGKILL to each process that takes part, at each stage of a protection, at moments drawn from a seed. After
 * it no VM is left paused, exactly one runs, and protection comes back by itself where something is there to come back
 * to.
 */
#include "tests/integration/agents.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t seed = 1, seed_added;

static unsigned chance(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % below);
}

enum stage { CONNECTING, SYNCING, PROTECTED };
enum victim { P_WORKER, P_SUPERVISOR, P_BOTH, S_WORKER, S_SUPERVISOR, S_BOTH, VM, REPLICA };

struct kill_case {
    enum stage stage;
    enum victim victim;
    uint64_t seed;
};

/* A grace that a restarted agent keeps to also on a slow machine: who wins the race for the VM is not the question
 * here. */
static const struct agents_options patient = {.host = "restart_grace = 8s\ndetect = 2s\n", .vm = "pages = 512\n"};
static const struct agents_options large = {.host = "restart_grace = 8s\ndetect = 2s\n",
                                            .vm = "pages = 8192\nrate = 16000\nmode = periodic\ninterval = 50\n"};

static struct agents *bring_to(enum stage stage)
{
    struct agents *t = agents_new(stage == SYNCING ? &large : &patient);
    host_start_both(&t->a);
    if (stage != CONNECTING)
        host_start_both(&t->b);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    if (stage == SYNCING) {
        struct machine *m = host_vm(&t->a);
        WAIT_FOR(m->step > m->pages); /* until there is something to sync */
        machine_unmap(m);
    }
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    if (stage == SYNCING) {
        WAIT_FOR(host_state_is(&t->a, PRIMARY, "SYNCING") || host_state_is(&t->a, PRIMARY, "PROTECTED"));
        agents_sleep_ms(chance(120));
    } else {
        host_wait_state(&t->a, PRIMARY, stage == CONNECTING ? "CONNECTING" : "PROTECTED");
        agents_sleep_ms(chance(120));
    }
    return t;
}

static void kill_worker(const struct host *h, enum agent agent)
{
    pid_t pid = host_worker(h, agent);
    assert_true(pid > 0);
    kill(pid, SIGKILL);
    WAIT_FOR(!agents_is_alive(pid));
}

static void strike(struct agents *t, enum victim victim)
{
    switch (victim) {
    case P_WORKER:
        kill_worker(&t->a, PRIMARY);
        break;
    case P_SUPERVISOR:
        host_kill_supervisor(&t->a, PRIMARY);
        break;
    case P_BOTH:
        host_kill_agent(&t->a, PRIMARY);
        break;
    case S_WORKER:
        kill_worker(&t->b, SECONDARY);
        break;
    case S_SUPERVISOR:
        host_kill_supervisor(&t->b, SECONDARY);
        break;
    case S_BOTH:
        host_kill_agent(&t->b, SECONDARY);
        break;
    case VM:
        kill(host_vm_pid(&t->a), SIGKILL);
        break;
    case REPLICA:
        kill(host_replica_pid(&t->b), SIGKILL);
        break;
    }
}

static size_t replicas(const struct host *h)
{
    struct machine *all[8];
    size_t n = host_machines(h, true, all, NULL, 8);
    for (size_t i = 0; i < n; i++)
        machine_unmap(all[i]);
    return n;
}

/* Starts again what the system would, and sees to what is said meanwhile. */
static void restart(struct agents *t, const struct kill_case *c)
{
    if (c->victim == P_SUPERVISOR || c->victim == P_BOTH)
        host_start(&t->a, PRIMARY);
    if (c->victim == S_SUPERVISOR)
        host_start(&t->b, SECONDARY);
    if (c->victim == S_BOTH) {
        host_wait_state(&t->a, PRIMARY, "CONNECTING");
        host_wait_reason(&t->a, PRIMARY, "refused");
        assert_int_equal(agents_running(t), 1);
        host_start(&t->b, SECONDARY);
    }
    if (c->stage == CONNECTING)
        host_start_both(&t->b);
}

static void check_protected_again(struct agents *t)
{
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch);
    host_wait_running(&t->a);
    assert_int_equal(agents_running(t), 1);
    WAIT_FOR(replicas(&t->b) == 1);
    struct machine *m = host_vm(&t->a);
    assert_int_equal(m->errors, 0);
    machine_unmap(m);
}

static void check_vm_died(struct agents *t, enum stage stage)
{
    host_wait_log(&t->a, PRIMARY, "-> STOPPED (VM's process gone"); /* its status may be about the replica by now */
    assert_int_equal(host_vm_pid(&t->a), 0);
    if (stage == PROTECTED) {
        host_wait_running(&t->b);
        host_check_memory(&t->b);
        host_order(&t->b, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"a\"}");
        host_wait_state(&t->b, PRIMARY, "PROTECTED");
        assert_int_equal(agents_running(t), 1);
    } else if (stage == CONNECTING) {
        host_wait_state(&t->a, PRIMARY, "STOPPED");
        host_wait_reason(&t->a, PRIMARY, "process");
        assert_int_equal(agents_running(t), 0);
    } else {
        WAIT_FOR(host_vm_pid(&t->b) || !host_replica_pid(&t->b)); /* the first epoch was committed, or it was not */
        assert_true(agents_running(t) <= 1);
    }
}

/* A worker that is killed is not noticed at once: what is asked after it must not be an answer from before. */
static void wait_noticed(struct agents *t, const struct kill_case *c, pid_t replica, pid_t worker)
{
    if (c->victim == P_WORKER)
        WAIT_FOR(host_worker(&t->a, PRIMARY) && host_worker(&t->a, PRIMARY) != worker);
    if (c->victim == S_WORKER || c->victim == REPLICA)
        WAIT_FOR(!host_state_is(&t->a, PRIMARY, "PROTECTED") || host_replica_pid(&t->b) != replica);
}

static void dies(void **state)
{
    const struct kill_case *c = *state;
    seed = c->seed + seed_added;
    struct agents *t = bring_to(c->stage);
    pid_t replica = host_replica_pid(&t->b), worker = host_worker(&t->a, PRIMARY);
    strike(t, c->victim);
    if (c->victim == VM) {
        check_vm_died(t, c->stage);
    } else {
        wait_noticed(t, c, replica, worker);
        restart(t, c);
        check_protected_again(t);
    }
    agents_free(t);
}

/* The agent stands still at a moment when it has paused the VM. */
static bool catch_in_checkpoint(pid_t worker, const struct machine *m)
{
    for (int i = 0; i < 3000; i++) {
        kill(worker, SIGSTOP);
        agents_sleep_ms(1);
        if (!m->running)
            return true;
        kill(worker, SIGCONT);
        agents_sleep_ms(1 + chance(4));
    }
    return false;
}

static void dies_within_a_checkpoint(void **state)
{
    bool both = *state != NULL;
    seed = 77 + seed_added;
    struct agents *t =
        agents_new(&(struct agents_options){.host = "restart_grace = 8s\ndetect = 5s\n",
                                            .vm = "pages = 512\nrate = 100000\nmode = periodic\ninterval = 2\n"});
    agents_protect(t);
    struct machine *m = host_vm(&t->a);
    assert_true(catch_in_checkpoint(host_worker(&t->a, PRIMARY), m));
    uint64_t step = m->step;
    agents_sleep_ms(50);
    assert_int_equal(m->step, step); /* it is paused */
    if (both) {
        host_kill_agent(&t->a, PRIMARY);
        host_start(&t->a, PRIMARY);
    } else {
        kill(host_worker(&t->a, PRIMARY), SIGKILL);
    }
    WAIT_FOR(m->step > step + 1000);
    machine_unmap(m);
    check_protected_again(t);
    agents_free(t);
}

#define KILL(at, whom, s)                                                                                              \
    {                                                                                                                  \
        .name = "dies: " #whom " in " #at " seed " #s, .test_func = dies, .teardown_func = agents_teardown,            \
        .initial_state = &(struct kill_case)                                                                           \
        {                                                                                                              \
            .stage = at, .victim = whom, .seed = s                                                                     \
        }                                                                                                              \
    }

/* int_kill [N]: other moments, the same for the same N */
int main(int argc, char **argv)
{
    seed_added = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(dies_within_a_checkpoint, agents_teardown),
        {.name = "dies_within_a_checkpoint, with its supervisor",
         .test_func = dies_within_a_checkpoint,
         .teardown_func = agents_teardown,
         .initial_state = &seed_added},
        KILL(CONNECTING, P_WORKER, 7919),
        KILL(CONNECTING, P_SUPERVISOR, 15838),
        KILL(CONNECTING, P_BOTH, 23757),
        KILL(CONNECTING, VM, 31676),
        KILL(SYNCING, P_WORKER, 39595),
        KILL(SYNCING, P_SUPERVISOR, 55433),
        KILL(SYNCING, P_BOTH, 63352),
        KILL(SYNCING, S_WORKER, 79190),
        KILL(SYNCING, S_SUPERVISOR, 87109),
        KILL(SYNCING, S_BOTH, 95028),
        KILL(SYNCING, VM, 102947),
        KILL(SYNCING, REPLICA, 110866),
        KILL(PROTECTED, P_WORKER, 118785),
        KILL(PROTECTED, P_SUPERVISOR, 134623),
        KILL(PROTECTED, P_BOTH, 142542),
        KILL(PROTECTED, S_WORKER, 166299),
        KILL(PROTECTED, S_SUPERVISOR, 174218),
        KILL(PROTECTED, S_BOTH, 182137),
        KILL(PROTECTED, VM, 190056),
        KILL(PROTECTED, REPLICA, 197975),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
