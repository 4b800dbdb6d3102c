/*
 * int_failover: what dies and what stands still, and that exactly one VM goes on: with the memory of a whole epoch (the
 * guest checks it) and with output that never goes back (an observer on the bridge checks it).
 */
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { ROLE_CHANGES = 5, CONTROL_MS = 1500 };

#define WITH_FRAMES "pages = 512\nrate = 4000\nframes = 2\nbridge = br0\n"

static uint64_t seed = 1;

static unsigned chance(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % below);
}

static void order_protect(const struct host *from, const struct host *to)
{
    host_order(from, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"%s\"}", to->name);
    host_wait_state(from, PRIMARY, "PROTECTED");
}

static bool peer_is(const struct host *h, const char *name)
{
    struct json_object *j = host_status(h, PRIMARY);
    bool is = j && !strcmp(json_get_text(j, "peer", ""), name) && !strcmp(json_get_text(j, "state", ""), "PROTECTED");
    json_object_put(j);
    return is;
}

static bool comes_from(const struct host *to, const struct host *from)
{
    char text[64];
    struct json_object *j = host_status(to, PRIMARY);
    snprintf(text, sizeof text, "taken over from %s", from->name);
    bool says_so = j && !strcmp(json_get_text(j, "origin", ""), text) &&
                   !strstr(json_get_text(j, "reason", ""), "taken over"); /* that is no reason of what it is now */
    json_object_put(j);
    return says_so;
}

static void wait_frames(struct observer *o)
{
    uint64_t before = observer_read(o).frames;
    WAIT_FOR(observer_read(o).frames > before + 20);
    assert_int_equal(observer_read(o).backwards, 0);
}

/* ---- the host dies ---- */

static void host_is_lost(struct host *from, struct host *to, struct observer *o)
{
    agents_sleep_ms(chance(400));
    host_kill(from);
    WAIT_FOR(comes_from(to, from));
    host_wait_running(to);
    host_check_memory(to);
    wait_frames(o);
}

static void roles_change_and_back(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = observer_new();
    struct host *from = &t->a, *to = &t->b;
    agents_protect(t);
    for (int i = 0; i < ROLE_CHANGES; i++) {
        wait_frames(o);
        host_is_lost(from, to, o);
        host_start_both(from);
        order_protect(to, from);
        assert_int_equal(agents_running(t), 1);
        struct host *other = from;
        from = to;
        to = other;
    }
    assert_int_equal(observer_read(o).changes, ROLE_CHANGES);
    observer_free(o);
    agents_free(t);
}

/* It does not start what is not its own any more, and takes the replica. */
static void old_primary_comes_back(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    host_kill(&t->a);
    host_wait_running(&t->b);
    host_start(&t->a, PRIMARY);
    host_wait_state(&t->a, PRIMARY, "LOST");
    host_wait_reason(&t->a, PRIMARY, "belongs to b");
    host_refuses(&t->a, PRIMARY, "belongs to b", "{\"cmd\":\"start\",\"vm\":\"web\"}");
    assert_int_equal(host_vm_pid(&t->a), 0);
    host_start(&t->a, SECONDARY);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(host_vm_pid(&t->a), 0);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

/* Nobody orders anything: the VM is protected again as soon as its old host is back. */
static void is_protected_again_by_itself(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    struct host *from = &t->a, *to = &t->b;
    agents_protect(t);
    for (int i = 0; i < 3; i++) {
        host_kill(from);
        host_wait_running(to);
        WAIT_FOR(comes_from(to, from));
        host_start_both(from);
        host_wait_state(to, PRIMARY, "PROTECTED");
        host_check_memory(to);
        assert_int_equal(agents_running(t), 1);
        struct host *other = from;
        from = to;
        to = other;
    }
    host_order(from, PRIMARY, "{\"cmd\":\"unprotect\",\"vm\":\"web\"}");
    host_wait_state(from, PRIMARY, "UNPROTECTED"); /* as the admin says: it stays so */
    agents_sleep_ms(CONTROL_MS);
    assert_true(host_state_is(from, PRIMARY, "UNPROTECTED"));
    agents_free(t);
}

/* a, b, c: whoever is there holds the replica, in turns, and the list of spares goes with the VM. */
static void spare_takes_the_place(void **state)
{
    (void)state;
    struct agents *t =
        agents_new(&(struct agents_options){.vm = "pages = 256\n", .host = "detect = 2s\nspare_after = 1s\n"});
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_start_both(&t->c);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\",\"spares\":[\"c\"]}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_kill(&t->b); /* the secondary is gone: the spare comes in */
    WAIT_FOR(peer_is(&t->a, "c"));
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_kill(&t->a); /* and takes over; its old host stays away, the other one comes back */
    host_wait_running(&t->c);
    host_start_both(&t->b);
    WAIT_FOR(peer_is(&t->c, "b"));
    host_wait_state(&t->c, PRIMARY, "PROTECTED");
    host_check_memory(&t->c);
    assert_int_equal(host_vm_pid(&t->b), 0);
    agents_free(t);
}

static void admin_wants_it_elsewhere(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = observer_new();
    agents_protect(t);
    wait_frames(o);
    host_order(&t->b, SECONDARY, "{\"cmd\":\"failover\",\"vm\":\"web\"}");
    host_wait_running(&t->b);
    WAIT_FOR(host_log_has(&t->a, PRIMARY, "-> LOST"));
    WAIT_FOR(!host_vm_pid(&t->a));
    host_check_memory(&t->b);
    wait_frames(o);
    assert_int_equal(observer_read(o).changes, 1);
    observer_free(o);
    agents_free(t);
}

/* Without supervisors protection goes on, also the takeover. */
static void supervisors_are_not_needed(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 512\n"});
    agents_protect(t);
    host_kill_supervisor(&t->a, PRIMARY);
    host_kill_supervisor(&t->a, SECONDARY);
    host_kill_supervisor(&t->b, PRIMARY);
    host_kill_supervisor(&t->b, SECONDARY);
    agents_sleep_ms(500);
    host_kill(&t->a);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    host_start_both(&t->b);
    WAIT_FOR(comes_from(&t->b, &t->a));
    host_start_both(&t->a);
    order_protect(&t->b, &t->a);
    agents_free(t);
}

/* Agents that nobody starts again: the VM goes on at the other host, what is left of it on this one has no output. */
static void agents_of_the_primary_are_gone(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = observer_new();
    agents_protect(t);
    wait_frames(o);
    host_kill_agent(&t->a, PRIMARY);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    wait_frames(o);
    host_wait_reason(&t->b, PRIMARY, "has not given up the VM yet"); /* no replica where its former self may live */
    assert_true(host_vm_pid(&t->a));
    host_start(&t->a, PRIMARY);
    WAIT_FOR(!host_vm_pid(&t->a));
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    wait_frames(o);
    assert_int_equal(observer_read(o).changes, 1);
    observer_free(o);
    agents_free(t);
}

/* ---- processes stand still ---- */

static void secondary_stands_still(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = observer_new();
    agents_protect(t);
    uint64_t term = host_number(&t->a, PRIMARY, "term");
    pid_t worker = host_worker(&t->b, SECONDARY), replica = host_replica_pid(&t->b);
    wait_frames(o);
    kill(worker, SIGSTOP);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    assert_int_equal(host_number(&t->a, PRIMARY, "term"), term + 1);
    wait_frames(o);
    kill(worker, SIGCONT);
    WAIT_FOR(!agents_is_alive(worker) && !agents_is_alive(replica));
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(agents_running(t), 1);
    assert_int_equal(host_vm_pid(&t->b), 0);
    wait_frames(o);
    assert_int_equal(observer_read(o).changes, 0);
    observer_free(o);
    agents_free(t);
}

/* Nor does its supervisor end it, as it would one that stands still in a pause: see int_watchdog. */
static void primary_stands_still(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(
        &(struct agents_options){.vm = WITH_FRAMES, .host = "detect = 2s\nworker_bound = 0\npause_bound = 0\n"});
    struct observer *o = observer_new();
    agents_protect(t);
    wait_frames(o);
    pid_t worker = host_worker(&t->a, PRIMARY);
    kill(worker, SIGSTOP);
    host_wait_running(&t->b);
    wait_frames(o);
    assert_int_equal(observer_read(o).changes, 1);
    kill(worker, SIGCONT);
    WAIT_FOR(host_log_has(&t->a, PRIMARY, "-> LOST"));
    WAIT_FOR(!host_vm_pid(&t->a));
    host_check_memory(&t->b);
    wait_frames(o);
    assert_int_equal(observer_read(o).changes, 1); /* no frame of the old one left after the new one's first */
    assert_int_equal(agents_running(t), 1);
    observer_free(o);
    agents_free(t);
}

/* ---- the arbiter is away ---- */

static void move_arbiter(const struct agents *t, bool away)
{
    char here[96], there[96];
    snprintf(here, sizeof here, "%s/arbiter", t->dir);
    snprintf(there, sizeof there, "%s/elsewhere", t->dir);
    assert_int_equal(away ? rename(here, there) : rename(there, here), 0);
}

static void output_waits_for_the_arbiter(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_FRAMES});
    struct observer *o = observer_new();
    agents_protect(t);
    move_arbiter(t, true);
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch + 10);
    assert_true(host_state_is(&t->a, PRIMARY, "PROTECTED"));
    wait_frames(o);
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP);
    host_wait_state(&t->a, PRIMARY, "ISOLATED");
    host_wait_reason(&t->a, PRIMARY, "the arbiter does not answer");
    uint64_t frames = observer_read(o).frames, held = host_number(&t->a, PRIMARY, "held_packets");
    agents_sleep_ms(CONTROL_MS);
    assert_int_equal(observer_read(o).frames, frames);
    assert_true(host_number(&t->a, PRIMARY, "held_packets") > held);
    move_arbiter(t, false);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    wait_frames(o);
    kill(worker, SIGCONT);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(observer_read(o).changes, 0);
    observer_free(o);
    agents_free(t);
}

static void takeover_waits_for_the_arbiter(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    move_arbiter(t, true);
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "CLAIMING");
    host_wait_reason(&t->b, SECONDARY, "arbiter");
    agents_sleep_ms(CONTROL_MS);
    assert_int_equal(agents_running(t), 0); /* loaded, and paused until the arbiter has said whose it is */
    move_arbiter(t, false);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    agents_free(t);
}

/* ---- isolated = open ---- */

#define OPEN_POLICY WITH_FRAMES "isolated = open\nopen_after = 2s\n"

static bool warns_of_risk(const struct host *h)
{
    struct json_object *status = host_status(h, PRIMARY), *all = json_get_array(status, "warnings");
    bool warns = all && json_object_array_length(all) == 1 &&
                 strstr(json_object_get_string(json_object_array_get_idx(all, 0)), "AT RISK");
    json_object_put(status);
    return warns;
}

/* The policy has come with the VM from the host that it failed over from. */
static void policy_open_opens(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = OPEN_POLICY});
    struct observer *o = observer_new();
    agents_protect(t);
    agents_write_config(t, &(struct agents_options){.vm = WITH_FRAMES});
    host_is_lost(&t->a, &t->b, o);
    host_start_both(&t->a);
    order_protect(&t->b, &t->a);
    uint64_t term = host_number(&t->b, PRIMARY, "term");
    move_arbiter(t, true);
    pid_t worker = host_worker(&t->a, SECONDARY);
    kill(worker, SIGSTOP);
    host_wait_state(&t->b, PRIMARY, "ISOLATED");
    uint64_t frames = observer_read(o).frames;
    agents_sleep_ms(500);
    assert_int_equal(observer_read(o).frames, frames);
    host_wait_state(&t->b, PRIMARY, "AT_RISK");
    assert_true(warns_of_risk(&t->b));
    host_wait_log(&t->b, SECONDARY, "AT RISK"); /* its worker was one of the secondary agent */
    wait_frames(o);
    move_arbiter(t, false);
    host_wait_state(&t->b, PRIMARY, "CONNECTING");
    assert_int_equal(host_number(&t->b, PRIMARY, "term"), term + 1);
    assert_false(warns_of_risk(&t->b));
    kill(worker, SIGCONT);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_int_equal(observer_read(o).changes, 1);
    observer_free(o);
    agents_free(t);
}

/* The replica lives and claims as well: whoever the arbiter answers first, the other one ends. */
static void risk_ends_with_the_arbiters_word(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\nisolated = open\nopen_after = 2s\n"});
    agents_protect(t);
    move_arbiter(t, true);
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP);
    host_wait_state(&t->a, PRIMARY, "AT_RISK");
    kill(worker, SIGCONT);
    host_wait_state(&t->b, SECONDARY, "CLAIMING");
    assert_int_equal(agents_running(t), 1);
    /* the arbiter's word is for the replica: it can be asked, the primary stands still */
    pid_t primary = host_worker(&t->a, PRIMARY);
    kill(primary, SIGSTOP);
    move_arbiter(t, false);
    host_wait_running(&t->b);
    kill(primary, SIGCONT);
    host_wait_log(&t->a, PRIMARY, "-> LOST"); /* for a moment: then it holds the replica */
    WAIT_FOR(!host_vm_pid(&t->a));
    assert_int_equal(agents_running(t), 1);
    host_check_memory(&t->b);
    agents_free(t);
}

/* What the admin changes while it runs counts, and a stop at one's own risk is no way to start it elsewhere. */
static void risk_stops(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\nopen_after = 2s\n"});
    agents_protect(t);
    host_refuses(&t->a, PRIMARY, "freeze or open", "{\"cmd\":\"set\",\"vm\":\"web\",\"isolated\":\"yes\"}");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"set\",\"vm\":\"web\",\"isolated\":\"open\"}");
    move_arbiter(t, true);
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP);
    host_wait_state(&t->a, PRIMARY, "AT_RISK");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
    assert_true(host_state_is(&t->a, PRIMARY, "STOPPING"));
    move_arbiter(t, false);
    host_wait_state(&t->a, PRIMARY, "STOPPED");
    kill(worker, SIGCONT);
    WAIT_FOR(!host_replica_pid(&t->b));
    assert_int_equal(agents_running(t), 0);
    agents_free(t);
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(roles_change_and_back),
        ONE(old_primary_comes_back),
        ONE(admin_wants_it_elsewhere),
        ONE(is_protected_again_by_itself),
        ONE(spare_takes_the_place),
        ONE(supervisors_are_not_needed),
        ONE(agents_of_the_primary_are_gone),
        ONE(secondary_stands_still),
        ONE(primary_stands_still),
        ONE(output_waits_for_the_arbiter),
        ONE(takeover_waits_for_the_arbiter),
        ONE(policy_open_opens),
        ONE(risk_ends_with_the_arbiters_word),
        ONE(risk_stops),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
