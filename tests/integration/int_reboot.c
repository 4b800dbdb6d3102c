/*
 * int_reboot: hosts that are started again. A reboot is: all processes of the host die, and the records it finds carry
 * another boot id. The register says whose the VM is; that host starts it anew, once, and protects it again.
 */
#include "common/file.h"
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const char vm_lines[] = "pages = 512\nrate = 4000\n";

/* Replaces one piece of a file of the host's. */
static void edit(const struct host *h, const char *file, const char *key, const char *to)
{
    char path[200];
    struct errmsg e;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", h->dir, file);
    char *text = file_read_all(path, 1 << 20, &n, &e), *at = text ? strstr(text, key) : NULL;
    if (!at)
        fail_msg("%s has no %s", path, key);
    size_t room = n + strlen(to) + 1;
    char *changed = malloc(room);
    assert_non_null(changed);
    int length = snprintf(changed, room, "%.*s%s%s", (int)(at - text), text, to, at + strlen(key));
    if (file_write_atomic(path, changed, (size_t)length, 0600, &e))
        fail_msg("%s", e.text);
    free(text);
    free(changed);
}

static void pass_for_older(const struct host *h)
{
    char boot[64] = "", key[100];
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    assert_int_equal(f ? fscanf(f, "%63s", boot) : 0, 1);
    fclose(f);
    snprintf(key, sizeof key, "\"%s\"", boot);
    edit(h, "state/vms/web.json", key, "\"00000000-1111-2222-3333-444444444444\"");
}

static void check_started_anew(struct agents *t, const struct host *h, pid_t before)
{
    host_wait_running(h);
    assert_int_not_equal(host_vm_pid(h), before);
    host_check_memory(h);
    assert_int_equal(agents_running(t), 1);
}

/* The replica's host does not take over before it dies as well. */
static void both_hosts(void **state)
{
    (void)state;
    struct agents *t =
        agents_new(&(struct agents_options){.host = "detect = 300ms\nrestart_grace = 10s\n", .vm = vm_lines});
    agents_protect(t);
    pid_t before = host_vm_pid(&t->a);
    host_kill(&t->a);
    host_kill(&t->b);
    pass_for_older(&t->a);
    pass_for_older(&t->b);
    agents_write_config(t, &(struct agents_options){.host = "detect = 300ms\nrestart_grace = 60ms\n", .vm = vm_lines});
    host_start_both(&t->b);
    host_start_both(&t->a);
    host_wait_log(&t->b, SECONDARY, "is cleaned up");
    host_wait_state(&t->a, PRIMARY, "PROTECTED"); /* to the host that its record names */
    check_started_anew(t, &t->a, before);
    assert_int_equal(host_vm_pid(&t->b), 0);
    agents_free(t);
}

/* A host that is back before the other one has noticed: the replica, which knows more, must not be fenced. */
static void one_host_and_its_replica_takes_over(void **state)
{
    (void)state;
    struct agents *t =
        agents_new(&(struct agents_options){.host = "detect = 2s\nrestart_grace = 1500ms\n", .vm = vm_lines});
    agents_protect(t);
    host_kill(&t->a);
    pass_for_older(&t->a);
    host_start_both(&t->a);
    host_wait_reason(&t->a, PRIMARY, "given the time to take over");
    host_wait_log(&t->a, PRIMARY, "-> LOST"); /* for a moment: then it holds the replica */
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    assert_int_equal(host_vm_pid(&t->a), 0);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

static void the_arbiter_is_away(void **state)
{
    (void)state;
    char arbiter[100], away[100];
    struct agents *t = agents_new(&(struct agents_options){.vm = vm_lines});
    snprintf(arbiter, sizeof arbiter, "%s/arbiter", t->dir);
    snprintf(away, sizeof away, "%s/away", t->dir);
    host_start(&t->a, PRIMARY);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    pid_t before = host_vm_pid(&t->a);
    host_kill(&t->a);
    pass_for_older(&t->a);
    assert_int_equal(rename(arbiter, away), 0);
    host_start(&t->a, PRIMARY);
    host_wait_reason(&t->a, PRIMARY, "no arbiter");
    assert_true(host_state_is(&t->a, PRIMARY, "CLAIMING"));
    agents_sleep_ms(500);
    assert_int_equal(host_vm_pid(&t->a), 0);
    assert_int_equal(rename(away, arbiter), 0);
    check_started_anew(t, &t->a, before);
    struct json_object *j = host_status(&t->a, PRIMARY);
    assert_string_equal(json_get_text(j, "reason", "none"), ""); /* why it waited is no reason of what it is now */
    json_object_put(j);
    agents_free(t);
}

/* arbiter = none: the replica's admin may have started it meanwhile, and nobody could tell. A VM that never had a
 * replica is started. */
static void without_an_arbiter(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = vm_lines, .arbiter_a = "none", .arbiter_b = "none"});
    host_start(&t->a, PRIMARY);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    pid_t before = host_vm_pid(&t->a);
    host_kill(&t->a);
    pass_for_older(&t->a);
    host_start(&t->a, PRIMARY);
    check_started_anew(t, &t->a, before);
    host_start(&t->a, SECONDARY);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_kill(&t->a);
    pass_for_older(&t->a);
    host_start(&t->a, PRIMARY);
    host_wait_state(&t->a, PRIMARY, "LOST");
    host_wait_reason(&t->a, PRIMARY, "DANGER");
    assert_int_equal(host_vm_pid(&t->a), 0);
    agents_free(t);
}

/* It came here by a failover, and this host cannot start it: the register says so, and another one can. */
static void no_section_to_start_it_by(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = vm_lines});
    host_start(&t->a, PRIMARY);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_kill(&t->a);
    pass_for_older(&t->a);
    edit(&t->a, "hikae.conf", "[vm web]", "[vm other]");
    host_start(&t->a, PRIMARY);
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    host_wait_reason(&t->a, PRIMARY, "no section [vm web]");
    host_start(&t->b, PRIMARY);
    host_order(&t->b, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_wait_running(&t->b);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

/* What was not running is not started. */
static void stopped_stays_stopped(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = vm_lines});
    char record[160];
    struct errmsg e;
    size_t n;
    agents_protect(t);
    snprintf(record, sizeof record, "%s/state/vms/web.json", t->a.dir);
    char *running = file_read_all(record, 1 << 20, &n, &e);
    assert_non_null(running);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    WAIT_FOR(!host_worker(&t->a, PRIMARY));
    host_kill(&t->a);
    pass_for_older(&t->a);
    host_start(&t->a, PRIMARY);
    agents_sleep_ms(1500);
    assert_true(host_state_is(&t->a, PRIMARY, "STOPPED"));
    assert_int_equal(agents_running(t), 0);
    /* The power went after the register was written and before the record was: the same. */
    host_kill(&t->a);
    assert_int_equal(file_write_atomic(record, running, n, 0600, &e), 0);
    free(running);
    pass_for_older(&t->a);
    host_start(&t->a, PRIMARY);
    host_wait_reason(&t->a, PRIMARY, "stopped before this host was rebooted");
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    assert_int_equal(agents_running(t), 0);
    agents_free(t);
}

/* A VM that we never start: it is not waited for, and its replica, which takes over, is let in again here. */
static void somebody_elses(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.host = "detect = 500ms\n", .vm = vm_lines});
    agents_protect(t);
    host_kill(&t->a);
    pass_for_older(&t->a);
    edit(&t->a, "state/vms/web.json", "\"pages\"", "\"foreign\":\"1\",\"pages\"");
    host_start_both(&t->a);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

/* No reboot: the VM died while its agent was away, and a replica may know of it. */
static void the_same_boot_starts_nothing(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = vm_lines});
    host_start(&t->a, PRIMARY);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_kill(&t->a);
    host_start(&t->a, PRIMARY);
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    assert_int_equal(host_vm_pid(&t->a), 0);
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(both_hosts, agents_teardown),
        cmocka_unit_test_teardown(one_host_and_its_replica_takes_over, agents_teardown),
        cmocka_unit_test_teardown(the_arbiter_is_away, agents_teardown),
        cmocka_unit_test_teardown(without_an_arbiter, agents_teardown),
        cmocka_unit_test_teardown(no_section_to_start_it_by, agents_teardown),
        cmocka_unit_test_teardown(stopped_stays_stopped, agents_teardown),
        cmocka_unit_test_teardown(somebody_elses, agents_teardown),
        cmocka_unit_test_teardown(the_same_boot_starts_nothing, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
