/* int_disk_server: a real nbdkit with our plugin. What a guest writes is in the store and in the log; who dies holds
 * nobody up. */
#include "tests/integration/disk_harness.h"
#include "vm/process.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, BYTES = 4 * MIB };

static struct lab lab;

static int teardown(void **state)
{
    (void)state;
    lab_remove(&lab);
    return 0;
}

static void begin(unsigned disks, uint64_t bytes)
{
    lab_make(&lab, disks, bytes);
    lab_start(&lab);
}

static void expect(struct disk_client *c, unsigned disk, enum disk_kind kind, uint64_t offset, uint64_t length,
                   int octet)
{
    struct disk_write w;
    assert_int_equal(disk_next(c, UINT64_MAX, &w), 1);
    assert_int_equal(w.disk, disk);
    assert_int_equal(w.kind, kind);
    assert_int_equal(w.offset, offset);
    assert_int_equal(w.length, length);
    for (uint64_t i = 0; kind == DISK_DATA && i < length; i++)
        assert_int_equal(w.data[i], octet);
}

/* Every kind of request, on two disks: in the store, and in the log in order. */
static void test_requests(void **state)
{
    (void)state;
    begin(2, BYTES);
    struct disk_client *c = lab_connect(&lab);
    struct disk_write none;
    assert_int_equal(disk_count(c), 2);
    assert_int_equal(disk_bytes(c, 1), BYTES);
    assert_int_equal(guest(&lab, 0, "write -P 1 0 4k\n"), 0); /* before anyone tracks */
    MUST(disk_track(c, true, &error));
    assert_int_equal(guest(&lab, 0,
                           "write -P 2 64k 300k\n"
                           "write -f -P 3 512 1k\n"
                           "write -z -u 128k 64k\n"
                           "discard 256k 64k\n"
                           "flush\n"),
                     0);
    assert_int_equal(guest(&lab, 1, "write -P 5 4093k 3k\nread -P 5 4093k 3k\nread -P 0 0 4093k\n"), 0);
    expect(c, 0, DISK_DATA, 64 << 10, 256 << 10, 2); /* longer than an entry: two */
    expect(c, 0, DISK_DATA, 320 << 10, 44 << 10, 2);
    expect(c, 0, DISK_DATA, 512, 1024, 3);
    expect(c, 0, DISK_ZERO, 128 << 10, 64 << 10, 0);
    expect(c, 0, DISK_ZERO, 256 << 10, 64 << 10, 0);
    expect(c, 1, DISK_DATA, 4093 << 10, 3 << 10, 5);
    assert_int_equal(disk_next(c, UINT64_MAX, &none), 0);
    assert_int_equal(guest(&lab, 0,
                           "read -P 1 0 512\nread -P 3 512 1k\nread -P 2 64k 64k\nread -P 0 128k 64k\n"
                           "read -P 2 192k 64k\nread -P 0 256k 64k\nread -P 2 320k 44k\nread -P 0 364k 4k\n"),
                     0);
    disk_disconnect(c);
}

/* Room that the guest gives back is the host's again, and it sees where the holes are. */
static void test_sparse(void **state)
{
    (void)state;
    struct stat s;
    begin(1, BYTES);
    assert_int_equal(guest(&lab, 0, "write -P 1 0 2M\nflush\n"), 0);
    assert_int_equal(stat(lab.disk[0], &s), 0);
    blkcnt_t full = s.st_blocks;
    assert_int_equal(guest(&lab, 0, "discard 0 1M\n"), 0);
    assert_int_equal(stat(lab.disk[0], &s), 0);
    assert_true(s.st_blocks <= full - MIB / 512 + 64);
    char url[128], said[128];
    snprintf(url, sizeof url, "nbd+unix:///0?socket=%s/nbd.sock", lab.run);
    snprintf(said, sizeof said, "%s/0.said", lab.dir);
    const char *const command[] = {"qemu-img", "map", "-f", "raw", "--output=json", url, NULL};
    assert_int_equal(run_wait(run_begin(NULL, said, command)), 0);
    assert_non_null(strstr(guest_said(&lab, 0),
                           "\"start\": 0, \"length\": 1048576, \"depth\": 0, \"present\": true, \"zero\": true"));
}

/* ---- parallel writers ---- */

/* qemu-io sends all of them without waiting for answers. */
static char *many_writes(unsigned seed)
{
    char *script = malloc(64 << 10), *at = script;
    for (unsigned i = 0; i < 400; i++) {
        unsigned n = (unsigned)rand_r(&seed) % 200000 + 1, offset = (unsigned)rand_r(&seed) % (BYTES - n);
        if (i % 20 == 0)
            at += sprintf(at, "aio_write -z -u %u %u\n", offset & ~4095U, n & ~4095U);
        else
            at += sprintf(at, "aio_write -q -P %u %u %u\n", rand_r(&seed) % 255 + 1, offset, n);
    }
    sprintf(at, "aio_flush\n");
    return script;
}

/* Requests that overlap, from three connections at once, while the log is read: the replica's disk becomes the very
 * same. */
static void test_parallel_writers(void **state)
{
    (void)state;
    enum { GUESTS = 3 };
    begin(1, BYTES);
    struct lab each[GUESTS] = {lab, lab, lab};
    pid_t guests[GUESTS];
    struct disk_client *c = lab_connect(&lab);
    MUST(disk_track(c, true, &error));
    uint8_t *copy = lab_store(&lab, 0, BYTES);
    for (unsigned i = 0; i < GUESTS; i++) {
        char *script = many_writes(i + 1);
        snprintf(each[i].dir, sizeof each[i].dir, "%.50s/%u", lab.dir, i); /* for its script */
        assert_int_equal(mkdir(each[i].dir, 0700), 0);
        guests[i] = guest_begin(&each[i], 0, script);
        free(script);
    }
    unsigned entries = 0;
    for (unsigned i = 0; i < GUESTS; i++) {
        while (!run_ends_within(guests[i], 5))
            entries += replay(c, disk_mark(c), &copy, BYTES);
        assert_int_equal(run_wait(guests[i]), 0);
    }
    entries += replay(c, disk_mark(c), &copy, BYTES);
    assert_true(entries >= GUESTS * 390);
    uint8_t *store = lab_store(&lab, 0, BYTES);
    assert_memory_equal(store, copy, BYTES);
    free(store);
    free(copy);
    disk_disconnect(c);
}

/* ---- death ---- */

/* A process that tracks and reads nothing. */
static pid_t begin_tracker(void)
{
    int ready[2];
    char octet;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct disk_client *c = disk_connect(lab.run, &error);
        if (!c || disk_track(c, true, &error) < 0 || write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &octet, 1), 1);
    close(ready[0]);
    return pid;
}

static const char write_96_mib[] = "write -P 1 0 32M\nwrite -P 2 32M 32M\nwrite -P 3 64M 32M\n";

static void assert_96_mib(void)
{
    assert_int_equal(guest(&lab, 0, "read -P 1 0 32M\nread -P 2 32M 32M\nread -P 3 64M 32M\n"), 0);
}

/* The log is full, the guest waits, the client is killed: the guest goes on. */
static void test_client_killed(void **state)
{
    (void)state;
    begin(1, 96 * MIB);
    pid_t tracker = begin_tracker(), writer = guest_begin(&lab, 0, write_96_mib);
    assert_false(run_ends_within(writer, 2000));
    kill(tracker, SIGKILL);
    run_wait(tracker);
    assert_int_equal(run_wait(writer), 0);
    assert_96_mib();
    struct disk_client *c = lab_connect(&lab); /* the next one begins anew */
    struct disk_write w;
    MUST(disk_track(c, true, &error));
    assert_int_equal(disk_next(c, UINT64_MAX, &w), 0);
    disk_disconnect(c);
}

static unsigned wait_for_events(struct disk_client *c, int ms)
{
    struct pollfd p = {.fd = disk_fd(c), .events = POLLIN};
    return poll(&p, 1, ms) == 1 ? disk_events(c) : 0;
}

/* The same with a client that lives: it hears of it; a pause takes what the reserve holds; then the log is broken, and
 * begun anew. */
static void test_log_full(void **state)
{
    (void)state;
    begin(1, 192 * MIB);
    struct disk_client *c = lab_connect(&lab);
    struct disk_write w;
    MUST(disk_track(c, true, &error));
    pid_t writer = guest_begin(&lab, 0, write_96_mib);
    assert_int_equal(wait_for_events(c, 30000), DISK_EVENT_FILLING);
    assert_false(run_ends_within(writer, 1000));
    assert_true(disk_used(c) <= WRITE_LOG_SOFT);
    disk_set_pausing(c, true);
    assert_int_equal(run_wait(writer), 0);
    assert_true(wait_for_events(c, 30000) & DISK_EVENT_BROKEN);
    assert_int_equal(disk_next(c, UINT64_MAX, &w), -1);
    disk_set_pausing(c, false);
    assert_96_mib();
    MUST(disk_track(c, true, &error));
    assert_int_equal(guest(&lab, 0, "write -P 9 8k 4k\n"), 0);
    expect(c, 0, DISK_DATA, 8192, 4096, 9);
    disk_disconnect(c);
}

static void test_server_killed(void **state)
{
    (void)state;
    begin(1, BYTES);
    struct disk_client *c = lab_connect(&lab);
    MUST(disk_track(c, true, &error));
    assert_int_equal(guest(&lab, 0, "write -P 4 0 64k\n"), 0);
    assert_int_equal(wait_for_events(c, 0), 0);
    kill(lab_server(&lab), SIGKILL);
    assert_int_equal(wait_for_events(c, 30000), DISK_EVENT_GONE);
    assert_int_equal(disk_events(c), DISK_EVENT_GONE);
    expect(c, 0, DISK_DATA, 0, 64 << 10, 4); /* what was written before is there */
    assert_int_equal(disk_track(c, true, &error), -1);
    disk_disconnect(c);
    assert_null(disk_connect(lab.run, &error));
    assert_non_null(strstr(error.text, "no disk server runs in"));
    assert_true(disk_server_exists(lab.run));
    lab_start_again(&lab);
    assert_int_equal(guest(&lab, 0, "read -P 4 0 64k\n"), 0);
}

/* The VM waits for the next server, and finds there what it had written. */
static void test_guest_survives(void **state)
{
    (void)state;
    begin(1, BYTES);
    pid_t vm = guest_begin(&lab, 0, "write -P 1 0 64k\nsleep 1000\nwrite -P 2 64k 64k\nflush\nread -P 1 0 64k\n");
    while (!strstr(guest_said(&lab, 0), "wrote"))
        assert_false(run_ends_within(vm, 10));
    kill(lab_server(&lab), SIGKILL);
    assert_false(run_ends_within(vm, 1500));
    MUST(disk_server_start(lab.run, NULL, 0, &error));
    assert_int_equal(run_wait(vm), 0);
    assert_int_equal(guest(&lab, 0, "read -P 1 0 64k\nread -P 2 64k 64k\n"), 0);
}

/* ---- clients ---- */

static void test_one_tracker(void **state)
{
    (void)state;
    begin(1, BYTES);
    struct disk_client *first = lab_connect(&lab), *second = lab_connect(&lab);
    MUST(disk_track(first, true, &error));
    assert_int_equal(disk_track(second, true, &error), -1);
    assert_non_null(strstr(error.text, "another process tracks"));
    disk_disconnect(first);
    MUST(disk_track(second, true, &error));
    MUST(disk_track(second, false, &error));
    assert_int_equal(disk_mark(second), 0);
    disk_disconnect(second);
    pid_t tracker = begin_tracker();
    kill(tracker, SIGKILL);
    run_wait(tracker);
    struct disk_client *third = lab_connect(&lab); /* at once: who is dead is no other */
    MUST(disk_track(third, true, &error));
    disk_disconnect(third);
}

static void test_store_open(void **state)
{
    (void)state;
    uint8_t block[4096];
    begin(1, BYTES);
    struct disk_client *c = lab_connect(&lab);
    int reader = disk_store_open(c, 0, false, &error), writer = disk_store_open(c, 0, true, &error);
    assert_true(reader >= 0 && writer >= 0);
    assert_int_equal(guest(&lab, 0, "write -P 6 4k 4k\n"), 0);
    assert_int_equal(pread(reader, block, sizeof block, 4096), sizeof block);
    assert_int_equal(block[4095], 6);
    assert_int_equal(pwrite(reader, block, sizeof block, 0), -1);
    assert_int_equal(pwrite(writer, block, sizeof block, 8192), sizeof block);
    assert_int_equal(guest(&lab, 0, "read -P 6 8k 4k\n"), 0);
    assert_int_equal(disk_store_open(c, 1, false, &error), -1);
    /* They hold none of the server's locks: it can be started again while they are open. */
    MUST(disk_server_stop(lab.run, &error));
    lab_start(&lab);
    close(reader);
    close(writer);
    disk_disconnect(c);
}

/* ---- start and stop ---- */

static void assert_refused(const char *path, const char *because)
{
    if (disk_server_start(lab.run, &path, 1, &error) == 0)
        fail_msg("%s is taken", path);
    if (!strstr(error.text, because) || !strstr(error.text, path))
        fail_msg("\"%s\" does not name %s and \"%s\"", error.text, path, because);
    assert_false(disk_server_exists(lab.run));
}

static void test_refusals(void **state)
{
    (void)state;
    char none[128];
    lab_make(&lab, 2, BYTES);
    snprintf(none, sizeof none, "%s/none.img", lab.dir);
    assert_refused(none, "does not exist");
    assert_refused(lab.dir, "is a directory");
    assert_int_equal(truncate(lab.disk[0], BYTES + 512), 0);
    assert_refused(lab.disk[0], "multiple of 4096");
    assert_int_equal(truncate(lab.disk[0], BYTES), 0);
    assert_int_equal(chmod(lab.disk[0], 0400), 0);
    assert_refused(lab.disk[0], "read-only");
    assert_int_equal(chmod(lab.disk[0], 0600), 0);
    lab_start(&lab);
    struct lab other;
    lab_make(&other, 0, 0);
    const char *path = lab.disk[1];
    assert_int_equal(disk_server_start(other.run, &path, 1, &error), -1);
    assert_non_null(strstr(error.text, "in use"));
    lab_remove(&other);
    const char *const command[] = {"qemu-io", "-f", "raw", "-c", "write 0 4k", path, NULL};
    assert_int_not_equal(run_wait(run_begin(NULL, NULL, command)), 0); /* nor does QEMU take it */
    path = lab.disk[0];
    assert_int_equal(disk_server_start(lab.run, &path, 1, &error), -1);
    assert_non_null(strstr(error.text, "other disks"));
}

static void test_no_nbdkit(void **state)
{
    (void)state;
    lab_make(&lab, 1, BYTES);
    char *path = strdup(getenv("PATH"));
    setenv("PATH", "/nonexistent", 1);
    const char *disk = lab.disk[0];
    int status = disk_server_start(lab.run, &disk, 1, &error);
    setenv("PATH", path, 1);
    free(path);
    assert_int_equal(status, -1);
    assert_non_null(strstr(error.text, "apt install nbdkit"));
    assert_false(disk_server_exists(lab.run));
}

static void test_start_and_stop(void **state)
{
    (void)state;
    begin(2, BYTES);
    pid_t server = lab_server(&lab);
    lab_start(&lab);
    MUST(disk_server_start(lab.run, NULL, 0, &error));
    assert_int_equal(lab_server(&lab), server);
    pid_t idle = guest_begin(&lab, 1, "write -P 8 0 4k\nsleep 600000\n"); /* a VM that is still connected */
    while (!strstr(guest_said(&lab, 1), "wrote"))
        usleep(10000);
    MUST(disk_server_stop(lab.run, &error));
    assert_int_equal(process_start_time(server), 0);
    kill(idle, SIGKILL);
    run_wait(idle);
    assert_false(disk_server_exists(lab.run));
    MUST(disk_server_stop(lab.run, &error));
    lab_start(&lab);
    assert_int_equal(guest(&lab, 1, "read -P 8 0 4k\n"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_requests, teardown),
        cmocka_unit_test_teardown(test_sparse, teardown),
        cmocka_unit_test_teardown(test_parallel_writers, teardown),
        cmocka_unit_test_teardown(test_client_killed, teardown),
        cmocka_unit_test_teardown(test_log_full, teardown),
        cmocka_unit_test_teardown(test_server_killed, teardown),
        cmocka_unit_test_teardown(test_guest_survives, teardown),
        cmocka_unit_test_teardown(test_one_tracker, teardown),
        cmocka_unit_test_teardown(test_store_open, teardown),
        cmocka_unit_test_teardown(test_refusals, teardown),
        cmocka_unit_test_teardown(test_no_nbdkit, teardown),
        cmocka_unit_test_teardown(test_start_and_stop, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
