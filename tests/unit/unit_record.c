/* Unit tests of proto/record.h: framing, limits, unknown types. */
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Every other piece is put where the framer says, with more room than it takes. */
static const uint8_t *place(struct framer *f, const uint8_t *data, size_t n, bool in_room)
{
    uint8_t *room = in_room ? framer_room(f, n + 100) : NULL;
    return room ? memcpy(room, data, n) : data;
}

static int feed_all(struct framer *f, const uint8_t *data, size_t n, size_t step, size_t *records)
{
    struct record r;
    struct proto_error e;
    int more = 0;
    *records = 0;
    for (size_t at = 0; at < n && more >= 0; at += step) {
        size_t piece = n - at < step ? n - at : step;
        if (framer_feed(f, place(f, data + at, piece, at / step % 2), piece, &e))
            return -1;
        while ((more = framer_next(f, &r, &e)) > 0)
            (*records)++;
    }
    return more;
}

/* One record alone: what framer_next says. */
static int frame(uint16_t type, uint16_t flags, uint32_t length, size_t sent, struct proto_error *e)
{
    uint8_t header[RECORD_HEADER_SIZE];
    struct framer *f = framer_new();
    struct record r;
    record_header_write(header, type, flags, length, 0);
    assert_int_equal(framer_feed(f, header, sizeof header, e), 0);
    uint8_t *payload = calloc(1, sent + 1);
    assert_int_equal(framer_feed(f, payload, sent, e), 0);
    free(payload);
    int said = framer_next(f, &r, e);
    if (said < 0) { /* stays failed */
        assert_int_equal(framer_feed(f, header, sizeof header, e), -1);
        assert_int_equal(framer_next(f, &r, e), -1);
    }
    framer_free(f);
    return said;
}

static void test_split_at_every_octet(void **state)
{
    (void)state;
    struct sample *s = sample_new();
    sample_begin(s);
    sample_record(s, 4711, RECORD_OPTIONAL, 0, "future", 6);
    sample_commit(s, 1);
    for (size_t split = 0; split <= s->n; split++) {
        struct framer *f = framer_new();
        size_t before, after;
        assert_int_equal(feed_all(f, s->data, split, s->n, &before), 0);
        assert_int_equal(feed_all(f, s->data + split, s->n - split, s->n, &after), 0);
        assert_int_equal(before + after, 3); /* HELLO, CONFIG, COMMIT */
        assert_int_equal(framer_pending(f), 0);
        framer_free(f);
    }
    sample_free(s);
}

static void test_any_step(void **state)
{
    (void)state;
    static const size_t steps[] = {1, 7, 16, 4099, 1 << 20};
    struct sample *s = sample_new();
    sample_whole(s);
    size_t whole;
    struct framer *one = framer_new();
    assert_int_equal(feed_all(one, s->data, s->n, s->n, &whole), 0);
    assert_true(whole > 20);
    framer_free(one);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct framer *f = framer_new();
        size_t records;
        assert_int_equal(feed_all(f, s->data, s->n, steps[i], &records), 0);
        assert_int_equal(records, whole);
        framer_free(f);
    }
    sample_free(s);
}

static void test_payload_and_header_survive(void **state)
{
    (void)state;
    uint8_t octets[RECORD_HEADER_SIZE];
    static const uint8_t wire[RECORD_HEADER_SIZE] = {3, 0, 0, 0x80, 5, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1};
    record_header_write(octets, RECORD_PAGES, RECORD_OPTIONAL, 5, 0x0102030405060708);
    assert_memory_equal(octets, wire, sizeof wire);
    struct framer *f = framer_new();
    struct record r;
    struct proto_error e;
    assert_int_equal(framer_feed(f, octets, sizeof octets, &e), 0);
    assert_int_equal(framer_feed(f, (const uint8_t *)"abcdefg", 7, &e), 0);
    assert_int_equal(framer_next(f, &r, &e), 1);
    assert_int_equal(r.type, RECORD_PAGES);
    assert_int_equal(r.flags, RECORD_OPTIONAL);
    assert_int_equal(r.length, 5);
    assert_true(r.epoch == 0x0102030405060708);
    assert_memory_equal(r.payload, "abcde", 5);
    assert_int_equal(framer_next(f, &r, &e), 0);
    assert_int_equal(framer_pending(f), 2); /* a truncated stream, if it ended here */
    framer_free(f);
}

static void test_truncated_is_no_record(void **state)
{
    (void)state;
    struct proto_error e;
    assert_int_equal(frame(RECORD_COMMIT, 0, COMMIT_SIZE, COMMIT_SIZE - 1, &e), 0);
    assert_int_equal(frame(RECORD_COMMIT, 0, COMMIT_SIZE, COMMIT_SIZE, &e), 1);
}

static void test_lengths(void **state)
{
    (void)state;
    static const struct {
        uint16_t type;
        uint32_t least, most;
    } table[] = {
        {RECORD_HELLO, 2, 16384},     {RECORD_CONFIG, 2, 262144},   {RECORD_PAGES, 0, 1048576},
        {RECORD_DEVICE, 16, 1048576}, {RECORD_COMMIT, 24, 24},      {RECORD_ACK, 24, 24},
        {RECORD_HEARTBEAT, 16, 16},   {RECORD_BYE, 4, 259},         {RECORD_READY, 2, 65536},
        {RECORD_NOTE, 2, 65536},      {RECORD_HANDOVER, 2, 4096},   {RECORD_REGIONS, 24, 1048576},
        {RECORD_DISK, 16, 262160},    {RECORD_BLOCKS, 32, 1048576},
    };
    struct proto_error e;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        assert_int_equal(record_limit(table[i].type), table[i].most);
        assert_int_equal(frame(table[i].type, 0, table[i].most, table[i].most, &e), 1);
        /* refused by the header alone, before anything is stored */
        assert_int_equal(frame(table[i].type, 0, table[i].most + 1, 0, &e), -1);
        assert_non_null(strstr(e.text, record_name(table[i].type)));
        assert_int_equal(frame(table[i].type, 0, UINT32_MAX, 0, &e), -1);
        if (table[i].least)
            assert_int_equal(frame(table[i].type, 0, table[i].least - 1, 0, &e), -1);
    }
}

static void test_unknown_types(void **state)
{
    (void)state;
    struct proto_error e;
    assert_int_equal(frame(0, 0, 0, 0, &e), -1);
    assert_int_equal(frame(RECORD_TYPES, 0, 4, 4, &e), -1);
    assert_string_equal(e.text, "unknown mandatory record type 18");
    assert_int_equal(frame(RECORD_TYPES, RECORD_OPTIONAL, 4, 4, &e), 0); /* skipped */
    assert_int_equal(frame(RECORD_TYPES, RECORD_OPTIONAL | 0x123, RECORD_PAYLOAD_MAX, RECORD_PAYLOAD_MAX, &e), 0);
    assert_int_equal(frame(RECORD_TYPES, RECORD_OPTIONAL, RECORD_PAYLOAD_MAX + 1, 0, &e), -1);
    assert_string_equal(record_name(RECORD_TYPES), "unknown");
    assert_int_equal(record_limit(RECORD_TYPES), 0);
}

static void test_flags(void **state)
{
    (void)state;
    struct proto_error e;
    assert_int_equal(frame(RECORD_HEARTBEAT, RECORD_OPTIONAL, 16, 16, &e), 1);
    for (unsigned bit = 0; bit < 15; bit++)
        assert_int_equal(frame(RECORD_HEARTBEAT, (uint16_t)(1U << bit), 16, 16, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_at_every_octet),
        cmocka_unit_test(test_any_step),
        cmocka_unit_test(test_payload_and_header_survive),
        cmocka_unit_test(test_truncated_is_no_record),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_unknown_types),
        cmocka_unit_test(test_flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
