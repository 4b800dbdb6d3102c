/* Unit tests of common/repeated.h. */
#include "common/repeated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define S INT64_C(1000000000)

static void test_once_and_once_a_minute(void **state)
{
    (void)state;
    struct repeated r = {0};
    assert_int_equal(repeated_heard(&r, "refused", 1 * S), 1);
    for (int64_t t = 2; t < 61; t++)
        assert_int_equal(repeated_heard(&r, "refused", t * S), 0);
    assert_int_equal(repeated_heard(&r, "refused", 61 * S), 61);
    assert_int_equal(repeated_heard(&r, "refused", 62 * S), 0);
    assert_int_equal(repeated_heard(&r, "refused", 200 * S), 63);
}

static void test_another_text_is_new(void **state)
{
    (void)state;
    struct repeated r = {0};
    assert_int_equal(repeated_heard(&r, "refused", 1), 1);
    assert_int_equal(repeated_heard(&r, "no answer", 2), 1);
    assert_int_equal(repeated_heard(&r, "no answer", 3), 0);
    assert_int_equal(repeated_heard(&r, "refused", 4), 1);
}

static void test_forgotten(void **state)
{
    (void)state;
    struct repeated r = {0};
    assert_int_equal(repeated_heard(&r, "refused", 1), 1);
    repeated_forget(&r);
    assert_int_equal(repeated_heard(&r, "refused", 2), 1);
    assert_int_equal(repeated_heard(&r, "", 3), 1);
    assert_int_equal(repeated_heard(&r, "", 4), 0);
}

static void test_long_text(void **state)
{
    (void)state;
    struct repeated r = {0};
    char text[2 * REPEATED_TEXT];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    assert_int_equal(repeated_heard(&r, text, 1), 1);
    assert_int_equal(repeated_heard(&r, text, 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once_and_once_a_minute),
        cmocka_unit_test(test_another_text_is_new),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_long_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
