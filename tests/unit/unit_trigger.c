/* Unit tests of primary/trigger.h. */
#include "primary/trigger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { MS = 1000000 };

/* Paused at 1000 ms, resumed 3 ms later. */
static struct trigger at_rest(bool on_output)
{
    return (struct trigger){.on_output = on_output,
                            .interval = 20 * MS,
                            .max_interval = 100 * MS,
                            .min_interval = 5 * MS,
                            .paused_at = 1000 * (int64_t)MS,
                            .resumed_at = 1003 * (int64_t)MS};
}

static void test_periodic(void **state)
{
    (void)state;
    struct trigger t = at_rest(false);
    assert_int_equal(trigger_due(&t), 1020 * (int64_t)MS); /* from pause to pause: the rate is what was asked for */
    t.output = true;
    assert_int_equal(trigger_due(&t), 1020 * (int64_t)MS); /* Remus doesn't look at the output */
    t.interval = 4 * MS;
    assert_int_equal(trigger_due(&t), 1008 * (int64_t)MS); /* but the guest always gets to run */
}

static void test_on_output(void **state)
{
    (void)state;
    struct trigger t = at_rest(true);
    assert_int_equal(trigger_due(&t), 1100 * (int64_t)MS);
    t.output = true;
    assert_int_equal(trigger_due(&t), 1008 * (int64_t)MS);
    t.output = false;
    t.max_interval = 2 * MS;
    assert_int_equal(trigger_due(&t), 1008 * (int64_t)MS);
}

static void test_full(void **state)
{
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        for (int output = 0; output < 2; output++) {
            struct trigger t = at_rest(mode);
            t.full = true;
            t.output = output;
            assert_int_equal(trigger_due(&t), 1008 * (int64_t)MS);
        }
    }
}

/* Whatever the settings: never before the guest has run for min_interval, never later than its longest interval. */
static void test_bounds(void **state)
{
    (void)state;
    for (int64_t interval = 1; interval <= 40; interval += 3) {
        for (int64_t pause = 0; pause <= 60; pause += 5) {
            for (unsigned bits = 0; bits < 8; bits++) {
                struct trigger t = at_rest(bits & 1);
                t.output = bits & 2;
                t.full = bits & 4;
                t.interval = interval * MS;
                t.max_interval = 2 * interval * MS;
                t.resumed_at = t.paused_at + pause * MS;
                int64_t soonest = t.resumed_at + t.min_interval;
                int64_t longest = t.paused_at + (t.on_output ? t.max_interval : t.interval);
                int64_t due = trigger_due(&t);
                assert_true(due >= soonest);
                assert_true(due <= (longest > soonest ? longest : soonest));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_periodic),
        cmocka_unit_test(test_on_output),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
