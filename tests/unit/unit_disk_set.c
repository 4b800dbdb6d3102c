/* Unit tests of disk/server/set.h on real files: store and log are of one order, whoever writes how. */
#include "disk/account_file.h"
#include "disk/server/noter.h"
#include "disk/server/set.h"
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { DISKS = 2, BYTES = 1 << 20 };

static char folder[] = "/tmp/hikae-set-XXXXXX", paths[DISKS][64];

static int make_files(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    for (unsigned i = 0; i < DISKS; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%u.img", folder, i);
        int fd = open(paths[i], O_RDWR | O_CREAT, 0600);
        if (fd < 0 || ftruncate(fd, BYTES) < 0)
            return -1;
        close(fd);
    }
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    for (unsigned i = 0; i < DISKS; i++)
        unlink(paths[i]);
    return rmdir(folder);
}

static struct disk_set *open_with(unsigned shared)
{
    struct errmsg e = {""};
    const char *const list[] = {paths[0], paths[1]};
    struct disk_set *s = disk_set_open(list, NULL, DISKS, shared, &e);
    if (!s || disk_set_start(s, false, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static struct disk_set *open_set(void)
{
    return open_with(0);
}

/* Tracks; the reader's side of the log is returned. */
static struct write_log *track(struct disk_set *s, uint64_t soft, uint64_t hard)
{
    struct errmsg e = {""};
    struct write_log *log = write_log_create(soft, hard, &e);
    struct write_log *reader =
        log ? write_log_map(dup(write_log_memory_fd(log)), dup(write_log_bell_fd(log)), &e) : NULL;
    if (!reader)
        fail_msg("%s", e.text);
    disk_set_track(s, log);
    return reader;
}

static void read_store(struct disk_set *s, unsigned disk, uint8_t *out)
{
    assert_int_equal(disk_set_read(s, disk, out, BYTES, 0), 0);
}

/* What a secondary does with the log. Returns the number of entries. */
static unsigned replay(struct write_log *reader, uint8_t (*disks)[BYTES])
{
    struct disk_write w;
    unsigned n = 0;
    int status;
    for (uint64_t mark = write_log_head(reader); (status = write_log_next(reader, mark, &w)) == 1; n++) {
        assert_true(w.offset + w.length <= BYTES);
        if (w.kind == DISK_DATA)
            memcpy(disks[w.disk] + w.offset, w.data, w.length);
        else
            memset(disks[w.disk] + w.offset, 0, w.length);
    }
    assert_int_equal(status, 0);
    write_log_release(reader);
    return n;
}

/* ---- many writers ---- */

enum { WRITERS = 4, REQUESTS = 200, REQUEST_MAX = 150000 };

struct writer {
    struct disk_set *set;
    uint64_t seed;
    atomic_uint *busy; /* writers that are not done */
    pthread_t thread;
};

/* Anything anywhere, so that requests overlap all the time. */
static void *write_anywhere(void *arg)
{
    struct writer *w = arg;
    uint8_t *data = malloc(REQUEST_MAX);
    int error = 0;
    for (unsigned i = 0; i < REQUESTS && error == 0; i++) {
        uint64_t random = sample_random(&w->seed);
        unsigned disk = random % DISKS, kind = (unsigned)(random >> 8) % 16;
        uint64_t n = 1 + (random >> 16) % REQUEST_MAX, offset = (random >> 36) % (BYTES - n);
        memset(data, (int)(random >> 56), n);
        if (kind == 0)
            error = disk_set_flush(w->set, disk);
        else if (kind == 1)
            error = disk_set_trim(w->set, disk, n, offset, false);
        else if (kind == 2)
            error = disk_set_zero(w->set, disk, n, offset, true, false);
        else
            error = disk_set_write(w->set, disk, data, n, offset, kind == 3);
        if (kind == 2 && error == EOPNOTSUPP) /* not on this file system */
            error = 0;
    }
    free(data);
    atomic_fetch_sub(w->busy, 1);
    return error ? w : NULL;
}

/* The reader, in the meantime: half of the time it is about to pause the VM. */
static void replay_until_done(struct write_log *reader, uint8_t (*copy)[BYTES], const atomic_uint *busy)
{
    for (unsigned round = 0; atomic_load(busy) > 0; round++) {
        write_log_set_pausing(reader, round % 2);
        replay(reader, copy);
        write_log_events(reader);
        usleep(500);
    }
    write_log_set_pausing(reader, false);
    replay(reader, copy);
}

static void begin_writing(struct writer writers[WRITERS], struct disk_set *s, atomic_uint *busy)
{
    *busy = WRITERS;
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.set = s, .seed = i + 1, .busy = busy};
        pthread_create(&writers[i].thread, NULL, write_anywhere, &writers[i]);
    }
}

static void end_writing(struct writer writers[WRITERS])
{
    for (unsigned i = 0; i < WRITERS; i++) {
        void *failed;
        pthread_join(writers[i].thread, &failed);
        assert_null(failed);
    }
}

static void test_overlapping_writes(void **state)
{
    (void)state;
    struct disk_set *s = open_set();
    atomic_uint busy;
    struct writer writers[WRITERS];
    static uint8_t copy[DISKS][BYTES], store[BYTES];
    begin_writing(writers, s, &busy); /* they have begun before anyone tracks */
    usleep(5000);
    struct write_log *reader = track(s, 1 << 20, 64 << 20); /* all of it would fit: a slow machine breaks nothing */
    for (unsigned d = 0; d < DISKS; d++)                    /* the first sync: what is there, while it changes */
        read_store(s, d, copy[d]);
    replay_until_done(reader, copy, &busy);
    end_writing(writers);
    replay(reader, copy);
    for (unsigned d = 0; d < DISKS; d++) {
        read_store(s, d, store);
        assert_memory_equal(store, copy[d], BYTES);
    }
    write_log_free(reader);
    disk_set_close(s);
}

/* ---- shared disks ---- */

static bool file_is(unsigned disk, const uint8_t *what)
{
    static uint8_t is[BYTES];
    int fd = open(paths[disk], O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, is, BYTES, 0), BYTES);
    close(fd);
    return memcmp(is, what, BYTES) == 0;
}

static void let_out(struct disk_set *s)
{
    while (!disk_set_let_out(s))
        usleep(1000);
}

static void write_until_done(struct disk_set *s, struct write_log *reader, uint8_t (*copy)[BYTES], bool release)
{
    atomic_uint busy;
    struct writer writers[WRITERS];
    begin_writing(writers, s, &busy);
    while (atomic_load(&busy) > 0) {
        replay(reader, copy);
        if (release)
            disk_set_release(s, write_log_head(reader));
        usleep(500);
    }
    end_writing(writers);
    replay(reader, copy);
}

/* Whoever writes how: what is read is what the log says, and so is the disk in the end, and not before it is let out;
 * also when some of it goes out all the time. */
static void test_shared(void **state)
{
    (void)state;
    static uint8_t copy[DISKS][BYTES], before[BYTES], seen[BYTES];
    struct disk_set *s = open_with(1);
    struct write_log *reader = track(s, 64 << 20, 64 << 20);
    for (unsigned d = 0; d < DISKS; d++)
        read_store(s, d, copy[d]);
    memcpy(before, copy[1], BYTES);
    for (unsigned round = 0; round < 2; round++) {
        write_log_set_holding(reader, true);
        write_until_done(s, reader, copy, round > 0);
        read_store(s, 1, seen);
        assert_memory_equal(seen, copy[1], BYTES);
        assert_true(round > 0 || file_is(1, before));
        assert_true(file_is(0, copy[0])); /* the other one is not shared */
        let_out(s);
        assert_true(file_is(1, copy[1]));
    }
    write_log_free(reader);
    disk_set_close(s);
}

/* ---- tracking ---- */

static void test_track(void **state)
{
    (void)state;
    struct disk_set *s = open_set();
    static uint8_t copy[DISKS][BYTES];
    uint8_t data[4096] = {7};
    assert_int_equal(disk_set_write(s, 0, data, sizeof data, 0, false), 0);
    struct write_log *first = track(s, 1 << 20, 2 << 20);
    assert_int_equal(replay(first, copy), 0);
    assert_int_equal(disk_set_write(s, 0, data, sizeof data, 4096, false), 0);
    assert_int_equal(disk_set_write(s, 1, data, 1, 0, true), 0);
    assert_int_equal(replay(first, copy), 2);
    struct write_log *second = track(s, 1 << 20, 2 << 20);
    assert_int_equal(disk_set_write(s, 0, data, sizeof data, 4096, false), 0);
    assert_int_equal(replay(first, copy), 0);
    assert_int_equal(replay(second, copy), 1);
    disk_set_track(s, NULL);
    assert_int_equal(disk_set_write(s, 0, data, sizeof data, 4096, false), 0);
    assert_int_equal(replay(second, copy), 0);
    write_log_free(first);
    write_log_free(second);
    disk_set_close(s);
}

static void *write_a_lot(void *arg)
{
    static const uint8_t data[65536];
    for (unsigned i = 0; i < 64; i++)
        if (disk_set_write(arg, 0, data, sizeof data, 0, false) != 0)
            return arg;
    return NULL;
}

/* A tracker that is gone holds nobody up. */
static void test_tracker_gone(void **state)
{
    (void)state;
    struct disk_set *s = open_set();
    pthread_t thread;
    void *failed;
    struct write_log *reader = track(s, 1 << 20, 2 << 20);
    pthread_create(&thread, NULL, write_a_lot, s);
    while (write_log_used(reader) < (1 << 20) - 70000)
        usleep(1000);
    usleep(20000);
    disk_set_track(s, NULL);
    pthread_join(thread, &failed);
    assert_null(failed);
    write_log_free(reader);
    disk_set_close(s);
}

/* ---- flushes in a pause ---- */

static bool waits_for_flushed(struct write_log *reader)
{
    struct pollfd bell = {.fd = write_log_bell_fd(reader), .events = POLLIN};
    return poll(&bell, 1, 30000) == 1 && write_log_events(reader) == DISK_EVENT_FLUSHED;
}

static void pause_now(struct write_log *reader)
{
    write_log_set_pausing(reader, true);
    write_log_set_stopped(reader);
}

static void test_flush_in_a_pause(void **state)
{
    (void)state;
    struct disk_set *s = open_set();
    struct write_log *reader = track(s, 1 << 20, 2 << 20);
    disk_set_stands_still(s); /* in no pause of ours: means nothing */
    pause_now(reader);
    assert_int_equal(disk_set_flush(s, 0), 0);
    assert_true(waits_for_flushed(reader)); /* the guest's, perhaps: owed */
    disk_set_stands_still(s);
    assert_int_equal(disk_set_flush(s, 0), 0);
    assert_int_equal(disk_set_flush(s, 1), 0);
    assert_false(write_log_owes(reader));
    assert_int_equal(write_log_events(reader), 0); /* nor was it in between */
    write_log_set_pausing(reader, false);
    assert_int_equal(disk_set_flush(s, 0), 0);
    pause_now(reader); /* the next one */
    assert_int_equal(disk_set_flush(s, 0), 0);
    assert_true(waits_for_flushed(reader));
    struct write_log *second = track(s, 1 << 20, 2 << 20); /* its pauses are others */
    pause_now(second);
    disk_set_stands_still(s);
    struct write_log *third = track(s, 1 << 20, 2 << 20);
    pause_now(third);
    assert_int_equal(disk_set_flush(s, 0), 0);
    assert_true(waits_for_flushed(third));
    write_log_free(reader);
    write_log_free(second);
    write_log_free(third);
    disk_set_close(s);
}

/* ---- refusals ---- */

static void assert_refused(const char *path, const char *because)
{
    struct errmsg e = {""};
    assert_null(disk_set_open(&path, NULL, 1, 0, &e));
    if (!strstr(e.text, because) || !strstr(e.text, path))
        fail_msg("\"%s\" does not name %s and \"%s\"", e.text, path, because);
}

static void test_refusals(void **state)
{
    (void)state;
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET},
                 as_qemu = {.l_type = F_RDLCK, .l_start = 100, .l_len = 1};
    char missing[80];
    snprintf(missing, sizeof missing, "%s/none.img", folder);
    assert_refused(missing, "does not exist");
    assert_refused(folder, "directory");
    assert_refused("/dev/null", "must be a file or a block device");
    assert_int_equal(truncate(paths[0], BYTES - 512), 0);
    assert_refused(paths[0], "multiple of 4096");
    assert_int_equal(truncate(paths[0], 0), 0);
    assert_refused(paths[0], "multiple of 4096");
    assert_int_equal(truncate(paths[0], BYTES), 0);
    assert_int_equal(chmod(paths[0], 0444), 0);
    assert_refused(paths[0], "read-only");
    assert_int_equal(chmod(paths[0], 0600), 0);
    int fd = open(paths[0], O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_refused(paths[0], "in use");
    assert_int_equal(flock(fd, LOCK_UN), 0);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &as_qemu), 0);
    assert_refused(paths[0], "in use");
    close(fd);
    struct disk_set *s = open_set();
    assert_refused(paths[1], "in use");
    fd = open(paths[0], O_RDWR);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), -1);
    close(fd);
    disk_set_close(s);
    disk_set_close(open_set());
}

/* Who keeps an account notes what is written to the VM's own disks. The other host has the shared one as well. */
static void test_account_without_shared(void **state)
{
    (void)state;
    static const uint8_t generation[ACCOUNT_ID] = {1}, block[4096];
    char path[64], link[64];
    struct errmsg e = {""};
    struct stat s;
    struct noter *noter;
    assert_int_equal(stat(paths[0], &s), 0);
    struct account_disks own = {.count = 1, .at = {{.bytes = BYTES, .device = s.st_dev, .inode = s.st_ino}}};
    snprintf(path, sizeof path, "%s/real", folder);
    snprintf(link, sizeof link, "%s/account", folder);
    struct account_file *f = account_file_open(path, &own, &e);
    assert_non_null(f);
    assert_int_equal(account_begin(account_of(f), generation), 0);
    assert_int_equal(symlink(path, link), 0);
    struct disk_set *set = open_with(1);
    assert_int_equal(noter_start(&noter, folder, set, &e), 0);
    assert_non_null(noter);
    disk_set_note_in(set, noter);
    assert_int_equal(disk_set_write(set, 1, block, sizeof block, 0, false), 0);
    assert_int_equal(account_blocks(account_of(f)), 0);
    assert_int_equal(disk_set_write(set, 0, block, sizeof block, 0, false), 0);
    assert_int_equal(disk_set_zero(set, 0, sizeof block, 7 * sizeof block, false, false), 0);
    assert_int_equal(account_blocks(account_of(f)), 2);
    noter_stop(noter);
    disk_set_close(set);
    account_file_close(f);
    unlink(link);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlapping_writes),     cmocka_unit_test(test_track),
        cmocka_unit_test(test_tracker_gone),           cmocka_unit_test(test_shared),
        cmocka_unit_test(test_flush_in_a_pause),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_account_without_shared),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
