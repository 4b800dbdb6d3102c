/* Unit tests of proto/epoch.h: digests, the grammar with each of its violations, the small records. */
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a scripted stream: the check of each record, in order ---- */

static struct stream_check *check;
static struct digest *digest;
static uint32_t records;
static struct proto_error why;

static void start(enum stream_side side)
{
    check = stream_check_new(side);
    digest = digest_new();
    records = 0;
    why.text[0] = 0;
}

static void end(void)
{
    stream_check_free(check);
    digest_free(digest);
}

static int put(uint16_t type, uint64_t epoch, const void *payload, size_t n)
{
    struct record r = {.type = type, .length = (uint32_t)n, .epoch = epoch, .payload = payload};
    if (record_is_content(type)) {
        uint8_t header[RECORD_HEADER_SIZE];
        record_header_write(header, type, 0, (uint32_t)n, epoch);
        digest_add(digest, header, sizeof header);
        digest_add(digest, payload, n);
        records++;
    }
    return stream_check_record(check, &r, &why);
}

static int put_json(uint16_t type)
{
    return put(type, 0, "{}", 2);
}

static int put_heartbeat(void)
{
    uint8_t payload[HEARTBEAT_SIZE];
    heartbeat_write(payload, 1, 0);
    return put(RECORD_HEARTBEAT, 0, payload, sizeof payload);
}

static int put_pages(uint64_t epoch)
{
    uint8_t payload[PAGES_ENTRY_SIZE];
    return put(RECORD_PAGES, epoch, payload, pages_entry_write(payload, epoch, PAGE_ZERO, NULL, 0));
}

static int put_disk(uint64_t epoch)
{
    uint8_t payload[DISK_HEAD_SIZE];
    return put(RECORD_DISK, epoch, payload, disk_encode_zeroes(0, 0, 4096, payload));
}

static int put_piece(enum device_kind kind, uint64_t epoch, uint32_t total, uint32_t offset, size_t n)
{
    uint8_t payload[DEVICE_HEAD_SIZE + 64] = {0};
    device_head_write(payload, kind, BLOB_RAW, total, total, offset);
    return put(RECORD_DEVICE, epoch, payload, DEVICE_HEAD_SIZE + n);
}

static int put_commit(uint64_t epoch)
{
    uint8_t sum[PROTO_DIGEST_SIZE], payload[COMMIT_SIZE];
    digest_final(digest, sum);
    commit_write(payload, sum, records);
    digest_reset(digest);
    records = 0;
    return put(RECORD_COMMIT, epoch, payload, sizeof payload);
}

static int put_ack(uint64_t epoch)
{
    uint8_t payload[COMMIT_SIZE] = {0};
    return put(RECORD_ACK, epoch, payload, sizeof payload);
}

static int put_bye(void)
{
    uint8_t payload[4 + PROTO_REASON_MAX];
    return put(RECORD_BYE, 0, payload, bye_write(payload, BYE_RESTART, "upgrade"));
}

/* HELLO CONFIG epoch(1), all well. */
static void start_primary(void)
{
    start(STREAM_FROM_PRIMARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_CONFIG), 0);
    assert_int_equal(put_pages(1), 0);
    assert_int_equal(put_piece(DEVICE_INITIAL, 1, 0, 0, 0), 0);
    assert_int_equal(put_piece(DEVICE_STATE, 1, 10, 0, 10), 0);
    assert_int_equal(put_commit(1), 0);
    assert_int_equal(stream_check_committed(check), 1);
}

static void assert_refused(int said, const char *what)
{
    assert_int_equal(said, -1);
    if (!strstr(why.text, what))
        fail_msg("\"%s\" does not say \"%s\"", why.text, what);
    assert_int_equal(put_heartbeat(), -1); /* stays failed, with the first reason */
    assert_non_null(strstr(why.text, what));
}

/* ---- tests ---- */

static void test_sample_passes(void **state)
{
    (void)state;
    struct sample *s = sample_new();
    sample_whole(s);
    for (unsigned encoding = 0; encoding < PAGE_ENCODINGS; encoding++)
        assert_true(s->encodings[encoding] > 0); /* the sample has them all */
    for (unsigned kind = 0; kind < DISK_ENCODINGS; kind++)
        assert_true(s->disk_encodings[kind] > 0);
    struct framer *f = framer_new();
    struct stream_check *c = stream_check_new(STREAM_FROM_PRIMARY);
    uint8_t *memory = calloc(SAMPLE_PAGES, PROTO_PAGE_SIZE);
    struct record r;
    struct proto_error e;
    assert_int_equal(framer_feed(f, s->data, s->n, &e), 0);
    while (framer_next(f, &r, &e) > 0) {
        struct pages_entry entry;
        size_t offset = 0;
        if (stream_check_record(c, &r, &e))
            fail_msg("%s", e.text);
        if (r.type != RECORD_PAGES)
            continue;
        assert_int_equal(pages_check(r.payload, r.length, SAMPLE_PAGES, &e), 0);
        while (pages_next(r.payload, r.length, &offset, &entry, &e) > 0)
            page_apply(entry.encoding, entry.data, entry.length, memory + entry.gfn * PROTO_PAGE_SIZE);
    }
    assert_int_equal(framer_pending(f), 0);
    assert_int_equal(stream_check_committed(c), SAMPLE_EPOCHS);
    assert_memory_equal(memory, s->memory, sizeof s->memory);
    free(memory);
    stream_check_free(c);
    framer_free(f);
    sample_free(s);
}

static void test_well_formed(void **state)
{
    (void)state;
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0); /* no page changed */
    assert_int_equal(put_commit(2), 0);
    assert_int_equal(put_heartbeat(), 0);
    assert_int_equal(put_disk(3), 0);
    assert_int_equal(put_pages(3), 0);
    assert_int_equal(put_json(RECORD_NOTE), 0);
    assert_int_equal(put_disk(3), 0);
    assert_int_equal(put_pages(3), 0);
    assert_int_equal(put_piece(DEVICE_INITIAL, 3, 0, 0, 0), 0);
    assert_int_equal(put_piece(DEVICE_STATE, 3, 30, 0, 10), 0);
    assert_int_equal(put_heartbeat(), 0);
    assert_int_equal(put_piece(DEVICE_STATE, 3, 30, 10, 20), 0);
    assert_int_equal(stream_check_committed(check), 2);
    assert_int_equal(put_commit(3), 0);
    assert_int_equal(stream_check_committed(check), 3);
    assert_int_equal(put_bye(), 0);
    assert_refused(put_heartbeat(), "after BYE");
    end();
}

static void test_handover(void **state)
{
    (void)state;
    start_primary();
    assert_int_equal(put(RECORD_HANDOVER, 1, "{}", 2), 0);
    assert_int_equal(put_heartbeat(), 0);
    assert_int_equal(put_json(RECORD_NOTE), 0);
    assert_refused(put_pages(2), "after HANDOVER");
    end();
    start_primary();
    assert_int_equal(put(RECORD_HANDOVER, 1, "{}", 2), 0);
    assert_refused(put(RECORD_HANDOVER, 1, "{}", 2), "after HANDOVER");
    end();
    start_primary();
    assert_int_equal(put(RECORD_HANDOVER, 1, "{}", 2), 0);
    assert_int_equal(put_bye(), 0);
    end();
    start_primary(); /* not of the epoch that was committed last */
    assert_refused(put(RECORD_HANDOVER, 2, "{}", 2), "1 is due");
    end();
    start_primary(); /* inside of an epoch */
    assert_int_equal(put_pages(2), 0);
    assert_refused(put(RECORD_HANDOVER, 1, "{}", 2), "in PAGES");
    end();
    start(STREAM_FROM_PRIMARY); /* of a replica that has nothing yet */
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_CONFIG), 0);
    assert_refused(put(RECORD_HANDOVER, 0, "{}", 2), "before the first epoch");
    end();
}

/* What is in it is for check_read. */
static void test_check(void **state)
{
    (void)state;
    static const uint8_t payload[CHECK_HEAD_SIZE];
    start_primary();
    assert_int_equal(put(RECORD_CHECK, 1, payload, sizeof payload), 0);
    assert_int_equal(put(RECORD_CHECK, 1, payload, sizeof payload), 0);
    assert_refused(put(RECORD_CHECK, 2, payload, sizeof payload), "1 is due");
    end();
    start_primary(); /* inside of an epoch */
    assert_int_equal(put_pages(2), 0);
    assert_refused(put(RECORD_CHECK, 1, payload, sizeof payload), "in PAGES");
    end();
    start_primary();
    assert_int_equal(put(RECORD_HANDOVER, 1, "{}", 2), 0);
    assert_refused(put(RECORD_CHECK, 1, payload, sizeof payload), "after HANDOVER");
    end();
    start(STREAM_FROM_PRIMARY); /* before the first */
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_CONFIG), 0);
    assert_refused(put(RECORD_CHECK, 0, payload, sizeof payload), "before the first epoch");
    end();
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_refused(put(RECORD_CHECKED, 0, payload, CHECKED_HEAD_SIZE), "may not come after HELLO");
    end();
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_READY), 0);
    assert_int_equal(put_ack(1), 0);
    assert_int_equal(put(RECORD_CHECKED, 0, payload, CHECKED_HEAD_SIZE), 0);
    assert_int_equal(put_ack(2), 0);
    assert_refused(put(RECORD_CHECK, 2, payload, sizeof payload), "from the secondary");
    end();
    start_primary();
    assert_refused(put(RECORD_CHECKED, 0, payload, CHECKED_HEAD_SIZE), "from the primary");
    end();
}

static void test_secondary(void **state)
{
    (void)state;
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_heartbeat(), 0);
    assert_int_equal(put_json(RECORD_READY), 0);
    assert_int_equal(put_ack(1), 0);
    assert_int_equal(put_json(RECORD_NOTE), 0);
    assert_int_equal(put_ack(2), 0);
    assert_int_equal(stream_check_committed(check), 2);
    assert_refused(put_ack(2), "3 is due"); /* replayed */
    end();
    static const uint16_t primary_only[] = {RECORD_CONFIG, RECORD_PAGES,  RECORD_DISK,
                                            RECORD_DEVICE, RECORD_COMMIT, RECORD_HANDOVER};
    for (size_t i = 0; i < sizeof primary_only / sizeof primary_only[0]; i++) {
        start(STREAM_FROM_SECONDARY);
        assert_int_equal(put_json(RECORD_HELLO), 0);
        assert_int_equal(put_json(RECORD_READY), 0);
        assert_refused(put(primary_only[i], 1, "", 0), "may not come");
        end();
    }
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_refused(put_ack(1), "may not come after HELLO"); /* before READY */
    end();
}

/* What is in them is for regions_check and blocks_check. */
static void telling(uint16_t type)
{
    static const uint8_t payload[32];
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_refused(put(type, 0, payload, sizeof payload), "may not come after HELLO");
    end();
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_READY), 0);
    assert_int_equal(put(type, 0, payload, sizeof payload), 0);
    assert_int_equal(put_heartbeat(), 0);
    assert_int_equal(put(type, 0, payload, sizeof payload), 0);
    assert_int_equal(put_ack(1), 0);
    assert_refused(put(type, 0, payload, sizeof payload), "after the first ACK");
    end();
    start(STREAM_FROM_PRIMARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_CONFIG), 0);
    assert_refused(put(type, 0, payload, sizeof payload), "from the primary");
    end();
}

static void test_telling(void **state)
{
    (void)state;
    telling(RECORD_REGIONS);
    telling(RECORD_BLOCKS);
    telling(RECORD_CHANGED);
}

static void test_refusal_first(void **state)
{
    (void)state;
    start(STREAM_FROM_SECONDARY);
    assert_int_equal(put_bye(), 0);
    assert_refused(put_json(RECORD_HELLO), "after BYE");
    end();
}

static void test_before_hello(void **state)
{
    (void)state;
    for (unsigned type = RECORD_CONFIG; type <= RECORD_NOTE; type++) {
        if (type == RECORD_BYE)
            continue;
        for (int side = STREAM_FROM_PRIMARY; side <= STREAM_FROM_SECONDARY; side++) {
            start((enum stream_side)side);
            assert_refused(put((uint16_t)type, 0, "{}", 2), "before HELLO");
            end();
        }
    }
}

static void test_twice(void **state)
{
    (void)state;
    start(STREAM_FROM_PRIMARY);
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_refused(put_json(RECORD_HELLO), "HELLO");
    end();
    start_primary();
    assert_refused(put_json(RECORD_CONFIG), "CONFIG");
    end();
    start_primary();
    assert_refused(put_json(RECORD_READY), "READY");
    end();
    start_primary();
    assert_refused(put(999, 0, "", 0), "unknown");
    end();
}

static void test_epoch_numbers(void **state)
{
    (void)state;
    static const struct {
        uint64_t epoch;
    } wrong[] = {{0}, {1}, {3}, {UINT64_MAX}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        start_primary();
        assert_refused(put_pages(wrong[i].epoch), "2 is due");
        end();
        start_primary();
        assert_refused(put_disk(wrong[i].epoch), "2 is due");
        end();
        start_primary();
        assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
        assert_refused(put_commit(wrong[i].epoch), "2 is due");
        end();
        start_primary(); /* mixed */
        assert_int_equal(put_pages(2), 0);
        assert_refused(put_piece(DEVICE_STATE, wrong[i].epoch, 4, 0, 4), "2 is due");
        end();
    }
    start_primary();
    assert_refused(put(RECORD_NOTE, 1, "{}", 2), "0 is due");
    end();
    start(STREAM_FROM_PRIMARY);
    assert_refused(put(RECORD_HELLO, 1, "{}", 2), "0 is due");
    end();
}

static void test_commit(void **state)
{
    (void)state;
    start_primary(); /* another digest */
    assert_int_equal(put_pages(2), 0);
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
    digest_add(digest, "x", 1);
    assert_refused(put_commit(2), "digest");
    assert_int_equal(stream_check_committed(check), 1);
    end();
    start_primary(); /* a disk write counts as a page does */
    assert_int_equal(put_disk(2), 0);
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
    records--;
    assert_refused(put_commit(2), "counts 1 records, 2 came");
    end();
    start_primary(); /* a record was lost on the way */
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
    records++;
    assert_refused(put_commit(2), "counts 2 records, 1 came");
    end();
    start_primary(); /* each bit of the payload counts */
    for (unsigned bit = 0; bit < COMMIT_SIZE * 8; bit++) {
        uint8_t sum[PROTO_DIGEST_SIZE], payload[COMMIT_SIZE];
        end();
        start_primary();
        assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
        digest_final(digest, sum);
        commit_write(payload, sum, 1);
        payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(put(RECORD_COMMIT, 2, payload, sizeof payload), -1);
        assert_int_equal(stream_check_committed(check), 1);
    }
    end();
}

static void test_blobs(void **state)
{
    (void)state;
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
    assert_refused(put_pages(2), "in DEVICE"); /* PAGES after DEVICE */
    end();
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
    assert_refused(put_disk(2), "in DEVICE"); /* DISK after DEVICE */
    end();
    start(STREAM_FROM_PRIMARY); /* epoch 1 needs both */
    assert_int_equal(put_json(RECORD_HELLO), 0);
    assert_int_equal(put_json(RECORD_CONFIG), 0);
    assert_int_equal(put_piece(DEVICE_STATE, 1, 10, 0, 10), 0);
    assert_refused(put_commit(1), "without its device state");
    end();
    start_primary();
    assert_int_equal(put_piece(DEVICE_INITIAL, 2, 10, 0, 10), 0);
    assert_refused(put_commit(2), "without its device state");
    end();
    start_primary();
    assert_int_equal(put_pages(2), 0);
    assert_refused(put_commit(2), "may not come in PAGES");
    end();
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 9), 0);
    assert_refused(put_commit(2), "unfinished");
    end();
    start_primary();
    assert_refused(put_piece(DEVICE_STATE, 2, 10, 1, 9), "0 is due");
    end();
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 5), 0);
    assert_refused(put_piece(DEVICE_STATE, 2, 10, 4, 6), "5 is due");
    end();
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 5), 0);
    assert_refused(put_piece(DEVICE_INITIAL, 2, 10, 5, 5), "another blob");
    end();
    start_primary();
    assert_int_equal(put_piece(DEVICE_STATE, 2, 10, 0, 10), 0);
    assert_refused(put_piece(DEVICE_STATE, 2, 10, 0, 10), "twice");
    end();
    start_primary();
    assert_refused(put(RECORD_DEVICE, 2, "", 0), "DEVICE of 0 octets");
    end();
}

static void test_fixed_sizes(void **state)
{
    (void)state;
    uint8_t octets[64] = {0};
    start_primary();
    assert_refused(put(RECORD_HEARTBEAT, 0, octets, HEARTBEAT_SIZE + 1), "HEARTBEAT");
    end();
    start_primary();
    assert_refused(put(RECORD_COMMIT, 2, octets, COMMIT_SIZE - 1), "COMMIT");
    end();
    start_primary();
    assert_refused(put(RECORD_BYE, 0, octets, 3), "BYE");
    end();
    start_primary();
    assert_refused(put(RECORD_BYE, 0, octets, 4), "unknown reason 0");
    end();
    start_primary();
    octets[0] = BYE_TROUBLE;
    octets[3] = 1;
    assert_refused(put(RECORD_BYE, 0, octets, 4), "reserved");
    end();
}

static void test_digest(void **state)
{
    (void)state;
    static const uint8_t of_nothing[] = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                         0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f};
    uint8_t one[PROTO_DIGEST_SIZE], other[PROTO_DIGEST_SIZE];
    struct digest *d = digest_new();
    digest_final(d, one);
    assert_memory_equal(one, of_nothing, sizeof one); /* as PROTOCOL.md says */
    digest_add(d, "hello ", 6);
    digest_add(d, "world", 5);
    digest_final(d, one);
    digest_reset(d);
    digest_add(d, "hello world", 11);
    digest_final(d, other);
    assert_memory_equal(one, other, sizeof one);
    digest_free(d);
}

static void test_small_records(void **state)
{
    (void)state;
    uint8_t payload[4 + PROTO_REASON_MAX];
    char text[PROTO_REASON_MAX + 1], long_text[400];
    enum bye_reason reason;
    uint64_t sequence, echo;
    struct proto_error e;
    struct record r = {.payload = payload};
    heartbeat_write(payload, 0x1122334455667788, 42);
    r.length = HEARTBEAT_SIZE;
    assert_int_equal(heartbeat_read(&r, &sequence, &echo, &e), 0);
    assert_true(sequence == 0x1122334455667788 && echo == 42);
    for (unsigned i = BYE_UNPROTECT; i <= BYE_RESTART; i++) {
        r.length = (uint32_t)bye_write(payload, (enum bye_reason)i, "disk\nfull\x1b[2J");
        assert_int_equal(bye_read(&r, &reason, text, &e), 0);
        assert_int_equal(reason, i);
        assert_string_equal(text, "disk?full?[2J");
        assert_string_not_equal(bye_name(i), "unknown");
    }
    assert_string_equal(bye_name(0), "unknown");
    assert_string_equal(bye_name(9), "unknown");
    /* a peer's control characters do not pass either */
    payload[4] = 7;
    assert_int_equal(bye_read(&r, &reason, text, &e), 0);
    assert_int_equal(text[0], '?');
    /* nor what is no ASCII: it goes into JSON */
    payload[4] = 0xe6;
    assert_int_equal(bye_read(&r, &reason, text, &e), 0);
    assert_int_equal(text[0], '?');
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    assert_int_equal(bye_write(payload, BYE_REFUSED, long_text), 4 + PROTO_REASON_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_passes), cmocka_unit_test(test_well_formed),  cmocka_unit_test(test_handover),
        cmocka_unit_test(test_check),         cmocka_unit_test(test_secondary),    cmocka_unit_test(test_telling),
        cmocka_unit_test(test_refusal_first), cmocka_unit_test(test_before_hello), cmocka_unit_test(test_twice),
        cmocka_unit_test(test_epoch_numbers), cmocka_unit_test(test_commit),       cmocka_unit_test(test_blobs),
        cmocka_unit_test(test_fixed_sizes),   cmocka_unit_test(test_digest),       cmocka_unit_test(test_small_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
