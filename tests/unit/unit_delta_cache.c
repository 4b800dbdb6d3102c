/* Unit tests of primary/delta_cache.h: what it gives is what was put last, whatever it forgets. */
#include "primary/delta_cache.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void fill(uint8_t *page, uint64_t gfn, uint64_t version)
{
    uint64_t words[2] = {gfn, version};
    for (size_t at = 0; at < PROTO_PAGE_SIZE; at += sizeof words)
        memcpy(page + at, words, sizeof words);
}

static void put(struct delta_cache *c, uint64_t gfn, uint64_t version)
{
    uint8_t page[PROTO_PAGE_SIZE];
    fill(page, gfn, version);
    delta_cache_put(c, gfn, page);
}

static void expect(struct delta_cache *c, uint64_t gfn, uint64_t version)
{
    uint8_t page[PROTO_PAGE_SIZE];
    fill(page, gfn, version);
    const uint8_t *got = delta_cache_get(c, gfn);
    assert_non_null(got);
    assert_memory_equal(got, page, PROTO_PAGE_SIZE);
}

static void test_put_get(void **state)
{
    (void)state;
    struct delta_cache *c = delta_cache_new(100, 10 * PROTO_PAGE_SIZE);
    assert_null(delta_cache_get(c, 0));
    assert_null(delta_cache_get(c, 99));
    put(c, 0, 1);
    put(c, 99, 1);
    expect(c, 0, 1);
    expect(c, 99, 1);
    put(c, 0, 2);
    expect(c, 0, 2);
    expect(c, 99, 1);
    assert_null(delta_cache_get(c, 50));
    delta_cache_free(c);
}

static void test_bounded(void **state)
{
    (void)state;
    enum { SLOTS = 10 };
    struct delta_cache *c = delta_cache_new(100, SLOTS * PROTO_PAGE_SIZE + 4095);
    for (uint64_t gfn = 0; gfn < 100; gfn++)
        put(c, gfn, 1);
    unsigned known = 0;
    for (uint64_t gfn = 0; gfn < 100; gfn++)
        known += delta_cache_get(c, gfn) != NULL;
    assert_int_equal(known, SLOTS);
    delta_cache_free(c);
}

/* Clock: who is asked for stays, who is not makes room. */
static void test_clock(void **state)
{
    (void)state;
    struct delta_cache *c = delta_cache_new(100, 4 * PROTO_PAGE_SIZE);
    for (uint64_t gfn = 0; gfn < 4; gfn++)
        put(c, gfn, 1);
    for (uint64_t gfn = 10; gfn < 60; gfn++) {
        expect(c, 0, 1);
        expect(c, 2, 1);
        put(c, gfn, 1);
    }
    expect(c, 0, 1);
    expect(c, 2, 1);
    delta_cache_free(c);
}

static void test_no_room(void **state)
{
    (void)state;
    struct delta_cache *c = delta_cache_new(100, PROTO_PAGE_SIZE - 1);
    put(c, 1, 1);
    assert_null(delta_cache_get(c, 1));
    delta_cache_free(c);
    c = delta_cache_new(0, 0);
    assert_non_null(c);
    delta_cache_free(c);
    delta_cache_free(NULL);
    c = delta_cache_new(3, 1 << 30); /* never more slots than pages */
    assert_non_null(c);
    for (uint64_t gfn = 0; gfn < 3; gfn++)
        put(c, gfn, 9);
    for (uint64_t gfn = 0; gfn < 3; gfn++)
        expect(c, gfn, 9);
    delta_cache_free(c);
}

/* To look does not keep a page; what is forgotten is so, and its place is used again. */
static void test_peek_and_forget(void **state)
{
    (void)state;
    struct delta_cache *c = delta_cache_new(100, 4 * PROTO_PAGE_SIZE);
    for (uint64_t gfn = 0; gfn < 4; gfn++)
        put(c, gfn, 1);
    assert_null(delta_cache_peek(c, 9));
    assert_ptr_equal(delta_cache_peek(c, 2), delta_cache_get(c, 2));
    delta_cache_forget(c, 2);
    delta_cache_forget(c, 2);
    delta_cache_forget(c, 50);
    assert_null(delta_cache_get(c, 2));
    put(c, 2, 7);
    expect(c, 2, 7);
    for (uint64_t gfn = 10; gfn < 30; gfn++) {
        expect(c, 2, 7);
        for (uint64_t i = 0; i < 4; i++)
            (void)delta_cache_peek(c, i);
        put(c, gfn, 1);
    }
    expect(c, 2, 7);
    for (uint64_t gfn = 0; gfn < 2; gfn++)
        assert_null(delta_cache_get(c, gfn));
    delta_cache_free(c);
}

static void test_random(void **state)
{
    (void)state;
    enum { PAGES = 64 };
    for (uint64_t slots = 1; slots <= PAGES; slots += 7) {
        uint64_t seed = 99 + slots, version[PAGES] = {0};
        unsigned hits = 0;
        struct delta_cache *c = delta_cache_new(PAGES, slots * PROTO_PAGE_SIZE);
        for (unsigned i = 1; i < 5000; i++) {
            uint64_t gfn = (sample_random(&seed) >> 13) % PAGES;
            if (delta_cache_get(c, gfn)) { /* known: then it is the last version */
                expect(c, gfn, version[gfn]);
                hits++;
            }
            if (sample_random(&seed) >> 13 & 1)
                put(c, gfn, version[gfn] = i);
        }
        assert_true(hits > 20);
        delta_cache_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_get), cmocka_unit_test(test_bounded), cmocka_unit_test(test_clock),
        cmocka_unit_test(test_no_room), cmocka_unit_test(test_random),  cmocka_unit_test(test_peek_and_forget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
