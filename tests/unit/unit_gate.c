/* Unit tests of disk/server/gate.h with a disk that is a list of what was done to it. */
#include "disk/server/gate.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ROOM = 4 * (HELD_ENTRY_BYTES + 512) };

static struct {
    struct gate *gate;
    atomic_bool holding, pausing;
    _Atomic uint64_t position, durable;
    atomic_int failing, failing_syncs, stuck, crowded, slow;
    pthread_mutex_t lock;
    char done[256]; /* of the disk: "w1 w2 s0 .." */
} world = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void note(char what, unsigned n)
{
    char word[16];
    pthread_mutex_lock(&world.lock);
    snprintf(word, sizeof word, "%c%u ", what, n);
    strncat(world.done, word, sizeof world.done - strlen(world.done) - 1);
    pthread_mutex_unlock(&world.lock);
}

static bool is_holding(void *arg)
{
    (void)arg;
    return world.holding;
}

static bool is_pausing(void *arg)
{
    (void)arg;
    return world.pausing;
}

static uint64_t barrier(void *arg)
{
    (void)arg;
    return world.position;
}

static int on_write(const struct held_write *w, void *arg)
{
    (void)arg;
    if (world.failing && world.failing-- > 0)
        return EIO;
    while (world.slow == w->data[0])
        usleep(1000);
    note('w', w->data[0]);
    return 0;
}

static int on_sync(unsigned disk, void *arg)
{
    (void)arg;
    if (world.failing_syncs && world.failing_syncs-- > 0)
        return EIO;
    note('s', disk);
    return 0;
}

static void on_durable(uint64_t position, void *arg)
{
    (void)arg;
    world.durable = position;
}

static void on_stuck(int error, void *arg)
{
    (void)arg;
    world.stuck = error;
}

static void on_crowded(void *arg)
{
    (void)arg;
    world.crowded++;
}

static void begin(bool latched)
{
    static const struct gate_handlers handlers = {is_holding, is_pausing, barrier,  on_write,
                                                  on_sync,    on_durable, on_stuck, on_crowded};
    struct errmsg e;
    world.position = world.durable = 0;
    world.failing = world.failing_syncs = world.stuck = world.crowded = world.slow = 0;
    world.pausing = false;
    world.holding = !latched;
    world.done[0] = '\0';
    world.gate = gate_new(&handlers, NULL, latched, ROOM, &e);
    assert_non_null(world.gate);
}

static int end(void **state)
{
    (void)state;
    gate_free(world.gate);
    world.gate = NULL;
    return 0;
}

static void put(int octet)
{
    uint8_t data[512];
    memset(data, octet, sizeof data);
    gate_add(world.gate, &(struct held_write){.kind = HELD_DATA,
                                              .offset = (uint64_t)octet * 512,
                                              .length = sizeof data,
                                              .position = ++world.position,
                                              .data = data});
}

static void wait_durable(uint64_t position)
{
    while (world.durable < position)
        usleep(1000);
}

static void expect_done(const char *what)
{
    pthread_mutex_lock(&world.lock);
    assert_string_equal(world.done, what);
    world.done[0] = '\0';
    pthread_mutex_unlock(&world.lock);
}

/* Promise 1; and a flush keeps its meaning: nothing passes a barrier, and durable has it only when it is. */
static void test_held_until_released(void **state)
{
    (void)state;
    begin(false);
    assert_true(gate_enter(world.gate));
    put(1);
    put(2);
    assert_true(gate_flush(world.gate, 0)); /* answered at once */
    put(3);
    assert_true(gate_flush(world.gate, 1)); /* of a disk without writes: nothing to do */
    usleep(50000);
    expect_done("");
    gate_release(world.gate, 3);
    wait_durable(3);
    expect_done("w1 w2 s0 w3 s0 ");
    gate_release(world.gate, 7); /* an epoch without writes */
    wait_durable(7);
    expect_done("");
}

/* The next epoch is released while the disk is at this one. */
static void test_released_meanwhile(void **state)
{
    (void)state;
    begin(false);
    put(1);
    put(2);
    world.slow = 1;
    gate_release(world.gate, 1);
    usleep(20000);
    gate_release(world.gate, 2);
    world.slow = 0;
    wait_durable(2);
    expect_done("w1 s0 w2 s0 ");
}

static void fill(uint64_t offset, uint64_t n, void *arg)
{
    (void)offset;
    memset(arg, '.', n);
}

static void test_reads(void **state)
{
    (void)state;
    uint8_t octet;
    begin(false);
    put(5);
    gate_read(world.gate, 0, &octet, 1, 5 * 512, fill, &octet);
    assert_int_equal(octet, 5);
    gate_release(world.gate, 1);
    wait_durable(1);
    gate_read(world.gate, 0, &octet, 1, 5 * 512, fill, &octet);
    assert_int_equal(octet, '.');
}

/* A disk that fails: the same again, in the same order, and nothing is said to be durable. */
static void test_failing_disk(void **state)
{
    (void)state;
    begin(false);
    put(1);
    put(2);
    world.failing = 2;
    gate_release(world.gate, 2);
    while (world.stuck != EIO)
        usleep(1000);
    assert_int_equal(world.durable, 0);
    wait_durable(2);
    assert_int_equal(world.stuck, 0);
    expect_done("w1 w2 s0 ");
}

/* What the kernel has dropped after a sync that failed is written again. */
static void test_failing_sync(void **state)
{
    (void)state;
    begin(false);
    put(1);
    world.failing_syncs = 1;
    gate_release(world.gate, 1);
    wait_durable(1);
    expect_done("w1 w1 s0 ");
}

static atomic_int entered;

static void *enter(void *arg)
{
    bool held = gate_enter(world.gate);
    entered++;
    if (held)
        put(*(int *)arg);
    return NULL;
}

/* Full: who comes waits, and the agent hears of it. A pause waits for nobody. Room lets go on, too. */
static void test_room(void **state)
{
    (void)state;
    pthread_t t;
    int octet = 9;
    begin(false);
    entered = 0;
    for (int i = 1; i <= 4; i++)
        put(i);
    assert_int_equal(pthread_create(&t, NULL, enter, &octet), 0);
    while (!world.crowded)
        usleep(1000);
    usleep(20000);
    assert_int_equal(entered, 0);
    world.pausing = true;
    pthread_join(t, NULL);
    world.pausing = false;
    assert_int_equal(pthread_create(&t, NULL, enter, &octet), 0);
    usleep(20000);
    assert_int_equal(entered, 1);
    gate_release(world.gate, 5);
    pthread_join(t, NULL);
    assert_int_equal(entered, 2);
}

/* The worker dies: it goes on holding. A worker that may opens it: all goes out, then writes are the disk's again. */
static void test_latched_and_opened(void **state)
{
    (void)state;
    begin(false);
    put(1);
    gate_latch(world.gate);
    world.holding = false; /* there is no tracker any more */
    assert_true(gate_enter(world.gate));
    put(2);
    assert_true(gate_flush(world.gate, 0));
    usleep(50000);
    expect_done("");
    while (!gate_open(world.gate))
        usleep(1000);
    expect_done("w1 w2 s0 ");
    assert_false(gate_enter(world.gate));
    assert_false(gate_flush(world.gate, 0)); /* the caller's to do */
}

/* A replica's server holds from the start; what is held when it ends was never written. */
static void test_dropped(void **state)
{
    (void)state;
    begin(true);
    assert_true(gate_enter(world.gate));
    put(1);
    gate_free(world.gate);
    world.gate = NULL;
    expect_done("");
}

/* It is opened between a writer's turn and its write. */
static void test_opened_amid_a_write(void **state)
{
    (void)state;
    begin(true);
    assert_true(gate_enter(world.gate));
    assert_true(gate_open(world.gate));
    put(1);
    wait_durable(1);
    expect_done("w1 s0 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_held_until_released, end),
        cmocka_unit_test_teardown(test_released_meanwhile, end),
        cmocka_unit_test_teardown(test_reads, end),
        cmocka_unit_test_teardown(test_failing_disk, end),
        cmocka_unit_test_teardown(test_failing_sync, end),
        cmocka_unit_test_teardown(test_room, end),
        cmocka_unit_test_teardown(test_latched_and_opened, end),
        cmocka_unit_test_teardown(test_dropped, end),
        cmocka_unit_test_teardown(test_opened_amid_a_write, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
