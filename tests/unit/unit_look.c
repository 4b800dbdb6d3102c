/*
 * Unit tests of primary/look.h and disk/compare.h: whatever a guest writes while a disk is looked at, what is told of
 * it is what the disk holds at the end of the epoch, to the octet; and a replica's disk is compared with just that.
 */
#include "disk/compare.h"
#include "primary/look.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCKS = 40, BYTES = BLOCKS * DISK_BLOCK_SIZE };

static const struct disk_sizes sizes = {1, {BYTES}};

static int disk_new(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    return fd;
}

static void put(int fd, uint64_t at, const void *data, size_t n)
{
    assert_int_equal(pwrite(fd, data, n, (off_t)at), n);
}

static void put_noise(int fd, uint64_t block, uint64_t count, uint64_t seed)
{
    uint64_t data[DISK_BLOCK_SIZE / 8];
    for (uint64_t b = block; b < block + count; b++) {
        for (size_t i = 0; i < DISK_BLOCK_SIZE / 8; i++)
            data[i] = sample_random(&seed);
        put(fd, b * DISK_BLOCK_SIZE, data, sizeof data);
    }
}

/* ---- both sides ---- */

/* What the other disk's host answers to that look: its runs; -1: the payload is wrong. */
static int answer(const struct look *l, int fd, struct check_run *runs, int most)
{
    static uint64_t seed = 77;
    struct check_head head;
    struct check_run run;
    struct proto_error e;
    size_t n, answer_n;
    int count = 0;
    uint8_t *payload = look_payload(l, sample_random(&seed), &n);
    assert_non_null(payload);
    if (check_read(payload, n, &sizes, 0, l->number, &head, &e))
        fail_msg("%s", e.text);
    uint8_t *said = compare_blocks(fd, "disk", &head, payload, n, &answer_n);
    assert_non_null(said);
    if (checked_read(said, answer_n, &head, &e))
        fail_msg("%s", e.text);
    for (size_t at = CHECKED_HEAD_SIZE; checked_next(said, answer_n, &at, &run) > 0; count++)
        if (count < most)
            runs[count] = run;
    free(said);
    free(payload);
    return count;
}

static struct look *look(int fd, uint64_t first, uint64_t end)
{
    struct look *l = look_new(1, 0, first, end, false);
    assert_non_null(l);
    assert_int_equal(look_at(l, fd), 0);
    assert_int_equal(l->error, 0);
    return l;
}

/* Looks at all of `a`; how many runs differ in `b`. */
static int differing(int a, int b, struct check_run *runs, int most)
{
    int n = 0;
    for (uint64_t at = 0; at < BLOCKS;) {
        struct look *l = look(a, at, BLOCKS);
        n += answer(l, b, runs + (n < most ? n : most), most - n > 0 ? most - n : 0);
        at = l->end;
        look_free(l);
    }
    return n;
}

/* ---- tests ---- */

static void equal_disks(void **state)
{
    (void)state;
    struct check_run runs[4] = {0};
    int a = disk_new(), b = disk_new();
    assert_int_equal(differing(a, b, runs, 4), 0); /* two holes */
    for (uint64_t block = 3; block < BLOCKS; block += 9) {
        put_noise(a, block, 4, block);
        put_noise(b, block, 4, block);
    }
    uint8_t zeroes[DISK_BLOCK_SIZE] = {0};
    put(b, 0, zeroes, sizeof zeroes); /* written, and yet no other than a hole */
    assert_int_equal(differing(a, b, runs, 4), 0);
    close(a);
    close(b);
}

/* One octet anywhere is found, and the block is named; also where the one side has a hole. */
static void one_octet(void **state)
{
    (void)state;
    int a = disk_new(), b = disk_new();
    put_noise(a, 5, 10, 1);
    put_noise(b, 5, 10, 1);
    for (uint64_t block = 0; block < BLOCKS; block++) {
        struct check_run runs[2];
        uint8_t was, is;
        off_t at = (off_t)(block * DISK_BLOCK_SIZE + block * 97 % DISK_BLOCK_SIZE);
        assert_int_equal(pread(b, &was, 1, at), 1);
        is = was ^ 0x10;
        put(b, (uint64_t)at, &is, 1);
        assert_int_equal(differing(a, b, runs, 2), 1);
        assert_int_equal(runs[0].from, block);
        assert_int_equal(runs[0].count, 1);
        assert_int_equal(differing(b, a, runs, 2), 1);
        assert_int_equal(runs[0].from, block);
        put(b, (uint64_t)at, &was, 1);
    }
    close(a);
    close(b);
}

/* Neighbours are one run; what the replica's disk is too short for can't be read there, and differs. */
static void runs_and_unreadable(void **state)
{
    (void)state;
    struct check_run runs[4] = {0};
    int a = disk_new(), b = disk_new();
    put_noise(a, 0, BLOCKS, 1);
    put_noise(b, 0, BLOCKS, 1);
    put_noise(b, 2, 3, 9);
    put_noise(b, 7, 1, 9);
    assert_int_equal(ftruncate(b, BYTES - 2 * DISK_BLOCK_SIZE), 0);
    assert_int_equal(differing(a, b, runs, 4), 3);
    assert_true(runs[0].from == 2 && runs[0].count == 3);
    assert_true(runs[1].from == 7 && runs[1].count == 1);
    assert_true(runs[2].from == BLOCKS - 2 && runs[2].count == 2);
    struct look *l = look_new(1, 0, 0, BLOCKS, false); /* and here it is an error */
    assert_int_equal(look_at(l, b), 0);
    assert_int_not_equal(l->error, 0);
    look_free(l);
    close(a);
    close(b);
}

/* ---- a guest that writes ---- */

struct entry {
    struct disk_write w;
    uint8_t data[3 * DISK_BLOCK_SIZE];
};

static void random_entry(struct entry *x, uint64_t *seed)
{
    uint64_t length = 1 + sample_random(seed) % sizeof x->data, offset = sample_random(seed) % (BYTES - length);
    x->w = (struct disk_write){
        .kind = sample_random(seed) % 4 ? DISK_DATA : DISK_ZERO, .offset = offset, .length = length, .data = x->data};
    memset(x->data, (int)(sample_random(seed) % 255 + 1), length);
}

/* Octets [from, to) of it. */
static void apply(int fd, const struct entry *x, uint64_t from, uint64_t to)
{
    static const uint8_t zeroes[sizeof x->data];
    put(fd, x->w.offset + from, (x->w.kind == DISK_DATA ? x->data : zeroes) + from, (size_t)(to - from));
}

/*
 * One epoch: writes that the log had before the look; some under way while it is read, of which it sees a part; more
 * after it. All of them are in the log when the VM stands still.
 */
static void one_epoch(uint64_t seed)
{
    enum { ENTRIES = 12 };
    static struct entry x[ENTRIES];
    int store = disk_new(), replica = disk_new();
    uint64_t first = sample_random(&seed) % BLOCKS, at = 0;
    unsigned drained = (unsigned)(sample_random(&seed) % 4), begun = drained + (unsigned)(sample_random(&seed) % 4);
    put_noise(store, BLOCKS / 4, BLOCKS / 4, seed);
    put_noise(replica, BLOCKS / 4, BLOCKS / 4, seed);
    for (unsigned i = 0; i < ENTRIES; i++)
        random_entry(&x[i], &seed);
    for (unsigned i = 0; i < drained; i++)
        apply(store, &x[i], 0, x[i].w.length);
    for (unsigned i = drained; i < begun; i++) /* that is in the store, if not in the log */
        apply(store, &x[i], 0, sample_random(&seed) % 2 ? x[i].w.length : x[i].w.length / 2);
    struct look *l = look(store, first, BLOCKS);
    for (unsigned i = drained; i < ENTRIES; i++) {
        apply(store, &x[i], 0, x[i].w.length);
        assert_int_equal(look_write(l, &x[i].w), 0);
    }
    for (unsigned i = 0; i < ENTRIES; i++) /* as the secondary does, of DISK records */
        apply(replica, &x[i], 0, x[i].w.length);
    struct check_run runs[1];
    assert_int_equal(answer(l, replica, runs, 1), 0);
    assert_int_equal(answer(l, store, runs, 1), 0);
    /* Its runs and the zeroes between them are what a repair sends. */
    int repaired = disk_new();
    uint64_t count;
    const uint8_t *data;
    for (at = l->first; look_run(l, &at, &count, &data); at += count)
        put(repaired, at * DISK_BLOCK_SIZE, data, (size_t)count * DISK_BLOCK_SIZE);
    assert_int_equal(answer(l, repaired, runs, 1), 0);
    look_free(l);
    close(store);
    close(replica);
    close(repaired);
}

static void while_it_is_written(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 1500; seed++)
        one_epoch(seed * UINT64_C(0x9e3779b97f4a7c15));
}

static void limits(void **state)
{
    (void)state;
    enum { MANY = 3 * LOOK_HOLE_BLOCKS };
    int fd = disk_new();
    assert_int_equal(ftruncate(fd, (off_t)MANY * DISK_BLOCK_SIZE), 0);
    struct look *l = look(fd, 0, MANY);
    assert_null(l->data);
    assert_int_equal(l->end, LOOK_HOLE_BLOCKS);
    look_free(l);
    put_noise(fd, 100, 200, 1);
    l = look(fd, 0, MANY);
    assert_int_equal(l->end, 100);
    look_free(l);
    l = look(fd, 100, MANY);
    assert_non_null(l->data);
    assert_int_equal(l->end, 100 + LOOK_BLOCKS);
    look_free(l);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_disks),         cmocka_unit_test(one_octet), cmocka_unit_test(runs_and_unreadable),
        cmocka_unit_test(while_it_is_written), cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
