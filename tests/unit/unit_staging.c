/* Unit tests of common/staging.h: pieces come back whole and in order, from memory or from the spool. */
#include "common/staging.h"
#include "sample.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum { PIECE_MAX = 5000 };

struct reader {
    unsigned next, count;
};

/* Piece i has a length and content of its own. */
static size_t make_piece(unsigned i, uint8_t *out)
{
    uint64_t seed = i + 1;
    size_t n = sample_random(&seed) % PIECE_MAX + 1;
    for (size_t at = 0; at < n; at++)
        out[at] = (uint8_t)(i + at * 7);
    return n;
}

static void take(const uint8_t *data, size_t n, void *arg)
{
    struct reader *r = arg;
    uint8_t want[PIECE_MAX];
    size_t length = make_piece(r->next++, want);
    assert_int_equal(n, length);
    assert_memory_equal(data, want, n);
    r->count++;
}

static uint64_t add(struct staging *s, unsigned i)
{
    uint8_t piece[PIECE_MAX];
    struct errmsg e = {""};
    size_t n = make_piece(i, piece);
    if (staging_add(s, piece, n, &e))
        fail_msg("%s", e.text);
    memset(piece, 0xee, sizeof piece);
    return n;
}

static void drain(struct staging *s, struct reader *r)
{
    struct errmsg e = {""};
    if (staging_drain(s, take, r, &e))
        fail_msg("%s", e.text);
}

/* The same for all in memory, some spilt, all spilt; several epochs through one file. */
static void test_order(void **state)
{
    (void)state;
    static const uint64_t limits[] = {0, 1, 3000, 20000, 1 << 30};
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
        struct staging *s = staging_new(limits[k], "/tmp");
        struct reader r = {0};
        unsigned n = 0;
        for (unsigned epoch = 0; epoch < 5; epoch++) {
            uint64_t bytes = 0;
            for (unsigned i = 0; i < 20 + epoch; i++) {
                bytes += add(s, n++);
                assert_int_equal(staging_bytes(s), bytes);
            }
            drain(s, &r);
            assert_int_equal(r.count, n);
            assert_int_equal(staging_bytes(s), 0);
            drain(s, &r); /* empty: hands out nothing */
            assert_int_equal(r.count, n);
        }
        staging_free(s);
    }
}

static void test_clear(void **state)
{
    (void)state;
    struct staging *s = staging_new(4000, "/tmp");
    struct reader r = {0};
    for (unsigned i = 0; i < 30; i++)
        add(s, i);
    staging_clear(s);
    assert_int_equal(staging_bytes(s), 0);
    drain(s, &r);
    assert_int_equal(r.count, 0);
    for (unsigned i = 0; i < 30; i++) /* what comes after is not what was before */
        add(s, i);
    drain(s, &r);
    assert_int_equal(r.count, 30);
    add(s, 1);
    staging_free(s);
    staging_free(NULL);
}

/* A spool that isn't there: said with its remedy, and what was staged stays. */
static void test_no_spool(void **state)
{
    (void)state;
    struct staging *s = staging_new(2 * PIECE_MAX, "/nonexistent/hikae");
    struct reader r = {0};
    uint8_t piece[PIECE_MAX];
    struct errmsg e = {""};
    add(s, 0);
    add(s, 1);
    uint64_t bytes = staging_bytes(s);
    memset(piece, 1, sizeof piece);
    while (!staging_add(s, piece, 1, &e)) /* to the brim */
        bytes++;
    assert_int_equal(bytes, 2 * PIECE_MAX);
    assert_non_null(strstr(e.text, "/nonexistent/hikae"));
    assert_non_null(strstr(e.text, "spool_dir"));
    assert_int_equal(staging_bytes(s), bytes);
    staging_clear(s);
    add(s, 0);
    drain(s, &r);
    assert_int_equal(r.count, 1);
    staging_free(s);
}

/* A spool that is full: the largest file this process may write stands for it. Nothing that was staged is touched. */
static void test_spool_full(void **state)
{
    (void)state;
    struct rlimit before, small = {.rlim_cur = 8000};
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct staging *s = staging_new(0, "/tmp");
    struct reader r = {0};
    struct errmsg e = {""};
    unsigned n = 0;
    uint64_t bytes = 0;
    for (uint8_t piece[PIECE_MAX];; n++) {
        size_t length = make_piece(n, piece);
        if (staging_add(s, piece, length, &e))
            break;
        bytes += length;
        assert_true(n < 100);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    assert_non_null(strstr(e.text, "/tmp takes no more"));
    assert_int_equal(staging_bytes(s), bytes);
    add(s, n++); /* there is room again: it goes on where it was, over what was half written */
    drain(s, &r);
    assert_int_equal(r.count, n);
    staging_free(s);
}

/* The file does not grow from epoch to epoch. */
static void test_spool_is_reused(void **state)
{
    (void)state;
    struct rlimit before, small = {.rlim_cur = 2 * PIECE_MAX};
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct staging *s = staging_new(0, "/tmp");
    struct reader r = {0};
    for (unsigned epoch = 0; epoch < 20; epoch++) {
        add(s, 2 * epoch);
        add(s, 2 * epoch + 1);
        drain(s, &r);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(r.count, 40);
    staging_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),      cmocka_unit_test(test_clear),           cmocka_unit_test(test_no_spool),
        cmocka_unit_test(test_spool_full), cmocka_unit_test(test_spool_is_reused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
