/* Unit tests of primary/candidates.h. */
#include "primary/candidates.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_none(void **state)
{
    (void)state;
    struct candidates c = {0};
    assert_string_equal(candidates_now(&c), "");
    assert_false(candidates_failed(&c, 1, 0));
    assert_false(candidates_add(&c, ""));
    assert_string_equal(candidates_now(&c), "");
}

static void test_one_is_kept(void **state)
{
    (void)state;
    struct candidates c = {0};
    assert_true(candidates_add(&c, "b"));
    for (int64_t t = 1; t < 100; t++)
        assert_false(candidates_failed(&c, t, 10));
    assert_string_equal(candidates_now(&c), "b");
}

static void test_spares_take_turns(void **state)
{
    (void)state;
    struct candidates c = {0};
    assert_true(candidates_add(&c, "b"));
    assert_true(candidates_add(&c, "c"));
    assert_true(candidates_add(&c, "d"));
    assert_false(candidates_add(&c, "c"));
    assert_false(candidates_failed(&c, 100, 10));
    assert_false(candidates_failed(&c, 109, 10));
    assert_true(candidates_failed(&c, 110, 10));
    assert_string_equal(candidates_now(&c), "c");
    assert_false(candidates_failed(&c, 111, 10)); /* it has a while of its own */
    assert_true(candidates_failed(&c, 121, 10));
    assert_string_equal(candidates_now(&c), "d");
    assert_false(candidates_failed(&c, 122, 10));
    assert_true(candidates_failed(&c, 132, 10));
    assert_string_equal(candidates_now(&c), "b");
}

static void test_success_gives_a_new_while(void **state)
{
    (void)state;
    struct candidates c = {0};
    assert_true(candidates_add(&c, "b"));
    assert_true(candidates_add(&c, "c"));
    assert_false(candidates_failed(&c, 100, 10));
    candidates_succeeded(&c);
    assert_false(candidates_failed(&c, 200, 10));
    assert_string_equal(candidates_now(&c), "b");
    assert_true(candidates_failed(&c, 210, 10));
    assert_string_equal(candidates_now(&c), "c");
}

static void fail_times(struct candidates *c, int times)
{
    while (times--)
        candidates_failed(c, 1, 1000);
}

static void test_backs_off(void **state)
{
    (void)state;
    struct candidates c = {0};
    assert_true(candidates_add(&c, "b"));
    for (int i = 0; i < 10; i++) {
        fail_times(&c, 1);
        assert_int_equal(candidates_wait_ms(&c), 500);
    }
    const unsigned then[] = {1000, 2000, 4000, 5000, 5000};
    for (size_t i = 0; i < sizeof then / sizeof *then; i++) {
        fail_times(&c, 1);
        assert_int_equal(candidates_wait_ms(&c), then[i]);
    }
    c.failures = UINT_MAX;
    fail_times(&c, 1);
    assert_int_equal(candidates_wait_ms(&c), 5000);
}

static void test_begins_anew(void **state)
{
    (void)state;
    struct candidates c = {0};
    assert_true(candidates_add(&c, "b"));
    fail_times(&c, 20);
    candidates_succeeded(&c);
    assert_int_equal(candidates_wait_ms(&c), 500);
    fail_times(&c, 20);
    assert_int_equal(candidates_wait_ms(&c), 5000);
    assert_true(candidates_add(&c, "c"));
    assert_true(candidates_failed(&c, 2000, 1000)); /* the other one's turn */
    assert_int_equal(candidates_wait_ms(&c), 500);
    fail_times(&c, 20);
    candidates_clear(&c); /* the admin's order */
    assert_int_equal(candidates_wait_ms(&c), 500);
}

static void test_bounds(void **state)
{
    (void)state;
    struct candidates c = {0};
    char name[CANDIDATE_NAME + 1];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_false(candidates_add(&c, name));
    for (int i = 0; i < CANDIDATES_MAX; i++) {
        snprintf(name, sizeof name, "host%d", i);
        assert_true(candidates_add(&c, name));
    }
    assert_false(candidates_add(&c, "more"));
    candidates_clear(&c);
    assert_string_equal(candidates_now(&c), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_one_is_kept),
        cmocka_unit_test(test_spares_take_turns),
        cmocka_unit_test(test_success_gives_a_new_while),
        cmocka_unit_test(test_backs_off),
        cmocka_unit_test(test_begins_anew),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
