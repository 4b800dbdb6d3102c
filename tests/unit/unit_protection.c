/* Unit tests of primary/protection.h: what is pinned row by row, and what must hold on every path through the table. */
#include "primary/protection.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* For each state its events as EVENT>STATE, in the order of the enum; an event that isn't listed means nothing. */
struct expected {
    enum protection_event event;
    enum protection_state next;
    unsigned actions;
};

enum { MAX_ROWS = PROTECTION_EVENTS };
#define TO(event, next, actions)                                                                                       \
    {                                                                                                                  \
        EVENT_##event, PROTECTION_##next, actions                                                                      \
    }
enum {
    ISOLATE = ACTION_CLAIM | ACTION_STOP_SYNC,
    END_QUIET = ACTION_BYE_STOPPED | ACTION_DESTROY,
    END_CRASHED = ACTION_BYE_CRASHED | ACTION_DESTROY,
};

static const struct {
    size_t n;
    struct expected rows[MAX_ROWS];
} expected[PROTECTION_STATES] = {
    [PROTECTION_CLAIMING] = {5,
                             {TO(GRANTED, OPEN, ACTION_OPEN_GATE), TO(REFUSED, LOST, ACTION_DESTROY),
                              TO(NO_ANSWER, CLAIMING, ACTION_CLAIM_LATER), TO(VM_SHUT_DOWN, STOPPING, 0),
                              TO(VM_GONE, ENDED, ACTION_DESTROY)}},
    [PROTECTION_OPEN] = {3,
                         {TO(WANT, CONNECTING, ACTION_CONNECT), TO(VM_SHUT_DOWN, ENDED, ACTION_DESTROY),
                          TO(VM_GONE, ENDED, ACTION_DESTROY)}},
    [PROTECTION_CONNECTING] = {5,
                               {TO(READY, SYNCING, ACTION_SYNC),
                                TO(LINK_DOWN, CONNECTING, ACTION_HANG_UP | ACTION_CONNECT_LATER),
                                TO(UNWANT, OPEN, ACTION_BYE_UNPROTECT), TO(VM_SHUT_DOWN, ENDED, END_QUIET),
                                TO(VM_GONE, ENDED, END_QUIET)}},
    [PROTECTION_SYNCING] = {5,
                            {TO(CHECKPOINTED, SEALED, 0),
                             TO(LINK_DOWN, CONNECTING, ACTION_CONNECT_LATER | ACTION_STOP_SYNC | ACTION_HANG_UP),
                             TO(UNWANT, OPEN, ACTION_STOP_SYNC | ACTION_BYE_UNPROTECT),
                             TO(VM_SHUT_DOWN, ENDED, ACTION_STOP_SYNC | END_QUIET),
                             TO(VM_GONE, ENDED, ACTION_STOP_SYNC | END_QUIET)}},
    [PROTECTION_SEALED] = {7,
                           {TO(ACKED, PROTECTED, 0), TO(HAND_OVER, HANDING, 0),
                            TO(LINK_DOWN, ISOLATED, ISOLATE | ACTION_HANG_UP), TO(UNWANT, ISOLATED, ISOLATE),
                            TO(TAKEN_OVER, DISPUTED, ISOLATE | ACTION_HANG_UP), TO(VM_SHUT_DOWN, STOPPING, ISOLATE),
                            TO(VM_GONE, ENDED, ACTION_STOP_SYNC | END_CRASHED)}},
    [PROTECTION_PROTECTED] = {7,
                              {TO(HAND_OVER, HANDING, 0), TO(LINK_DOWN, ISOLATED, ISOLATE | ACTION_HANG_UP),
                               TO(UNWANT, ISOLATED, ISOLATE), TO(TAKEN_OVER, DISPUTED, ISOLATE | ACTION_HANG_UP),
                               TO(VM_SHUT_DOWN, STOPPING, ISOLATE), TO(VM_GONE, ENDED, ACTION_STOP_SYNC | END_CRASHED),
                               TO(VM_STUCK, ENDED, ACTION_STOP_SYNC | END_CRASHED)}},
    [PROTECTION_HANDING] = {5,
                            {TO(LINK_DOWN, DISPUTED, ISOLATE | ACTION_RESUME | ACTION_HANG_UP),
                             TO(UNWANT, ISOLATED, ISOLATE | ACTION_RESUME),
                             TO(TAKEN_OVER, DISPUTED, ISOLATE | ACTION_HANG_UP), TO(VM_SHUT_DOWN, STOPPING, ISOLATE),
                             TO(VM_GONE, ENDED, ACTION_STOP_SYNC | END_CRASHED)}},
    [PROTECTION_ISOLATED] = {6,
                             {TO(GRANTED, OPEN, ACTION_OPEN_GATE | ACTION_BYE_UNPROTECT),
                              TO(REFUSED, LOST, ACTION_DESTROY), TO(NO_ANSWER, ISOLATED, ACTION_CLAIM_LATER),
                              TO(UNANSWERED, AT_RISK, ACTION_OPEN_GATE | ACTION_BYE_UNPROTECT),
                              TO(VM_SHUT_DOWN, STOPPING, 0), TO(VM_GONE, ENDED, END_CRASHED)}},
    [PROTECTION_DISPUTED] = {5,
                             {TO(GRANTED, OPEN, ACTION_OPEN_GATE), TO(REFUSED, LOST, ACTION_DESTROY),
                              TO(NO_ANSWER, DISPUTED, ACTION_CLAIM_LATER), TO(VM_SHUT_DOWN, STOPPING, 0),
                              TO(VM_GONE, ENDED, ACTION_DESTROY)}},
    [PROTECTION_AT_RISK] = {5,
                            {TO(GRANTED, OPEN, ACTION_OPEN_GATE), TO(REFUSED, LOST, ACTION_DESTROY),
                             TO(NO_ANSWER, AT_RISK, ACTION_CLAIM_LATER), TO(VM_SHUT_DOWN, STOPPING, ACTION_CLOSE_GATE),
                             TO(VM_GONE, ENDED, ACTION_DESTROY)}},
    [PROTECTION_STOPPING] = {3,
                             {TO(GRANTED, ENDED, END_QUIET), TO(REFUSED, LOST, ACTION_DESTROY),
                              TO(NO_ANSWER, STOPPING, ACTION_CLAIM_LATER)}},
    [PROTECTION_LOST] = {0, {{0}}},
    [PROTECTION_ENDED] = {0, {{0}}},
};

static void test_rows(void **state)
{
    (void)state;
    for (unsigned s = 0; s < PROTECTION_STATES; s++) {
        for (unsigned event = 0; event < PROTECTION_EVENTS; event++) {
            struct expected want = {.next = s};
            for (size_t i = 0; i < expected[s].n; i++)
                if (expected[s].rows[i].event == event)
                    want = expected[s].rows[i];
            enum protection_state now = s;
            unsigned actions = protection_step(&now, event);
            if (now != want.next || actions != want.actions)
                fail_msg("%s + %s: %s, actions %x; expected %s, %x", protection_state_name(s),
                         protection_event_name(event), protection_state_name(now), actions,
                         protection_state_name(want.next), want.actions);
        }
    }
}

/* ---- every path ----
 * What the shell and the world are in, as far as the promises are about it, worked out from events and actions alone.
 */

struct world {
    enum protection_state state;
    bool gate_open; /* frames pass at once: what the shell does, not what the state says */
    bool may_start; /* an epoch may have reached a replica that no grant of ours has fenced since: it could start */
    bool claim;     /* a claim or its retry is under way */
    bool sync;      /* dirty tracking on, captures going */
    bool ended;     /* destroyed */
    bool shutting;  /* the guest has shut down or is being stopped */
    bool still;     /* the VM was not resumed after its last checkpoint */
    bool elsewhere; /* the secondary says that the VM runs there */
};

static unsigned world_index(const struct world *w)
{
    return (unsigned)w->state << 8 | (unsigned)w->gate_open | (unsigned)w->may_start << 1 | (unsigned)w->claim << 2 |
           (unsigned)w->sync << 3 | (unsigned)w->ended << 4 | (unsigned)w->shutting << 5 | (unsigned)w->still << 6 |
           (unsigned)w->elsewhere << 7;
}

static bool policy_open; /* the admin has given up promise 3 */

/* Can this happen at all? The shell asks the arbiter only when told to, and captures only while it syncs. */
static bool can_happen(const struct world *w, enum protection_event event)
{
    switch (event) {
    case EVENT_GRANTED:
    case EVENT_REFUSED:
    case EVENT_NO_ANSWER:
        return w->claim;
    case EVENT_UNANSWERED:
        return w->claim && policy_open;
    case EVENT_CHECKPOINTED:
    case EVENT_HAND_OVER:
        return w->sync;
    default:
        return true;
    }
}

static struct world step(const struct world *before, enum protection_event event, unsigned *actions)
{
    struct world w = *before;
    *actions = protection_step(&w.state, event);
    if (event == EVENT_GRANTED) {
        w.claim = false;
        w.may_start = false;
    }
    if (event == EVENT_REFUSED || event == EVENT_NO_ANSWER)
        w.claim = false;
    if (event == EVENT_VM_SHUT_DOWN)
        w.shutting = true;
    if (event == EVENT_CHECKPOINTED) {
        w.gate_open = false; /* capture holds the output while the guest is paused */
        w.may_start = true;
    }
    if (w.state == PROTECTION_HANDING)
        w.still = true;
    if (event == EVENT_TAKEN_OVER && w.state != before->state)
        w.elsewhere = true;
    if (*actions & (ACTION_RESUME | ACTION_OPEN_GATE | ACTION_DESTROY)) /* open_gate resumes */
        w.still = w.elsewhere = false;
    if (*actions & (ACTION_CLAIM | ACTION_CLAIM_LATER))
        w.claim = true;
    if (*actions & ACTION_SYNC)
        w.sync = true;
    if (*actions & ACTION_STOP_SYNC)
        w.sync = false;
    if (*actions & ACTION_OPEN_GATE)
        w.gate_open = true;
    if (*actions & ACTION_CLOSE_GATE)
        w.gate_open = false;
    if (*actions & ACTION_DESTROY) {
        w.gate_open = false;
        w.sync = false;
        w.ended = true;
    }
    return w;
}

static const char *edge(const struct world *a, enum protection_event event, const struct world *b)
{
    static char text[200];
    snprintf(text, sizeof text, "%s (claim %d) + %s -> %s", protection_state_name(a->state), a->claim,
             protection_event_name(event), protection_state_name(b->state));
    return text;
}

static void check_gate(const struct world *a, enum protection_event event, const struct world *b, unsigned actions)
{
    bool was_closed = protection_gate_is_closed(a->state), is_closed = protection_gate_is_closed(b->state);
    bool allowed = event == EVENT_GRANTED || (event == EVENT_UNANSWERED && a->state == PROTECTION_ISOLATED);
    if ((actions & ACTION_OPEN_GATE || (was_closed && !is_closed)) && !allowed)
        fail_msg("the gate opens without a grant: %s", edge(a, event, b));
    if (was_closed && !is_closed && !(actions & ACTION_OPEN_GATE))
        fail_msg("the state says open, the shell was not told: %s", edge(a, event, b));
    if (b->gate_open && b->may_start && b->state != PROTECTION_AT_RISK)
        fail_msg("output is free though a replica could start: %s", edge(a, event, b));
    if (b->gate_open == is_closed && !b->ended)
        fail_msg("the gate is %s, the state says otherwise: %s", b->gate_open ? "open" : "closed", edge(a, event, b));
    if (actions & ACTION_OPEN_GATE && b->ended)
        fail_msg("opened and destroyed: %s", edge(a, event, b));
}

/* Holds for each step from any world that can be reached. */
static void check_edge(const struct world *a, enum protection_event event, const struct world *b, unsigned actions)
{
    check_gate(a, event, b, actions);
    bool guarded = a->state == PROTECTION_SEALED || a->state == PROTECTION_PROTECTED || a->state == PROTECTION_HANDING;
    if (guarded && b->state != a->state && event != EVENT_GRANTED && !protection_gate_is_closed(b->state))
        fail_msg("leaves protection with its output free: %s", edge(a, event, b));
    if (b->ended != (b->state == PROTECTION_LOST || b->state == PROTECTION_ENDED))
        fail_msg("destroyed or not, the state disagrees: %s", edge(a, event, b));
    if (b->state == PROTECTION_LOST && event != EVENT_REFUSED)
        fail_msg("given up though the arbiter did not say that it runs elsewhere: %s", edge(a, event, b));
    bool syncs = b->state == PROTECTION_SYNCING || b->state == PROTECTION_SEALED || b->state == PROTECTION_PROTECTED ||
                 b->state == PROTECTION_HANDING;
    if (b->sync != syncs && !b->ended)
        fail_msg("dirty tracking is %s: %s", b->sync ? "on" : "off", edge(a, event, b));
    bool waits = b->state == PROTECTION_CLAIMING || b->state == PROTECTION_ISOLATED ||
                 b->state == PROTECTION_DISPUTED || b->state == PROTECTION_AT_RISK || b->state == PROTECTION_STOPPING;
    if (b->claim != waits && !b->ended)
        fail_msg("%s: %s", b->claim ? "a claim that nobody waits for" : "waits for a claim that nobody made",
                 edge(a, event, b));
    /* a replica that could start is told of the end by no BYE but CRASHED, unless a grant has fenced it */
    if (actions & (ACTION_BYE_STOPPED | ACTION_BYE_UNPROTECT) && b->may_start && event != EVENT_UNANSWERED)
        fail_msg("the replica is dropped before it is fenced: %s", edge(a, event, b));
    /* promise 4: it stands still only while it is handed over, or when it runs elsewhere or is being ended */
    if (b->still && b->state != PROTECTION_HANDING && !b->elsewhere && !b->shutting)
        fail_msg("the VM is left standing still: %s", edge(a, event, b));
    if (b->shutting && b->gate_open)
        fail_msg("a guest that shut down goes on: %s", edge(a, event, b));
}

enum { WORLDS = PROTECTION_STATES << 8 };
static struct world worlds[WORLDS];
static bool seen[WORLDS];
static size_t found;

static void visit(const struct world *w)
{
    unsigned i = world_index(w);
    if (seen[i])
        return;
    seen[i] = true;
    worlds[found++] = *w;
}

static void explore(void)
{
    memset(seen, 0, sizeof seen);
    found = 0;
    /* A worker that adopts a VM does not know whether a replica could start: the worst is taken. */
    struct world start = {.state = PROTECTION_CLAIMING, .claim = true, .may_start = true};
    visit(&start);
    for (size_t i = 0; i < found; i++) {
        for (unsigned event = 0; event < PROTECTION_EVENTS; event++) {
            struct world a = worlds[i];
            if (a.ended || !can_happen(&a, event))
                continue;
            unsigned actions;
            struct world b = step(&a, event, &actions);
            check_edge(&a, event, &b, actions);
            visit(&b);
        }
    }
}

static void every_path(void)
{
    explore();
    bool reached[PROTECTION_STATES] = {false};
    for (size_t i = 0; i < found; i++)
        reached[worlds[i].state] = true;
    for (unsigned s = 0; s < PROTECTION_STATES; s++)
        if (reached[s] == (s == PROTECTION_AT_RISK && !policy_open))
            fail_msg("%s is %s reached", protection_state_name(s), reached[s] ? "" : "never");
    assert_true(found >= PROTECTION_STATES - 1);
}

static void test_every_path(void **state)
{
    (void)state;
    every_path();
}

/* The same with `isolated = open`: what is given up is given up in AT_RISK alone. */
static void test_every_path_policy_open(void **state)
{
    (void)state;
    policy_open = true;
    every_path();
    policy_open = false;
}

/* Never stuck: from wherever it may get, a VM that the arbiter grants us runs with its output free, or has ended. */
static void test_never_stuck(void **state)
{
    (void)state;
    policy_open = true; /* all that can be reached */
    explore();
    policy_open = false;
    for (size_t i = 0; i < found; i++) {
        struct world w = worlds[i];
        static const enum protection_event worst[] = {EVENT_LINK_DOWN, EVENT_NO_ANSWER, EVENT_NO_ANSWER, EVENT_GRANTED};
        for (size_t k = 0; k < sizeof worst / sizeof *worst; k++) {
            unsigned actions;
            if (!w.ended && can_happen(&w, worst[k]))
                w = step(&w, worst[k], &actions);
        }
        if (!w.ended && !w.gate_open)
            fail_msg("from %s: stays %s", protection_state_name(worlds[i].state), protection_state_name(w.state));
    }
}

/* A claim has three answers, and each is dealt with wherever one can be pending. */
static void test_pending_claim(void **state)
{
    (void)state;
    policy_open = true;
    explore();
    policy_open = false;
    unsigned pending = 0;
    for (size_t i = 0; i < found; i++) {
        if (!worlds[i].claim || worlds[i].ended)
            continue;
        pending++;
        unsigned actions;
        struct world granted = step(&worlds[i], EVENT_GRANTED, &actions);
        assert_true(granted.state == PROTECTION_OPEN || granted.state == PROTECTION_ENDED);
        struct world refused = step(&worlds[i], EVENT_REFUSED, &actions);
        assert_int_equal(refused.state, PROTECTION_LOST);
        assert_int_equal(actions, ACTION_DESTROY);
        struct world silent = step(&worlds[i], EVENT_NO_ANSWER, &actions);
        assert_int_equal(silent.state, worlds[i].state);
        assert_int_equal(actions, ACTION_CLAIM_LATER);
    }
    assert_true(pending >= 5); /* CLAIMING, ISOLATED, DISPUTED, AT_RISK, STOPPING */
}

static void test_end_is_the_end(void **state)
{
    (void)state;
    for (unsigned event = 0; event < PROTECTION_EVENTS; event++) {
        enum protection_state lost = PROTECTION_LOST, ended = PROTECTION_ENDED;
        assert_int_equal(protection_step(&lost, event), 0);
        assert_int_equal(lost, PROTECTION_LOST);
        assert_int_equal(protection_step(&ended, event), 0);
        assert_int_equal(ended, PROTECTION_ENDED);
    }
}

static void test_names(void **state)
{
    (void)state;
    for (unsigned s = 0; s < PROTECTION_STATES; s++)
        assert_string_not_equal(protection_state_name(s), "?");
    for (unsigned event = 0; event < PROTECTION_EVENTS; event++)
        assert_string_not_equal(protection_event_name(event), "?");
    /* promise 5: what is no protection must not be called so */
    for (unsigned s = 0; s < PROTECTION_STATES; s++)
        assert_int_equal(!strcmp(protection_state_name(s), "PROTECTED"), s == PROTECTION_PROTECTED);
    assert_string_equal(protection_state_name(PROTECTION_STATES), "?");
    assert_string_equal(protection_event_name(PROTECTION_EVENTS), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_path_policy_open),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_every_path),
        cmocka_unit_test(test_never_stuck),
        cmocka_unit_test(test_pending_claim),
        cmocka_unit_test(test_end_is_the_end),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
