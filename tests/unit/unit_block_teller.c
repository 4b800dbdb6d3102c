/*
 * Unit tests of secondary/block_teller.h: what is told of a disk is what is on it, region by region; what is not told
 * is zeroes; holes cost no digest.
 */
#include "sample.h"
#include "secondary/block_teller.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { REGION = DISK_REGION_BLOCKS * DISK_BLOCK_SIZE, SEED = 77 };

static char path[] = "/tmp/hikae-unit-teller-XXXXXX";

static int open_disk(uint64_t bytes)
{
    int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static void put(int fd, uint64_t at, int octet)
{
    uint8_t block[DISK_BLOCK_SIZE];
    memset(block, octet, sizeof block);
    assert_int_equal(pwrite(fd, block, sizeof block, (off_t)at), sizeof block);
}

struct seen {
    uint64_t records, digests;
};

/* Compares each region of the disk with what was told of it. */
static struct seen tell(int fd, uint64_t bytes)
{
    struct disk_sizes sizes = {3, {bytes, bytes, bytes}};
    struct blocks_told told;
    struct seen seen = {0};
    struct errmsg e;
    uint64_t regions = regions_count(bytes / DISK_BLOCK_SIZE, DISK_REGION_BLOCKS), next = 0;
    uint8_t data[REGION], want[PROTO_DIGEST_SIZE];
    static const uint8_t zeroes[REGION];
    const uint8_t *payload;
    struct block_teller *t = block_teller_new(2, fd, bytes, SEED);
    blocks_told_init(&told, &sizes);
    for (ssize_t n; (n = block_teller_next(t, &payload, &e)) != 0; seen.records++) {
        struct regions_run run;
        struct proto_error why;
        unsigned disk;
        assert_true(n > 0);
        if (blocks_check(&told, payload, (size_t)n, &disk, &why))
            fail_msg("%s", why.text);
        assert_int_equal(disk, 2);
        for (size_t at = REGIONS_HEAD_SIZE;
             regions_next(payload + BLOCKS_HEAD_SIZE, (size_t)n - BLOCKS_HEAD_SIZE, &at, &run);)
            for (uint32_t i = 0; i < run.count; i++, seen.digests++, next++) {
                for (; next < run.first + i; next++) {
                    ssize_t got = pread(fd, data, REGION, (off_t)(next * REGION));
                    assert_memory_equal(data, zeroes, (size_t)got);
                }
                ssize_t got = pread(fd, data, REGION, (off_t)(next * REGION));
                region_digest(SEED, data, (size_t)got, want);
                assert_memory_equal(run.digests + i * PROTO_DIGEST_SIZE, want, sizeof want);
            }
        assert_true(block_teller_at(t) <= bytes);
    }
    for (; next < regions; next++) {
        ssize_t got = pread(fd, data, REGION, (off_t)(next * REGION));
        assert_memory_equal(data, zeroes, (size_t)got);
    }
    assert_true(regions_all_told(&told.disks[2]));
    assert_int_equal(block_teller_at(t), bytes);
    block_teller_free(t);
    close(fd);
    return seen;
}

static void an_empty_disk(void **state)
{
    (void)state;
    const uint64_t bytes = (uint64_t)1 << 40; /* not read: that would take long */
    const uint8_t *payload;
    struct blocks_told told;
    struct errmsg e;
    unsigned disk;
    int fd = open_disk(bytes);
    struct block_teller *t = block_teller_new(0, fd, bytes, SEED);
    blocks_told_init(&told, &(struct disk_sizes){1, {bytes}});
    ssize_t n = block_teller_next(t, &payload, &e);
    assert_int_equal(n, BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE);
    assert_int_equal(blocks_check(&told, payload, (size_t)n, &disk, NULL), 0);
    assert_true(blocks_all_told(&told));
    assert_int_equal(block_teller_next(t, &payload, &e), 0);
    block_teller_free(t);
    close(fd);
}

static void written_zeroes_are_not_told(void **state)
{
    (void)state;
    int fd = open_disk(100 * REGION);
    for (unsigned i = 0; i < 40; i++)
        put(fd, i * REGION, 0);
    put(fd, 50 * REGION + 8192, 7);
    struct seen s = tell(fd, 100 * REGION);
    assert_int_equal(s.digests, 1);
}

static void the_last_region_may_be_short(void **state)
{
    (void)state;
    for (unsigned blocks = 1; blocks < 2 * DISK_REGION_BLOCKS; blocks += 5) {
        uint64_t bytes = (uint64_t)blocks * DISK_BLOCK_SIZE;
        int fd = open_disk(bytes);
        put(fd, bytes - DISK_BLOCK_SIZE, 9);
        assert_true(tell(fd, bytes).digests >= 1);
    }
}

static void any_disk(void **state)
{
    (void)state;
    uint64_t seed = 4711;
    for (unsigned round = 0; round < 20; round++) {
        uint64_t blocks = 1 + sample_random(&seed) % 20000;
        int fd = open_disk(blocks * DISK_BLOCK_SIZE);
        for (uint64_t i = sample_random(&seed) % 300; i; i--)
            put(fd, sample_random(&seed) % blocks * DISK_BLOCK_SIZE, (int)(sample_random(&seed) % 3));
        tell(fd, blocks * DISK_BLOCK_SIZE);
    }
    int fd = open_disk(3000 * REGION); /* several slices */
    for (unsigned i = 0; i < 3000; i++)
        put(fd, (uint64_t)i * REGION, 1);
    struct seen s = tell(fd, (uint64_t)3000 * REGION);
    assert_int_equal(s.digests, 3000);
    assert_true(s.records > 5);
}

static void a_disk_that_cannot_be_read(void **state)
{
    (void)state;
    const uint8_t *payload;
    struct errmsg e = {""};
    int fd = open_disk(DISK_BLOCK_SIZE);
    put(fd, 0, 1);
    struct block_teller *t = block_teller_new(0, fd, 10 * REGION, SEED); /* shorter than it should be */
    assert_int_equal(block_teller_next(t, &payload, &e), -1);
    assert_non_null(strstr(e.text, "can't be read at 0"));
    block_teller_free(t);
    close(fd);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_disk),
        cmocka_unit_test(written_zeroes_are_not_told),
        cmocka_unit_test(any_disk),
        cmocka_unit_test(the_last_region_may_be_short),
        cmocka_unit_test(a_disk_that_cannot_be_read),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
