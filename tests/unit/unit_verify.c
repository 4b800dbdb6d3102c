/*
 * hikae-verify against proto/: two parsers that were written apart must say the same of whole and of damaged streams.
 * Runs the program, whose path is HIKAE_VERIFY.
 */
#include "replay.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

static char path[64];

/* Exit status of hikae-verify on the stream; what it prints goes to `said`. */
static int verify(const uint8_t *data, size_t n, const char *options, char said[8192])
{
    static const char head[16] = "HIKAESTREAM\0\1\0\0";
    char command[512];
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(head, sizeof head, 1, f), 1);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    snprintf(command, sizeof command, "%s %s %s 2>&1", HIKAE_VERIFY, options, path);
    f = popen(command, "r");
    assert_non_null(f);
    size_t got = fread(said, 1, 8191, f);
    said[got] = 0;
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* What proto/ says of it: 0 or -1. */
static int receive(const uint8_t *data, size_t n, struct proto_error *e)
{
    struct replay *r = replay_new(SAMPLE_PAGES);
    int result = replay_feed(r, data, n, e);
    replay_free(r);
    return result;
}

static void test_sample_passes(void **state)
{
    (void)state;
    char said[8192], digest[40] = "";
    struct proto_error e;
    struct sample *s = sample_new();
    sample_whole(s);
    struct replay *r = replay_new(SAMPLE_PAGES);
    assert_int_equal(replay_feed(r, s->data, s->n, &e), 0);
    assert_true(replay_is_complete(r));
    assert_int_equal(replay_committed(r), SAMPLE_EPOCHS);
    assert_memory_equal(replay_memory(r), s->memory, sizeof s->memory);
    for (unsigned i = 0; i < SAMPLE_DISKS; i++)
        assert_memory_equal(replay_disk(r, i), s->disks[i], SAMPLE_DISK_BYTES);
    replay_free(r);
    assert_int_equal(verify(s->data, s->n, "-v --complete --memory-digest", said), 0);
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits(s->memory, sizeof s->memory));
    for (unsigned i = 0; i < sizeof sum.digest; i++)
        snprintf(digest + 2 * i, 3, "%02x", sum.digest[i]);
    assert_non_null(strstr(said, digest));
    assert_int_equal(verify(s->data, s->n, "--json -v", said), 0);
    assert_non_null(strstr(said, "\"ok\":true"));
    assert_non_null(strstr(said, "\"epochs\":4"));
    sample_free(s);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    char said[8192];
    struct sample *s = sample_new();
    sample_whole(s);
    for (size_t n = 0; n < s->n; n += 1 + s->n / 60) {
        assert_int_equal(verify(s->data, n, "", said), 0);
        struct replay *r = replay_new(SAMPLE_PAGES);
        struct proto_error e;
        assert_int_equal(replay_feed(r, s->data, n, &e), 0);
        if (!replay_is_complete(r))
            assert_int_equal(verify(s->data, n, "--complete", said), 1);
        replay_free(r);
    }
    sample_free(s);
}

/* ---- one violation each, behind a good first epoch ---- */

static void put_pages(struct sample *s, uint64_t epoch, uint64_t gfn, unsigned encoding, const void *data, size_t n)
{
    uint8_t payload[PAGES_ENTRY_SIZE + PROTO_PAGE_SIZE];
    size_t size = pages_entry_write(payload, gfn, (enum page_encoding)encoding, data, n);
    sample_record(s, RECORD_PAGES, 0, epoch, payload, size);
}

static void put_piece(struct sample *s, unsigned kind, unsigned encoding, uint32_t total, uint32_t encoded,
                      uint32_t offset, size_t n)
{
    uint8_t payload[DEVICE_HEAD_SIZE + 64] = {0};
    device_head_write(payload, (enum device_kind)kind, (enum blob_encoding)encoding, total, encoded, offset);
    sample_record(s, RECORD_DEVICE, 0, 2, payload, DEVICE_HEAD_SIZE + n);
}

static void put_disk(struct sample *s, unsigned disk, unsigned kind, uint32_t length, uint64_t offset, size_t n)
{
    uint8_t payload[DISK_HEAD_SIZE + 64] = {0};
    disk_encode_zeroes(disk, offset, length, payload);
    payload[2] = (uint8_t)kind;
    sample_record(s, RECORD_DISK, 0, 2, payload, DISK_HEAD_SIZE + n);
}

/* It refers to what was never sent. */
static void put_first_disk(struct sample *s)
{
    uint8_t payload[DISK_HEAD_SIZE + DISK_GFN_SIZE];
    size_t n = disk_encode_pages(0, 0, &(uint64_t){1}, 1, payload);
    sample_record(s, RECORD_DISK, 0, 1, payload, n);
}

/* With that octet in it, and so many less. */
static void put_check(struct sample *s, size_t at, uint8_t octet, uint32_t less)
{
    size_t begin = s->n + RECORD_HEADER_SIZE;
    sample_check(s, 1, 1);
    s->data[begin + at] = octet;
    s->n -= less;
    s->data[begin - RECORD_HEADER_SIZE + 4] -= (uint8_t)less;
}

static void put_memory_check(struct sample *s, size_t at, uint8_t octet)
{
    size_t begin = s->n + RECORD_HEADER_SIZE;
    sample_check_memory(s, 1, 1);
    s->data[begin + at] = octet;
}

static void put_bye(struct sample *s, unsigned reason)
{
    uint8_t payload[4] = {(uint8_t)reason};
    sample_record(s, RECORD_BYE, 0, 0, payload, sizeof payload);
}

static void damage(struct sample *s, unsigned which)
{
    uint8_t heartbeat[HEARTBEAT_SIZE] = {0}, zero[24] = {0}, mask[17] = {1, 0, 0, 0, 0, 0, 0, 0, 0};
    uint8_t header[RECORD_HEADER_SIZE];
    switch (which) {
    case 0: /* replayed epoch */
        sample_epoch(s, 1);
        break;
    case 1: /* skipped */
        sample_epoch(s, 3);
        break;
    case 2: /* mixed */
        put_pages(s, 2, 1, PAGE_ZERO, NULL, 0);
        put_pages(s, 3, 2, PAGE_ZERO, NULL, 0);
        break;
    case 3: /* wrong digest */
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        s->data[s->n - 1] ^= 2; /* a valid state, but another */
        sample_commit(s, 2);
        break;
    case 4: /* a record is missing */
        put_pages(s, 2, 1, PAGE_ZERO, NULL, 0);
        s->n -= RECORD_HEADER_SIZE + PAGES_ENTRY_SIZE;
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        sample_commit(s, 2);
        break;
    case 5: /* count */
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        s->records++;
        sample_commit(s, 2);
        break;
    case 6: /* gfn */
        put_pages(s, 2, SAMPLE_PAGES, PAGE_ZERO, NULL, 0);
        break;
    case 7: /* encodings and lengths */
        put_pages(s, 2, 1, PAGE_ENCODINGS, NULL, 0);
        break;
    case 8:
        put_pages(s, 2, 1, PAGE_RAW, zero, sizeof zero);
        break;
    case 9:
        put_pages(s, 2, 1, PAGE_LZ4, zero, sizeof zero);
        break;
    case 10:
        put_pages(s, 2, 1, PAGE_DELTA_LZ4, zero, 1);
        break;
    case 11:
        put_pages(s, 2, 1, PAGE_DELTA, zero, sizeof zero);
        break;
    case 12:
        put_pages(s, 2, 1, PAGE_DELTA, mask, sizeof mask);
        break;
    case 13:
        put_pages(s, 2, 1, PAGE_ZERO, zero, 1);
        break;
    case 14: /* an entry cut short */
        sample_record(s, RECORD_PAGES, 0, 2, zero, PAGES_ENTRY_SIZE - 1);
        break;
    case 15:
        sample_record(s, RECORD_PAGES, 0, 2, "\0\0\0\0\0\2\0\20", PAGES_ENTRY_SIZE);
        break;
    case 16: /* PAGES after DEVICE */
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        put_pages(s, 2, 1, PAGE_ZERO, NULL, 0);
        break;
    case 17: /* device pieces */
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 3);
        sample_commit(s, 2);
        break;
    case 18:
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 1, 3);
        break;
    case 19:
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 5);
        break;
    case 20:
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        break;
    case 21:
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 2);
        put_piece(s, DEVICE_INITIAL, BLOB_RAW, 4, 4, 2, 2);
        break;
    case 22: /* a delta to a blob of another size */
        put_piece(s, DEVICE_STATE, BLOB_DELTA_LZ4, 50, 4, 0, 4);
        break;
    case 23:
        put_piece(s, DEVICE_STATE, BLOB_LZ4, 50, 4, 0, 4);
        break;
    case 24:
        put_piece(s, DEVICE_KINDS, BLOB_RAW, 4, 4, 0, 4);
        break;
    case 25:
        put_piece(s, DEVICE_STATE, 3, 4, 4, 0, 4);
        break;
    case 26:
        put_piece(s, DEVICE_STATE, BLOB_RAW, DEVICE_BLOB_MAX + 1, DEVICE_BLOB_MAX + 1, 0, 4);
        break;
    case 27: /* records */
        sample_record(s, 15, 0, 0, zero, 4);
        break;
    case 28:
        sample_record(s, RECORD_HEARTBEAT, 1, 0, heartbeat, sizeof heartbeat);
        break;
    case 29:
        sample_record(s, RECORD_HEARTBEAT, 0, 0, heartbeat, sizeof heartbeat - 1);
        break;
    case 30: /* oversized, by its header */
        record_header_write(header, RECORD_PAGES, 0, RECORD_PAYLOAD_MAX + 1, 2);
        sample_octets(s, header, sizeof header);
        break;
    case 31:
        record_header_write(header, 4711, RECORD_OPTIONAL, RECORD_PAYLOAD_MAX + 1, 2);
        sample_octets(s, header, sizeof header);
        break;
    case 32:
        sample_record(s, RECORD_HEARTBEAT, 0, 2, heartbeat, sizeof heartbeat);
        break;
    case 33:
        sample_begin(s);
        break;
    case 34:
        sample_json(s, RECORD_CONFIG, "{}");
        break;
    case 35:
        sample_json(s, RECORD_READY, "{\"pages\":24}");
        break;
    case 36:
        sample_record(s, RECORD_ACK, 0, 2, zero, COMMIT_SIZE);
        break;
    case 37:
        put_bye(s, 1);
        sample_json(s, RECORD_NOTE, "{}");
        break;
    case 38:
        put_bye(s, 9);
        break;
    case 39: /* no device state */
        put_pages(s, 2, 1, PAGE_ZERO, NULL, 0);
        sample_commit(s, 2);
        break;
    case 40: /* an epoch after HANDOVER */
        sample_record(s, RECORD_HANDOVER, 0, 1, "{}", 2);
        put_pages(s, 2, 1, PAGE_ZERO, NULL, 0);
        break;
    case 41: /* of another epoch */
        sample_record(s, RECORD_HANDOVER, 0, 2, "{}", 2);
        break;
    case 42: /* DISK */
        put_disk(s, SAMPLE_DISKS, DISK_AS_ZEROES, 4096, 0, 0);
        break;
    case 43:
        put_disk(s, 0, DISK_ENCODINGS, 4096, 0, 0);
        break;
    case 44:
        put_disk(s, 0, DISK_AS_ZEROES, 4096, SAMPLE_DISK_BYTES - 4095, 0);
        break;
    case 45:
        put_disk(s, 0, DISK_AS_ZEROES, 4096, UINT64_MAX - 100, 0);
        break;
    case 46:
        put_disk(s, 0, DISK_AS_ZEROES, 0, 0, 0);
        break;
    case 47:
        put_disk(s, 0, DISK_AS_ZEROES, 4096, 0, 1);
        break;
    case 48:
        put_disk(s, 0, DISK_AS_DATA, 10, 0, 9);
        break;
    case 49:
        put_disk(s, 0, DISK_AS_LZ4, 4096, 0, 20);
        break;
    case 50:
        put_disk(s, 0, DISK_AS_LZ4, 20, 0, 20);
        break;
    case 51:
        put_disk(s, 0, DISK_AS_ZEROES, SAMPLE_DISK_BYTES + 1, 0, 0);
        break;
    case 52: /* reserved octet */
        put_disk(s, 0, DISK_AS_ZEROES, 4096, 0, 0);
        s->data[s->n - DISK_HEAD_SIZE + 3] = 1;
        break;
    case 53: /* after DEVICE */
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        put_disk(s, 0, DISK_AS_ZEROES, 4096, 0, 0);
        break;
    case 54: /* from a secondary */
        sample_record(s, RECORD_BLOCKS, 0, 0, "0123456789abcdef0123456789abcdef", 32);
        break;
    case 55: /* CHECK: inside of an epoch, before and after its number */
        put_pages(s, 2, 1, PAGE_ZERO, NULL, 0);
        sample_check(s, 1, 1);
        break;
    case 56:
        sample_check(s, 2, 1);
        break;
    case 57:
        sample_check(s, 1, 1);
        sample_check(s, 1, 1);
        break;
    case 58:
        sample_record(s, RECORD_HANDOVER, 0, 1, "{}", 2);
        sample_check(s, 1, 1);
        break;
    case 59: /* of no such disk, of no such block, reserved octet, half of a digest */
        put_check(s, 32, 2, 0);
        break;
    case 60:
        put_check(s, 24, SAMPLE_DISK_BYTES / DISK_BLOCK_SIZE + 1, 0);
        break;
    case 61:
        put_check(s, 39, 1, 0);
        break;
    case 62:
        put_check(s, 0, 1, 8);
        break;
    case 63: /* a run that is empty, or behind the end */
        put_check(s, CHECK_HEAD_SIZE + 5, 0, 0);
        break;
    case 64:
        put_check(s, CHECK_HEAD_SIZE, 1, 0);
        break;
    case 65: /* from a secondary */
        sample_record(s, RECORD_CHECKED, 0, 0, "01234567", 8);
        break;
    case 66: /* of memory that is not there; of the number before that which means memory */
        put_memory_check(s, 24, SAMPLE_PAGES + 1);
        break;
    case 67:
        put_check(s, 33, 0xff, 0);
        break;
    case 68:
        sample_record(s, RECORD_CHANGED, 0, 0, "0123456789abcdef", 16);
        break;
    case 69: /* DISK of pages: not whole blocks, too few, no such page, in the first epoch */
        put_disk(s, 0, DISK_AS_PAGES, 4096, 512, 8);
        break;
    case 70:
        put_disk(s, 0, DISK_AS_PAGES, 8192, 0, 8);
        break;
    case 71:
        put_disk(s, 0, DISK_AS_PAGES, 4096, 0, 8);
        s->data[s->n - 8] = SAMPLE_PAGES;
        break;
    case 72:
        s->n = 0;
        sample_begin(s);
        s->records = 0;
        digest_reset(s->digest);
        put_first_disk(s);
        break;
    default: /* the last of them: reserved octets of COMMIT */
        put_piece(s, DEVICE_STATE, BLOB_RAW, 4, 4, 0, 4);
        sample_commit(s, 2);
        s->data[s->n - 1] = 1;
        break;
    }
}

enum { DAMAGES = 74 };

static void test_each_violation(void **state)
{
    (void)state;
    char said[8192];
    for (unsigned i = 0; i < DAMAGES; i++) {
        struct proto_error e = {""};
        struct sample *s = sample_new();
        sample_begin(s);
        sample_epoch(s, 1);
        size_t good = s->n;
        assert_int_equal(receive(s->data, s->n, &e), 0);
        damage(s, i);
        if (receive(s->data, s->n, &e) != -1)
            fail_msg("proto accepts damage %u", i);
        if (verify(s->data, s->n, "", said) != 1)
            fail_msg("hikae-verify accepts damage %u (%s): %s", i, e.text, said);
        const char *offset = strstr(said, "offset ");
        assert_non_null(offset);
        assert_true(i == 72 || strtoull(offset + 7, NULL, 10) >= 16 + good); /* 72 begins anew */
        sample_free(s);
    }
}

/* CONFIG tells what disks there are. */
static void test_each_config(void **state)
{
    (void)state;
    char said[8192], json[256];
    static const char *const disks[] = {
        "{}",
        "[]",
        "[1]",
        "[{}]",
        "[{\"bytes\":0}]",
        "[{\"bytes\":4097}]",
        "[{\"bytes\":-4096}]",
        "[{\"bytes\":\"1\"}]",
        "[{\"bytes\":4096,\"shared\":1}]",
        "[{\"bytes\":4096,\"shared\":true,\"identity\":7}]",
        "[{\"bytes\":4096,\"shared\":true},{\"bytes\":4096}]",
        ("[{\"bytes\":4096},{\"bytes\":4096},{\"bytes\":4096},{\"bytes\":4096},{\"bytes\":4096},"
         "{\"bytes\":4096},{\"bytes\":4096},{\"bytes\":4096},{\"bytes\":4096}]")};
    for (size_t i = 0; i <= sizeof disks / sizeof disks[0]; i++) {
        bool good = i == sizeof disks / sizeof disks[0];
        struct sample *s = sample_new();
        sample_begin(s);
        s->n = RECORD_HEADER_SIZE + ((size_t)s->data[4] | (size_t)s->data[5] << 8); /* HELLO */
        snprintf(json, sizeof json, "{\"backend\":\"fake\",\"pages\":24,\"replica\":{},\"disks\":%s}",
                 good ? "[{\"bytes\":4096}]" : disks[i]);
        sample_json(s, RECORD_CONFIG, json);
        assert_int_equal(verify(s->data, s->n, "", said), good ? 0 : 1);
        assert_true(good || strstr(said, "CONFIG"));
        sample_free(s);
    }
}

/* Of a VM with shared disks: what its primary says of them after an epoch. */
static bool verify_shared(bool shared, const char *note, bool hand_over, char *said)
{
    char json[256];
    struct sample *s = sample_new();
    sample_begin(s);
    s->n = RECORD_HEADER_SIZE + ((size_t)s->data[4] | (size_t)s->data[5] << 8); /* HELLO */
    snprintf(
        json, sizeof json,
        "{\"backend\":\"fake\",\"pages\":24,\"replica\":{},\"disks\":[{\"bytes\":%d},{\"bytes\":%d,\"shared\":%s}]}",
        SAMPLE_DISK_BYTES, SAMPLE_DISK_BYTES, shared ? "true" : "false");
    sample_json(s, RECORD_CONFIG, json);
    sample_epoch(s, 1);
    sample_epoch(s, 2);
    sample_json(s, RECORD_NOTE, "{\"durable\":1}");
    if (!shared)
        s->n -= RECORD_HEADER_SIZE + strlen("{\"durable\":1}");
    sample_json(s, RECORD_NOTE, note);
    if (hand_over)
        sample_record(s, RECORD_HANDOVER, 0, 2, "{}", 2);
    int status = verify(s->data, s->n, "", said);
    sample_free(s);
    return status == 0;
}

static void test_shared(void **state)
{
    (void)state;
    char said[8192];
    assert_true(verify_shared(true, "{\"durable\":2}", true, said));
    assert_true(verify_shared(true, "{\"durable\":1}", false, said));
    assert_true(verify_shared(false, "{}", true, said));
    static const char *const wrong[] = {"{\"durable\":3}", "{\"durable\":0}", "{\"durable\":-1}",
                                        "{\"durable\":\"2\"}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(verify_shared(true, wrong[i], false, said));
        assert_non_null(strstr(said, "NOTE"));
    }
    assert_false(verify_shared(false, "{\"durable\":1}", false, said));
    assert_non_null(strstr(said, "NOTE"));
    assert_false(verify_shared(true, "{\"durable\":1}", true, said));
    assert_non_null(strstr(said, "HANDOVER"));
}

static void test_each_begin(void **state)
{
    (void)state;
    char said[8192];
    static const char *const hellos[] = {
        "[]",
        "{",
        "{\"version\":1}",
        "{}{}",
        "{\"version\":2,\"features\":[],\"host\":\"a\",\"vm\":\"web\",\"term\":3,\"agent\":\"x\"}",
        "{\"version\":1,\"features\":[],\"host\":\"a\",\"vm\":7,\"term\":3,\"agent\":\"x\"}",
    };
    for (size_t i = 0; i < sizeof hellos / sizeof hellos[0]; i++) {
        struct sample *s = sample_new();
        sample_json(s, RECORD_HELLO, hellos[i]);
        assert_int_equal(verify(s->data, s->n, "", said), 1);
        assert_non_null(strstr(said, "offset 16: "));
        sample_free(s);
    }
    struct sample *s = sample_new();
    sample_epoch(s, 1);
    assert_int_equal(verify(s->data, s->n, "", said), 1);
    assert_non_null(strstr(said, "before HELLO"));
    sample_free(s);
}

/* The extents in the stream of what an epoch's digest covers, and of COMMITs: no bit of them may flip unseen. */
static bool is_covered(const struct sample *s, size_t at)
{
    for (size_t record = 0; record < s->n;) {
        size_t length = RECORD_HEADER_SIZE + s->data[record + 4] + ((size_t)s->data[record + 5] << 8) +
                        ((size_t)s->data[record + 6] << 16);
        unsigned type = s->data[record];
        if (at < record + length)
            return s->data[record + 1] == 0 && ((type >= RECORD_PAGES && type <= RECORD_COMMIT) || type == RECORD_DISK);
        record += length;
    }
    return false;
}

/* Flipped bits: both parsers give the same verdict, and neither misses one in an epoch. */
static void test_flipped_bits(void **state)
{
    (void)state;
    char said[8192];
    uint64_t seed = 0xfeedface;
    struct sample *s = sample_new();
    sample_whole(s);
    for (unsigned i = 0; i < 300; i++) {
        struct proto_error e = {""};
        size_t at = sample_random(&seed) % s->n;
        uint8_t bit = (uint8_t)(1U << sample_random(&seed) % 8);
        if (!is_covered(s, at))
            continue;
        s->data[at] ^= bit;
        int proto = receive(s->data, s->n, &e), other = verify(s->data, s->n, "--complete", said);
        /* a length that now reaches behind the end makes the stream incomplete instead */
        if (proto == -1 && other != 1)
            fail_msg("bit %u of octet %zu: proto says \"%s\", hikae-verify nothing", bit, at, e.text);
        if (other != 1)
            fail_msg("bit %u of octet %zu is not seen", bit, at);
        s->data[at] ^= bit;
    }
    sample_free(s);
}

static void test_no_recording(void **state)
{
    (void)state;
    char command[512];
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs("HIKAESTREAM", f);
    fclose(f);
    snprintf(command, sizeof command, "%s %s >/dev/null 2>&1", HIKAE_VERIFY, path);
    assert_int_equal(WEXITSTATUS(system(command)), 1);
    unlink(path);
    assert_int_equal(WEXITSTATUS(system(command)), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_passes),  cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_each_violation), cmocka_unit_test(test_each_begin),
        cmocka_unit_test(test_flipped_bits),   cmocka_unit_test(test_no_recording),
        cmocka_unit_test(test_each_config),    cmocka_unit_test(test_shared),
    };
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.40s/hikae-XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
