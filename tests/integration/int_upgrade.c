/*
 * int_upgrade: agents that are ended politely, and programs that are replaced while they run: VMs, and the processes
 * that look after them, live on.
 */
#include "common/file.h"
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct agents_options options = {.vm = "pages = 512\nrate = 4000\n"};

static void terminate(struct host *h, enum agent agent)
{
    int status;
    kill(h->supervisors[agent], SIGTERM);
    assert_int_equal(waitpid(h->supervisors[agent], &status, 0), h->supervisors[agent]);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void restarted_agents_find_everything_as_it_was(void **state)
{
    (void)state;
    struct agents *t = agents_new(&options);
    agents_protect(t);
    pid_t worker = host_worker(&t->a, PRIMARY), holder = host_worker(&t->b, SECONDARY), vm = host_vm_pid(&t->a);
    terminate(&t->a, PRIMARY);
    terminate(&t->b, SECONDARY);
    host_wait_running(&t->a);
    host_start(&t->a, PRIMARY);
    host_start(&t->b, SECONDARY);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_wait_state(&t->b, SECONDARY, "STANDBY");
    agents_sleep_ms(1000); /* what they would start or clean up, they would have */
    assert_int_equal(host_worker(&t->a, PRIMARY), worker);
    assert_int_equal(host_worker(&t->b, SECONDARY), holder);
    assert_int_equal(host_vm_pid(&t->a), vm);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

static void copy(const char *from, const char *to)
{
    struct errmsg e;
    size_t n;
    char *data = file_read_all(from, 256 << 20, &n, &e);
    assert_non_null(data);
    if (file_write_atomic(to, data, n, 0755, &e)) /* by rename: as a package does */
        fail_msg("%s", e.text);
    free(data);
}

static bool is_outdated(const struct host *h)
{
    struct json_object *j = host_status(h, PRIMARY);
    bool outdated = json_get_bool(j, "outdated", false);
    json_object_put(j);
    return outdated;
}

static void replaced_programs(void **state)
{
    (void)state;
    char built[400], primary[480], secondary[480], dir[120], own_primary[160], own_secondary[160], modules[480];
    struct errmsg e;
    struct agents *t = agents_new(&options);
    agents_program_dir(built, sizeof built);
    snprintf(primary, sizeof primary, "%s/hikae-primary", built);
    snprintf(secondary, sizeof secondary, "%s/hikae-secondary", built);
    snprintf(modules, sizeof modules, "%s/../lib", built);
    snprintf(dir, sizeof dir, "%s/bin", t->dir);
    snprintf(own_primary, sizeof own_primary, "%s/hikae-primary", dir);
    snprintf(own_secondary, sizeof own_secondary, "%s/hikae-secondary", dir);
    assert_int_equal(dir_make(dir, 0700, &e), 0);
    setenv("HIKAE_MODULE_DIR", modules, 1);
    copy(primary, own_primary);
    copy(secondary, own_secondary);
    agents_set_program_dir(dir);

    agents_protect(t);
    pid_t worker = host_worker(&t->a, PRIMARY), vm = host_vm_pid(&t->a);
    assert_false(is_outdated(&t->a));
    copy(primary, own_primary);
    WAIT_FOR(is_outdated(&t->a));
    uint64_t term = host_number(&t->a, PRIMARY, "term");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"upgrade\",\"vm\":\"web\"}");
    WAIT_FOR(host_worker(&t->a, PRIMARY) && host_worker(&t->a, PRIMARY) != worker);
    host_wait_state(&t->a, PRIMARY, "PROTECTED"); /* again, and by itself */
    assert_false(is_outdated(&t->a));
    assert_true(host_number(&t->a, PRIMARY, "term") > term);
    assert_int_equal(host_vm_pid(&t->a), vm); /* no failover */
    assert_false(host_log_has(&t->a, PRIMARY, "unexpectedly"));
    host_check_memory(&t->a);
    assert_int_equal(agents_running(t), 1);
    agents_set_program_dir(built);
    agents_free(t);
}

/* Ending the protection needs its word; output must not be held for an upgrade. */
static void refused_without_the_arbiter(void **state)
{
    (void)state;
    char arbiter[100], away[100];
    struct agents *t = agents_new(&options);
    agents_protect(t);
    pid_t worker = host_worker(&t->a, PRIMARY);
    snprintf(arbiter, sizeof arbiter, "%s/arbiter", t->dir);
    snprintf(away, sizeof away, "%s/away", t->dir);
    assert_int_equal(rename(arbiter, away), 0);
    host_refuses(&t->a, PRIMARY, "arbiter does not answer", "{\"cmd\":\"upgrade\",\"vm\":\"web\"}");
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    assert_int_equal(host_worker(&t->a, PRIMARY), worker);
    assert_int_equal(rename(away, arbiter), 0);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"upgrade\",\"vm\":\"web\"}");
    WAIT_FOR(host_worker(&t->a, PRIMARY) && host_worker(&t->a, PRIMARY) != worker);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(restarted_agents_find_everything_as_it_was, agents_teardown),
        cmocka_unit_test_teardown(replaced_programs, agents_teardown),
        cmocka_unit_test_teardown(refused_without_the_arbiter, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
