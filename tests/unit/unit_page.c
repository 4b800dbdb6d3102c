/* Unit tests of proto/page.h: page encodings and PAGES payloads. */
#include "proto/words.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <lz4.h>

static uint64_t seed = 88172645463325252u;

static void fill_random(uint8_t *page)
{
    for (unsigned i = 0; i < PROTO_PAGE_SIZE; i++)
        page[i] = (uint8_t)(sample_random(&seed) >> 11);
}

static void fill_text(uint8_t *page)
{
    for (unsigned i = 0; i < PROTO_PAGE_SIZE; i++)
        page[i] = (uint8_t)((unsigned char)"checkpoint "[i % 11] + i / 333);
}

/* Changes `words` different words of `page`. */
static void change_words(uint8_t *page, unsigned words)
{
    uint8_t done[PAGE_WORDS] = {0};
    while (words) {
        unsigned w = (unsigned)(sample_random(&seed) % PAGE_WORDS);
        if (done[w])
            continue;
        done[w] = 1;
        words--;
        page[w * 8 + sample_random(&seed) % 8] ^= (uint8_t)(1 + sample_random(&seed) % 255);
    }
}

/* Encodes, checks, applies; the result must be the page. Returns the encoding. */
static enum page_encoding round_trip(const uint8_t *page, const uint8_t *base, size_t *size)
{
    uint8_t out[PAGE_ENCODED_MAX + 64], again[PAGE_ENCODED_MAX], replica[PROTO_PAGE_SIZE];
    enum page_encoding encoding, second;
    struct proto_error e = {""};
    memset(out, 0xee, sizeof out);
    size_t n = page_encode(page, base, out, &encoding);
    assert_true(n <= PAGE_ENCODED_MAX);
    for (unsigned i = PAGE_ENCODED_MAX; i < sizeof out; i++)
        assert_int_equal(out[i], 0xee);
    assert_int_equal(page_encode(page, base, again, &second), n); /* deterministic */
    assert_int_equal(second, encoding);
    assert_memory_equal(again, out, n);
    if (page_check(encoding, out, n, &e))
        fail_msg("%s", e.text);
    if (base)
        memcpy(replica, base, sizeof replica);
    else
        fill_random(replica);
    page_apply(encoding, out, n, replica);
    assert_memory_equal(replica, page, PROTO_PAGE_SIZE);
    if (size)
        *size = n;
    return encoding;
}

static void test_choice(void **state)
{
    (void)state;
    uint8_t zero[PROTO_PAGE_SIZE] = {0}, noise[PROTO_PAGE_SIZE], text[PROTO_PAGE_SIZE], page[PROTO_PAGE_SIZE];
    size_t n;
    fill_random(noise);
    fill_text(text);
    assert_int_equal(round_trip(zero, NULL, &n), PAGE_ZERO);
    assert_int_equal(n, 0);
    assert_int_equal(round_trip(zero, noise, &n), PAGE_ZERO);
    assert_int_equal(round_trip(zero, zero, &n), PAGE_UNCHANGED);
    assert_int_equal(round_trip(noise, noise, &n), PAGE_UNCHANGED);
    assert_int_equal(n, 0);
    assert_int_equal(round_trip(noise, NULL, &n), PAGE_RAW);
    assert_int_equal(round_trip(noise, zero, &n), PAGE_RAW);
    assert_int_equal(round_trip(noise, text, &n), PAGE_RAW);
    assert_int_equal(n, PROTO_PAGE_SIZE);
    assert_int_equal(round_trip(text, NULL, &n), PAGE_LZ4);
    assert_int_equal(round_trip(text, noise, &n), PAGE_LZ4);
    assert_true(n < 512);
    memcpy(page, noise, sizeof page);
    change_words(page, 1);
    assert_int_equal(round_trip(page, noise, &n), PAGE_DELTA);
    assert_int_equal(n, 8 + 1 + 8);
    memcpy(page, noise, sizeof page); /* a counter in each word of an incompressible page */
    for (unsigned w = 0; w < PAGE_WORDS; w++)
        page[w * 8]++;
    assert_int_equal(round_trip(page, noise, &n), PAGE_DELTA_LZ4);
    assert_true(n < PROTO_PAGE_SIZE / 2);
}

static void test_every_count_of_words(void **state)
{
    (void)state;
    uint8_t base[PROTO_PAGE_SIZE], page[PROTO_PAGE_SIZE];
    unsigned seen[PAGE_ENCODINGS] = {0};
    for (unsigned words = 0; words <= PAGE_WORDS; words++) {
        if (words % 2)
            fill_random(base);
        else
            fill_text(base);
        memcpy(page, base, sizeof page);
        change_words(page, words);
        seen[round_trip(page, base, NULL)]++;
        seen[round_trip(page, NULL, NULL)]++;
    }
    assert_true(seen[PAGE_DELTA] >= 128);
    assert_true(seen[PAGE_DELTA_LZ4]);
    assert_true(seen[PAGE_LZ4]);
    assert_true(seen[PAGE_RAW]);
}

static void test_unaligned(void **state)
{
    (void)state;
    uint8_t *room = malloc(2 * PROTO_PAGE_SIZE + 16);
    uint8_t *page = room + 1, *base = room + PROTO_PAGE_SIZE + 3;
    fill_random(base);
    memcpy(page, base, PROTO_PAGE_SIZE);
    change_words(page, 17);
    assert_int_equal(round_trip(page, base, NULL), PAGE_DELTA);
    free(room);
}

static void compare_words(const uint8_t *page, const uint8_t *base, const struct words_mask *plain,
                          void (*differ)(const uint8_t *, const uint8_t *, struct words_mask *))
{
    struct words_mask m;
    differ(page, base, &m);
    assert_memory_equal(m.lines, plain->lines, sizeof m.lines);
    assert_true(m.summary == plain->summary);
    assert_int_equal(m.count, plain->count);
}

/* The loops for AVX2 and AVX-512 do what the plain ones do. */
static void test_words_agree(void **state)
{
    (void)state;
    uint8_t base[PROTO_PAGE_SIZE], page[PROTO_PAGE_SIZE], packed[PROTO_PAGE_SIZE], other[PROTO_PAGE_SIZE + 1];
    for (unsigned words = 0; words <= PAGE_WORDS; words++) {
        struct words_mask plain;
        fill_random(base);
        memcpy(page, base, sizeof page);
        change_words(page, words);
        words_differ_plain(page, base, &plain);
        assert_int_equal(plain.count, words);
        words_pack_plain(page, &plain, packed);
        other[words * 8] = 0xee;
        words_pack(page, &plain, other);
        assert_memory_equal(packed, other, words * 8);
        assert_int_equal(other[words * 8], 0xee);
        compare_words(page, base, &plain, words_differ);
#ifdef __x86_64__
        if (words_isa() >= WORDS_AVX2)
            compare_words(page, base, &plain, words_differ_avx2);
#endif
    }
}

static void refuse(unsigned encoding, const void *data, size_t n)
{
    struct proto_error e = {""};
    assert_int_equal(page_check(encoding, data, n, &e), -1);
    assert_true(strlen(e.text) > 0);
}

static void test_malformed_plain(void **state)
{
    (void)state;
    uint8_t data[PROTO_PAGE_SIZE + 8] = {0};
    struct proto_error e;
    refuse(PAGE_ZERO, data, 1);
    refuse(PAGE_UNCHANGED, data, 1);
    refuse(PAGE_RAW, data, 0);
    refuse(PAGE_RAW, data, PROTO_PAGE_SIZE - 1);
    refuse(PAGE_RAW, data, PROTO_PAGE_SIZE + 1);
    refuse(PAGE_ENCODINGS, data, 0);
    refuse(255, data, 8);
    assert_int_equal(page_check(PAGE_RAW, data, PROTO_PAGE_SIZE, &e), 0);
}

static void test_malformed_lz4(void **state)
{
    (void)state;
    uint8_t text[PROTO_PAGE_SIZE], block[PROTO_PAGE_SIZE];
    fill_text(text);
    struct proto_error e;
    static const unsigned both[] = {PAGE_LZ4, PAGE_DELTA_LZ4};
    for (unsigned i = 0; i < 2; i++) {
        unsigned encoding = both[i];
        size_t n = (size_t)LZ4_compress_default((char *)text, (char *)block, PROTO_PAGE_SIZE, sizeof block);
        assert_int_equal(page_check(encoding, block, n, &e), 0);
        refuse(encoding, block, 0);
        for (size_t cut = 1; cut < n; cut++)
            refuse(encoding, block, cut);
        /* a page too short, a page too long, an empty sequence */
        n = (size_t)LZ4_compress_default((char *)text, (char *)block, PROTO_PAGE_SIZE - 1, sizeof block);
        refuse(encoding, block, n);
        uint8_t longer[PROTO_PAGE_SIZE + 1] = {0};
        n = (size_t)LZ4_compress_default((char *)longer, (char *)block, PROTO_PAGE_SIZE + 1, sizeof block);
        refuse(encoding, block, n);
        refuse(encoding, "\0", 1);
        memset(block, 0xff, sizeof block);
        refuse(encoding, block, sizeof block - 1);
        refuse(encoding, block, sizeof block); /* would be no gain over RAW */
    }
}

static void test_malformed_delta(void **state)
{
    (void)state;
    uint8_t delta[8 + 2 + 3 * 8] = {0x01, 0, 0, 0, 0, 0, 0, 0x80, 0x03, 0x80};
    struct proto_error e;
    assert_int_equal(page_check(PAGE_DELTA, delta, sizeof delta, &e), 0);
    for (size_t cut = 0; cut < sizeof delta; cut++)
        refuse(PAGE_DELTA, delta, cut);
    uint8_t longer[sizeof delta + 8] = {0};
    memcpy(longer, delta, sizeof delta);
    refuse(PAGE_DELTA, longer, sizeof delta + 1);
    refuse(PAGE_DELTA, longer, sizeof longer);
    refuse(PAGE_DELTA, "\0\0\0\0\0\0\0\0", 8); /* nothing changed */
    longer[0] = 0x03;                          /* one mask more: it takes a zero */
    longer[9] = 0;
    refuse(PAGE_DELTA, longer, sizeof longer);
    /* all words and all masks are more than a raw page */
    uint8_t all[8 + 64 + PROTO_PAGE_SIZE];
    memset(all, 0xff, sizeof all);
    refuse(PAGE_DELTA, all, sizeof all);
}

/* The bits of PROTOCOL.md 4.1: words 0, 1 and 511. */
static void test_delta_on_the_wire(void **state)
{
    (void)state;
    uint8_t base[PROTO_PAGE_SIZE] = {0}, page[PROTO_PAGE_SIZE] = {0}, out[PAGE_ENCODED_MAX];
    static const uint8_t wire[] = {0x01, 0, 0, 0, 0, 0, 0, 0x80, 0x03, 0x80, 1, 2, 3, 4, 5, 6, 7,
                                   8,    9, 0, 0, 0, 0, 0, 0,    0,    0,    0, 0, 0, 0, 0, 0, 7};
    enum page_encoding encoding;
    for (uint8_t i = 0; i < 9; i++)
        page[i] = (uint8_t)(i + 1);
    page[PROTO_PAGE_SIZE - 1] = 7;
    assert_int_equal(page_encode(page, base, out, &encoding), sizeof wire);
    assert_int_equal(encoding, PAGE_DELTA);
    assert_memory_equal(out, wire, sizeof wire);
}

/* All but DELTA_LZ4 can be applied twice. */
static void test_redo(void **state)
{
    (void)state;
    uint8_t base[PROTO_PAGE_SIZE], page[PROTO_PAGE_SIZE], out[PAGE_ENCODED_MAX];
    enum page_encoding encoding;
    fill_random(base);
    memcpy(page, base, sizeof page);
    change_words(page, 100);
    size_t n = page_encode(page, base, out, &encoding);
    assert_int_equal(encoding, PAGE_DELTA);
    page_apply(encoding, out, n, base);
    page_apply(encoding, out, n, base);
    assert_memory_equal(base, page, sizeof page);
}

static void test_entries(void **state)
{
    (void)state;
    uint8_t payload[4 * (PAGES_ENTRY_SIZE + PROTO_PAGE_SIZE)], noise[PROTO_PAGE_SIZE];
    struct proto_error e;
    fill_random(noise);
    size_t n = pages_entry_write(payload, 0, PAGE_ZERO, NULL, 0);
    n += pages_entry_write(payload + n, 0xfedcba9876, PAGE_RAW, noise, sizeof noise);
    n += pages_entry_write(payload + n, 7, PAGE_UNCHANGED, NULL, 0);
    static const uint8_t wire[] = {0x76, 0x98, 0xba, 0xdc, 0xfe, PAGE_RAW, 0x00, 0x10};
    assert_memory_equal(payload + PAGES_ENTRY_SIZE, wire, sizeof wire);
    assert_int_equal(pages_check(payload, n, 0xfedcba9877, &e), 0);
    assert_int_equal(pages_check(payload, n, 0xfedcba9876, &e), -1); /* gfn = pages */
    assert_int_equal(pages_check(payload, n, 0, &e), -1);
    assert_int_equal(pages_check(payload, 0, 1, &e), 0);
    struct pages_entry entry;
    size_t offset = 0;
    assert_int_equal(pages_next(payload, n, &offset, &entry, &e), 1);
    assert_int_equal(pages_next(payload, n, &offset, &entry, &e), 1);
    assert_true(entry.gfn == 0xfedcba9876);
    assert_int_equal(entry.length, PROTO_PAGE_SIZE);
    assert_memory_equal(entry.data, noise, sizeof noise);
    assert_int_equal(pages_next(payload, n, &offset, &entry, &e), 1);
    assert_int_equal(pages_next(payload, n, &offset, &entry, &e), 0);
    /* every cut that is not between two entries */
    for (size_t cut = 1; cut < n; cut++) {
        bool between = cut == PAGES_ENTRY_SIZE || cut == n - PAGES_ENTRY_SIZE;
        assert_int_equal(pages_check(payload, cut, 0xfedcba9877, &e), between ? 0 : -1);
    }
    payload[5] = PAGE_ENCODINGS;
    assert_int_equal(pages_check(payload, n, 0xfedcba9877, &e), -1);
    payload[5] = PAGE_DELTA;
    assert_int_equal(pages_check(payload, n, 0xfedcba9877, &e), -1);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(page_encoding_name(PAGE_DELTA_LZ4), "DELTA_LZ4");
    assert_string_equal(page_encoding_name(PAGE_ENCODINGS), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_every_count_of_words),
        cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_words_agree),
        cmocka_unit_test(test_malformed_plain),
        cmocka_unit_test(test_malformed_lz4),
        cmocka_unit_test(test_malformed_delta),
        cmocka_unit_test(test_delta_on_the_wire),
        cmocka_unit_test(test_redo),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
