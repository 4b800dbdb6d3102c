/* Unit tests of disk/server/held.h: the newest of what is held is what is read; what was released goes in order. */
#include "disk/server/held.h"
#include "held_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void add(struct held *h, enum held_kind kind, uint64_t offset, uint64_t length, int octet, uint64_t position)
{
    uint8_t data[4096];
    memset(data, octet, sizeof data);
    held_add(h, &(struct held_write){.kind = kind,
                                     .offset = offset,
                                     .length = length,
                                     .position = position,
                                     .data = kind == HELD_DATA ? data : NULL});
}

static void disk_of_dots(uint64_t offset, uint64_t n, void *arg)
{
    memset((char *)arg + offset, '.', n);
}

static const char *look(const struct held *h, size_t n)
{
    static char out[64];
    held_read(h, 0, out, n, 0, disk_of_dots, out);
    out[n] = '\0';
    return out;
}

static void test_newest_wins(void **state)
{
    (void)state;
    struct held *h = held_new();
    add(h, HELD_DATA, 2, 8, 'a', 1);
    assert_string_equal(look(h, 12), "..aaaaaaaa..");
    add(h, HELD_DATA, 4, 2, 'b', 2); /* in the middle */
    assert_string_equal(look(h, 12), "..aabbaaaa..");
    add(h, HELD_DATA, 5, 3, 'c', 3); /* over both ends */
    assert_string_equal(look(h, 12), "..aabcccaa..");
    add(h, HELD_DATA, 0, 3, 'd', 4);
    add(h, HELD_DATA, 9, 3, 'e', 5);
    assert_string_equal(look(h, 12), "dddabcccaeee");
    add(h, HELD_DATA, 0, 12, 'f', 6); /* over all */
    assert_string_equal(look(h, 12), "ffffffffffff");
    held_free(h);
}

static void expect(struct held *h, enum held_kind kind, uint64_t position)
{
    const struct held_write *w = held_next(h, UINT64_MAX);
    assert_non_null(w);
    assert_int_equal(w->kind, kind);
    assert_int_equal(w->position, position);
}

/* Promise 1: nothing goes before it is released; all of it goes, though newer writes cover it. */
static void test_release(void **state)
{
    (void)state;
    struct held *h = held_new();
    add(h, HELD_DATA, 0, 4, 'a', 10);
    add(h, HELD_BARRIER, 0, 0, 0, 10);
    add(h, HELD_DATA, 0, 4, 'b', 20);
    add(h, HELD_ZERO, 4, 4, 0, 30);
    assert_null(held_next(h, UINT64_MAX));
    held_release(h, 9);
    assert_null(held_next(h, UINT64_MAX));
    held_release(h, 25);
    held_release(h, 5); /* only grows */
    assert_int_equal(held_released(h), 25);
    expect(h, HELD_DATA, 10);
    expect(h, HELD_BARRIER, 10);
    held_rewind(h); /* the disk failed */
    expect(h, HELD_DATA, 10);
    expect(h, HELD_BARRIER, 10);
    expect(h, HELD_DATA, 20);
    assert_null(held_next(h, UINT64_MAX));
    assert_string_equal(look(h, 4), "bbbb"); /* still: the disk may not have it */
    held_done(h);
    assert_string_equal(look(h, 4), "....");
    assert_true(held_has(h, 0));
    assert_int_equal(held_bytes(h), HELD_ENTRY_BYTES);
    held_release_all(h);
    expect(h, HELD_ZERO, 30);
    held_done(h);
    assert_true(held_is_empty(h));
    assert_int_equal(held_bytes(h), 0);
    held_free(h);
}

/* What was added after "all" is not of it. */
static void test_release_all_is_of_its_time(void **state)
{
    (void)state;
    struct held *h = held_new();
    add(h, HELD_DATA, 0, 4, 'a', 1);
    held_release_all(h);
    add(h, HELD_DATA, 0, 4, 'b', 2);
    expect(h, HELD_DATA, 1);
    assert_null(held_next(h, UINT64_MAX));
    held_free(h);
}

static void note_gap(uint64_t offset, uint64_t n, void *arg)
{
    assert_int_equal(n, 4);
    *(uint64_t *)arg = offset;
}

/* What write-zeroes of a whole disk costs is an entry. */
static void test_huge_zero(void **state)
{
    (void)state;
    struct held *h = held_new();
    uint64_t gap = 0;
    const uint64_t last = (UINT64_C(1) << 60) - 4;
    char out[8];
    held_add(h, &(struct held_write){.kind = HELD_ZERO, .length = UINT64_C(1) << 60, .position = 1});
    memset(out, 'x', sizeof out);
    held_read(h, 0, out, sizeof out, last, note_gap, &gap);
    assert_memory_equal(out, "\0\0\0\0xxxx", 8);
    assert_int_equal(gap, last + 4);
    assert_int_equal(held_bytes(h), HELD_ENTRY_BYTES);
    held_free(h);
}

static void test_against_a_model(void **state)
{
    (void)state;
    uint8_t octets[2000];
    srand(5);
    for (unsigned round = 0; round < 500; round++) {
        for (size_t i = 0; i < sizeof octets; i++)
            octets[i] = (uint8_t)rand();
        held_model_run(octets, sizeof octets);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newest_wins),
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_release_all_is_of_its_time),
        cmocka_unit_test(test_huge_zero),
        cmocka_unit_test(test_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
