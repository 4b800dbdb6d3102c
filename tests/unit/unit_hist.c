/* unit_hist: buckets, percentiles against exact ones, JSON there and back. */
#include "common/hist.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_empty(void **state)
{
    (void)state;
    struct hist *h = hist_new();
    assert_int_equal(hist_count(h), 0);
    assert_int_equal(hist_max(h), 0);
    assert_int_equal(hist_percentile(h, 99), 0);
    hist_free(h);
}

/* What came between two looks at one that only grows. */
static void test_subtract(void **state)
{
    (void)state;
    struct hist *h = hist_new(), *earlier = hist_new();
    hist_add(h, 1000000);
    hist_add(h, 5);
    hist_merge(earlier, h);
    hist_add(h, 7);
    hist_add(h, 9);
    hist_subtract(h, earlier);
    assert_int_equal(hist_count(h), 2);
    assert_int_equal(hist_percentile(h, 50), 7);
    assert_int_equal(hist_max(h), 9);
    hist_subtract(earlier, earlier);
    assert_int_equal(hist_count(earlier), 0);
    assert_int_equal(hist_max(earlier), 0);
    hist_free(h);
    hist_free(earlier);
}

static void test_percentiles_are_within_precision(void **state)
{
    (void)state;
    enum { N = 20000 };
    static uint64_t values[N];
    struct hist *h = hist_new();
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < N; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        values[i] = x >> (x % 60); /* over all magnitudes */
        hist_add(h, values[i]);
    }
    qsort(values, N, sizeof(*values), by_value);
    assert_true(hist_max(h) == values[N - 1]);
    for (double p = 0.5; p <= 100; p += 0.5) {
        size_t rank = (size_t)(p / 100 * N + 0.5);
        uint64_t exact = values[rank - 1], got = hist_percentile(h, p);
        assert_true(got >= exact && (double)(got - exact) <= 0.016 * (double)exact + 0.5);
    }
    assert_true(hist_percentile(h, 0) >= values[0]);
    hist_free(h);
}

static void test_edges(void **state)
{
    (void)state;
    static const uint64_t values[] = {
        0, 1, 63, 64, 65, 127, 128, 129, 255, 256, UINT64_MAX / 2, UINT64_MAX / 2 + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        struct hist *h = hist_new();
        hist_add(h, values[i]);
        assert_true(hist_percentile(h, 50) == values[i]); /* never above the maximum, never below the value */
        hist_free(h);
    }
}

static void test_merge_and_json(void **state)
{
    (void)state;
    struct hist *a = hist_new(), *b = hist_new(), *c = hist_new();
    for (uint64_t i = 0; i < 1000; i++)
        hist_add(i % 2 ? a : b, i * i);
    hist_merge(a, b);
    assert_int_equal(hist_count(a), 1000);
    assert_int_equal(hist_max(a), 999 * 999);
    struct json_object *j = hist_to_json(a);
    assert_int_equal(hist_from_json(c, j), 0);
    json_object_put(j);
    assert_int_equal(hist_count(c), 1000);
    for (int p = 1; p <= 100; p++)
        assert_true(hist_percentile(a, p) == hist_percentile(c, p));
    hist_free(a);
    hist_free(b);
    hist_free(c);
}

static void test_malformed_json_changes_nothing(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "[]",
        "{}",
        "{\"count\":1,\"max\":1}",
        "{\"count\":1,\"max\":1,\"buckets\":{}}",
        "{\"count\":2,\"max\":1,\"buckets\":[[1,1]]}",
        "{\"count\":1,\"max\":1,\"buckets\":[[99999,1]]}",
        "{\"count\":1,\"max\":1,\"buckets\":[[-1,1]]}",
        "{\"count\":1,\"max\":1,\"buckets\":[[1]]}",
        "{\"count\":1,\"max\":1,\"buckets\":[1]}",
        "{\"count\":2,\"max\":1,\"buckets\":[[1,1],[1,1]]}",
        "{\"count\":\"1\",\"max\":1,\"buckets\":[[1,1]]}",
    };
    struct hist *h = hist_new();
    hist_add(h, 7);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct json_object *j = json_tokener_parse(bad[i]);
        assert_non_null(j);
        assert_int_equal(hist_from_json(h, j), -1);
        json_object_put(j);
        assert_int_equal(hist_count(h), 1);
        assert_int_equal(hist_percentile(h, 50), 7);
    }
    hist_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_subtract),
        cmocka_unit_test(test_percentiles_are_within_precision),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_merge_and_json),
        cmocka_unit_test(test_malformed_json_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
