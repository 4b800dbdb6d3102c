/*
 * Unit tests of disk/journal.h: what is replayed is a run of whole epochs from the first on, whatever became of the
 * file; one that is missing although it was durable is noticed.
 */
#include "disk/journal.h"
#include "proto/disk.h"
#include "sample.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { EPOCHS = 5, WRITES = 3, HEAD = 8192, BLOCK = 4096 };

static char folder[] = "/tmp/hikae-unit-journal-XXXXXX", path[64];

static size_t make_write(uint64_t epoch, unsigned i, uint8_t *out)
{
    uint8_t data[3000];
    uint64_t seed = epoch * 100 + i;
    for (size_t at = 0; at < sizeof data; at++)
        data[at] = (uint8_t)sample_random(&seed);
    return disk_encode(0, i * sizeof data, data, (uint32_t)sizeof data, NULL, out);
}

static struct journal *open_it(void)
{
    struct errmsg e;
    struct journal *j = journal_open(path, &medium_kernel, 0, &e);
    if (!j)
        fail_msg("%s", e.text);
    return j;
}

static void add_epoch(struct journal *j, uint64_t epoch)
{
    uint8_t payload[4096];
    struct errmsg e;
    journal_begin(j, epoch);
    for (unsigned i = 0; i < WRITES; i++)
        assert_int_equal(journal_add(j, payload, make_write(epoch, i, payload), &e), 0);
    assert_int_equal(journal_end(j, &e), 0);
}

/* Epochs 10, 11, .., each made durable. */
static void make_journal(unsigned epochs)
{
    struct errmsg e;
    unlink(path);
    struct journal *j = open_it();
    for (unsigned i = 0; i < epochs; i++) {
        add_epoch(j, 10 + i);
        assert_int_equal(journal_sync(j, &e), 0);
    }
    journal_close(j);
}

struct reader {
    uint64_t writes;
    uint64_t first;
};

static int take(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    struct reader *r = arg;
    uint8_t want[4096];
    (void)e;
    size_t length = make_write(r->first + r->writes / WRITES, (unsigned)(r->writes % WRITES), want);
    assert_int_equal(n, length);
    assert_memory_equal(payload, want, n);
    r->writes++;
    return 0;
}

static enum journal_result replay_from(uint64_t first, uint64_t *epochs)
{
    struct errmsg e = {""};
    struct reader r = {.first = first};
    struct journal *j = journal_open(path, &medium_kernel, 0, &e);
    if (!j) {
        assert_non_null(strstr(e.text, "damaged"));
        return JOURNAL_DAMAGED;
    }
    enum journal_result result = journal_replay(j, take, &r, epochs, &e);
    assert_int_equal(r.writes, *epochs * WRITES);
    assert_true(result == JOURNAL_REPLAYED || strstr(e.text, "journal"));
    journal_close(j);
    return result;
}

static void whole_epochs_come_back(void **state)
{
    (void)state;
    uint64_t epochs;
    for (unsigned n = 0; n <= EPOCHS; n++) {
        make_journal(n);
        assert_int_equal(replay_from(10, &epochs), JOURNAL_REPLAYED);
        assert_int_equal(epochs, n);
    }
}

static void an_emptied_one_has_none(void **state)
{
    (void)state;
    struct errmsg e;
    uint64_t epochs;
    make_journal(EPOCHS);
    for (unsigned round = 1; round < 4; round++) {
        struct journal *j = open_it();
        assert_int_equal(journal_void(j, &e), 0);
        assert_int_equal(journal_bytes(j), 0);
        add_epoch(j, 10 + round); /* over what the first one left, which is longer */
        assert_int_equal(journal_sync(j, &e), 0);
        assert_true(journal_bytes(j) > 3 * 3000);
        journal_close(j);
        assert_int_equal(replay_from(10 + round, &epochs), JOURNAL_REPLAYED);
        assert_int_equal(epochs, 1);
    }
}

static void large_epochs_and_small_ones(void **state)
{
    (void)state;
    static uint8_t data[DISK_DATA_MAX], payload[DISK_PAYLOAD_MAX];
    struct errmsg e;
    uint64_t epochs, seed = 3;
    unlink(path);
    struct journal *j = open_it();
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)sample_random(&seed);
    journal_begin(j, 1); /* more than the room that is kept */
    size_t n = disk_encode(0, 0, data, sizeof data, NULL, payload);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(journal_add(j, payload, n, &e), 0);
    assert_int_equal(journal_end(j, &e), 0);
    assert_int_equal(journal_sync(j, &e), 0);
    assert_true(journal_bytes(j) > JOURNAL_ROOM);
    assert_int_equal(journal_void(j, &e), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size <= JOURNAL_ROOM + HEAD);
    journal_begin(j, 2); /* an epoch without writes */
    assert_int_equal(journal_end(j, &e), 0);
    add_epoch(j, 3);
    journal_close(j);
    struct reader r = {.first = 3};
    j = open_it();
    assert_int_equal(journal_replay(j, take, &r, &epochs, &e), JOURNAL_REPLAYED);
    assert_int_equal(epochs, 2);
    journal_close(j);
}

/* Payloads of all sizes around those at which it buffers or does not, each told by its size and its octets. */
static const size_t mixed[] = {
    30,  64 << 10,         (64 << 10) - 1, 17, DISK_PAYLOAD_MAX, DISK_PAYLOAD_MAX, (64 << 10) + 1, 60000, 60000, 60000,
    500, DISK_PAYLOAD_MAX, 65000,          1};
enum { MIXED = sizeof mixed / sizeof mixed[0] };

static uint8_t mixed_octet(unsigned i, size_t at)
{
    return (uint8_t)(i * 31 + at * 2654435761u / 7919);
}

static int take_mixed(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    unsigned *i = arg;
    (void)e;
    assert_int_equal(n, mixed[*i % MIXED]);
    for (size_t at = 0; at < n; at++)
        if (payload[at] != mixed_octet(*i, at))
            fail_msg("octet %zu of write %u", at, *i);
    ++*i;
    return 0;
}

static void mixed_sizes(void **state)
{
    (void)state;
    enum { ROUNDS = 3 };
    static uint8_t payload[DISK_PAYLOAD_MAX];
    struct errmsg e;
    uint64_t epochs;
    unsigned i = 0;
    unlink(path);
    struct journal *j = open_it();
    for (uint64_t epoch = 1; epoch <= ROUNDS; epoch++) {
        journal_begin(j, epoch);
        for (unsigned k = 0; k < MIXED; k++, i++) {
            for (size_t at = 0; at < mixed[k]; at++)
                payload[at] = mixed_octet(i, at);
            assert_int_equal(journal_add(j, payload, mixed[k], &e), 0);
        }
        assert_int_equal(journal_end(j, &e), 0);
    }
    assert_int_equal(journal_sync(j, &e), 0);
    journal_close(j);
    j = open_it();
    i = 0;
    assert_int_equal(journal_replay(j, take_mixed, &i, &epochs, &e), JOURNAL_REPLAYED);
    assert_int_equal(epochs, ROUNDS);
    assert_int_equal(i, ROUNDS * MIXED);
    journal_close(j);
}

static uint64_t epoch_size(void)
{
    struct errmsg e;
    unlink(path);
    struct journal *j = open_it();
    add_epoch(j, 10);
    (void)journal_sync(j, &e);
    uint64_t size = journal_bytes(j);
    journal_close(j);
    return size;
}

static void flip(uint64_t at, uint8_t bits)
{
    uint8_t octet;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &octet, 1, (off_t)at), 1);
    octet ^= bits;
    assert_int_equal(pwrite(fd, &octet, 1, (off_t)at), 1);
    close(fd);
}

/* In an epoch that others follow a flipped bit is seen; the last one then looks like one that was being written. */
static void flipped_bits(void **state)
{
    (void)state;
    uint64_t size = epoch_size(), used = 56 + WRITES * (4 + DISK_HEAD_SIZE + 3000), epochs, seed = 99;
    make_journal(EPOCHS);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t epoch = sample_random(&seed) % EPOCHS, at = HEAD + epoch * size + sample_random(&seed) % used;
        uint8_t bit = (uint8_t)(1U << sample_random(&seed) % 8);
        flip(at, bit);
        enum journal_result result = replay_from(10, &epochs);
        assert_int_equal(result, epoch < EPOCHS - 1 ? JOURNAL_DAMAGED : JOURNAL_REPLAYED);
        assert_int_equal(epochs, epoch);
        flip(at, bit);
    }
    assert_int_equal(replay_from(10, &epochs), JOURNAL_REPLAYED);
    assert_int_equal(epochs, EPOCHS);
}

/* Two epochs that were made durable together: the second may be there without the first. Nothing of them is in a store
 * then. */
static void torn_together(void **state)
{
    (void)state;
    struct errmsg e;
    uint64_t size = epoch_size(), epochs;
    make_journal(2);
    unlink(path);
    struct journal *j = open_it();
    add_epoch(j, 10);
    assert_int_equal(journal_sync(j, &e), 0);
    add_epoch(j, 11);
    add_epoch(j, 12);
    journal_close(j);
    flip(HEAD + size + 1000, 1);
    assert_int_equal(replay_from(10, &epochs), JOURNAL_REPLAYED);
    assert_int_equal(epochs, 1);
}

static void cut_anywhere(void **state)
{
    (void)state;
    uint64_t size = epoch_size(), epochs, seed = 5;
    for (unsigned i = 0; i < 60; i++) {
        uint64_t left = sample_random(&seed) % (EPOCHS * size);
        make_journal(EPOCHS);
        assert_int_equal(truncate(path, (off_t)(HEAD + left)), 0);
        assert_int_equal(replay_from(10, &epochs), JOURNAL_REPLAYED);
        assert_true(epochs >= left / size && epochs <= left / size + 1);
    }
    assert_int_equal(truncate(path, 100), 0);
    struct errmsg e;
    assert_null(journal_open(path, &medium_kernel, 0, &e));
}

/* The slot of a generation that is damaged: the one before it counts, and its epochs are gone; that is noticed, or
 * there were none after it. */
static void damaged_slots(void **state)
{
    (void)state;
    struct errmsg e;
    uint64_t epochs;
    for (unsigned octet = 0; octet < 48; octet++) {
        make_journal(EPOCHS);
        struct journal *j = open_it();
        assert_int_equal(journal_void(j, &e), 0); /* slot 1 */
        add_epoch(j, 20);
        assert_int_equal(journal_sync(j, &e), 0);
        journal_close(j);
        flip(BLOCK + octet, 0x10);
        assert_int_equal(replay_from(10, &epochs), JOURNAL_DAMAGED);
        flip(octet, 0x10);
        assert_int_equal(replay_from(10, &epochs), JOURNAL_DAMAGED); /* none is left */
    }
}

static void one_at_a_time(void **state)
{
    (void)state;
    struct errmsg e;
    make_journal(1);
    struct journal *j = open_it();
    assert_null(journal_open(path, &medium_kernel, 40, &e));
    assert_non_null(strstr(e.text, "another process"));
    assert_int_equal(journal_remove(j, &e), 0);
    struct journal *other = open_it(); /* a new one: the removed one is nobody's */
    journal_close(j);
    assert_int_equal(access(path, F_OK), 0);
    journal_close(other);
}

static int fails(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    (void)payload, (void)n, (void)arg;
    return errmsg_set(e, "no room in the journal's store");
}

static void a_store_that_fails(void **state)
{
    (void)state;
    struct errmsg e;
    uint64_t epochs;
    make_journal(1);
    struct journal *j = open_it();
    assert_int_equal(journal_replay(j, fails, NULL, &epochs, &e), JOURNAL_FAILED);
    assert_non_null(strstr(e.text, "no room"));
    journal_close(j);
}

static int prepare(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/journal", folder);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_epochs_come_back),
        cmocka_unit_test(an_emptied_one_has_none),
        cmocka_unit_test(large_epochs_and_small_ones),
        cmocka_unit_test(mixed_sizes),
        cmocka_unit_test(flipped_bits),
        cmocka_unit_test(torn_together),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(damaged_slots),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(a_store_that_fails),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
