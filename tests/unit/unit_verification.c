/* Unit tests of primary/verification.h: every block is looked at once, what differs is named, repaired, and judged. */
#include "primary/verification.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DISKS = 3, MOST = 300, UNANSWERED = 8 };

static const struct disk_sizes sizes = {DISKS, {100 * DISK_BLOCK_SIZE, DISK_BLOCK_SIZE, MOST *DISK_BLOCK_SIZE}};

/* The other side: which blocks are not as they should be, and which can't be repaired. */
struct other {
    bool wrong[DISKS][MOST], stubborn[DISKS][MOST];
    unsigned looked[DISKS][MOST];
    struct verification_step asked[UNANSWERED];
    unsigned n;
};

static void answer_first(struct other *o, struct verification *v)
{
    uint8_t payload[CHECKED_HEAD_SIZE + MOST * CHECK_RUN_SIZE];
    struct verification_step s = o->asked[0];
    size_t n = CHECKED_HEAD_SIZE;
    checked_head_write(payload, 1);
    for (uint64_t b = s.first; b < s.end; b++) {
        if (s.repair && !o->stubborn[s.disk][b])
            o->wrong[s.disk][b] = false;
        if (!s.repair)
            o->looked[s.disk][b]++;
        uint64_t end = b;
        while (end < s.end && o->wrong[s.disk][end] && (!s.repair || o->stubborn[s.disk][end]))
            end++;
        if (end == b)
            continue;
        for (uint64_t i = b + 1; i < end && !s.repair; i++)
            o->looked[s.disk][i]++;
        check_run_write(payload + n, b, (uint32_t)(end - b));
        n += CHECK_RUN_SIZE;
        b = end - 1;
    }
    memmove(o->asked, o->asked + 1, --o->n * sizeof *o->asked);
    assert_int_equal(verification_answered(v, &s, payload, n, NULL), 0);
}

/* Looks of random length, answers of random delay. */
static void run(struct other *o, struct verification *v, uint64_t seed)
{
    struct verification_step s;
    while (!verification_is_done(v)) {
        bool more = verification_next(v, &s);
        if (o->n && (!more || o->n == UNANSWERED || sample_random(&seed) % 2)) {
            answer_first(o, v);
            continue;
        }
        assert_true(more && s.first < s.end);
        if (o->n && sample_random(&seed) % 4 == 0)
            answer_first(o, v); /* while it is looked at */
        uint64_t most = 1 + sample_random(&seed) % 40, end = s.end - s.first > most ? s.first + most : s.end;
        verification_looked(v, &s, end);
        s.end = end;
        o->asked[o->n++] = s;
    }
    assert_int_equal(o->n, 0);
    for (unsigned d = 0; d < DISKS; d++)
        for (uint64_t b = 0; b < sizes.bytes[d] / DISK_BLOCK_SIZE; b++)
            assert_int_equal(o->looked[d][b], 1);
}

static void all_equal(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 200; seed++) {
        struct other o = {0};
        struct verification_counts c;
        size_t n;
        struct verification *v = verification_new(&sizes, seed % 2);
        run(&o, v, seed);
        verification_counts(v, &c);
        assert_true(c.total == 401 && c.compared == 401 && !c.differing && !c.repaired && !c.left);
        verification_ranges(v, &n);
        assert_int_equal(n, 0);
        verification_free(v);
    }
}

static uint64_t make_wrong(struct other *o, uint64_t seed, unsigned stubborn, uint64_t *left)
{
    uint64_t wrong = 0;
    *left = 0;
    for (unsigned d = 0; d < DISKS; d++)
        for (uint64_t b = 0; b < sizes.bytes[d] / DISK_BLOCK_SIZE; b++)
            if (sample_random(&seed) % 3 == 0) {
                o->wrong[d][b] = true;
                o->stubborn[d][b] = stubborn && sample_random(&seed) % stubborn == 0;
                *left += o->stubborn[d][b];
                wrong++;
            }
    return wrong;
}

/* Every wrong block is in exactly one range, no other is in any. */
static void check_ranges(const struct verification *v, const struct other *before)
{
    unsigned named[DISKS][MOST] = {0};
    size_t n;
    const struct verification_range *r = verification_ranges(v, &n);
    for (size_t i = 0; i < n; i++)
        for (uint64_t b = r[i].first; b < r[i].first + r[i].count; b++)
            named[r[i].disk][b]++;
    for (unsigned d = 0; d < DISKS; d++)
        for (unsigned b = 0; b < MOST; b++)
            assert_int_equal(named[d][b], before->wrong[d][b]);
}

static void named_and_left(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 200; seed++) {
        struct other o = {0};
        struct verification_counts c;
        uint64_t left, wrong = make_wrong(&o, seed, 0, &left);
        struct verification *v = verification_new(&sizes, false);
        run(&o, v, seed);
        check_ranges(v, &o);
        verification_counts(v, &c);
        assert_true(c.compared == 401 && c.differing == wrong && !c.repaired && !c.left);
        verification_free(v);
    }
}

static void repaired(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 200; seed++) {
        struct other o = {0}, before;
        struct verification_counts c;
        uint64_t left, wrong = make_wrong(&o, seed, 5, &left);
        before = o;
        struct verification *v = verification_new(&sizes, true);
        run(&o, v, seed);
        check_ranges(v, &before);
        verification_counts(v, &c);
        assert_true(c.differing == wrong && c.left == left && c.repaired == wrong - left);
        verification_free(v);
    }
}

/* Of memory: one area, and ranges are cut where another thing is said of the pages. */
static void memory_with_notes(void **state)
{
    (void)state;
    enum { PAGES = 10 };
    static const uint8_t notes[PAGES] = {1, 1, 2, 2, 2, 4, 4, 4, 4, 4};
    static const struct verification_range expected[] = {
        {CHECK_MEMORY, 1, 1, 1}, {CHECK_MEMORY, 2, 2, 2}, {CHECK_MEMORY, 8, 4, 4}};
    uint8_t payload[CHECKED_HEAD_SIZE + 2 * CHECK_RUN_SIZE];
    struct verification_step s;
    size_t n;
    struct verification *v = verification_new_of_memory(2 * PAGES, false);
    assert_true(verification_next(v, &s));
    assert_true(s.disk == CHECK_MEMORY && s.first == 0 && s.end == 2 * PAGES && !s.repair);
    verification_looked(v, &s, PAGES);
    s.end = PAGES;
    checked_head_write(payload, 1);
    check_run_write(payload + CHECKED_HEAD_SIZE, 1, 3);
    check_run_write(payload + CHECKED_HEAD_SIZE + CHECK_RUN_SIZE, 8, 2);
    assert_int_equal(verification_answered(v, &s, payload, sizeof payload, notes), 0);
    assert_true(verification_next(v, &s));
    assert_int_equal(s.first, PAGES);
    verification_looked(v, &s, s.end);
    assert_false(verification_is_done(v));
    check_run_write(payload + CHECKED_HEAD_SIZE, PAGES, 2); /* it goes on there, and the same is said */
    assert_int_equal(verification_answered(v, &s, payload, CHECKED_HEAD_SIZE + CHECK_RUN_SIZE, notes + 5), 0);
    assert_true(verification_is_done(v));
    const struct verification_range *r = verification_ranges(v, &n);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++)
        assert_true(r[i].disk == expected[i].disk && r[i].first == expected[i].first &&
                    r[i].count == expected[i].count && r[i].note == expected[i].note);
    verification_free(v);
}

/* A run of pages that differ, and that page at each place of it: named is all but that page. */
static void all_but_one(void **state)
{
    (void)state;
    enum { PAGES = 10, FROM = 3, COUNT = 4 };
    for (uint64_t exempt = 0; exempt < PAGES; exempt++) {
        uint8_t payload[CHECKED_HEAD_SIZE + CHECK_RUN_SIZE];
        unsigned named[PAGES] = {0};
        struct verification_counts c;
        struct verification_step s;
        size_t n;
        struct verification *v = verification_new_of_memory(PAGES, true);
        verification_exempt(v, exempt);
        assert_true(verification_next(v, &s));
        verification_looked(v, &s, s.end);
        checked_head_write(payload, 1);
        check_run_write(payload + CHECKED_HEAD_SIZE, FROM, COUNT);
        assert_int_equal(verification_answered(v, &s, payload, sizeof payload, NULL), 0);
        const struct verification_range *r = verification_ranges(v, &n);
        for (size_t i = 0; i < n; i++)
            for (uint64_t p = r[i].first; p < r[i].first + r[i].count; p++)
                named[p]++;
        uint64_t differing = 0;
        for (uint64_t p = 0; p < PAGES; p++) {
            bool differs = p >= FROM && p < FROM + COUNT && p != exempt;
            assert_int_equal(named[p], differs);
            differing += differs;
        }
        verification_counts(v, &c);
        assert_true(c.compared == PAGES && c.differing == differing);
        for (uint64_t repaired = 0; repaired < differing; repaired += s.end - s.first) {
            assert_true(verification_next(v, &s));
            assert_true(s.repair && (exempt < s.first || exempt >= s.end));
            verification_looked(v, &s, s.end);
            assert_int_equal(verification_answered(v, &s, payload, CHECKED_HEAD_SIZE, NULL), 0);
        }
        assert_true(verification_is_done(v));
        verification_free(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_equal),         cmocka_unit_test(named_and_left), cmocka_unit_test(repaired),
        cmocka_unit_test(memory_with_notes), cmocka_unit_test(all_but_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
