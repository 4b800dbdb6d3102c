/* Unit tests of secondary/standby.h: what is pinned row by row, and what must hold on every path through the table. */
#include "secondary/standby.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct expected {
    enum standby_event event;
    enum standby_state next;
    unsigned actions;
};

#define TO(event, next, actions)                                                                                       \
    {                                                                                                                  \
        STANDBY_EVENT_##event, STANDBY_##next, actions                                                                 \
    }
#define GOES(event)   TO(event, DROPPED, STANDBY_ACT_DROP)
#define CLAIMS(event) TO(event, CLAIMING, STANDBY_ACT_CLAIM)

/* An event that isn't listed means nothing in that state. */
static const struct {
    size_t n;
    struct expected rows[STANDBY_EVENTS];
} expected[STANDBY_STATES] = {
    [STANDBY_GREETING] = {7,
                          {TO(MADE, SYNCING, STANDBY_ACT_SAY_READY), GOES(RESET), GOES(SILENT), GOES(CRASHED),
                           GOES(RELEASED), GOES(YIELD), GOES(TROUBLE)}},
    [STANDBY_SYNCING] = {8,
                         {TO(COMMIT, READY, STANDBY_ACT_APPLY), GOES(RESET), GOES(SILENT), GOES(CRASHED),
                          GOES(RELEASED), GOES(YIELD), GOES(TROUBLE), GOES(DAMAGED)}},
    [STANDBY_READY] = {11,
                       {TO(COMMIT, READY, STANDBY_ACT_APPLY), TO(RESET, GRACE, STANDBY_ACT_WAIT), CLAIMS(SILENT),
                        TO(LOST, ORPHANED, STANDBY_ACT_HANG_UP), CLAIMS(CRASHED), GOES(RELEASED), CLAIMS(FAILOVER),
                        CLAIMS(HANDED), GOES(YIELD), TO(TROUBLE, GRACE, STANDBY_ACT_WAIT), GOES(DAMAGED)}},
    [STANDBY_ORPHANED] = {4, {CLAIMS(FAILOVER), GOES(RELEASED), GOES(YIELD), GOES(DAMAGED)}},
    [STANDBY_GRACE] = {5,
                       {TO(LOST, ORPHANED, STANDBY_ACT_HANG_UP), CLAIMS(GRACE_OVER), CLAIMS(FAILOVER), GOES(YIELD),
                        GOES(DAMAGED)}},
    [STANDBY_CLAIMING] = {3,
                          {TO(GRANTED, STARTING, STANDBY_ACT_START), GOES(REFUSED),
                           TO(NO_ANSWER, CLAIMING, STANDBY_ACT_CLAIM_LATER | STANDBY_ACT_HANG_UP)}},
    [STANDBY_STARTING] = {2, {GOES(DAMAGED), TO(LOADED, OVER, STANDBY_ACT_BECOME_PRIMARY)}},
    [STANDBY_OVER] = {0, {{0}}},
    [STANDBY_DROPPED] = {0, {{0}}},
};

static void test_rows(void **state)
{
    (void)state;
    for (unsigned s = 0; s < STANDBY_STATES; s++) {
        for (unsigned event = 0; event < STANDBY_EVENTS; event++) {
            struct expected want = {.next = s};
            for (size_t i = 0; i < expected[s].n; i++)
                if (expected[s].rows[i].event == event)
                    want = expected[s].rows[i];
            enum standby_state now = s;
            unsigned actions = standby_step(&now, event);
            if (now != want.next || actions != want.actions)
                fail_msg("%s + %s: %s, actions %x; expected %s, %x", standby_state_name(s), standby_event_name(event),
                         standby_state_name(now), actions, standby_state_name(want.next), want.actions);
        }
    }
}

/* ---- every path ----
 * What has happened on the way, from events and actions alone. No event is held to be impossible, but that the arbiter
 * answers only who has asked. */

struct world {
    enum standby_state state;
    bool committed; /* a whole epoch was applied: there is something to start from */
    bool claimed;   /* the arbiter was asked: the claim may have been carried out whatever came back */
    bool pending;   /* no answer yet, or asking again */
    bool granted, started, over, dropped;
};

static unsigned world_index(const struct world *w)
{
    return (unsigned)w->state << 7 | (unsigned)w->committed | (unsigned)w->claimed << 1 | (unsigned)w->pending << 2 |
           (unsigned)w->granted << 3 | (unsigned)w->started << 4 | (unsigned)w->over << 5 | (unsigned)w->dropped << 6;
}

static bool can_happen(const struct world *w, enum standby_event event)
{
    if (event == STANDBY_EVENT_GRANTED || event == STANDBY_EVENT_REFUSED || event == STANDBY_EVENT_NO_ANSWER)
        return w->pending;
    return true;
}

static const char *edge(const struct world *a, enum standby_event event, const struct world *b)
{
    static char text[200];
    snprintf(text, sizeof text, "%s + %s -> %s", standby_state_name(a->state), standby_event_name(event),
             standby_state_name(b->state));
    return text;
}

static struct world step(const struct world *before, enum standby_event event, unsigned *actions)
{
    struct world w = *before;
    *actions = standby_step(&w.state, event);
    bool answer = event == STANDBY_EVENT_GRANTED || event == STANDBY_EVENT_REFUSED || event == STANDBY_EVENT_NO_ANSWER;
    if (answer)
        w.pending = false;
    if (event == STANDBY_EVENT_GRANTED)
        w.granted = true;
    if (*actions & STANDBY_ACT_APPLY)
        w.committed = true;
    if (*actions & (STANDBY_ACT_CLAIM | STANDBY_ACT_CLAIM_LATER))
        w.claimed = w.pending = true;
    if (*actions & STANDBY_ACT_START)
        w.started = true;
    if (*actions & STANDBY_ACT_BECOME_PRIMARY)
        w.over = true;
    if (*actions & STANDBY_ACT_DROP)
        w.dropped = true;
    return w;
}

/* Promise 3 and 2, for one step from any world that can be reached. */
static void check_actions(const struct world *a, enum standby_event event, const struct world *b, unsigned actions)
{
    if (actions & STANDBY_ACT_START && !(event == STANDBY_EVENT_GRANTED && b->committed))
        fail_msg("starts without a grant, or without a whole epoch: %s", edge(a, event, b));
    if (actions & STANDBY_ACT_BECOME_PRIMARY && !(a->started && a->granted && event == STANDBY_EVENT_LOADED))
        fail_msg("runs without having been started by a grant: %s", edge(a, event, b));
    if (actions & STANDBY_ACT_APPLY && (a->claimed || event != STANDBY_EVENT_COMMIT))
        fail_msg("acknowledges after the claim, or without a commit: %s", edge(a, event, b));
    if (actions & STANDBY_ACT_CLAIM && (!a->committed || a->claimed))
        fail_msg("claims without a whole epoch, or twice: %s", edge(a, event, b));
    if (actions & STANDBY_ACT_CLAIM_LATER && !a->claimed)
        fail_msg("asks again without having asked: %s", edge(a, event, b));
    /* From the claim to the answer there is no way back: it may have been carried out. */
    if (a->pending && b->state != a->state && event != STANDBY_EVENT_GRANTED && event != STANDBY_EVENT_REFUSED)
        fail_msg("leaves a claim without its answer: %s", edge(a, event, b));
}

static void check_edge(const struct world *a, enum standby_event event, const struct world *b, unsigned actions)
{
    check_actions(a, event, b, actions);
    if (b->pending != (b->state == STANDBY_CLAIMING))
        fail_msg("a claim is%s pending: %s", b->pending ? "" : " not", edge(a, event, b));
    if (b->over != (b->state == STANDBY_OVER) || b->dropped != (b->state == STANDBY_DROPPED))
        fail_msg("the end and the state disagree: %s", edge(a, event, b));
    if ((a->over || a->dropped) && (actions || b->state != a->state))
        fail_msg("there is no way back: %s", edge(a, event, b));
    if (b->state == STANDBY_READY && !b->committed)
        fail_msg("can take over without a whole epoch: %s", edge(a, event, b));
    if (b->state == STANDBY_GRACE && b->claimed)
        fail_msg("waits for a primary after the claim: %s", edge(a, event, b));
    /* A replica that the arbiter has granted is dropped for no other reason than that it can't run. */
    if (a->granted && actions & STANDBY_ACT_DROP && event != STANDBY_EVENT_DAMAGED)
        fail_msg("the only VM is dropped: %s", edge(a, event, b));
}

enum { WORLDS = STANDBY_STATES << 7 };
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
    struct world start = {.state = STANDBY_GREETING};
    visit(&start);
    for (size_t i = 0; i < found; i++) {
        for (unsigned event = 0; event < STANDBY_EVENTS; event++) {
            struct world a = worlds[i];
            if (!can_happen(&a, event))
                continue;
            unsigned actions;
            struct world b = step(&a, event, &actions);
            check_edge(&a, event, &b, actions);
            visit(&b);
        }
    }
}

static void test_every_path(void **state)
{
    (void)state;
    explore();
    bool reached[STANDBY_STATES] = {false};
    for (size_t i = 0; i < found; i++)
        reached[worlds[i].state] = true;
    for (unsigned s = 0; s < STANDBY_STATES; s++)
        if (!reached[s])
            fail_msg("%s is never reached", standby_state_name(s));
}

/* Never none: a replica that holds a whole epoch and loses its primary claims the VM, and runs when it is granted. */
static void test_takes_over(void **state)
{
    (void)state;
    static const enum standby_event losses[] = {STANDBY_EVENT_RESET, STANDBY_EVENT_SILENT, STANDBY_EVENT_CRASHED,
                                                STANDBY_EVENT_FAILOVER, STANDBY_EVENT_TROUBLE};
    explore();
    unsigned tried = 0;
    for (size_t i = 0; i < found; i++) {
        if (worlds[i].state != STANDBY_READY)
            continue;
        for (size_t k = 0; k < sizeof losses / sizeof *losses; k++, tried++) {
            enum standby_state s = STANDBY_READY;
            standby_step(&s, losses[k]);
            standby_step(&s, STANDBY_EVENT_GRACE_OVER); /* means nothing where no grace is given */
            assert_int_equal(s, STANDBY_CLAIMING);
            for (int again = 0; again < 3; again++)
                assert_int_equal(standby_step(&s, STANDBY_EVENT_NO_ANSWER),
                                 STANDBY_ACT_CLAIM_LATER | STANDBY_ACT_HANG_UP);
            assert_int_equal(standby_step(&s, STANDBY_EVENT_GRANTED), STANDBY_ACT_START);
            assert_int_equal(standby_step(&s, STANDBY_EVENT_LOADED), STANDBY_ACT_BECOME_PRIMARY);
            assert_int_equal(s, STANDBY_OVER);
        }
    }
    assert_true(tried > 0);
}

/* Without an arbiter nothing but the admin's order leads to a claim. */
static void test_orphan_waits_for_the_admin(void **state)
{
    (void)state;
    static const enum standby_state before[] = {STANDBY_READY, STANDBY_GRACE};
    for (size_t i = 0; i < 2; i++) {
        enum standby_state s = before[i];
        assert_int_equal(standby_step(&s, STANDBY_EVENT_LOST), STANDBY_ACT_HANG_UP);
        assert_int_equal(s, STANDBY_ORPHANED);
        for (unsigned event = 0; event < STANDBY_EVENTS; event++) {
            enum standby_state next = STANDBY_ORPHANED;
            unsigned actions = standby_step(&next, event);
            assert_int_equal((actions & STANDBY_ACT_CLAIM) != 0, event == STANDBY_EVENT_FAILOVER);
            assert_false(actions & (STANDBY_ACT_START | STANDBY_ACT_BECOME_PRIMARY | STANDBY_ACT_APPLY));
        }
    }
}

/* Any order of ten events, none held back: after a claim nothing is acknowledged, nothing started without GRANTED. */
static void test_any_order(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (unsigned run = 0; run < 200000; run++) {
        enum standby_state s = STANDBY_GREETING;
        bool committed = false, claimed = false;
        for (unsigned i = 0; i < 10; i++) {
            seed = seed * 1664525 + 1013904223;
            enum standby_event event = (enum standby_event)((seed >> 16) % STANDBY_EVENTS);
            unsigned actions = standby_step(&s, event);
            assert_false(actions & STANDBY_ACT_APPLY && claimed);
            assert_false(actions & STANDBY_ACT_START && !(committed && claimed && event == STANDBY_EVENT_GRANTED));
            committed |= (actions & STANDBY_ACT_APPLY) != 0;
            claimed |= (actions & STANDBY_ACT_CLAIM) != 0;
        }
    }
}

static void test_names(void **state)
{
    (void)state;
    for (unsigned s = 0; s < STANDBY_STATES; s++)
        assert_string_not_equal(standby_state_name(s), "?");
    for (unsigned event = 0; event < STANDBY_EVENTS; event++)
        assert_string_not_equal(standby_event_name(event), "?");
    assert_string_equal(standby_state_name(STANDBY_STATES), "?");
    assert_string_equal(standby_event_name(STANDBY_EVENTS), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),       cmocka_unit_test(test_every_path),
        cmocka_unit_test(test_takes_over), cmocka_unit_test(test_orphan_waits_for_the_admin),
        cmocka_unit_test(test_any_order),  cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
