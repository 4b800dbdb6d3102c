/* int_disk_shared: a real nbdkit with a shared disk. What is held is not on the disk, and is what the guest reads; what
 * is let out is; who dies lets nothing out. */
#include "disk/guard.h"
#include "tests/integration/disk_harness.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
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

static void start(const struct lab *l, unsigned shared, bool holding)
{
    const char *paths[DISK_MAX];
    for (unsigned i = 0; i < l->disks; i++)
        paths[i] = l->disk[i];
    MUST(disk_server_start_shared(l->run, paths, l->disks, shared, holding, &error));
}

static struct disk_client *begin(uint64_t bytes)
{
    lab_make(&lab, 1, bytes);
    start(&lab, 1, false);
    struct disk_client *c = lab_connect(&lab);
    assert_int_equal(disk_shared(c), 1);
    MUST(disk_track(c, true, &error));
    return c;
}

/* Are these octets of the store all of this value? */
static void expect_store(unsigned disk, uint64_t bytes, uint64_t offset, uint64_t n, int octet)
{
    uint8_t *store = lab_store(&lab, disk, bytes);
    for (uint64_t i = 0; i < n; i++)
        if (store[offset + i] != octet)
            fail_msg("octet %llu of the store is %d and not %d", (unsigned long long)(offset + i), store[offset + i],
                     octet);
    free(store);
}

static void wait_durable(struct disk_client *c, uint64_t mark)
{
    while (disk_durable(c) < mark) {
        struct pollfd p = {.fd = disk_fd(c), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        assert_false(disk_events(c) & DISK_EVENT_GONE);
    }
}

static void let_out(struct disk_client *c)
{
    int out;
    while ((out = disk_let_out(c, &error)) == 0)
        usleep(1000);
    assert_int_equal(out, 1);
}

static void test_open(void **state)
{
    (void)state;
    struct disk_client *c = begin(BYTES);
    struct disk_write none;
    assert_int_equal(guest(&lab, 0, "write -P 1 0 64k\nflush\nread -P 1 0 64k\n"), 0);
    expect_store(0, BYTES, 0, 64 << 10, 1);
    assert_int_equal(disk_next(c, UINT64_MAX, &none), 0); /* the other host sees it: it need not be told */
    disk_disconnect(c);
}

static void test_held(void **state)
{
    (void)state;
    struct disk_client *c = begin(BYTES);
    uint8_t *replica = calloc(1, BYTES);
    assert_int_equal(guest(&lab, 0, "write -P 1 0 256k\n"), 0);
    disk_hold(c);
    assert_int_equal(guest(&lab, 0,
                           "write -P 2 64k 64k\nwrite -z 96k 64k\ndiscard 0 32k\nflush\nwrite -P 3 100k 4k\n"
                           "read -P 0 0 32k\nread -P 1 32k 32k\nread -P 2 64k 32k\nread -P 0 96k 4k\n"
                           "read -P 3 100k 4k\nread -P 0 104k 56k\nread -P 1 160k 96k\n"),
                     0);
    assert_null(strstr(guest_said(&lab, 0), "failed"));
    expect_store(0, BYTES, 0, 256 << 10, 1); /* promise 1 */
    uint64_t mark = disk_mark(c), flushed = disk_flushed(c);
    assert_true(flushed > 0 && flushed <= mark);
    assert_int_equal(disk_durable(c), 0);
    assert_int_equal(replay(c, mark, &replica, BYTES), 4); /* the secondary has them before anybody sees them */
    assert_int_equal(replica[64 << 10], 2);
    assert_int_equal(replica[100 << 10], 3);

    assert_int_equal(guest(&lab, 0, "write -P 4 0 4k\nread -P 4 0 4k\nread -P 0 4k 28k\n"), 0); /* the next epoch's */
    disk_let_out_to(c, mark);
    wait_durable(c, mark);
    expect_store(0, BYTES, 0, 32 << 10, 0);
    expect_store(0, BYTES, 32 << 10, 32 << 10, 1);
    expect_store(0, BYTES, 64 << 10, 32 << 10, 2);
    expect_store(0, BYTES, 100 << 10, 4 << 10, 3);
    assert_int_equal(guest(&lab, 0, "read -P 4 0 4k\nread -P 0 4k 28k\nread -P 2 64k 32k\n"), 0);
    assert_null(strstr(guest_said(&lab, 0), "failed"));
    let_out(c);
    expect_store(0, BYTES, 0, 4 << 10, 4);
    assert_int_equal(guest(&lab, 0, "write -P 5 0 4k\n"), 0); /* it is open */
    expect_store(0, BYTES, 0, 4 << 10, 5);
    free(replica);
    disk_disconnect(c);
}

/* A worker that dies lets nothing out, and its successor, which has claimed the VM, everything. */
static void test_tracker_dies(void **state)
{
    (void)state;
    struct disk_client *c = begin(BYTES);
    disk_hold(c);
    assert_int_equal(guest(&lab, 0, "write -P 1 0 4k\n"), 0);
    disk_disconnect(c);
    assert_int_equal(guest(&lab, 0, "write -P 2 4k 4k\nflush\nread -P 1 0 4k\nread -P 2 4k 4k\n"), 0);
    assert_null(strstr(guest_said(&lab, 0), "failed"));
    expect_store(0, BYTES, 0, 8 << 10, 0);
    c = lab_connect(&lab);
    let_out(c);
    expect_store(0, BYTES, 0, 4 << 10, 1);
    expect_store(0, BYTES, 4 << 10, 4 << 10, 2);
    disk_disconnect(c);
}

/* The VM runs elsewhere: its server is ended, and what it held was never written. */
static void test_ended(void **state)
{
    (void)state;
    struct disk_client *c = begin(BYTES);
    disk_hold(c);
    assert_int_equal(guest(&lab, 0, "write -P 1 0 1M\nflush\n"), 0);
    disk_disconnect(c);
    MUST(disk_server_stop(lab.run, &error));
    expect_store(0, BYTES, 0, MIB, 0);
}

/* A replica's server holds before anybody tracks. */
static void test_holding_from_the_start(void **state)
{
    (void)state;
    lab_make(&lab, 2, BYTES);
    start(&lab, 1, true);
    assert_int_equal(guest(&lab, 1, "write -P 1 0 4k\nread -P 1 0 4k\n"), 0);
    assert_int_equal(guest(&lab, 0, "write -P 1 0 4k\n"), 0);
    expect_store(0, BYTES, 0, 4 << 10, 1); /* not shared: nothing is held */
    expect_store(1, BYTES, 0, 4 << 10, 0);
    struct disk_client *c = lab_connect(&lab);
    let_out(c);
    expect_store(1, BYTES, 0, 4 << 10, 1);
    disk_disconnect(c);
}

/* What the guest believes to have written is gone with the server: no other one may serve it an older disk. */
static void test_server_dies_holding(void **state)
{
    (void)state;
    struct disk_client *c = begin(BYTES);
    MUST(disk_server_note_holding(lab.run, true, &error));
    assert_false(disk_server_has_lost_writes(lab.run));
    kill(lab_server(&lab), SIGKILL);
    while (!disk_server_has_lost_writes(lab.run))
        usleep(1000);
    disk_disconnect(c);
    assert_int_equal(disk_server_start(lab.run, NULL, 0, &error), -1);
    assert_non_null(strstr(error.text, "the VM can't go on"));
    start(&lab, 1, false); /* for a VM that is started anew */
    assert_false(disk_server_is_holding(lab.run));
    kill(lab_server(&lab), SIGKILL);
    lab_start_again(&lab);
    c = lab_connect(&lab);
    assert_int_equal(disk_shared(c), 1);
    disk_disconnect(c);
}

static bool vm_stands_still(void)
{
    return true;
}

static bool news(struct disk_guard *g, int ms)
{
    struct pollfd p = {.fd = disk_guard_fd(g), .events = POLLIN};
    assert_int_equal(poll(&p, 1, ms), 1);
    return disk_guard_news(g, &error);
}

/* Nor does its guard start another one; while nothing is held it does. One that holds is given time to answer, whatever
 * waits for it, and is not ended to make it larger. */
static void test_guard(void **state)
{
    (void)state;
    static const struct watch_bounds bounds = {.pause_ms = 100, .worker_ms = 3600000};
    struct disk_client *c = begin(BYTES);
    struct disk_guard *g = disk_guard_start(lab.run, &bounds, vm_stands_still, &error);
    assert_non_null(g);
    kill(lab_server(&lab), SIGKILL);
    assert_true(news(g, 30000));
    disk_disconnect(c);
    c = lab_connect(&lab);
    assert_int_equal(disk_shared(c), 1);
    MUST(disk_server_note_holding(lab.run, true, &error));
    assert_int_equal(disk_server_grow(lab.run, &error), -1);
    assert_non_null(strstr(error.text, "unprotect the VM"));
    pid_t server = lab_server(&lab);
    kill(server, SIGSTOP);
    usleep(1500000);
    kill(server, SIGCONT);
    assert_int_equal(lab_server(&lab), server);
    assert_true(disk_is_whole(c));
    kill(server, SIGKILL);
    while (news(g, 30000)) /* of before */
        ;
    assert_non_null(strstr(error.text, "the VM can't go on"));
    assert_true(disk_server_has_lost_writes(lab.run));
    disk_disconnect(c);
    disk_guard_stop(g);
}

/* Both hosts have it open; a VM to which it is not shared can't. */
static void test_two_hosts(void **state)
{
    (void)state;
    struct disk_client *c = begin(BYTES);
    struct lab other = lab;
    const char *path = lab.disk[0];
    snprintf(other.run, sizeof other.run, "%s/other", lab.dir);
    start(&other, 1, true);
    MUST(disk_server_stop(other.run, &error));
    assert_int_equal(disk_server_start(other.run, &path, 1, &error), -1);
    assert_non_null(strstr(error.text, "in use"));
    disk_disconnect(c);
}

/* More is written than may be held: the guest waits, the agent hears of it; nothing waits for a pause. */
static void test_full(void **state)
{
    (void)state;
    struct disk_client *c = begin(128 * MIB);
    uint8_t *replica = malloc(128 * MIB);
    disk_hold(c);
    pid_t writer = guest_begin(&lab, 0, "write -P 7 0 32M\nwrite -P 8 32M 32M\nwrite -P 9 64M 32M\n");
    struct pollfd p = {.fd = disk_fd(c), .events = POLLIN};
    unsigned events = 0;
    while (!(events & DISK_EVENT_CROWDED)) {
        assert_int_equal(poll(&p, 1, 60000), 1);
        events |= disk_events(c);
        replay(c, disk_mark(c), &replica, 128 * MIB);
    }
    assert_false(run_ends_within(writer, 200));
    disk_set_pausing(c, true);
    while (!run_ends_within(writer, 10))
        replay(c, disk_mark(c), &replica, 128 * MIB);
    disk_set_pausing(c, false);
    assert_int_equal(run_wait(writer), 0);
    uint64_t mark = disk_mark(c);
    replay(c, mark, &replica, 128 * MIB);
    expect_store(0, 128 * MIB, 0, 96 * MIB, 0);
    disk_let_out_to(c, mark);
    wait_durable(c, mark);
    uint8_t *store = lab_store(&lab, 0, 128 * MIB);
    assert_memory_equal(store, replica, 96 * MIB);
    free(store);
    free(replica);
    disk_disconnect(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_open, teardown),
        cmocka_unit_test_teardown(test_held, teardown),
        cmocka_unit_test_teardown(test_tracker_dies, teardown),
        cmocka_unit_test_teardown(test_ended, teardown),
        cmocka_unit_test_teardown(test_holding_from_the_start, teardown),
        cmocka_unit_test_teardown(test_server_dies_holding, teardown),
        cmocka_unit_test_teardown(test_guard, teardown),
        cmocka_unit_test_teardown(test_two_hosts, teardown),
        cmocka_unit_test_teardown(test_full, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
