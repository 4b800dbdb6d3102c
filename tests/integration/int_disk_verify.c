/*
 * int_disk_verify: both agents, a disk server on each side, and `hikae verify-disk`. Blocks of the replica's disks that
 * change behind Hikae's back are found, named, and repaired; and what can't be compared is said to be so.
 */
#include "common/jsonget.h"
#include "tests/integration/disk_agents.h"

#include <json-c/json.h>
#include <signal.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BLOCKS_0 = 3000, BLOCKS_1 = 200000, FIRST_DATA = 1000, DATA_BLOCKS = 900 };

static struct agents *protect_with_disks(void)
{
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_DISKS});
    disks_make(&t->a, BLOCKS_0, BLOCKS_1);
    disks_make(&t->b, BLOCKS_0, BLOCKS_1);
    for (unsigned i = 0; i < DATA_BLOCKS; i++)
        disk_put(&t->a, "0.img", FIRST_DATA + i, i);
    disk_put(&t->a, "1.img", BLOCKS_1 - 1, 5);
    agents_protect(t);
    return t;
}

/* ---- tests ---- */

static void found_named_repaired(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    assert_int_equal(hikae(&t->a, "verify-disk web"), 0);
    hikae_says("203000 blocks of 4096 bytes compared, 0 differ");

    disk_put(&t->b, "0.img", FIRST_DATA + 77, 4711); /* among data */
    disk_put(&t->b, "0.img", 3, 4711);               /* in a hole */
    for (unsigned i = 0; i < 3; i++)
        disk_put(&t->b, "1.img", BLOCKS_1 - 3 + i, 4711); /* the last, and two in the hole before it */
    assert_int_equal(hikae(&t->a, "verify-disk web"), 1);
    hikae_says("5 differ; --repair");
    hikae_says("disk 0: block 3\n");
    hikae_says("disk 0: block 1077\n");
    hikae_says("disk 1: blocks 199997 to 199999\n");
    assert_false(disk_equal(t, "0.img", FIRST_DATA + 77)); /* only looked at */
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));

    assert_int_equal(hikae(&t->a, "verify-disk web --repair"), 1);
    hikae_says("5 differ, 5 were repaired");
    assert_int_equal(hikae(&t->a, "verify-disk web"), 0);
    assert_true(disk_equal(t, "0.img", FIRST_DATA + 77) && disk_equal(t, "0.img", 3));
    for (unsigned i = 0; i < 3; i++)
        assert_true(disk_equal(t, "1.img", BLOCKS_1 - 3 + i));
    agents_free(t);
}

static void in_json(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    disk_put(&t->b, "1.img", 17, 1);
    assert_int_equal(hikae(&t->a, "--json verify-disk web --repair"), 1);
    struct json_object *j = json_tokener_parse(hikae_said()), *r = json_get_array(j, "ranges");
    assert_non_null(r);
    assert_string_equal(json_get_text(j, "result", ""), "differs");
    assert_int_equal(json_get_u64(j, "compared", 0), BLOCKS_0 + BLOCKS_1);
    assert_int_equal(json_get_u64(j, "differing", 0), 1);
    assert_int_equal(json_get_u64(j, "repaired", 0), 1);
    assert_int_equal(json_get_u64(j, "unrepaired", 9), 0);
    assert_int_equal(json_object_array_length(r), 1);
    assert_int_equal(json_get_u64(json_object_array_get_idx(r, 0), "disk", 0), 1);
    assert_int_equal(json_get_u64(json_object_array_get_idx(r, 0), "first", 0), 17);
    json_object_put(j);
    assert_int_equal(hikae(&t->a, "--json verify-disk web"), 0);
    hikae_says("\"result\":\"equal\"");
    agents_free(t);
}

/* After a failover the former replica's disks are the truth: compared from there. */
static void from_the_other_side(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    host_order(&t->b, SECONDARY, "{\"cmd\":\"failover\",\"vm\":\"web\"}");
    host_wait_running(&t->b);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(hikae(&t->b, "verify-disk web"), 0);
    disk_put(&t->a, "0.img", 9, 1);
    assert_int_equal(hikae(&t->b, "verify-disk web --repair"), 1);
    assert_int_equal(hikae(&t->b, "verify-disk web"), 0);
    assert_true(disk_equal(t, "0.img", 9));
    agents_free(t);
}

/* The replica goes while it is compared with: that is no verdict. */
static void the_replica_is_lost(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    kill(host_worker(&t->b, SECONDARY), SIGSTOP);
    FILE *f = hikae_begin(&t->a, "verify-disk web");
    WAIT_FOR(host_log_has(&t->a, PRIMARY, "comparing the disks"));
    host_kill(&t->b);
    assert_int_equal(hikae_end(f), 2);
    hikae_says("not compared: the protection has ended");
    host_start_both(&t->b);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(hikae(&t->a, "verify-disk web"), 0); /* and again, on another connection */
    agents_free(t);
}

static void refusals(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    assert_int_equal(hikae(&t->a, "verify-disk"), 2);
    assert_int_equal(hikae(&t->a, "verify-disk other"), 2);
    assert_int_equal(hikae(&t->b, "verify-disk web"), 2); /* it does not run there */
    assert_int_equal(hikae(&t->a, "verify-disk web --all"), 2);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"unprotect\",\"vm\":\"web\"}");
    assert_int_equal(hikae(&t->a, "verify-disk web"), 2);
    hikae_says("the VM is not PROTECTED");
    agents_free(t);
    t = agents_new(&(struct agents_options){.vm = "pages = 24\n"});
    agents_protect(t);
    assert_int_equal(hikae(&t->a, "verify-disk web"), 2);
    hikae_says("has no disks");
    agents_free(t);
}

/* Disks and memory, one after the other over one connection; also when the first was given up on the way. */
static void disks_and_memory_in_turn(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(hikae(&t->a, "verify-disk web"), 0);
        assert_int_equal(hikae(&t->a, "verify-memory web"), 0);
        hikae_says("24 pages of 4096 bytes compared, 0 differ");
    }
    for (unsigned i = 0; i < 5; i++) {
        kill(host_worker(&t->b, SECONDARY), SIGSTOP); /* so that it is not over before it is given up */
        host_order(&t->a, PRIMARY, "{\"cmd\":\"verify-disk\",\"vm\":\"web\"}");
        host_refuses(&t->a, PRIMARY, "is under way already", "{\"cmd\":\"verify-memory\",\"vm\":\"web\"}");
        host_order(&t->a, PRIMARY, "{\"cmd\":\"verify-disk\",\"vm\":\"web\",\"abort\":true}");
        kill(host_worker(&t->b, SECONDARY), SIGCONT);
        assert_int_equal(hikae(&t->a, "verify-memory web"), 0);
    }
    assert_int_equal(hikae(&t->a, "verify-disk web"), 0);
    assert_int_equal(host_log_count(&t->a, PRIMARY, "aborted by the admin"), 5);
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(found_named_repaired, agents_teardown),
        cmocka_unit_test_teardown(in_json, agents_teardown),
        cmocka_unit_test_teardown(from_the_other_side, agents_teardown),
        cmocka_unit_test_teardown(the_replica_is_lost, agents_teardown),
        cmocka_unit_test_teardown(refusals, agents_teardown),
        cmocka_unit_test_teardown(disks_and_memory_in_turn, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
