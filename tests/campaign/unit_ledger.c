/*
 * unit_ledger: that the campaign's judge sees what it must see, and that a seed's plan is always the same.
 */
#include "tests/campaign/ledger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* A failover as it should be. */
static struct outcome good(void)
{
    return (struct outcome){.event = {.number = 1, .kind = KIND_HOST_KILLED, .hold_ms = 100},
                            .held_ms = 110,
                            .moved = true,
                            .switches = 1,
                            .terms = 1,
                            .survivor = {.detected = 20, .running = 90},
                            .gap_ms = 200,
                            .reprotect_ms = 900,
                            .settled = true};
}

static struct ledger judge(const struct outcome *o)
{
    struct ledger l = {.wanted = 1};
    ledger_add(&l, o);
    return l;
}

static void clean(struct outcome o, bool want)
{
    struct ledger l = judge(&o);
    assert_int_equal(ledger_is_clean(&l), want);
    ledger_clear(&l);
}

static void test_a_good_failover(void **state)
{
    (void)state;
    struct outcome o = good();
    struct ledger l = judge(&o);
    assert_true(ledger_is_clean(&l));
    assert_int_equal(l.failovers, 1);
    assert_int_equal(l.running[NOTICE_CLEAN].count, 1);
    assert_true(figures_percentile(&l.running[NOTICE_CLEAN], 99) > 89.9);
    ledger_clear(&l);
}

static void test_what_must_not_be(void **state)
{
    (void)state;
    struct outcome two = good(), stayed = good(), paused = good(), left = good(), blind = good(), lost = good();
    two.switches = 3; /* there, back, and there again, by one grant */
    clean(two, false);
    stayed.moved = false, stayed.switches = 0;
    clean(stayed, false);
    paused.silent_vm = true;
    clean(paused, false);
    left.leftovers = 1;
    clean(left, false);
    blind.switches = 0; /* it moved, and the witness saw nothing: it sees nothing of two, either */
    clean(blind, false);
    lost.settled = false;
    clean(lost, false);
    for (int i = 0; i < 6; i++) {
        struct outcome o = good();
        uint64_t *const counts[] = {&o.client.lost,        &o.client.doubled,    &o.client.back,
                                    &o.client.disconnects, &o.client.violations, &o.client.memory_errors};
        *counts[i] = 1;
        clean(o, false);
    }
}

static void test_what_need_not_move(void **state)
{
    (void)state;
    struct outcome o = good();
    o.event.kind = KIND_BLIP;
    clean(o, false);
    o.held_ms = 600; /* the machine's doing */
    clean(o, true);
    o.event.kind = KIND_ETCD_KILLED;
    o.event.hold_ms = 600;
    clean(o, false);
    o.event.kind = KIND_LINK_CUT;
    clean(o, true);
    o.event.kind = KIND_WORKER_KILLED;
    struct ledger l = judge(&o);
    assert_true(ledger_is_clean(&l));
    assert_int_equal(l.tolerated_failovers, 1);
    assert_int_equal(l.failovers, 0);
    ledger_clear(&l);
}

static void test_the_plan_is_the_seeds(void **state)
{
    (void)state;
    unsigned seen[KINDS] = {0}, moving = 0;
    for (unsigned n = 1; n <= 2000; n++) {
        struct event a = plan_event(7, n), b = plan_event(7, n);
        const struct kind_info *k = kind_info(a.kind);
        assert_memory_equal(&a, &b, sizeof a);
        assert_in_range(a.hold_ms, k->hold_min_ms, k->hold_max_ms);
        assert_in_range(a.amount, k->amount_min, k->amount_max);
        assert_int_equal(kind_by_name(k->name, strlen(k->name)), a.kind);
        seen[a.kind]++;
        moving += k->moves <= MOVES_MAY;
    }
    assert_in_range(moving, 800, 1200);
    for (int i = 0; i < KINDS; i++)
        assert_true(seen[i] > 0);
    assert_int_equal(kind_by_name("no-such", 7), KINDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_failover),
        cmocka_unit_test(test_what_must_not_be),
        cmocka_unit_test(test_what_need_not_move),
        cmocka_unit_test(test_the_plan_is_the_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
