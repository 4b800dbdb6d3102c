/* Unit tests of common/token_bucket.h. */
#include "common/token_bucket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const int64_t MS = 1000000, SECOND = 1000000000;
enum { MB = 1000000 };

/* Takes pieces of n as soon as they may be taken, for so long; how much was it? */
static uint64_t taken(struct token_bucket *b, uint64_t rate, uint64_t n, int64_t *now, int64_t ns)
{
    uint64_t sum = 0;
    for (int64_t end = *now + ns;;) {
        int64_t wait = token_bucket_wait(b, rate, *now);
        if (*now + wait >= end) {
            *now = end;
            return sum;
        }
        *now += wait;
        token_bucket_take(b, n);
        sum += n;
    }
}

static void expect_about(uint64_t is, uint64_t want, uint64_t off)
{
    if (is + off < want || is > want + off)
        fail_msg("%llu is not about %llu", (unsigned long long)is, (unsigned long long)want);
}

/* Whatever the size of the pieces: the rate, and what piled up before. */
static void test_rate(void **state)
{
    (void)state;
    const uint64_t pieces[] = {1000, 16384, 4 * MB};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct token_bucket b = {0};
        int64_t now = 7 * SECOND;
        expect_about(taken(&b, 10 * MB, pieces[i], &now, 20 * SECOND), 200 * MB, pieces[i] + MB / 2);
    }
}

static void test_unlimited(void **state)
{
    (void)state;
    struct token_bucket b = {0};
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(token_bucket_wait(&b, 0, i), 0);
        token_bucket_take(&b, 1000 * MB);
    }
    assert_int_equal(token_bucket_wait(&b, 0, 1001), 0);
    assert_int_equal(token_bucket_wait(&b, MB, 1002), 0); /* and nothing of that is owed later */
}

/* What was not used in an hour is not made up for. */
static void test_idle(void **state)
{
    (void)state;
    struct token_bucket b = {0};
    int64_t now = SECOND;
    taken(&b, MB, 1000, &now, SECOND);
    now += 3600 * SECOND;
    expect_about(taken(&b, MB, 1000, &now, SECOND), MB, MB / 20 + 1000);
}

/* Another rate counts at once: what is waited for shrinks, or grows, with it. */
static void test_changed(void **state)
{
    (void)state;
    struct token_bucket b = {0};
    int64_t now = SECOND;
    assert_int_equal(token_bucket_wait(&b, MB, now), 0);
    token_bucket_take(&b, 10 * MB);
    int64_t slow = token_bucket_wait(&b, MB, now), fast = token_bucket_wait(&b, 100 * MB, now);
    assert_true(slow > 9 * SECOND && slow <= 10 * SECOND);
    assert_true(fast <= 100 * MS);
    assert_int_equal(token_bucket_wait(&b, 0, now), 0);
}

/* A clock that stands still, or goes back, gives nothing. */
static void test_clock(void **state)
{
    (void)state;
    struct token_bucket b = {0};
    token_bucket_wait(&b, MB, SECOND);
    token_bucket_take(&b, MB);
    int64_t wait = token_bucket_wait(&b, MB, SECOND);
    assert_true(wait > 0);
    assert_int_equal(token_bucket_wait(&b, MB, SECOND), wait);
    assert_int_equal(token_bucket_wait(&b, MB, SECOND - 500 * MS), wait);
}

static void test_speed(void **state)
{
    (void)state;
    struct speed s = {0};
    assert_true(speed_eta(&s, 1) < 0);
    assert_true(speed_eta(&s, 0) == 0);
    int64_t now = SECOND;
    uint64_t done = 5;
    for (int i = 0; i < 100; i++, now += 100 * MS, done += MB)
        speed_note(&s, done, now);
    assert_true(s.per_s > 9.9e6 && s.per_s < 10.1e6);
    double eta = speed_eta(&s, 50 * MB);
    assert_true(eta > 4.9 && eta < 5.1);
    for (int i = 0; i < 300; i++, now += 100 * MS, done += MB / 10) /* slower from here on */
        speed_note(&s, done, now);
    assert_true(s.per_s > 0.9e6 && s.per_s < 1.2e6);
    speed_note(&s, 0, now); /* the next one */
    assert_true(speed_eta(&s, 1) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate),    cmocka_unit_test(test_unlimited), cmocka_unit_test(test_idle),
        cmocka_unit_test(test_changed), cmocka_unit_test(test_clock),     cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests_name("token_bucket", tests, NULL, NULL);
}
