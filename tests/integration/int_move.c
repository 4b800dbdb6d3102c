/*
 * int_move: planned moves. The VM goes over with its memory and its output in order; whatever fails on the way, it goes
 * on where it was, and is nowhere twice.
 */
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define WITH_FRAMES "pages = 512\nrate = 4000\nframes = 2\nbridge = br0\n"

enum { MOVES = 4 };

static bool result_is(const struct host *h, const char *result)
{
    struct json_object *j = host_status(h, PRIMARY);
    bool is = j && !strcmp(json_get_text(json_get(j, "move"), "result", ""), result);
    json_object_put(j);
    return is;
}

static void check_error(const struct host *h, const char *part)
{
    struct json_object *j = host_status(h, PRIMARY);
    assert_non_null(j);
    const char *error = json_get_text(json_get(j, "move"), "error", "");
    if (!strstr(error, part))
        fail_msg("'%s' says nothing of '%s'", error, part);
    json_object_put(j);
}

static bool has_text(const struct host *h, const char *key, const char *text)
{
    struct json_object *j = host_status(h, PRIMARY);
    bool has = j && !strcmp(json_get_text(j, key, ""), text);
    json_object_put(j);
    return has;
}

/* Each part of the pause has its figure. */
static void check_timeline(const struct host *h)
{
    static const char *const marks[] = {"paused", "captured", "sent", "detected", "loaded", "claimed", "running"};
    struct json_object *j = host_status(h, PRIMARY), *timeline = json_get(j, "timeline");
    double before = 1;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        double at = json_get_double(timeline, marks[i], 0);
        if (at < before)
            fail_msg("%s is not after %s", marks[i], i ? marks[i - 1] : "1970");
        before = at;
    }
    assert_non_null(json_get(timeline, "pages"));
    json_object_put(j);
}

static void wait_frames(struct observer *o)
{
    if (!o)
        return;
    uint64_t before = observer_read(o).frames;
    WAIT_FOR(observer_read(o).frames > before + 20);
    assert_int_equal(observer_read(o).backwards, 0);
}

static void move_arbiter(const struct agents *t, bool away)
{
    char here[96], there[96];
    snprintf(here, sizeof here, "%s/arbiter", t->dir);
    snprintf(there, sizeof there, "%s/elsewhere", t->dir);
    assert_int_equal(away ? rename(here, there) : rename(there, here), 0);
}

static void start_unprotected(struct agents *t)
{
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_wait_running(&t->a);
}

static void roles_change(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = agents_have_sandbox() ? observer_new() : NULL;
    struct host *from = &t->a, *to = &t->b;
    agents_protect(t);
    for (unsigned i = 0; i < MOVES; i++) {
        wait_frames(o);
        host_order(from, PRIMARY, "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
        host_wait_running(to);
        WAIT_FOR(!host_vm_pid(from));
        host_wait_state(to, PRIMARY, "PROTECTED"); /* to its old host, by itself */
        assert_true(has_text(to, "peer", from->name));
        assert_int_equal(agents_running(t), 1);
        host_check_memory(to);
        wait_frames(o);
        struct host *other = from;
        from = to;
        to = other;
    }
    if (o)
        assert_int_equal(observer_read(o).changes, MOVES);
    observer_free(o);
    agents_free(t);
}

static void goes_where_no_replica_was(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = agents_have_sandbox() ? observer_new() : NULL;
    start_unprotected(t);
    wait_frames(o);
    host_refuses(&t->a, PRIMARY, "no replica", "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
    host_refuses(&t->a, PRIMARY, "no such [peer]", "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"nowhere\"}");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_running(&t->b);
    host_wait_state(&t->a, PRIMARY, "MOVED");
    host_wait_reason(&t->a, PRIMARY, "handed over to b");
    assert_int_equal(host_vm_pid(&t->a), 0);
    host_wait_state(&t->b, PRIMARY, "UNPROTECTED"); /* nobody asked for protection */
    assert_true(has_text(&t->b, "peer", ""));
    assert_true(has_text(&t->b, "origin", "handed over by a"));
    check_timeline(&t->b);
    host_check_memory(&t->b);
    wait_frames(o);
    host_order(&t->b, PRIMARY, "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"a\"}");
    host_wait_running(&t->a);
    WAIT_FOR(!host_vm_pid(&t->b));
    host_check_memory(&t->a);
    wait_frames(o);
    if (o)
        assert_int_equal(observer_read(o).changes, 2);
    observer_free(o);
    agents_free(t);
}

static void protected_vm_is_not_migrated(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    host_refuses(&t->a, PRIMARY, "switchover", "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"b\"}");
    host_refuses(&t->a, PRIMARY, "not being moved", "{\"cmd\":\"abort\",\"vm\":\"web\"}");
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    agents_free(t);
}

static void refused_migration_hurts_nobody(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n", .accept = "db"});
    start_unprotected(t);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"b\"}");
    WAIT_FOR(result_is(&t->a, "failed"));
    check_error(&t->a, "accept");
    assert_true(host_state_is(&t->a, PRIMARY, "UNPROTECTED"));
    host_wait_running(&t->a);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

static void is_aborted(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    start_unprotected(t);
    kill(t->b.supervisors[SECONDARY], SIGSTOP); /* the connection is made and not answered */
    host_order(&t->a, PRIMARY, "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"abort\",\"vm\":\"web\"}");
    kill(t->b.supervisors[SECONDARY], SIGCONT);
    host_wait_state(&t->a, PRIMARY, "UNPROTECTED");
    assert_true(result_is(&t->a, "failed"));
    check_error(&t->a, "aborted");
    host_wait_running(&t->a);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"b\"}"); /* and now it may */
    host_wait_running(&t->b);
    WAIT_FOR(!host_vm_pid(&t->a));
    agents_free(t);
}

/* A move is ended by an abort. What comes after that is no migration: a VM that is then protected stays where it is. */
static void nothing_else_ends_a_migration(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    start_unprotected(t);
    kill(t->b.supervisors[SECONDARY], SIGSTOP);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"migrate\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    host_refuses(&t->a, PRIMARY, "abort", "{\"cmd\":\"unprotect\",\"vm\":\"web\"}");
    host_refuses(&t->a, PRIMARY, "abort", "{\"cmd\":\"upgrade\",\"vm\":\"web\"}");
    assert_true(result_is(&t->a, "running"));
    host_order(&t->a, PRIMARY, "{\"cmd\":\"abort\",\"vm\":\"web\"}");
    kill(t->b.supervisors[SECONDARY], SIGCONT);
    host_wait_state(&t->a, PRIMARY, "UNPROTECTED");
    assert_true(result_is(&t->a, "failed"));
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_wait_running(&t->a);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

/* The secondary stands still when it is to take over: the VM goes on here, unhurt. */
static void replica_that_stands_still(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = agents_have_sandbox() ? observer_new() : NULL;
    agents_protect(t);
    wait_frames(o);
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
    WAIT_FOR(result_is(&t->a, "failed"));
    host_wait_running(&t->a);
    host_wait_state(&t->a, PRIMARY, "CONNECTING"); /* granted: before, a replica that wakes up may be faster */
    kill(worker, SIGCONT);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    host_check_memory(&t->a);
    wait_frames(o);
    if (o)
        assert_int_equal(observer_read(o).changes, 0);
    observer_free(o);
    agents_free(t);
}

/* The register cannot change while nobody keeps it. The VM does not stand still for that. */
static void arbiter_that_is_away(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = agents_have_sandbox() ? observer_new() : NULL;
    agents_protect(t);
    wait_frames(o);
    move_arbiter(t, true);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
    host_wait_state(&t->a, PRIMARY, "ISOLATED");
    host_wait_running(&t->a);
    assert_int_equal(agents_running(t), 1); /* the replica is loaded and waits, too */
    move_arbiter(t, false);
    WAIT_FOR(host_state_is(&t->a, PRIMARY, "PROTECTED") || host_state_is(&t->b, PRIMARY, "PROTECTED"));
    assert_int_equal(agents_running(t), 1);
    wait_frames(o);
    observer_free(o);
    agents_free(t);
}

/* SIGKILL to the worker that hands over, when the VM stands still: one of both goes on. */
static void worker_dies_while_it_hands_over(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = agents_have_sandbox() ? observer_new() : NULL;
    agents_protect(t);
    for (int i = 0; i < 5; i++) {
        struct host *from = host_vm_pid(&t->a) ? &t->a : &t->b;
        host_wait_state(from, PRIMARY, "PROTECTED");
        pid_t worker = host_worker(from, PRIMARY);
        host_order(from, PRIMARY, "{\"cmd\":\"switchover\",\"vm\":\"web\"}");
        agents_sleep_ms((unsigned)i * 3);
        kill(worker, SIGKILL);
        WAIT_FOR(host_state_is(&t->a, PRIMARY, "PROTECTED") || host_state_is(&t->b, PRIMARY, "PROTECTED"));
        assert_int_equal(agents_running(t), 1);
        wait_frames(o);
    }
    observer_free(o);
    agents_free(t);
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(roles_change),
        ONE(goes_where_no_replica_was),
        ONE(protected_vm_is_not_migrated),
        ONE(refused_migration_hurts_nobody),
        ONE(is_aborted),
        ONE(nothing_else_ends_a_migration),
        ONE(replica_that_stands_still),
        ONE(arbiter_that_is_away),
        ONE(worker_dies_while_it_hands_over),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
