/* Unit tests of common/watch.h. */
#include "common/watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const int64_t MS = 1000000;
static const struct watch_bounds bounds = {.pause_ms = 1000, .worker_ms = 5000};

/* Looks every 200 ms at a worker that says the same each time; after how many ms is it found stuck? -1: not in a
 * minute. */
static int found_after(const struct watch_sample *s, const struct watch_bounds *b, enum watch_verdict as)
{
    struct watch w = {0};
    for (int ms = 0; ms <= 60000; ms += WATCH_LOOK_MS) {
        enum watch_verdict verdict = watch_look(&w, s, b, ms * MS);
        if (verdict == WATCH_WELL)
            continue;
        assert_int_equal(verdict, as);
        return ms;
    }
    return -1;
}

static void test_bounds(void **state)
{
    (void)state;
    struct watch_sample s = {.beat = 9, .paused = true};
    assert_int_equal(found_after(&s, &bounds, WATCH_STUCK_PAUSED), 1200);
    s.paused = false;
    assert_int_equal(found_after(&s, &bounds, WATCH_STUCK), 5200);
}

static void test_no_bound(void **state)
{
    (void)state;
    struct watch_sample s = {.beat = 9, .paused = true, .stopped = true};
    struct watch_bounds none = {0};
    assert_int_equal(found_after(&s, &none, WATCH_WELL), -1);
    s.paused = false;
    assert_int_equal(found_after(&s, &none, WATCH_WELL), -1);
}

static void test_a_slow_vm_is_no_stuck_worker(void **state)
{
    (void)state;
    struct watch_sample s = {.beat = 9, .paused = true, .patience_ms = 5000};
    assert_int_equal(found_after(&s, &bounds, WATCH_STUCK_PAUSED), 6200);
    s.stopped = true; /* it does not wait for the VM: it waits for nothing */
    assert_int_equal(found_after(&s, &bounds, WATCH_STUCK_PAUSED), 1200);
}

static void test_moving_is_well(void **state)
{
    (void)state;
    struct watch w = {0};
    struct watch_sample s = {.paused = true};
    for (int64_t ms = 0; ms < 60000; ms += 900) { /* slow, but a step each time */
        s.beat++;
        assert_int_equal(watch_look(&w, &s, &bounds, ms * MS), WATCH_WELL);
        assert_int_equal(w.still_ns, 0);
    }
}

/* The watcher was stopped, or the machine slept: a gap counts for two looks. */
static void test_own_gaps_do_not_count(void **state)
{
    (void)state;
    struct watch w = {0};
    struct watch_sample s = {.beat = 1, .paused = true};
    assert_int_equal(watch_look(&w, &s, &bounds, 0), WATCH_WELL);
    assert_int_equal(watch_look(&w, &s, &bounds, 3600000 * MS), WATCH_WELL);
    assert_int_equal(watch_look(&w, &s, &bounds, 7200000 * MS), WATCH_WELL);
    assert_int_equal(w.still_ns, 800 * MS);
    assert_int_equal(watch_look(&w, &s, &bounds, 3600000 * MS), WATCH_WELL); /* no clock does this; no harm if it did */
    assert_int_equal(w.still_ns, 800 * MS);
    assert_int_equal(watch_look(&w, &s, &bounds, 9000000 * MS),
                     WATCH_STUCK_PAUSED); /* really stuck is found in the end */
}

/* What was held against it before it moved is forgotten. */
static void test_starts_anew_when_it_moves(void **state)
{
    (void)state;
    struct watch w = {0};
    struct watch_sample s = {.beat = 1, .paused = true};
    for (int ms = 0; ms <= 1000; ms += 200)
        assert_int_equal(watch_look(&w, &s, &bounds, ms * MS), WATCH_WELL);
    s.beat = 2;
    for (int ms = 1200; ms <= 2200; ms += 200)
        assert_int_equal(watch_look(&w, &s, &bounds, ms * MS), WATCH_WELL);
    assert_int_equal(watch_look(&w, &s, &bounds, 2400 * MS), WATCH_STUCK_PAUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_no_bound),
        cmocka_unit_test(test_a_slow_vm_is_no_stuck_worker),
        cmocka_unit_test(test_moving_is_well),
        cmocka_unit_test(test_own_gaps_do_not_count),
        cmocka_unit_test(test_starts_anew_when_it_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
