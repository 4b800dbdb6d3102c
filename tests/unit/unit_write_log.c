/* Unit tests of disk/log.h: what goes in comes out, in order, whole; who waits for room, and who does not. */
#include "disk/log.h"
#include "sample.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { SOFT = 64 << 10, HARD = 96 << 10 };

static struct write_log *create(uint64_t soft, uint64_t hard)
{
    struct errmsg e = {""};
    struct write_log *l = write_log_create(soft, hard, &e);
    if (!l)
        fail_msg("%s", e.text);
    return l;
}

/* The same log as another process sees it. */
static struct write_log *map_again(const struct write_log *l)
{
    struct errmsg e = {""};
    struct write_log *other = write_log_map(dup(write_log_memory_fd(l)), dup(write_log_bell_fd(l)), &e);
    if (!other)
        fail_msg("%s", e.text);
    return other;
}

static struct disk_write data_entry(const uint8_t *data, uint64_t offset, uint64_t length)
{
    return (struct disk_write){.disk = 1, .kind = DISK_DATA, .offset = offset, .length = length, .data = data};
}

static bool rings(const struct write_log *l)
{
    struct pollfd p = {.fd = write_log_bell_fd(l), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* Entry i: kind, place, length and content of its own. */
static struct disk_write make_entry(unsigned i, uint8_t *data)
{
    uint64_t seed = i + 1, random = sample_random(&seed);
    struct disk_write w = {.disk = i % DISK_MAX, .kind = DISK_DATA, .offset = random << 9, .length = 1 + random % 9000};
    if (i % 7 == 3) {
        w.kind = DISK_ZERO;
        w.length <<= 20;
        return w;
    }
    for (uint64_t at = 0; at < w.length; at++)
        data[at] = (uint8_t)(i + at * 13);
    w.data = data;
    return w;
}

static void assert_same(const struct disk_write *got, const struct disk_write *want)
{
    assert_int_equal(got->disk, want->disk);
    assert_int_equal(got->kind, want->kind);
    assert_int_equal(got->offset, want->offset);
    assert_int_equal(got->length, want->length);
    if (want->data)
        assert_memory_equal(got->data, want->data, want->length);
    else
        assert_null(got->data);
}

/* Some hundred times around the ring, up to five entries in it at a time. */
static void test_order(void **state)
{
    (void)state;
    enum { ENTRIES = 5000 };
    struct write_log *l = create(SOFT, HARD), *reader = map_again(l);
    uint8_t data[10000];
    struct disk_write got, want;
    unsigned in = 0, out = 0;
    while (out < ENTRIES) {
        for (unsigned k = 0; k < 1 + in % 5 && in < ENTRIES; k++) {
            struct disk_write w = make_entry(in++, data);
            assert_int_equal(write_log_append(l, &w), 0);
        }
        uint64_t mark = write_log_head(reader);
        while (write_log_next(reader, mark, &got) == 1) {
            want = make_entry(out++, data);
            assert_same(&got, &want);
        }
        assert_int_equal(out, in);
        write_log_release(reader);
        assert_int_equal(write_log_used(l), 0);
    }
    write_log_free(reader);
    write_log_free(l);
}

/* What is after a mark is not read before the next one. */
static void test_mark(void **state)
{
    (void)state;
    struct write_log *l = create(SOFT, HARD);
    struct disk_write w, got;
    uint8_t data[10000];
    w = make_entry(1, data);
    write_log_append(l, &w);
    uint64_t mark = write_log_head(l);
    w = make_entry(2, data);
    write_log_append(l, &w);
    assert_int_equal(write_log_next(l, mark, &got), 1);
    assert_int_equal(write_log_next(l, mark, &got), 0);
    assert_int_equal(write_log_next(l, write_log_head(l), &got), 1);
    assert_same(&got, &w);
    write_log_free(l);
}

/* A write that is longer than an entry may be is several. */
static void test_split(void **state)
{
    (void)state;
    enum { LENGTH = 2 * WRITE_LOG_DATA_MAX + 5 };
    struct write_log *l = create(1 << 20, 2 << 20);
    uint8_t *data = malloc(LENGTH);
    uint64_t at = 0;
    struct disk_write got;
    for (size_t i = 0; i < LENGTH; i++)
        data[i] = (uint8_t)(i * 7 >> 3);
    struct disk_write w = data_entry(data, 4096, LENGTH);
    assert_int_equal(write_log_append(l, &w), 0);
    for (; write_log_next(l, UINT64_MAX, &got) == 1; at += got.length) {
        assert_int_equal(got.offset, 4096 + at);
        assert_true(got.length <= WRITE_LOG_DATA_MAX);
        assert_memory_equal(got.data, data + at, got.length);
    }
    assert_int_equal(at, LENGTH);
    free(data);
    write_log_free(l);
}

/* ---- room ---- */

struct writer {
    struct write_log *log;
    unsigned count;
    int status;
    atomic_uint done; /* entries appended */
    pthread_t thread;
};

/* Entries of 1 KiB and their heads. */
static void *write_many(void *arg)
{
    struct writer *w = arg;
    uint8_t data[1024] = {0};
    struct disk_write entry = data_entry(data, 0, sizeof data);
    for (unsigned i = 0; i < w->count && w->status == 0; i++) {
        w->status = write_log_append(w->log, &entry);
        atomic_fetch_add(&w->done, w->status == 0);
    }
    return NULL;
}

static void start(struct writer *w, struct write_log *l, unsigned count)
{
    *w = (struct writer){.log = l, .count = count};
    assert_int_equal(pthread_create(&w->thread, NULL, write_many, w), 0);
}

enum { ENTRY = 1024 + WRITE_LOG_ENTRY_HEAD, FULL = SOFT / ENTRY };

/* Until the writer has filled the log and, as far as one can see from outside, waits. */
static void wait_until_full(struct writer *w)
{
    while (atomic_load(&w->done) < FULL)
        usleep(1000);
    usleep(50000);
    assert_int_equal(atomic_load(&w->done), FULL);
}

static void test_full_waits(void **state)
{
    (void)state;
    struct write_log *l = create(SOFT, HARD);
    struct writer w;
    struct disk_write got;
    start(&w, l, FULL + 2);
    wait_until_full(&w);
    assert_int_equal(write_log_next(l, UINT64_MAX, &got), 1); /* read, but still ours */
    usleep(50000);
    assert_int_equal(atomic_load(&w.done), FULL);
    write_log_release(l);
    while (atomic_load(&w.done) < FULL + 1)
        usleep(1000);
    assert_int_equal(write_log_next(l, UINT64_MAX, &got), 1);
    write_log_release(l);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, 0);
    write_log_free(l);
}

static void test_close_wakes(void **state)
{
    (void)state;
    struct write_log *l = create(SOFT, HARD);
    struct writer w;
    start(&w, l, FULL + 2);
    wait_until_full(&w);
    write_log_close(l);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, -1);
    write_log_free(l);
}

/* Not as soon as it is announced, but when more is known of it, or nothing for a while. */
static void test_urgent(void **state)
{
    (void)state;
    struct write_log *l = create(SOFT, HARD);
    uint32_t stopped = 1;
    write_log_set_stopped(l); /* in no pause */
    assert_false(write_log_is_urgent(l, &stopped));
    write_log_set_pausing(l, true);
    write_log_set_urgent(l);
    assert_true(write_log_is_urgent(l, &stopped));
    assert_int_equal(stopped, 0);
    write_log_set_stopped(l);
    assert_true(write_log_is_urgent(l, &stopped));
    assert_int_equal(stopped, write_log_pause(l));
    write_log_set_pausing(l, false);
    assert_false(write_log_is_urgent(l, &stopped));
    write_log_set_pausing(l, true); /* the next one */
    while (!write_log_is_urgent(l, &stopped))
        usleep(1000);
    assert_int_equal(stopped, 0);
    write_log_free(l);
}

/* A pause lets the waiting writer go on, up to the hard limit; then the log is broken, and nobody waits. */
static void test_pausing(void **state)
{
    (void)state;
    struct write_log *l = create(SOFT, HARD);
    struct writer w;
    struct disk_write got;
    start(&w, l, FULL + 3);
    wait_until_full(&w);
    write_log_set_pausing(l, true);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, 0);
    assert_int_equal(write_log_events(l) & DISK_EVENT_BROKEN, 0);
    start(&w, l, HARD / ENTRY);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, -1);
    assert_int_equal(atomic_load(&w.done), HARD / ENTRY - FULL - 3);
    assert_true(rings(l));
    assert_int_equal(write_log_events(l), DISK_EVENT_BROKEN);
    write_log_set_pausing(l, false);
    assert_int_equal(write_log_next(l, UINT64_MAX, &got), -1);
    start(&w, l, 1);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, -1);
    write_log_free(l);
}

/* ---- events ---- */

static void test_events(void **state)
{
    (void)state;
    struct write_log *l = create(SOFT, HARD);
    struct disk_write got, error = {.disk = 3, .kind = DISK_ERROR, .error = 28, .offset = 8192, .length = 512};
    struct writer w;
    assert_false(rings(l));
    start(&w, l, FULL / 2 + 1);
    pthread_join(w.thread, NULL);
    assert_true(rings(l));
    assert_int_equal(write_log_events(l), DISK_EVENT_FILLING);
    assert_false(rings(l));
    start(&w, l, 2);
    pthread_join(w.thread, NULL);
    assert_int_equal(write_log_events(l), 0); /* told once */
    while (write_log_next(l, UINT64_MAX, &got) == 1)
        ;
    write_log_release(l);
    assert_int_equal(write_log_append(l, &error), 0);
    assert_int_equal(write_log_events(l), DISK_EVENT_ERROR);
    assert_int_equal(write_log_next(l, UINT64_MAX, &got), 1);
    assert_same(&got, &error);
    assert_int_equal(got.error, 28);
    write_log_set_owed(l, 2);
    assert_true(write_log_owes(l));
    write_log_set_owed(l, 1);
    assert_int_equal(write_log_events(l), 0);
    write_log_set_owed(l, 0);
    assert_false(write_log_owes(l));
    assert_int_equal(write_log_events(l), DISK_EVENT_FLUSHED);
    write_log_set_owed(l, 0);
    assert_int_equal(write_log_events(l), 0);
    write_log_free(l);
}

/* The reader follows no entry that can't be, whichever word of it is wrong. */
static void test_damage(void **state)
{
    (void)state;
    enum { HEAD_PAGE = 4096, KIND = 0, DISK = 4, LENGTH = 24 };
    static const struct {
        size_t at;
        uint32_t value;
    } wrong[] = {
        {KIND, DISK_ERROR + 1}, {DISK, DISK_MAX}, {LENGTH, 0}, {LENGTH, WRITE_LOG_DATA_MAX + 1}, {LENGTH, 4096}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct write_log *l = create(SOFT, HARD);
        struct disk_write got;
        struct writer w;
        start(&w, l, 1);
        pthread_join(w.thread, NULL);
        uint8_t *memory = mmap(NULL, HEAD_PAGE + HARD, PROT_WRITE, MAP_SHARED, write_log_memory_fd(l), 0);
        assert_true(memory != MAP_FAILED);
        memcpy(memory + HEAD_PAGE + wrong[i].at, &wrong[i].value, sizeof wrong[i].value);
        munmap(memory, HEAD_PAGE + HARD);
        assert_int_equal(write_log_next(l, UINT64_MAX, &got), -1);
        write_log_free(l);
    }
}

static void test_map_refuses(void **state)
{
    (void)state;
    struct errmsg e;
    assert_null(write_log_map(memfd_create("empty", 0), dup(1), &e));
    int zeroes = memfd_create("zeroes", 0);
    assert_int_equal(ftruncate(zeroes, 4096 + HARD), 0);
    assert_null(write_log_map(zeroes, dup(1), &e));
}

/* ---- threads ---- */

enum { WRITERS = 4, EACH = 4000 };

struct numbered {
    struct write_log *log;
    unsigned disk;
    pthread_t thread;
};

/* Writer `disk`'s entry i says i at its offset and in each word of its data. */
static void *write_numbered(void *arg)
{
    struct numbered *n = arg;
    uint64_t data[64];
    for (uint64_t i = 0; i < EACH; i++) {
        uint64_t words = 1 + i % 64;
        for (uint64_t k = 0; k < words; k++)
            data[k] = i;
        struct disk_write w = data_entry((const uint8_t *)data, i, words * 8);
        w.disk = n->disk;
        if (write_log_append(n->log, &w) < 0)
            return n;
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct write_log *l = create(8192, 12288);
    struct numbered writers[WRITERS];
    uint64_t next[WRITERS] = {0}, all = 0;
    struct disk_write got;
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct numbered){.log = l, .disk = i};
        pthread_create(&writers[i].thread, NULL, write_numbered, &writers[i]);
    }
    while (all < WRITERS * EACH) {
        uint64_t mark = write_log_head(l);
        for (; write_log_next(l, mark, &got) == 1; all++) {
            assert_int_equal(got.offset, next[got.disk]++);
            assert_int_equal(got.length, (1 + got.offset % 64) * 8);
            for (uint64_t k = 0; k < got.length / 8; k++)
                assert_memory_equal(got.data + k * 8, &got.offset, 8);
        }
        write_log_release(l);
        write_log_events(l);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        void *result;
        pthread_join(writers[i].thread, &result);
        assert_null(result);
    }
    assert_int_equal(write_log_used(l), 0);
    write_log_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),       cmocka_unit_test(test_mark),        cmocka_unit_test(test_split),
        cmocka_unit_test(test_full_waits),  cmocka_unit_test(test_close_wakes), cmocka_unit_test(test_pausing),
        cmocka_unit_test(test_urgent),      cmocka_unit_test(test_events),      cmocka_unit_test(test_damage),
        cmocka_unit_test(test_map_refuses), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
