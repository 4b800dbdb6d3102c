/*
 * int_watchdog: a worker that stands still, with its VM paused or not, is replaced by its supervisor: the VM is never
 * left paused, and exactly one runs. The worker stops itself (SIGSTOP) by a fault in its configuration.
 */
#include "tests/integration/agents.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const char vm_lines[] = "pages = 512\nrate = 20000\nmode = periodic\ninterval = 20\n";
/* The first pauses are those of the first sync. */
static const char with_fault[] = "pages = 512\nrate = 20000\nmode = periodic\ninterval = 20\n[fault]\nstall = 60\n";

/* The secondary does not take over before the watchdog has struck. */
static const char patient[] = "detect = 15s\nrestart_grace = 8s\npause_bound = 1s\nworker_bound = 2s\n";
/* It does, long before. */
static const char quick[] = "detect = 400ms\nrestart_grace = 8s\npause_bound = 4s\nworker_bound = 8s\n";

static struct agents *protect(const char *host, bool stalls)
{
    struct agents_options o = {.host = host, .vm = stalls ? with_fault : vm_lines};
    struct agents *t = agents_new(&o);
    host_start_both(&t->b);
    host_start_both(&t->a);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    o.vm = vm_lines; /* its successor has no fault */
    agents_write_config(t, &o);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    return t;
}

static void wait_stopped(pid_t pid)
{
    char path[40], line[256], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (double until = agents_now() + AGENTS_PATIENCE_S; state != 'T'; agents_sleep_ms(5)) {
        assert_true(agents_now() < until);
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        char *name_end = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
        state = name_end ? name_end[2] : 0;
        fclose(f);
    }
}

static void check_protected_again(struct agents *t)
{
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch);
    host_check_memory(&t->a);
    assert_int_equal(agents_running(t), 1);
}

static void check_paused(const struct machine *m)
{
    uint64_t step = m->step;
    agents_sleep_ms(50);
    assert_int_equal(m->step, step);
}

static void stuck_in_a_pause(void **state)
{
    (void)state;
    struct agents *t = protect(patient, true);
    pid_t worker = host_worker(&t->a, PRIMARY);
    struct machine *m = host_vm(&t->a);
    wait_stopped(worker);
    check_paused(m);
    uint64_t step = m->step;
    WAIT_FOR(m->step > step + 1000);
    machine_unmap(m);
    assert_false(agents_is_alive(worker));
    host_wait_log(&t->a, PRIMARY, "with the VM paused");
    check_protected_again(t);
    agents_free(t);
}

/* The VM has failed over when the old host's worker is replaced: that one must end the old VM. */
static void stuck_in_a_pause_and_taken_over(void **state)
{
    (void)state;
    struct agents *t = protect(quick, true);
    struct machine *m = host_vm(&t->a);
    wait_stopped(host_worker(&t->a, PRIMARY));
    host_wait_running(&t->b);
    check_paused(m); /* still */
    machine_unmap(m);
    host_wait_log(&t->a, PRIMARY, "-> LOST"); /* for a moment: then it holds the replica */
    WAIT_FOR(!host_vm_pid(&t->a));            /* resumed behind its closed gate, asked for, ended */
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    assert_int_equal(agents_running(t), 1);
    host_order(&t->b, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"a\"}");
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    agents_free(t);
}

/* Nobody has seen it alive: it is found by what it left. */
static void stuck_when_its_supervisor_comes_back(void **state)
{
    (void)state;
    struct agents *t = protect(patient, true);
    pid_t worker = host_worker(&t->a, PRIMARY);
    struct machine *m = host_vm(&t->a);
    host_kill_supervisor(&t->a, PRIMARY);
    wait_stopped(worker);
    agents_sleep_ms(2500); /* nobody watches */
    assert_true(agents_is_alive(worker));
    check_paused(m);
    uint64_t step = m->step;
    host_start(&t->a, PRIMARY);
    WAIT_FOR(m->step > step + 1000);
    machine_unmap(m);
    assert_false(agents_is_alive(worker));
    check_protected_again(t);
    agents_free(t);
}

static void stuck_outside_of_a_pause(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.host = patient, .vm = vm_lines});
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_wait_running(&t->a);
    pid_t worker = host_worker(&t->a, PRIMARY);
    agents_sleep_ms(500); /* it has its page */
    kill(worker, SIGSTOP);
    WAIT_FOR(!agents_is_alive(worker));
    host_wait_log(&t->a, PRIMARY, "worker_bound");
    WAIT_FOR(host_worker(&t->a, PRIMARY) > 0);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    check_protected_again(t);
    agents_free(t);
}

/* A supervisor that slept has seen nothing, and does nothing. */
static void a_supervisor_that_was_stopped_kills_nobody(void **state)
{
    (void)state;
    struct agents *t = protect("detect = 15s\nrestart_grace = 8s\npause_bound = 3s\nworker_bound = 3s\n", false);
    pid_t worker = host_worker(&t->a, PRIMARY);
    kill(worker, SIGSTOP);
    kill(t->a.supervisors[PRIMARY], SIGSTOP);
    agents_sleep_ms(4000);
    kill(t->a.supervisors[PRIMARY], SIGCONT);
    agents_sleep_ms(100); /* it has looked, once */
    kill(worker, SIGCONT);
    agents_sleep_ms(3000);
    assert_int_equal(host_worker(&t->a, PRIMARY), worker);
    check_protected_again(t);
    agents_free(t);
}

/* Each write of the process takes 5 ms and its socket takes everything, as if encrypting were that slow; attaches. */
static pid_t slow_down(pid_t worker)
{
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)worker);
    pid_t tracer = fork();
    if (tracer == 0) {
        execlp("strace", "strace", "-qq", "-o", "/dev/null", "-p", pid, "-e", "trace=write", "-e",
               "inject=write:delay_enter=5000", (char *)NULL);
        _exit(127);
    }
    return tracer;
}

static bool is_traced(pid_t pid)
{
    char path[40], line[128];
    int by = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "TracerPid: %d", &by) == 1)
            break;
    if (f)
        fclose(f);
    return by != 0;
}

/* While there is always something to send, the loop turns all the same: a first sync that takes longer than
 * worker_bound is no standstill. */
static void a_long_sync_is_none(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){
        .host = patient, .vm = "pages = 8192\nrate = 16000\nmode = periodic\ninterval = 50\n"});
    host_start_both(&t->a);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    struct machine *m = host_vm(&t->a);
    WAIT_FOR(m->step > m->pages); /* until there is something to sync */
    machine_unmap(m);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    pid_t worker = host_worker(&t->a, PRIMARY), tracer = slow_down(worker);
    int status = 0;
    assert_true(tracer > 0);
    WAIT_FOR(is_traced(worker) || waitpid(tracer, &status, WNOHANG) == tracer);
    if (!is_traced(worker)) { /* there is no strace, or it must not */
        agents_free(t);
        skip();
    }
    host_start_both(&t->b);
    host_wait_state(&t->a, PRIMARY, "SYNCING");
    agents_sleep_ms(5000);
    kill(tracer, SIGTERM);
    waitpid(tracer, &status, 0);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(host_worker(&t->a, PRIMARY), worker);
    assert_false(host_log_has(&t->a, PRIMARY, "has not moved"));
    check_protected_again(t);
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(stuck_in_a_pause, agents_teardown),
        cmocka_unit_test_teardown(stuck_in_a_pause_and_taken_over, agents_teardown),
        cmocka_unit_test_teardown(stuck_when_its_supervisor_comes_back, agents_teardown),
        cmocka_unit_test_teardown(stuck_outside_of_a_pause, agents_teardown),
        cmocka_unit_test_teardown(a_long_sync_is_none, agents_teardown),
        cmocka_unit_test_teardown(a_supervisor_that_was_stopped_kills_nobody, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
