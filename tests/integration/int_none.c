/*
 * int_none: arbiter = none. A VM that is alone goes on, a replica that is alone waits for its admin, and nothing but an
 * order with --force starts a VM that may run on the other host.
 */
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { CONTROL_MS = 1500 };

#define FAILOVER       "{\"cmd\":\"failover\",\"vm\":\"web\"}"
#define FAILOVER_FORCE "{\"cmd\":\"failover\",\"vm\":\"web\",\"force\":true}"
#define START          "{\"cmd\":\"start\",\"vm\":\"web\"}"
#define START_FORCE    "{\"cmd\":\"start\",\"vm\":\"web\",\"force\":true}"

static struct agents *without_arbiter(void)
{
    struct agents *t = agents_new(
        &(struct agents_options){.vm = "pages = 256\nrate = 2000\n",
                                 .host = "detect = 2s\nworker_bound = 0\n", /* workers that are stopped here stay so */
                                 .arbiter_a = "none",
                                 .arbiter_b = "none"});
    agents_protect(t);
    return t;
}

/* Once the worker that ended it is forgotten. */
static bool starts(const struct host *h)
{
    struct json_object *reply = host_ask(h, PRIMARY, "%s", START);
    bool ok = json_get_bool(reply, "ok", false);
    json_object_put(reply);
    return ok;
}

static void replica_waits_for_its_admin(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "ORPHANED");
    host_wait_reason(&t->b, SECONDARY, "hikae failover web --force");
    agents_sleep_ms(CONTROL_MS);
    assert_int_equal(agents_running(t), 0);
    host_refuses(&t->b, SECONDARY, "DANGER", FAILOVER);
    assert_true(host_state_is(&t->b, SECONDARY, "ORPHANED"));
    host_order(&t->b, SECONDARY, FAILOVER_FORCE);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    assert_true(host_number(&t->b, PRIMARY, "term") > 1000);
    /* the old primary: it has lost its VM's process and starts nothing; it becomes the new secondary */
    host_start_both(&t->a);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    assert_int_equal(host_vm_pid(&t->a), 0);
    agents_free(t);
}

/* Its primary agent alone comes back: neither by itself nor by an order does it start what may run on b. */
static void old_primary_starts_nothing(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "ORPHANED");
    host_start(&t->a, PRIMARY);
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    WAIT_FOR(!host_worker(&t->a, PRIMARY));
    agents_sleep_ms(300);
    for (int i = 0; i < 2; i++) { /* the refusal itself leads to no other answer the next time */
        host_refuses(&t->a, PRIMARY, "DANGER", START);
        agents_sleep_ms(300);
        assert_int_equal(agents_running(t), 0);
        WAIT_FOR(!host_worker(&t->a, PRIMARY));
    }
    host_order(&t->a, PRIMARY, START_FORCE);
    host_wait_running(&t->a);
    assert_true(host_number(&t->a, PRIMARY, "term") > 1000);
    host_start(&t->a, SECONDARY);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED"); /* b lets go of the orphan: this primary is newer */
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

/* Nobody could say whose the VM is if the connection broke at the hand-over. */
static void planned_moves_are_refused(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    host_refuses(&t->a, PRIMARY, "planned moves need an arbiter", "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    agents_free(t);
}

static void lonely_primary_goes_on(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    uint64_t term = host_number(&t->a, PRIMARY, "term");
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    assert_int_equal(host_number(&t->a, PRIMARY, "term"), term + 1);
    host_wait_running(&t->a);
    kill(worker, SIGCONT);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

/* The admin was wrong, and the primary hears of it: it ends. */
static void forced_though_the_primary_lives(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    host_order(&t->b, SECONDARY, FAILOVER_FORCE);
    host_wait_running(&t->b);
    WAIT_FOR(!host_vm_pid(&t->a));
    host_wait_state(&t->b, PRIMARY, "PROTECTED"); /* by a, which has given up its own */
    assert_int_equal(agents_running(t), 1);
    host_check_memory(&t->b);
    agents_free(t);
}

/* A VM that is back under an older term, as its host was cut off when the replica was forced, does not become primary
 * of the one that runs. */
static void older_primary_is_not_believed(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    host_kill_supervisor(&t->b, SECONDARY); /* what a primary would connect to */
    pid_t primary = host_worker(&t->a, PRIMARY);
    kill(primary, SIGSTOP);
    host_start(&t->b, SECONDARY);
    host_wait_state(&t->b, SECONDARY, "ORPHANED");
    host_order(&t->b, SECONDARY, FAILOVER_FORCE);
    host_wait_running(&t->b);
    kill(primary, SIGCONT);
    host_wait_state(&t->a, PRIMARY, "CONNECTING"); /* two VMs: what the admin was warned of */
    host_wait_reason(&t->a, PRIMARY, "the VM runs here");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

static void stopped_by_order_starts_by_order(void **state)
{
    (void)state;
    struct agents *t = without_arbiter();
    host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    WAIT_FOR(!host_replica_pid(&t->b) && !host_worker(&t->a, PRIMARY));
    WAIT_FOR(starts(&t->a));
    host_wait_running(&t->a);
    agents_free(t);
}

static void both_need_the_same(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.arbiter_b = "none"});
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, START);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_reason(&t->a, PRIMARY, "both need the same");
    host_refuses(&t->a, PRIMARY, "--force is for arbiter = none", START_FORCE);
    agents_free(t);
}

static void force_is_not_for_an_arbiter(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    host_refuses(&t->b, SECONDARY, "--force is for arbiter = none", FAILOVER_FORCE);
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    agents_free(t);
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(replica_waits_for_its_admin),      ONE(old_primary_starts_nothing),
        ONE(planned_moves_are_refused),        ONE(lonely_primary_goes_on),
        ONE(forced_though_the_primary_lives),  ONE(older_primary_is_not_believed),
        ONE(stopped_by_order_starts_by_order), ONE(both_need_the_same),
        ONE(force_is_not_for_an_arbiter),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
