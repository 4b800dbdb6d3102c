/*
 * int_evil_secondary: a paired host that acts as secondary and acknowledges what it should not, or nothing, to a real
 * primary agent. The guest's held output never leaves for it: with the arbiter away it stays held, and only the
 * arbiter's word lets it go. Also what becomes of a VM whose agents die while the first epoch is on its way, which a
 * secondary that does not acknowledge makes last.
 */
#include "proto/check.h"
#include "tests/integration/evil.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { HONEST_EPOCHS = 5, QUIET_MS = 400, PAGES = 512 };

enum manner {
    WRONG_DIGEST,
    FUTURE_EPOCH,
    EPOCH_ZERO,
    TWICE,
    SKIPPED,
    ACK_UNASKED_RECORD, /* a PAGES record from the secondary */
    ANSWER_UNASKED,     /* CHECKED */
    CHANGED_UNASKED,
    BYE_TROUBLED,
    HANGS_UP,
    FALLS_SILENT,
};

enum bye_at { AT_HELLO, AT_CONFIG, AT_FIRST_PAGES, AT_FIRST_COMMIT };

struct fixture {
    struct agents *agents;
    struct host *a;
    struct evil *e;
    struct observer *o;
    uint64_t honest;                  /* epochs up to this are acknowledged as they should be */
    int bye_at;                       /* enum bye_at; -1: not */
    uint8_t first[PROTO_DIGEST_SIZE]; /* digest of epoch 1 */
    uint8_t next[PROTO_DIGEST_SIZE];  /* of the first that is not acknowledged */
    const char *ready;                /* what READY says; NULL: what it should */
    double beat_at, heard_at;
    bool mute;
    bool lies; /* it answers CHECK, and names a page that the VM does not have */
};

static struct fixture f;

static void greet(struct evil *e)
{
    evil_json(e, RECORD_HELLO,
              "{\"version\":1,\"features\":[\"check\"],\"host\":\"b\",\"vm\":\"web\",\"term\":1,\"agent\":\"evil\"}");
}

static bool says_bye(struct evil *e, const struct record *r)
{
    static const uint16_t at[] = {RECORD_HELLO, RECORD_CONFIG, RECORD_PAGES, RECORD_COMMIT};
    if (f.bye_at < 0 || at[f.bye_at] != r->type)
        return false;
    evil_bye(e, BYE_TROUBLE, "evil has enough");
    return true;
}

static void answer_falsely(struct evil *e, const struct record *r)
{
    uint8_t payload[CHECKED_HEAD_SIZE + CHECK_RUN_SIZE];
    memcpy(payload, r->payload, CHECKED_HEAD_SIZE); /* its number is right */
    check_run_write(payload + CHECKED_HEAD_SIZE, PAGES, 1);
    evil_record(e, RECORD_CHECKED, 0, 0, payload, sizeof payload);
}

static void on_record(struct evil *e, const struct record *r)
{
    f.heard_at = agents_now();
    if (r->type == RECORD_COMMIT && r->epoch == 1)
        memcpy(f.first, r->payload, sizeof f.first);
    if (r->type == RECORD_COMMIT && r->epoch == f.honest + 1)
        memcpy(f.next, r->payload, sizeof f.next);
    if (says_bye(e, r))
        return;
    if (r->type == RECORD_HELLO)
        greet(e);
    else if (r->type == RECORD_CONFIG)
        evil_json(e, RECORD_READY, f.ready ? f.ready : "{\"pages\":512}");
    else if (r->type == RECORD_COMMIT && r->epoch <= f.honest)
        evil_ack(e, r->epoch, e->digest);
    else if (r->type == RECORD_CHECK && f.lies)
        answer_falsely(e, r);
}

/* As evil_serve, with signs of life. */
static void serve(unsigned ms)
{
    for (double until = agents_now() + ms / 1000.; agents_now() < until;) {
        evil_serve(f.e, 5);
        if (f.e->up && f.e->got[RECORD_HELLO] && !f.mute && agents_now() > f.beat_at) {
            evil_heartbeat(f.e);
            f.beat_at = agents_now() + 0.05;
        }
    }
}

#define SERVE_UNTIL(condition)                                                                                         \
    for (double until_ = agents_now() + AGENTS_PATIENCE_S; !(condition);) {                                            \
        if (agents_now() > until_)                                                                                     \
            fail_msg("waited in vain for: %s", #condition);                                                            \
        serve(5);                                                                                                      \
    }

static void set_up_with(const char *host, uint64_t honest, int bye_at)
{
    f = (struct fixture){.honest = honest, .bye_at = bye_at};
    f.agents = agents_new(
        &(struct agents_options){.host = host, .vm = "pages = 512\nrate = 1000\nframes = 2\nbridge = br0\n"});
    f.a = &f.agents->a;
    f.o = observer_new();
    f.e = evil_new(&f.agents->b);
    f.e->on_record = on_record;
    evil_listen(f.e, &f.agents->b);
    host_start_both(f.a);
    host_order(f.a, PRIMARY, "{\"cmd\":\"start\",\"vm\":\"web\"}");
    host_order(f.a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
}

static void set_up(uint64_t honest, int bye_at)
{
    set_up_with("detect = 1s\n", honest, bye_at);
}

static void tear_down(void)
{
    assert_int_equal(observer_read(f.o).backwards, 0);
    observer_free(f.o);
    evil_free(f.e);
    agents_free(f.agents);
}

static void move_arbiter(bool away)
{
    char here[96], there[96];
    snprintf(here, sizeof here, "%s/arbiter", f.agents->dir);
    snprintf(there, sizeof there, "%s/elsewhere", f.agents->dir);
    assert_int_equal(away ? rename(here, there) : rename(there, here), 0);
}

static void frames_flow(void)
{
    uint64_t before = observer_read(f.o).frames;
    SERVE_UNTIL(observer_read(f.o).frames > before + 20);
}

static void frames_stand_still(unsigned ms)
{
    uint64_t before = observer_read(f.o).frames;
    serve(ms);
    assert_int_equal(observer_read(f.o).frames, before);
}

static void misbehave(enum manner manner)
{
    struct evil *e = f.e;
    uint8_t wrong[PROTO_DIGEST_SIZE];
    memcpy(wrong, e->digest, sizeof wrong);
    switch (manner) {
    case WRONG_DIGEST:
        wrong[7] ^= 0x10;
        evil_ack(e, f.honest + 1, wrong);
        break;
    case FUTURE_EPOCH:
        evil_ack(e, e->committed + 10, e->digest);
        break;
    case EPOCH_ZERO:
        evil_ack(e, 0, e->digest);
        break;
    case TWICE:
        evil_ack(e, f.honest, wrong);
        break;
    case SKIPPED:
        evil_ack(e, f.honest + 2, e->digest);
        break;
    case ACK_UNASKED_RECORD:
        evil_record(e, RECORD_PAGES, 0, f.honest + 1, NULL, 0);
        break;
    case ANSWER_UNASKED:
        evil_record(e, RECORD_CHECKED, 0, 0, "\1\0\0\0\0\0\0", 8);
        break;
    case CHANGED_UNASKED:
        evil_record(e, RECORD_CHANGED, 0, 0, "\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0", 16);
        break;
    case BYE_TROUBLED:
        evil_bye(e, BYE_TROUBLE, "evil has enough");
        break;
    case HANGS_UP:
        evil_hang_up(e);
        break;
    case FALLS_SILENT:
        f.mute = true;
        break;
    }
}

static void output_is_not_let_go(void **state)
{
    if (!agents_have_sandbox())
        skip();
    set_up(HONEST_EPOCHS, -1);
    SERVE_UNTIL(f.e->committed > HONEST_EPOCHS);
    assert_true(host_state_is(f.a, PRIMARY, "PROTECTED"));
    uint64_t term = host_number(f.a, PRIMARY, "term");
    move_arbiter(true);
    serve(100); /* what was acknowledged is on its way out */
    frames_stand_still(100);
    misbehave(*(const enum manner *)*state);
    uint64_t before = observer_read(f.o).frames;
    SERVE_UNTIL(host_state_is(f.a, PRIMARY, "ISOLATED"));
    frames_stand_still(QUIET_MS);
    assert_int_equal(observer_read(f.o).frames, before);
    host_wait_running(f.a); /* the guest itself goes on */
    f.honest = 0;
    f.bye_at = AT_HELLO;
    move_arbiter(false);
    SERVE_UNTIL(host_state_is(f.a, PRIMARY, "CONNECTING"));
    assert_int_equal(host_number(f.a, PRIMARY, "term"), term + 1);
    frames_flow();
    tear_down();
}

/* Before the first epoch was captured nothing is held and nothing has to be claimed. */
static void bye_is_said(void **state)
{
    if (!agents_have_sandbox())
        skip();
    enum bye_at at = *(const enum bye_at *)*state;
    set_up(0, (int)at);
    frames_flow();
    SERVE_UNTIL(host_log_has(f.a, PRIMARY, "evil has enough"));
    frames_flow();
    SERVE_UNTIL(host_state_is(f.a, PRIMARY, "CONNECTING"));
    if (at != AT_FIRST_COMMIT && at != AT_FIRST_PAGES)
        assert_int_equal(host_number(f.a, PRIMARY, "term"), 1);
    host_wait_running(f.a);
    tear_down();
}

/* Blocks that it need not be sent, of a generation that this host did not name. */
static void another_generation(void **state)
{
    (void)state;
    set_up(0, -1);
    f.ready = "{\"pages\":512,\"disks\":true,\"changed\":true}";
    SERVE_UNTIL(host_log_has(f.a, PRIMARY, "of a generation that was not asked for"));
    host_wait_running(f.a);
    tear_down();
}

static void silence_after_ready(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    set_up(0, -1);
    f.mute = true;
    SERVE_UNTIL(f.e->committed >= 1);
    SERVE_UNTIL(host_number(f.a, PRIMARY, "term") == 2); /* alone, by the arbiter's word */
    frames_flow();
    tear_down();
}

/* A secondary that lives and does nothing. */
static void heartbeats_without_acks(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    set_up(0, -1);
    SERVE_UNTIL(f.e->committed >= 1);
    f.bye_at = AT_HELLO;
    SERVE_UNTIL(host_number(f.a, PRIMARY, "term") == 2);
    frames_flow();
    tear_down();
}

/* The worker stands still for longer than the detection time, and an ack comes meanwhile: whoever said it may have
 * taken the VM over since. */
static void an_ack_that_waited_too_long(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    set_up(HONEST_EPOCHS, -1);
    SERVE_UNTIL(f.e->committed > HONEST_EPOCHS);
    move_arbiter(true);
    serve(100);
    frames_stand_still(100);
    uint64_t before = observer_read(f.o).frames;
    pid_t worker = host_worker(f.a, PRIMARY);
    assert_int_equal(kill(worker, SIGSTOP), 0);
    evil_ack(f.e, f.honest + 1, f.next);
    f.mute = true;
    serve(1500);
    assert_int_equal(kill(worker, SIGCONT), 0);
    SERVE_UNTIL(host_state_is(f.a, PRIMARY, "ISOLATED"));
    frames_stand_still(QUIET_MS);
    assert_int_equal(observer_read(f.o).frames, before);
    f.honest = 0;
    f.bye_at = AT_HELLO;
    move_arbiter(false);
    frames_flow();
    tear_down();
}

/* Stops the worker when it has said nothing for most of the time between two heartbeats; when it last did. */
static double stop_before_its_heartbeat(pid_t worker, unsigned quiet_ms)
{
    for (double until = agents_now() + AGENTS_PATIENCE_S; agents_now() < until;) {
        double before = f.heard_at;
        SERVE_UNTIL(f.heard_at > before);
        before = f.heard_at;
        serve(quiet_ms);
        assert_int_equal(kill(worker, SIGSTOP), 0);
        serve(50);
        if (f.heard_at <= before)
            return before;
        assert_int_equal(kill(worker, SIGCONT), 0);
    }
    fail_msg("the primary sends all the time");
    return 0;
}

/* The worker has heard us in time when it goes on, but we have not heard it: we may have taken the VM over. */
static void an_ack_to_one_that_was_silent(void **state)
{
    (void)state;
    enum { DETECT_MS = 3000, BEAT_MS = DETECT_MS / 5 };
    if (!agents_have_sandbox())
        skip();
    set_up_with("detect = 3s\n", HONEST_EPOCHS, -1);
    SERVE_UNTIL(f.e->committed > HONEST_EPOCHS + 1); /* no more are in flight: it sends heartbeats only */
    move_arbiter(true);
    serve(100);
    frames_stand_still(100);
    uint64_t before = observer_read(f.o).frames;
    pid_t worker = host_worker(f.a, PRIMARY);
    double heard = stop_before_its_heartbeat(worker, BEAT_MS * 3 / 4);
    f.mute = true;
    evil_ack(f.e, f.honest + 1, f.next);
    SERVE_UNTIL(agents_now() > heard + DETECT_MS / 1000. + 0.1);
    assert_int_equal(kill(worker, SIGCONT), 0);
    SERVE_UNTIL(host_state_is(f.a, PRIMARY, "ISOLATED"));
    frames_stand_still(QUIET_MS);
    assert_int_equal(observer_read(f.o).frames, before);
    f.honest = 0;
    f.bye_at = AT_HELLO;
    move_arbiter(false);
    frames_flow();
    tear_down();
}

/* What it says of a comparison is checked as all else is. */
static void a_check_answered_falsely(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    set_up(UINT64_MAX, -1);
    f.lies = true;
    SERVE_UNTIL(host_state_is(f.a, PRIMARY, "PROTECTED"));
    host_order(f.a, PRIMARY, "{\"cmd\":\"verify-memory\",\"vm\":\"web\"}");
    SERVE_UNTIL(f.e->bye);
    assert_int_equal(f.e->bye, BYE_PROTOCOL);
    assert_non_null(strstr(f.e->bye_text, "CHECKED: a run of 1 from 512"));
    tear_down();
}

/* ---- the first epoch is on its way ---- */

enum victim { WORKER, SUPERVISOR, BOTH, VM };

static void dies_when_sealed(void **state)
{
    enum victim victim = *(const enum victim *)*state;
    if (!agents_have_sandbox())
        skip();
    set_up(0, -1);
    SERVE_UNTIL(f.e->committed >= 1);
    serve(100);
    frames_stand_still(100);
    assert_true(host_state_is(f.a, PRIMARY, "SYNCING"));
    pid_t vm = host_vm_pid(f.a), worker = host_worker(f.a, PRIMARY);
    f.bye_at = AT_HELLO;
    if (victim == WORKER)
        kill(worker, SIGKILL);
    else if (victim == VM)
        kill(vm, SIGKILL);
    else if (victim == SUPERVISOR)
        host_kill_supervisor(f.a, PRIMARY);
    else
        host_kill_agent(f.a, PRIMARY);
    if (victim == SUPERVISOR || victim == BOTH)
        host_start(f.a, PRIMARY);
    if (victim == VM) {
        SERVE_UNTIL(f.e->bye == BYE_VM_CRASHED);
        host_wait_state(f.a, PRIMARY, "STOPPED");
    } else if (victim == SUPERVISOR) {
        SERVE_UNTIL(host_state_is(f.a, PRIMARY, "SYNCING"));
        frames_stand_still(100);
        evil_ack(f.e, 1, f.first);
        SERVE_UNTIL(host_state_is(f.a, PRIMARY, "PROTECTED"));
    } else {
        SERVE_UNTIL(host_worker(f.a, PRIMARY) && host_worker(f.a, PRIMARY) != worker);
        frames_flow();
        assert_int_equal(host_vm_pid(f.a), vm);
        host_wait_running(f.a);
        host_check_memory(f.a);
    }
    tear_down();
}

#define CASE(test, type, value)                                                                                        \
    {                                                                                                                  \
        .name = #test ": " #value, .test_func = test, .teardown_func = agents_teardown, .initial_state = &(enum type)  \
        {                                                                                                              \
            value                                                                                                      \
        }                                                                                                              \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(output_is_not_let_go, manner, WRONG_DIGEST),
        CASE(output_is_not_let_go, manner, FUTURE_EPOCH),
        CASE(output_is_not_let_go, manner, EPOCH_ZERO),
        CASE(output_is_not_let_go, manner, TWICE),
        CASE(output_is_not_let_go, manner, SKIPPED),
        CASE(output_is_not_let_go, manner, ACK_UNASKED_RECORD),
        CASE(output_is_not_let_go, manner, ANSWER_UNASKED),
        CASE(output_is_not_let_go, manner, CHANGED_UNASKED),
        CASE(output_is_not_let_go, manner, BYE_TROUBLED),
        CASE(output_is_not_let_go, manner, HANGS_UP),
        CASE(output_is_not_let_go, manner, FALLS_SILENT),
        CASE(bye_is_said, bye_at, AT_HELLO),
        CASE(bye_is_said, bye_at, AT_CONFIG),
        CASE(bye_is_said, bye_at, AT_FIRST_PAGES),
        CASE(bye_is_said, bye_at, AT_FIRST_COMMIT),
        cmocka_unit_test_teardown(another_generation, agents_teardown),
        cmocka_unit_test_teardown(silence_after_ready, agents_teardown),
        cmocka_unit_test_teardown(heartbeats_without_acks, agents_teardown),
        cmocka_unit_test_teardown(an_ack_that_waited_too_long, agents_teardown),
        cmocka_unit_test_teardown(an_ack_to_one_that_was_silent, agents_teardown),
        cmocka_unit_test_teardown(a_check_answered_falsely, agents_teardown),
        CASE(dies_when_sealed, victim, WORKER),
        CASE(dies_when_sealed, victim, SUPERVISOR),
        CASE(dies_when_sealed, victim, BOTH),
        CASE(dies_when_sealed, victim, VM),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
