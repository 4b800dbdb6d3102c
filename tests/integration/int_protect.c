/*
 * int_protect: protection as an admin sees it, both agents over TLS: protect, set, unprotect, stop; who is turned away
 * and what is said about it; what keeps an agent from starting.
 */
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define PROTECT "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}"

static void check_primary_status(const struct host *a)
{
    struct json_object *j = host_status(a, PRIMARY);
    assert_string_equal(json_get_text(j, "state", ""), "PROTECTED");
    assert_string_equal(json_get_text(j, "peer", ""), "b");
    assert_string_equal(json_get_text(j, "mode", ""), "on-output");
    assert_int_equal(json_get_u64(j, "pages", 0), 256);
    assert_true(json_get_u64(j, "term", 0) >= 1);
    assert_true(json_get_u64(j, "epoch", 0) >= 1);
    assert_true(json_get_u64(j, "bytes_wire", 0) > 0);
    assert_int_equal(json_get_u64(j, "vm_pid", 0), host_vm_pid(a));
    double age = json_get_double(j, "replica_age_ms", -1);
    assert_true(age >= 0 && age < 10000);
    assert_int_equal(json_object_array_length(json_get_array(j, "warnings")), 0);
    json_object_put(j);
}

static void check_secondary_status(const struct agents *t)
{
    struct json_object *j = host_status(&t->b, SECONDARY);
    assert_string_equal(json_get_text(j, "state", ""), "STANDBY");
    assert_string_equal(json_get_text(j, "from", ""), "a");
    assert_int_equal(json_get_u64(j, "term", 0), host_number(&t->a, PRIMARY, "term"));
    assert_true(json_get_double(j, "replica_age_ms", -1) >= 0);
    assert_int_equal(json_get_u64(j, "vm_pid", 0), host_replica_pid(&t->b));
    json_object_put(j);
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch);
}

/* A guest that has to suspend itself may be slow to do so: nobody takes it over meanwhile. */
static void waits_for_a_slow_guest(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.host = "detect = 300ms\nrestart_grace = 60ms\n",
                                                           .vm = "pages = 256\nsuspend = 1200\n"});
    agents_protect(t);
    uint64_t term = host_number(&t->a, PRIMARY, "term"), epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch + 2);
    assert_int_equal(host_number(&t->a, PRIMARY, "term"), term);
    assert_true(host_state_is(&t->b, SECONDARY, "STANDBY"));
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

static void protects_and_says_so(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    check_primary_status(&t->a);
    check_secondary_status(t);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

static void second_protect_changes_nothing(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    uint64_t term = host_number(&t->a, PRIMARY, "term");
    pid_t worker = host_worker(&t->b, SECONDARY);
    host_order(&t->a, PRIMARY, PROTECT);
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch);
    assert_int_equal(host_number(&t->a, PRIMARY, "term"), term);
    assert_int_equal(host_worker(&t->b, SECONDARY), worker);
    agents_free(t);
}

static uint64_t checkpoints(const struct host *h)
{
    return host_number(h, PRIMARY, "checkpoints");
}

static void is_set_at_run_time(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    struct host *a = &t->a;
    agents_protect(t);
    host_order(a, PRIMARY, "{\"cmd\":\"set\",\"vm\":\"web\",\"mode\":\"periodic\",\"interval_ms\":10000}");
    assert_int_equal(host_number(a, PRIMARY, "interval_ms"), 10000);
    agents_sleep_ms(300);
    uint64_t before = checkpoints(a);
    agents_sleep_ms(1500);
    assert_true(checkpoints(a) <= before + 1);
    assert_true(host_state_is(a, PRIMARY, "PROTECTED")); /* heartbeats, not epochs, are the sign of life */
    host_order(a, PRIMARY, "{\"cmd\":\"set\",\"vm\":\"web\",\"interval_ms\":5}");
    WAIT_FOR(checkpoints(a) > before + 50);
    host_refuses(a, PRIMARY, "periodic or on-output", "{\"cmd\":\"set\",\"vm\":\"web\",\"mode\":\"now\"}");
    host_refuses(a, PRIMARY, "1 to 10000", "{\"cmd\":\"set\",\"vm\":\"web\",\"interval_ms\":0}");
    host_refuses(a, PRIMARY, "1 to 10000", "{\"cmd\":\"set\",\"vm\":\"web\",\"interval_ms\":10001}");
    assert_int_equal(host_number(a, PRIMARY, "interval_ms"), 5);
    agents_free(t);
}

static bool knows_no_replica(const struct host *h)
{
    struct json_object *j = host_status(h, SECONDARY);
    json_object_put(j);
    return !j;
}

static void is_ended_and_begun_again(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    for (int i = 0; i < 3; i++) {
        host_order(&t->a, PRIMARY, "{\"cmd\":\"unprotect\",\"vm\":\"web\"}");
        host_wait_state(&t->a, PRIMARY, "UNPROTECTED");
        WAIT_FOR(!host_worker(&t->b, SECONDARY) && !host_replica_pid(&t->b));
        WAIT_FOR(knows_no_replica(&t->b)); /* its worker's end reaches the supervisor a moment later */
        assert_int_equal(agents_running(t), 1);
        host_order(&t->a, PRIMARY, PROTECT);
        host_wait_state(&t->a, PRIMARY, "PROTECTED");
    }
    host_check_memory(&t->a);
    agents_free(t);
}

static void stopped_vm_is_started_nowhere(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    WAIT_FOR(!host_vm_pid(&t->a) && !host_replica_pid(&t->b));
    agents_sleep_ms(1000); /* longer than detection and grace */
    assert_int_equal(agents_running(t), 0);
    assert_int_equal(host_vm_pid(&t->b), 0);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_wait_running(&t->a);
    host_order(&t->a, PRIMARY, PROTECT);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    agents_free(t);
}

/* The guest ends by itself while it is protected. */
static void shut_down_is_no_failover(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\nrate = 1000\nstop_after = 2000\n"});
    agents_protect(t);
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    host_wait_reason(&t->a, PRIMARY, "shut down");
    WAIT_FOR(!host_replica_pid(&t->b));
    agents_sleep_ms(1000);
    assert_int_equal(host_vm_pid(&t->b), 0);
    agents_free(t);
}

static void unknown_names_are_refused(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    struct host *a = &t->a, *b = &t->b;
    host_start_both(a);
    host_start_both(b);
    host_refuses(a, PRIMARY, "[vm nosuch]", "{\"cmd\":\"protect\",\"vm\":\"nosuch\",\"to\":\"b\"}");
    host_refuses(a, PRIMARY, "[vm nosuch]", "{\"cmd\":\"start\",\"vm\":\"nosuch\"}");
    host_refuses(a, PRIMARY, "nosuch", "{\"cmd\":\"unprotect\",\"vm\":\"nosuch\"}");
    host_refuses(a, PRIMARY, "no VM name", "{\"cmd\":\"start\",\"vm\":\"../x\"}");
    host_refuses(a, PRIMARY, "no VM name", "{\"cmd\":\"start\"}");
    host_refuses(a, PRIMARY, "unknown command", "{\"cmd\":\"explode\",\"vm\":\"web\"}");
    host_refuses(a, PRIMARY, "[peer]", "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"nosuch\"}");
    host_refuses(a, PRIMARY, "[peer]", "{\"cmd\":\"protect\",\"vm\":\"web\"}");
    host_refuses(b, SECONDARY, "no replica", "{\"cmd\":\"failover\",\"vm\":\"web\"}");
    host_refuses(b, SECONDARY, "unknown command", "{\"cmd\":\"explode\",\"vm\":\"web\"}");
    agents_free(t);
}

/* A VM whose secondary does not take it: it runs on, and both hosts say why. */
static void turned_away(const struct agents_options *o, const char *primary_says, const char *secondary_logs)
{
    struct agents *t = agents_new(o);
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, PROTECT);
    host_wait_reason(&t->a, PRIMARY, primary_says);
    host_wait_log(&t->a, PRIMARY, primary_says);
    host_wait_log(&t->b, SECONDARY, secondary_logs);
    WAIT_FOR(host_log_count(&t->b, SECONDARY, secondary_logs) >= 3);
    assert_int_equal(host_log_count(&t->a, PRIMARY, primary_says), 1); /* tried again and again, said once */
    assert_true(host_state_is(&t->a, PRIMARY, "CONNECTING"));
    assert_int_equal(host_replica_pid(&t->b), 0);
    host_wait_running(&t->a);
    agents_free(t);
}

static void vm_that_is_not_accepted(void **state)
{
    (void)state;
    turned_away(&(struct agents_options){.vm = "pages = 256\n", .accept = "db-* mail"}, "not in accept",
                "not in accept");
}

static void host_that_is_not_paired(void **state)
{
    (void)state;
    turned_away(&(struct agents_options){.vm = "pages = 256\n", .wrong_at_b = true}, "hikae fingerprint",
                "is no [peer] of this host");
}

static void host_that_is_another_one(void **state)
{
    (void)state;
    turned_away(&(struct agents_options){.vm = "pages = 256\n", .swap_fingerprints = true}, "presented certificate",
                "refused this host's certificate");
}

static void secondary_that_is_not_there(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    host_start_both(&t->a);
    host_order(&t->a, PRIMARY, PROTECT);
    host_wait_reason(&t->a, PRIMARY, "refused");
    assert_true(host_state_is(&t->a, PRIMARY, "CONNECTING"));
    host_wait_running(&t->a);
    agents_sleep_ms(6500); /* by now it is tried less often */
    assert_int_equal(host_log_count(&t->a, PRIMARY, "refused"), 1);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, PROTECT); /* and at once if the admin says so */
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    agents_free(t);
}

static void unknown_backend_setting(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\ncolour = red\n"});
    host_start_both(&t->a);
    host_refuses(&t->a, PRIMARY, "colour", "{\"cmd\":\"start\",\"vm\":\"web\"}");
    assert_int_equal(host_vm_pid(&t->a), 0);
    agents_free(t);
}

/* ---- what keeps an agent from starting ---- */

static void occupied_socket(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    host_start_both(&t->a);
    for (int agent = PRIMARY; agent <= SECONDARY; agent++) {
        assert_int_equal(host_run(&t->a, (enum agent)agent), 1);
        assert_true(host_log_has(&t->a, (enum agent)agent, "another process listens"));
    }
    host_start(&t->b, PRIMARY); /* nothing was taken from those that run */
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    agents_free(t);
}

static void occupied_port(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    t->b.port = t->a.port;
    agents_write_config(t, &(struct agents_options){0});
    host_start(&t->a, SECONDARY);
    assert_int_equal(host_run(&t->b, SECONDARY), 1);
    assert_true(host_log_has(&t->b, SECONDARY, "set port = in [host]"));
    agents_free(t);
}

static void wrong_configuration(void **state)
{
    (void)state;
    static const struct {
        const char *host, *says; /* the lines of [host] that are added begin in line 8 */
    } cases[] = {
        {"colour = red\n", "hikae.conf:8: unknown key 'colour'"},
        {"detect = 5ms\n", "hikae.conf:8: detect = 5ms"},
        {"detect = 1s\ndetect = 2s\n", "hikae.conf:9: detect is given twice"},
        {"[host2]\n", "hikae.conf:8: unknown section [host2]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct agents *t = agents_new(&(struct agents_options){.host = cases[i].host});
        for (int agent = PRIMARY; agent <= SECONDARY; agent++) {
            assert_int_equal(host_run(&t->a, (enum agent)agent), 2);
            if (!host_log_has(&t->a, (enum agent)agent, cases[i].says))
                fail_msg("the log does not say: %s", cases[i].says);
        }
        agents_free(t);
    }
}

static void key_that_is_not_there(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    char key[128];
    snprintf(key, sizeof key, "%s/key.pem", t->a.dir);
    unlink(key);
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, PROTECT);
    host_wait_reason(&t->a, PRIMARY, "hikae init");
    host_wait_running(&t->a);
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(protects_and_says_so, agents_teardown),
        cmocka_unit_test_teardown(waits_for_a_slow_guest, agents_teardown),
        cmocka_unit_test_teardown(second_protect_changes_nothing, agents_teardown),
        cmocka_unit_test_teardown(is_set_at_run_time, agents_teardown),
        cmocka_unit_test_teardown(is_ended_and_begun_again, agents_teardown),
        cmocka_unit_test_teardown(stopped_vm_is_started_nowhere, agents_teardown),
        cmocka_unit_test_teardown(shut_down_is_no_failover, agents_teardown),
        cmocka_unit_test_teardown(unknown_names_are_refused, agents_teardown),
        cmocka_unit_test_teardown(vm_that_is_not_accepted, agents_teardown),
        cmocka_unit_test_teardown(host_that_is_not_paired, agents_teardown),
        cmocka_unit_test_teardown(host_that_is_another_one, agents_teardown),
        cmocka_unit_test_teardown(secondary_that_is_not_there, agents_teardown),
        cmocka_unit_test_teardown(unknown_backend_setting, agents_teardown),
        cmocka_unit_test_teardown(occupied_socket, agents_teardown),
        cmocka_unit_test_teardown(occupied_port, agents_teardown),
        cmocka_unit_test_teardown(wrong_configuration, agents_teardown),
        cmocka_unit_test_teardown(key_that_is_not_there, agents_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
