/*
 * int_disk_guard: a real disk server whose process is killed or stopped, and the guard that has another one in its
 * place; a guest made of qemu-io goes on, and whoever followed its log knows that it has no more.
 */
#include "disk/guard.h"
#include "tests/integration/disk_harness.h"
#include "vm/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 4 << 20, WAIT_MS = 30000 };

static const struct watch_bounds bounds = {.pause_ms = 400, .worker_ms = 2000};
static struct lab lab;
static struct disk_guard *guard;
static atomic_bool vm_is_paused;

static bool paused(void)
{
    return vm_is_paused;
}

static struct disk_guard *begin_guard(void)
{
    struct disk_guard *g = disk_guard_start(lab.run, &bounds, paused, &error);
    if (!g)
        fail_msg("%s", error.text);
    return g;
}

static int setup(void **state)
{
    (void)state;
    vm_is_paused = false;
    lab_make(&lab, 1, BYTES);
    lab_start(&lab);
    guard = begin_guard();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    disk_guard_stop(guard);
    guard = NULL;
    lab_remove(&lab);
    return 0;
}

/* What the guard has to say next. */
static bool news(void)
{
    struct pollfd p = {.fd = disk_guard_fd(guard), .events = POLLIN};
    if (poll(&p, 1, WAIT_MS) <= 0)
        fail_msg("the guard says nothing");
    return disk_guard_news(guard, &error);
}

static bool is_silent(int ms)
{
    struct pollfd p = {.fd = disk_guard_fd(guard), .events = POLLIN};
    return poll(&p, 1, ms) == 0;
}

/* Returns when all its threads stand still: one that is on its way may answer yet. */
static void stop(pid_t pid)
{
    char path[64];
    kill(pid, SIGSTOP);
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    for (bool moves = true; moves;) {
        DIR *tasks = opendir(path);
        assert_non_null(tasks);
        moves = false;
        for (struct dirent *d; (d = readdir(tasks));)
            moves |= *d->d_name != '.' && !process_is_stopped(atoi(d->d_name));
        closedir(tasks);
    }
}

/* It has begun: from here on it connects again, before it would give up. */
static void wait_for_octet(uint8_t octet)
{
    for (uint8_t is = 0; is != octet; usleep(1000)) {
        int fd = open(lab.disk[0], O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, &is, 1, 0), 1);
        close(fd);
    }
}

/* Killed again and again while a guest writes: none of its requests fails, and all of it is there. */
static void test_killed(void **state)
{
    (void)state;
    pid_t writer = guest_begin(&lab, 0,
                               "aio_write -q -P 1 0 1M\naio_flush\nsleep 300\naio_write -q -P 2 1M 1M\naio_flush\n"
                               "sleep 1500\naio_write -q -P 3 2M 1M\naio_flush\nread -P 3 2M 1M\n");
    wait_for_octet(1);
    for (unsigned i = 0; i < 3; i++) {
        pid_t before = lab_server(&lab);
        struct disk_client *c = lab_connect(&lab);
        MUST(disk_track(c, true, &error));
        assert_true(disk_is_whole(c));
        kill(before, SIGKILL);
        assert_true(news());
        assert_false(disk_is_whole(c));
        assert_true(disk_events(c) & DISK_EVENT_GONE);
        disk_disconnect(c);
        assert_int_not_equal(lab_server(&lab), before);
    }
    assert_int_equal(run_wait(writer), 0);
    assert_int_equal(guest(&lab, 0, "read -P 1 0 1M\nread -P 2 1M 1M\nread -P 3 2M 1M\n"), 0);
    assert_null(strstr(guest_said(&lab, 0), "failed"));
}

static void expect_replaced(pid_t before)
{
    assert_true(news());
    assert_int_not_equal(lab_server(&lab), before);
    assert_int_equal(process_start_time(before), 0); /* it has ended, and was not merely left behind */
    assert_int_equal(guest(&lab, 0, "write -P 4 0 4k\nread -P 4 0 4k\n"), 0);
}

/* One that was stopped is found out by its silence: sooner when the VM stands still for it. */
static void test_stopped(void **state)
{
    (void)state;
    pid_t before = lab_server(&lab);
    stop(before);
    expect_replaced(before);
}

static void test_stopped_in_a_pause(void **state)
{
    (void)state;
    pid_t before = lab_server(&lab);
    stop(before);
    vm_is_paused = true;
    expect_replaced(before);
}

/* A guest that only keeps it waiting is no reason. */
static void test_left_alone(void **state)
{
    (void)state;
    pid_t before = lab_server(&lab);
    vm_is_paused = true;
    pid_t writer = guest_begin(&lab, 0, "aio_write -q -P 1 0 1M\nsleep 1500\n");
    assert_true(is_silent(2500));
    assert_int_equal(run_wait(writer), 0);
    assert_int_equal(lab_server(&lab), before);
}

/* Two that see it die: one server comes of it, which both guard. */
static void test_two_guards(void **state)
{
    (void)state;
    struct disk_guard *other = begin_guard();
    for (unsigned i = 0; i < 3; i++) {
        pid_t before = lab_server(&lab), after;
        kill(before, SIGKILL);
        assert_true(news());
        after = lab_server(&lab);
        struct pollfd p = {.fd = disk_guard_fd(other), .events = POLLIN};
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_true(disk_guard_news(other, &error));
        assert_int_equal(lab_server(&lab), after);
        assert_int_equal(guest(&lab, 0, "write -P 4 0 4k\nread -P 4 0 4k\n"), 0);
    }
    disk_guard_stop(other);
}

/* Its store is away: the guard says so, and tries until it is back. */
static void test_no_store(void **state)
{
    (void)state;
    char away[128];
    snprintf(away, sizeof away, "%s.away", lab.disk[0]);
    assert_int_equal(rename(lab.disk[0], away), 0);
    kill(lab_server(&lab), SIGKILL);
    assert_false(news());
    assert_non_null(strstr(error.text, "does not exist"));
    assert_int_equal(rename(away, lab.disk[0]), 0);
    while (!news())
        ;
    assert_int_equal(guest(&lab, 0, "write -P 4 0 4k\n"), 0);
}

/* One that was told to end stays so. */
static void test_ended(void **state)
{
    (void)state;
    MUST(disk_server_stop(lab.run, &error));
    assert_false(news());
    assert_false(news());
    assert_false(disk_server_exists(lab.run));
    assert_int_equal(access(lab.disk[0], F_OK), 0);
}

static void resize(uint64_t bytes)
{
    assert_int_equal(truncate(lab.disk[0], (off_t)bytes), 0);
}

static uint64_t served(void)
{
    struct disk_client *c = lab_connect(&lab);
    uint64_t bytes = disk_bytes(c, 0);
    disk_disconnect(c);
    return bytes;
}

/* The same of the next server. What the guard has said may be of before. */
static uint64_t served_next(void)
{
    struct disk_client *c;
    do
        assert_true(news());
    while (!(c = disk_connect(lab.run, &error)));
    uint64_t bytes = disk_bytes(c, 0);
    disk_disconnect(c);
    return bytes;
}

/* A store that was extended is told of. The disk stays as it is, for whoever connects and across a new server, until it
 * is ordered to grow; then it has the room, and before that nobody could write behind its end. */
static void test_growth(void **state)
{
    (void)state;
    uint64_t disk, store;
    assert_false(disk_guard_has_grown(guard, 0, &disk, &store));
    assert_int_equal(disk_server_grow(lab.run, &error), -1);
    assert_non_null(strstr(error.text, "no disk of the VM has grown"));
    resize(2 * BYTES);
    assert_true(news());
    assert_true(disk_guard_has_grown(guard, 0, &disk, &store));
    assert_true(disk == BYTES && store == 2 * BYTES);
    assert_false(disk_guard_has_grown(guard, 1, &disk, &store));
    assert_int_not_equal(guest(&lab, 0, "write -P 5 4M 4k\n"), 0);
    kill(lab_server(&lab), SIGKILL);
    assert_true(served_next() == BYTES);
    assert_int_not_equal(guest(&lab, 0, "write -P 5 4M 4k\n"), 0);
    while (!disk_guard_has_grown(guard, 0, &disk, &store)) /* still: the new one did not make it so */
        news();
    MUST(disk_server_grow(lab.run, &error));
    assert_true(served_next() == 2 * BYTES);
    assert_false(disk_guard_has_grown(guard, 0, &disk, &store));
    assert_int_equal(guest(&lab, 0, "write -P 5 4M 4k\nread -P 5 4M 4k\n"), 0);
}

/* Of a size that no disk can have, or less than it has: said, and nothing becomes of it. */
static void test_bad_growth(void **state)
{
    (void)state;
    pid_t before = lab_server(&lab);
    resize(2 * BYTES + 512);
    assert_true(news());
    assert_int_equal(disk_server_grow(lab.run, &error), -1);
    assert_non_null(strstr(error.text, "make it a multiple of 4096"));
    assert_int_equal(lab_server(&lab), before);
    kill(before, SIGKILL); /* as that size is nobody's, a new server is not kept from its work by it */
    assert_true(served_next() == BYTES);
    resize(BYTES - 4096);
    kill(lab_server(&lab), SIGKILL);
    while (news())
        ;
    assert_non_null(strstr(error.text, "has shrunk"));
    resize(BYTES);
    while (!news())
        ;
    assert_true(served() == BYTES);
}

/* Who starts the server anew finds one that hangs, and does not wait for it for ever. */
static void test_started_over_one_that_hangs(void **state)
{
    (void)state;
    disk_guard_stop(guard);
    guard = NULL;
    pid_t before = lab_server(&lab);
    stop(before);
    lab_start(&lab);
    assert_int_not_equal(lab_server(&lab), before);
    assert_int_equal(process_start_time(before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped_in_a_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_guards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_store, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ended, setup, teardown),
        cmocka_unit_test_setup_teardown(test_growth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_growth, setup, teardown),
        cmocka_unit_test_setup_teardown(test_started_over_one_that_hangs, setup, teardown),
    };
    return cmocka_run_group_tests_name("disk_guard", tests, NULL, NULL);
}
