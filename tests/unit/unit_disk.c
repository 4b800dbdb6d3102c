/* Unit tests of proto/disk.h: writes go there and back, every damage is named, blocks are told disk by disk. */
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct disk_sizes sizes = {2, {1 << 20, 64 * DISK_BLOCK_SIZE}};
static uint8_t payload[DISK_PAYLOAD_MAX], room[DISK_DATA_MAX];

static void fill(uint8_t *data, size_t n, unsigned kind)
{
    uint64_t seed = 0x1234567 + n;
    for (size_t i = 0; i < n; i++)
        data[i] = kind == DISK_AS_DATA  ? (uint8_t)sample_random(&seed)
                  : kind == DISK_AS_LZ4 ? (uint8_t)(i / 50 + 1)
                                        : 0;
}

static void there_and_back(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 2, 15, 512, 4095, 4096, 65536, DISK_DATA_MAX};
    uint8_t *data = malloc(DISK_DATA_MAX);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (unsigned kind = 0; kind <= DISK_AS_ZEROES; kind++) {
            struct disk_extent x;
            struct proto_error e;
            fill(data, lengths[i], kind);
            size_t n = disk_encode(0, 4711, data, lengths[i], NULL, payload);
            if (disk_read(payload, n, &sizes, &x, &e))
                fail_msg("%u octets: %s", lengths[i], e.text);
            if (lengths[i] > 15)
                assert_int_equal(x.encoding, kind);
            assert_int_equal(x.disk, 0);
            assert_int_equal(x.length, lengths[i]);
            assert_int_equal(x.offset, 4711);
            if (x.encoding != DISK_AS_ZEROES)
                assert_memory_equal(disk_decode(&x, room, &e), data, lengths[i]);
            else
                assert_int_equal(data[0], 0);
        }
    free(data);
}

/* A half that packs is seen, wherever it is; a quarter is not worth the time. */
static void what_packs_in_part_is_packed(void **state)
{
    (void)state;
    uint8_t *data = malloc(DISK_DATA_MAX);
    for (size_t first = 0; first < 4; first++)
        for (size_t second = first; second < 4; second++) {
            fill(data, DISK_DATA_MAX, DISK_AS_DATA);
            fill(data + first * (DISK_DATA_MAX / 4), DISK_DATA_MAX / 4, DISK_AS_LZ4);
            fill(data + second * (DISK_DATA_MAX / 4), DISK_DATA_MAX / 4, DISK_AS_LZ4);
            size_t n = disk_encode(0, 0, data, DISK_DATA_MAX, NULL, payload);
            assert_int_equal(payload[2], first == second ? DISK_AS_DATA : DISK_AS_LZ4);
            assert_true(first == second || n < DISK_DATA_MAX / 16 * 10);
        }
    free(data);
}

/* After each attempt in vain the next one comes later; what packs ends that at once. */
static void attempts_in_vain_become_rare(void **state)
{
    (void)state;
    static const unsigned tried_at[] = {0, 2, 6, 14, 30, 46};
    struct disk_packing packing = {0};
    uint8_t noise[4096], text[4096];
    fill(noise, sizeof noise, DISK_AS_DATA);
    fill(text, sizeof text, DISK_AS_LZ4);
    for (unsigned i = 0, next = 0; i < 46; i++) {
        struct disk_packing as_it_is = packing;
        disk_encode(0, 0, text, sizeof text, &as_it_is, payload); /* what would become of it here */
        assert_int_equal(payload[2], i == tried_at[next] ? DISK_AS_LZ4 : DISK_AS_DATA);
        next += i == tried_at[next];
        disk_encode(0, 0, noise, sizeof noise, &packing, payload);
        assert_int_equal(payload[2], DISK_AS_DATA);
    }
    for (unsigned i = 0; i < 3; i++) {
        disk_encode(0, 0, text, sizeof text, &packing, payload);
        assert_int_equal(payload[2], DISK_AS_LZ4);
    }
}

static void one_octet_is_no_zeroes(void **state)
{
    (void)state;
    static uint8_t data[4096];
    for (size_t at = 0; at < sizeof data; at++) {
        data[at] = 1;
        disk_encode(0, 0, data, sizeof data, NULL, payload);
        assert_int_not_equal(payload[2], DISK_AS_ZEROES);
        data[at] = 0;
    }
}

static void zeroes_may_be_long(void **state)
{
    (void)state;
    static const struct disk_sizes large = {1, {(uint64_t)8 << 30}};
    struct disk_extent x;
    assert_int_equal(disk_encode_zeroes(0, (uint64_t)4 << 30, UINT32_MAX, payload), DISK_HEAD_SIZE);
    assert_int_equal(disk_read(payload, DISK_HEAD_SIZE, &large, &x, NULL), 0);
    assert_true(x.length == UINT32_MAX && x.offset == (uint64_t)4 << 30);
}

static void refused(unsigned disk, unsigned encoding, uint32_t length, uint64_t offset, size_t n, const char *part)
{
    struct disk_extent x;
    struct proto_error e = {""};
    memset(payload, 0, sizeof payload);
    disk_encode_zeroes(disk, offset, length, payload);
    payload[2] = (uint8_t)encoding;
    int said = disk_read(payload, DISK_HEAD_SIZE + n, &sizes, &x, &e);
    if (!said && x.encoding == DISK_AS_LZ4)
        said = disk_decode(&x, room, &e) ? 0 : -1;
    assert_int_equal(said, -1);
    if (!strstr(e.text, part))
        fail_msg("\"%s\" has no \"%s\"", e.text, part);
}

static void violations_are_named(void **state)
{
    (void)state;
    struct disk_extent x;
    struct proto_error e;
    refused(2, DISK_AS_ZEROES, 1, 0, 0, "disk 2 of 2");
    refused(0, DISK_ENCODINGS, 1, 0, 0, "kind 4");
    refused(0, DISK_AS_PAGES, 4096, 0, 16, "with 16 octets");
    refused(0, DISK_AS_PAGES, 4096, 0, 0, "with 0 octets");
    refused(0, DISK_AS_PAGES, 4095, 0, 0, "no whole blocks");
    refused(0, DISK_AS_PAGES, 4096, 1, 8, "no whole blocks");
    refused(0, DISK_AS_PAGES, DISK_DATA_MAX + 4096, 0, 520, "266240 octets");
    refused(0, DISK_AS_ZEROES, 0, 0, 0, "0 octets");
    refused(0, DISK_AS_ZEROES, (1 << 20) + 1, 0, 0, "disk 0, which has");
    refused(1, DISK_AS_ZEROES, 2, 64 * DISK_BLOCK_SIZE - 1, 0, "disk 1, which has");
    refused(1, DISK_AS_ZEROES, 2, UINT64_MAX, 0, "disk 1, which has");
    refused(0, DISK_AS_ZEROES, 5, 0, 1, "with 1 octets");
    refused(0, DISK_AS_DATA, 5, 0, 4, "with 4 octets");
    refused(0, DISK_AS_DATA, 5, 0, 6, "with 6 octets");
    refused(0, DISK_AS_DATA, DISK_DATA_MAX + 1, 0, DISK_DATA_MAX, "262145 octets");
    refused(0, DISK_AS_LZ4, DISK_DATA_MAX + 1, 0, 5, "262145 octets");
    refused(0, DISK_AS_LZ4, 5, 0, 5, "with 5 octets");
    refused(0, DISK_AS_LZ4, 5, 0, 0, "with 0 octets");
    refused(0, DISK_AS_LZ4, 4096, 0, 30, "no LZ4 block");
    for (size_t n = 0; n < DISK_HEAD_SIZE; n++)
        assert_int_equal(disk_read(payload, n, &sizes, &x, &e), -1);
    disk_encode_zeroes(0, 0, 1, payload);
    payload[3] = 1;
    assert_int_equal(disk_read(payload, DISK_HEAD_SIZE, &sizes, &x, &e), -1);
    assert_non_null(strstr(e.text, "reserved"));
}

static void pages_are_resolved(void **state)
{
    (void)state;
    enum { PAGES = 70 };
    static uint8_t memory[PAGES * PROTO_PAGE_SIZE], resolved[DISK_PAYLOAD_MAX];
    uint64_t gfns[DISK_BLOCKS_MAX];
    struct disk_extent x;
    struct proto_error e;
    fill(memory, sizeof memory, DISK_AS_DATA);
    for (uint32_t blocks = 1; blocks <= DISK_BLOCKS_MAX; blocks += 9) {
        for (uint32_t i = 0; i < blocks; i++)
            gfns[i] = (i * 31 + blocks) % PAGES;
        size_t n = disk_encode_pages(0, 3 * DISK_BLOCK_SIZE, gfns, blocks, payload);
        assert_int_equal(n, DISK_HEAD_SIZE + blocks * DISK_GFN_SIZE);
        assert_int_equal(disk_read(payload, n, &sizes, &x, &e), 0);
        assert_int_equal(x.encoding, DISK_AS_PAGES);
        assert_null(disk_decode(&x, room, &e));
        n = disk_resolve(&x, memory, PAGES, resolved, &e);
        assert_int_equal(disk_read(resolved, n, &sizes, &x, &e), 0);
        assert_int_equal(x.encoding, DISK_AS_DATA);
        assert_int_equal(x.offset, 3 * DISK_BLOCK_SIZE);
        for (uint32_t i = 0; i < blocks; i++)
            assert_memory_equal(x.data + (size_t)i * PROTO_PAGE_SIZE, memory + gfns[i] * PROTO_PAGE_SIZE,
                                PROTO_PAGE_SIZE);
    }
    gfns[0] = PAGES;
    assert_int_equal(disk_read(payload, disk_encode_pages(0, 0, gfns, 1, payload), &sizes, &x, &e), 0);
    assert_int_equal(disk_resolve(&x, memory, PAGES, resolved, &e), 0);
    assert_non_null(strstr(e.text, "page 70 of 70"));
}

static void sizes_of_disks(void **state)
{
    (void)state;
    assert_null(disk_size_refusal(4096));
    assert_null(disk_size_refusal((uint64_t)INT64_MAX - 4095));
    assert_non_null(disk_size_refusal(0));
    assert_non_null(disk_size_refusal(4097));
    assert_non_null(disk_size_refusal(UINT64_MAX - 4095));
}

/* ---- BLOCKS ---- */

static size_t telling(uint8_t *out, unsigned disk, uint64_t end, uint64_t first, uint32_t count)
{
    blocks_head_write(out, disk);
    regions_head_write(out + BLOCKS_HEAD_SIZE,
                       &(struct regions_head){.seed = 7, .end = end, .region_pages = DISK_REGION_BLOCKS});
    regions_run_write(out + BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE, first, count);
    return BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE + REGIONS_RUN_SIZE + count * PROTO_DIGEST_SIZE;
}

static void disks_are_told_one_by_one(void **state)
{
    (void)state;
    uint8_t out[512] = {0};
    struct blocks_told told;
    struct regions_run run;
    unsigned disk;
    blocks_told_init(&told, &sizes); /* 16 and 4 regions */
    size_t n = telling(out, 1, 3, 1, 2), at = REGIONS_HEAD_SIZE;
    assert_int_equal(blocks_check(&told, out, n, &disk, NULL), 0);
    assert_int_equal(disk, 1);
    assert_int_equal(regions_next(out + BLOCKS_HEAD_SIZE, n - BLOCKS_HEAD_SIZE, &at, &run), 1);
    assert_true(run.first == 1 && run.count == 2);
    n = telling(out, 0, 16, 0, 2);
    assert_int_equal(blocks_check(&told, out, n, &disk, NULL), 0);
    assert_false(blocks_all_told(&told));
    n = telling(out, 1, 4, 3, 1);
    assert_int_equal(blocks_check(&told, out, n, &disk, NULL), 0);
    assert_true(blocks_all_told(&told));
}

static void blocks_refused(struct blocks_told told, const uint8_t *out, size_t n, const char *part)
{
    struct blocks_told before = told;
    struct proto_error e = {""};
    unsigned disk;
    assert_int_equal(blocks_check(&told, out, n, &disk, &e), -1);
    if (!strstr(e.text, part))
        fail_msg("\"%s\" has no \"%s\"", e.text, part);
    assert_memory_equal(&told, &before, sizeof told);
}

static void false_tellings_are_named(void **state)
{
    (void)state;
    uint8_t out[512] = {0};
    struct blocks_told told;
    blocks_told_init(&told, &sizes);
    size_t n = telling(out, 2, 1, 0, 1);
    blocks_refused(told, out, n, "disk 2 of 2");
    n = telling(out, 1, 5, 0, 1);
    blocks_refused(told, out, n, "of disk 1: REGIONS up to 5");
    n = telling(out, 1, 4, 3, 2);
    blocks_refused(told, out, n, "a run of 2 from 3");
    for (size_t cut = 0; cut < BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE; cut++)
        blocks_refused(told, out, cut, "BLOCKS");
    for (unsigned i = 2; i < BLOCKS_HEAD_SIZE; i++) {
        n = telling(out, 0, 1, 0, 1);
        out[i] = 1;
        blocks_refused(told, out, n, "reserved");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(what_packs_in_part_is_packed),
        cmocka_unit_test(attempts_in_vain_become_rare),
        cmocka_unit_test(one_octet_is_no_zeroes),
        cmocka_unit_test(zeroes_may_be_long),
        cmocka_unit_test(violations_are_named),
        cmocka_unit_test(pages_are_resolved),
        cmocka_unit_test(sizes_of_disks),
        cmocka_unit_test(disks_are_told_one_by_one),
        cmocka_unit_test(false_tellings_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
