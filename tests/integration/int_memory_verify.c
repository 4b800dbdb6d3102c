/*
 * int_memory_verify: both agents and `hikae verify-memory`. Pages that the replica does not hold as the VM does, since
 * they were left out (drop_page) or changed there behind Hikae's back, are found, named, explained and repaired; and a
 * guest that writes all the time is no difference.
 */
#include "common/jsonget.h"
#include "tests/integration/agents_command.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { PAGES = 2000 };

#define VM "pages = 2000\nrate = 4000\n"

/* ---- the guest and its replica ---- */

static void wait_for_writes(const struct host *h, uint64_t n)
{
    struct machine *m = host_vm(h);
    uint64_t before = m->step;
    WAIT_FOR(m->step > before + n);
    machine_unmap(m);
}

/* Writes into a file of the host's one machine of that kind. */
static void poke(const struct host *h, bool replica, const char *file, uint64_t at, const void *data, size_t n)
{
    char dirs[8][160], path[200];
    struct machine *all[8];
    assert_int_equal(host_machines(h, replica, all, dirs, 8), 1);
    machine_unmap(all[0]);
    snprintf(path, sizeof path, "%.159s/%s", dirs[0], file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, data, n, (off_t)at), n);
    close(fd);
}

/* The guest writes no more, and the last of it is at the replica. */
static void stop_writing(const struct host *h)
{
    const uint32_t none = 0;
    poke(h, false, "control", offsetof(struct machine, rate), &none, sizeof none);
    agents_sleep_ms(50);
    uint64_t epoch = host_number(h, PRIMARY, "epoch");
    WAIT_FOR(host_number(h, PRIMARY, "epoch") > epoch + 3);
}

static void damage(const struct host *h, uint64_t gfn)
{
    poke(h, true, "ram", gfn * MACHINE_PAGE + 100, "damaged", 7);
}

static struct agents *protect(const char *vm)
{
    struct agents *t = agents_new(&(struct agents_options){.vm = vm});
    agents_protect(t);
    return t;
}

/* ---- tests ---- */

static void no_false_difference(void **state)
{
    (void)state;
    struct agents *t = protect(VM);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(hikae(&t->a, i % 2 ? "verify-memory web --repair" : "verify-memory web"), 0);
        hikae_says("2000 pages of 4096 bytes compared, 0 differ: both hosts' memory is equal");
    }
    wait_for_writes(&t->a, 1000);
    agents_free(t);
}

static void found_named_repaired(void **state)
{
    (void)state;
    struct agents *t = protect(VM);
    wait_for_writes(&t->a, 8 * PAGES); /* each was written and sent */
    stop_writing(&t->a);
    assert_int_equal(hikae(&t->a, "verify-memory web"), 0);
    damage(&t->b, 0x100);
    for (uint64_t gfn = 0x3fe; gfn < 0x403; gfn++)
        damage(&t->b, gfn);
    damage(&t->b, PAGES - 1);
    assert_int_equal(hikae(&t->a, "verify-memory web"), 1);
    hikae_says("2000 pages of 4096 bytes compared, 7 differ; --repair");
    hikae_says("gfn 100: it is what was last sent of it: lost on the way, or changed at the other host\n");
    hikae_says("gfn 3fe to 402: it is what was last sent");
    hikae_says("gfn 7cf: ");
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    assert_int_equal(hikae(&t->a, "verify-memory web --repair"), 1);
    hikae_says("7 differ, 7 were repaired");
    assert_int_equal(hikae(&t->a, "verify-memory web"), 0);

    host_order(&t->b, SECONDARY, "{\"cmd\":\"failover\",\"vm\":\"web\"}");
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(hikae(&t->b, "verify-memory web"), 0); /* from there as well */
    agents_free(t);
}

static void in_json(void **state)
{
    (void)state;
    struct agents *t = protect("pages = 300\nrate = 4000\n");
    wait_for_writes(&t->a, 2400);
    stop_writing(&t->a);
    damage(&t->b, 200);
    assert_int_equal(hikae(&t->a, "--json verify-memory web --repair"), 1);
    struct json_object *j = json_tokener_parse(hikae_said()), *r = json_get_array(j, "ranges");
    assert_non_null(r);
    assert_string_equal(json_get_text(j, "of", ""), "memory");
    assert_string_equal(json_get_text(j, "result", ""), "differs");
    assert_int_equal(json_get_u64(j, "compared", 0), 300);
    assert_int_equal(json_get_u64(j, "differing", 0), 1);
    assert_int_equal(json_get_u64(j, "repaired", 0), 1);
    assert_int_equal(json_get_u64(j, "unrepaired", 9), 0);
    assert_int_equal(json_object_array_length(r), 1);
    struct json_object *one = json_object_array_get_idx(r, 0);
    assert_int_equal(json_get_u64(one, "first", 0), 200);
    assert_int_equal(json_get_u64(one, "count", 0), 1);
    assert_int_equal(json_get_u64(one, "note", 0), 4);
    assert_non_null(strstr(json_get_text(json_get(j, "notes"), "4", ""), "what was last sent"));
    json_object_put(j);
    agents_free(t);
}

/* Pages are left out of the stream: that is what it looks like, and what it is said to be. */
static void left_out(void **state)
{
    (void)state;
    struct agents *t = protect(VM "[fault]\ndrop_page = 10\n");
    wait_for_writes(&t->a, 4 * PAGES);
    stop_writing(&t->a);
    assert_int_equal(hikae(&t->a, "--json verify-memory web"), 1);
    struct json_object *j = json_tokener_parse(hikae_said());
    uint64_t differing = json_get_u64(j, "differing", 0);
    assert_in_range(differing, PAGES / 20, PAGES / 5);
    assert_non_null(strstr(hikae_said(), "it changed since it was last sent, and was not seen to be written to, or not "
                                         "sent"));
    json_object_put(j);
    assert_int_equal(hikae(&t->a, "--json verify-memory web --repair"), 1); /* one in ten is left out there, too */
    j = json_tokener_parse(hikae_said());
    assert_int_equal(json_get_u64(j, "differing", 0), differing);
    uint64_t repaired = json_get_u64(j, "repaired", 0);
    assert_in_range(repaired, differing * 8 / 10, differing - 1);
    assert_int_equal(json_get_u64(j, "unrepaired", 0), differing - repaired);
    json_object_put(j);

    agents_write_config(t, &(struct agents_options){.vm = VM});
    host_order(&t->a, PRIMARY, "{\"cmd\":\"unprotect\",\"vm\":\"web\"}"); /* else b would take it over */
    pid_t worker = host_worker(&t->a, PRIMARY);
    kill(worker, SIGKILL);
    WAIT_FOR(host_worker(&t->a, PRIMARY) && host_worker(&t->a, PRIMARY) != worker);
    host_wait_log(&t->a, PRIMARY, "ended unexpectedly");
    host_wait_state(&t->a, PRIMARY, "UNPROTECTED");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(hikae(&t->a, "verify-memory web"), 0);
    agents_free(t);
}

/* The VM moves while its memory is compared: that ends it, and nothing else. */
static void moved_meanwhile(void **state)
{
    (void)state;
    struct agents *t = protect(VM);
    const struct host *from = &t->a, *to = &t->b;
    for (unsigned i = 0; i < 4; i++) {
        FILE *f = hikae_begin(from, "verify-memory web --repair");
        agents_sleep_ms(10 * i);
        host_order(from, PRIMARY, "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
        assert_int_not_equal(hikae_end(f), 1); /* it may have been quicker */
        host_wait_running(to);
        host_check_memory(to);
        host_wait_state(to, PRIMARY, "PROTECTED");
        const struct host *swap = from;
        from = to;
        to = swap;
        assert_int_equal(hikae(from, "verify-memory web"), 0);
    }
    agents_free(t);
}

static void the_replica_is_lost(void **state)
{
    (void)state;
    struct agents *t = protect(VM);
    kill(host_worker(&t->b, SECONDARY), SIGSTOP);
    FILE *f = hikae_begin(&t->a, "verify-memory web");
    WAIT_FOR(host_log_has(&t->a, PRIMARY, "comparing the memory"));
    host_kill(&t->b);
    assert_int_equal(hikae_end(f), 2);
    hikae_says("its memory was not compared: the protection has ended");
    host_start_both(&t->b);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(hikae(&t->a, "verify-memory web"), 0); /* and again, on another connection */
    agents_free(t);
}

static void refusals(void **state)
{
    (void)state;
    struct agents *t = protect("pages = 24\n");
    assert_int_equal(hikae(&t->a, "verify-memory"), 2);
    assert_int_equal(hikae(&t->a, "verify-memory other"), 2);
    assert_int_equal(hikae(&t->b, "verify-memory web"), 2); /* it does not run there */
    host_order(&t->a, PRIMARY, "{\"cmd\":\"unprotect\",\"vm\":\"web\"}");
    assert_int_equal(hikae(&t->a, "verify-memory web"), 2);
    hikae_says("the VM is not PROTECTED");
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(no_false_difference, agents_teardown),
        cmocka_unit_test_teardown(found_named_repaired, agents_teardown),
        cmocka_unit_test_teardown(in_json, agents_teardown),
        cmocka_unit_test_teardown(left_out, agents_teardown),
        cmocka_unit_test_teardown(moved_meanwhile, agents_teardown),
        cmocka_unit_test_teardown(the_replica_is_lost, agents_teardown),
        cmocka_unit_test_teardown(refusals, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
