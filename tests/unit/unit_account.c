/*
 * Unit tests of disk/account.h and disk/marker.h: whatever dies at whatever step, a block that may be other than on the
 * other host is noted, or there is no generation any more. The medium is memory here: what was not synced may be on it
 * or not, sector by sector, as a host leaves it that loses its power.
 */
#include "disk/account.h"
#include "disk/marker.h"
#include "sample.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SECTOR = 512, BLOCKS_0 = 5000, BLOCKS_1 = 70, LEFT_MAX = 20000 };

static const struct account_disks disks = {
    2, {{(uint64_t)BLOCKS_0 * ACCOUNT_BLOCK, 7, 11}, {(uint64_t)BLOCKS_1 * ACCOUNT_BLOCK, 7, 12}}};
static const uint64_t blocks_of[] = {BLOCKS_0, BLOCKS_1};
static const uint8_t first_boot[ACCOUNT_ID] = {1}, second_boot[ACCOUNT_ID] = {2};
static const uint8_t one[ACCOUNT_ID] = {0xa1}, another[ACCOUNT_ID] = {0xa2};

/* ---- the medium ---- */

struct world {
    uint8_t *now, *durable, *crashed; /* memory; what is on the medium; memory when the host was lost */
    size_t n;
    uint64_t seed;
    unsigned steps, stop_at; /* 0: never */
    bool dead;
    struct account *a;
    struct marker *m;
    /* what must be noted: the epoch in which each block was last written, 0: it is equal */
    uint64_t written[2][BLOCKS_0];
    uint64_t epoch, durable_epoch, rotated_in;
};

static void *left[LEFT_MAX]; /* what a process that was killed had; no leak to a sanitizer */
static unsigned left_n;

static void leave(void *p)
{
    assert_true(left_n < LEFT_MAX);
    left[left_n++] = p;
}

static int sync_memory(void *arg, size_t offset, size_t n)
{
    struct world *w = arg;
    if (w->dead)
        return -1;
    if (++w->steps == w->stop_at) {
        w->dead = true;
        memcpy(w->crashed, w->now, w->n);
        return -1;
    }
    assert_true(offset + n <= w->n);
    memcpy(w->durable + offset, w->now + offset, n);
    return 0;
}

/* The kernel writes out what it likes, when it likes. */
static void write_back(struct world *w)
{
    for (unsigned i = 0; i < 30 && !w->dead; i++) {
        size_t sector = sample_random(&w->seed) % (w->n / SECTOR) * SECTOR;
        memcpy(w->durable + sector, w->now + sector, SECTOR);
    }
}

static void power_comes_back(struct world *w)
{
    if (!w->dead)
        memcpy(w->crashed, w->now, w->n);
    for (size_t at = 0; at < w->n; at += SECTOR)
        if (sample_random(&w->seed) % 2)
            memcpy(w->durable + at, w->crashed + at, SECTOR);
    memcpy(w->now, w->durable, w->n);
    w->dead = false;
    w->stop_at = 0;
}

static struct account *attach(struct world *w, const uint8_t *boot)
{
    struct account *a = account_attach(w->now, &disks, boot, sync_memory, w);
    assert_true(a || w->dead);
    return a;
}

static struct world *world_new(uint64_t seed, unsigned stop_at)
{
    struct world *w = calloc(1, sizeof *w);
    w->n = account_octets(&disks);
    w->now = aligned_alloc(4096, w->n);
    w->durable = calloc(1, w->n);
    w->crashed = calloc(1, w->n);
    memset(w->now, 0, w->n);
    w->seed = seed;
    w->epoch = 1;
    w->a = attach(w, first_boot);
    assert_int_equal(account_begin(w->a, one), 0);
    w->m = marker_new(w->a, 4711);
    w->stop_at = stop_at;
    w->steps = 0;
    return w;
}

static void world_free(struct world *w)
{
    marker_free(w->m);
    account_detach(w->a);
    free(w->now);
    free(w->durable);
    free(w->crashed);
    free(w);
}

/* ---- what is noted ---- */

static bool is_noted(const struct account *a, unsigned disk, uint64_t block)
{
    uint64_t first = block, count;
    return account_next(a, disk, &first, &count) && first == block;
}

static bool is_right(const struct world *w, const struct account *a)
{
    for (unsigned d = 0; d < 2; d++)
        for (uint64_t b = 0; b < blocks_of[d]; b++)
            if (w->written[d][b] && !is_noted(a, d, b))
                return false;
    return true;
}

static uint64_t written(const struct world *w)
{
    uint64_t n = 0;
    for (unsigned d = 0; d < 2; d++)
        for (uint64_t b = 0; b < blocks_of[d]; b++)
            n += w->written[d][b] != 0;
    return n;
}

/* ---- what happens ---- */

static void write_some(struct world *w, unsigned disk, uint64_t block, uint64_t count)
{
    uint64_t offset = block * ACCOUNT_BLOCK + sample_random(&w->seed) % ACCOUNT_BLOCK;
    uint64_t n = 1 + sample_random(&w->seed) % (count * ACCOUNT_BLOCK), most = blocks_of[disk] * ACCOUNT_BLOCK - offset;
    n = n < most ? n : most;
    marker_mark(w->m, disk, n, offset);
    if (w->dead)
        return; /* before it was written */
    for (uint64_t b = offset / ACCOUNT_BLOCK; b <= (offset + n - 1) / ACCOUNT_BLOCK; b++)
        w->written[disk][b] = w->epoch;
}

static void other_host_has(struct world *w, uint64_t epoch)
{
    w->durable_epoch = epoch;
    for (unsigned d = 0; d < 2; d++)
        for (uint64_t b = 0; b < blocks_of[d]; b++)
            if (w->written[d][b] <= epoch)
                w->written[d][b] = 0;
    if (w->rotated_in && w->rotated_in <= epoch) {
        account_forget(w->a);
        w->rotated_in = 0;
    }
}

static void resync(struct world *w)
{
    if (account_gather(w->a))
        return;
    w->rotated_in = 0;
    write_back(w);
    if (sample_random(&w->seed) % 2 == 0)
        return; /* it comes to nothing */
    uint64_t epoch = w->epoch++;
    other_host_has(w, epoch);
    account_forget(w->a);
}

static void server_dies(struct world *w)
{
    leave(w->m);
    account_detach(w->a);
    w->a = attach(w, first_boot);
    w->m = w->a ? marker_new(w->a, 4712) : NULL;
}

static void something(struct world *w)
{
    unsigned disk = sample_random(&w->seed) % 4 == 0;
    switch (sample_random(&w->seed) % 12) {
    case 0:
        if (w->durable_epoch + 1 < w->epoch)
            other_host_has(w, w->durable_epoch + 1 + sample_random(&w->seed) % (w->epoch - w->durable_epoch - 1));
        break;
    case 1:
        if (account_rotate(w->a))
            w->rotated_in = w->epoch;
        break;
    case 2:
    case 3:
        w->epoch++;
        break;
    case 4:
        marker_tidy(w->m);
        break;
    case 5:
        if (sample_random(&w->seed) % 3 == 0)
            server_dies(w);
        break;
    case 6:
        resync(w);
        break;
    default:
        write_some(w, disk, sample_random(&w->seed) % blocks_of[disk], 1 + sample_random(&w->seed) % 20);
    }
    write_back(w);
}

/* ---- tests ---- */

/* The host is lost at each step of many histories. */
static void host_is_lost(void **state)
{
    (void)state;
    enum { ACTS = 120, HISTORIES = 1500 };
    unsigned crashes = 0;
    uint64_t noted = 0, needed = 0;
    for (uint64_t seed = 1; seed <= HISTORIES; seed++) {
        struct world *w = world_new(seed * 77777, 1 + (unsigned)(seed % 37));
        for (unsigned i = 0; i < ACTS && !w->dead; i++)
            something(w);
        crashes += w->dead;
        leave(w->m);
        account_detach(w->a);
        power_comes_back(w);
        w->m = NULL;
        w->a = attach(w, second_boot);
        uint8_t generation[ACCOUNT_ID];
        assert_true(account_generation(w->a, generation));
        assert_memory_equal(generation, one, ACCOUNT_ID);
        if (!is_right(w, w->a))
            fail_msg("seed %d: a block that was written is not noted", (int)seed);
        noted += account_blocks(w->a);
        needed += written(w);
        /* And once more, before anything became durable. */
        account_detach(w->a);
        power_comes_back(w);
        w->a = attach(w, first_boot);
        assert_true(is_right(w, w->a));
        world_free(w);
    }
    print_message("%u of %d histories ended amid a step; %d blocks were noted, %d had to be\n", crashes, HISTORIES,
                  (int)noted, (int)needed);
    assert_true(crashes > HISTORIES / 3);
}

/* A process is lost, or the host goes down in order: the notes are those that were made, and no more. */
static void nothing_is_made_up(void **state)
{
    (void)state;
    struct world *w = world_new(5, 0);
    for (uint64_t b = 3; b < BLOCKS_0; b += 100)
        marker_mark(w->m, 0, 1, b * ACCOUNT_BLOCK + 17);
    marker_mark(w->m, 1, 3 * ACCOUNT_BLOCK, 62 * ACCOUNT_BLOCK + 1); /* over a word's end, 4 blocks */
    assert_int_equal(account_blocks(w->a), 50 + 4);
    server_dies(w);
    assert_int_equal(account_blocks(w->a), 54);
    assert_int_equal(account_marker(w->a), 4712);
    uint64_t first = 0, count;
    assert_true(account_next(w->a, 1, &first, &count) && first == 62 && count == 4);
    first = 66;
    assert_false(account_next(w->a, 1, &first, &count));
    marker_free(w->m); /* as a server that is told to end */
    account_detach(w->a);
    memcpy(w->now, w->durable, w->n);
    w->a = attach(w, second_boot);
    assert_int_equal(account_blocks(w->a), 54);
    assert_int_equal(account_marker(w->a), 0);
    w->m = marker_new(w->a, 1);
    world_free(w);
}

/* Only a first write to an extent waits for the medium, and the first after it has left the list. */
static void what_it_costs(void **state)
{
    (void)state;
    struct world *w = world_new(6, 0);
    for (unsigned i = 0; i < 1000; i++)
        marker_mark(w->m, 0, 1, i % 3 * ACCOUNT_EXTENT_BLOCKS * (uint64_t)ACCOUNT_BLOCK + i * (uint64_t)ACCOUNT_BLOCK);
    assert_int_equal(w->steps, 2); /* the second one follows the first, and takes those behind it along */
    marker_tidy(w->m);             /* the last ones leave: that makes the notes durable */
    assert_int_equal(w->steps, 4);
    marker_mark(w->m, 0, 1, 0);
    marker_mark(w->m, 0, 1, ACCOUNT_EXTENT_BLOCKS * (uint64_t)ACCOUNT_BLOCK);
    assert_int_equal(w->steps, 4);
    marker_tidy(w->m); /* the third one */
    assert_int_equal(w->steps, 6);
    marker_mark(w->m, 0, 1, 0);
    assert_int_equal(w->steps, 6);
    marker_mark(w->m, 0, 1, 2 * ACCOUNT_EXTENT_BLOCKS * (uint64_t)ACCOUNT_BLOCK);
    assert_int_equal(w->steps, 7);
    world_free(w);
}

/* A generation begins: at no step is there the old one with notes that are missing. */
static void begun_anew(void **state)
{
    (void)state;
    for (unsigned stop_at = 1; stop_at <= 6; stop_at++)
        for (uint64_t seed = 1; seed < 60; seed++) {
            struct world *w = world_new(seed, 0);
            uint8_t generation[ACCOUNT_ID];
            for (unsigned i = 0; i < 10; i++)
                write_some(w, 0, sample_random(&w->seed) % 4000, 10);
            w->stop_at = w->steps + stop_at;
            bool begun = !account_begin(w->a, seed % 3 ? another : NULL);
            write_back(w);
            leave(w->m);
            account_detach(w->a);
            power_comes_back(w);
            w->m = NULL;
            w->a = attach(w, second_boot);
            bool has = account_generation(w->a, generation);
            if (begun)
                assert_true(seed % 3 ? has && !memcmp(generation, another, ACCOUNT_ID) : !has);
            else if (has && !memcmp(generation, one, ACCOUNT_ID))
                assert_true(is_right(w, w->a));
            world_free(w);
        }
}

/* No extent is listed that would hide it: what is moved from set to set is on the medium in one of them. */
static void gathered(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 200; seed++) {
        struct world *w = world_new(seed, 0);
        for (unsigned i = 0; i < 10; i++)
            write_some(w, 0, sample_random(&w->seed) % 4900, 10);
        marker_tidy(w->m);
        marker_tidy(w->m);
        memcpy(w->durable, w->now, 2 * 4096); /* header and extents */
        w->stop_at = seed % 3 ? 0 : w->steps + 1;
        assert_int_equal(account_gather(w->a), seed % 3 ? 0 : -1);
        leave(w->m);
        account_detach(w->a);
        power_comes_back(w);
        w->m = NULL;
        w->a = attach(w, second_boot);
        assert_true(is_right(w, w->a));
        world_free(w);
    }
}

static void other_disks(void **state)
{
    (void)state;
    struct world *w = world_new(8, 0);
    uint8_t generation[ACCOUNT_ID];
    marker_mark(w->m, 0, 100, 0);
    marker_free(w->m);
    account_detach(w->a);
    struct account_disks d = disks;
    d.at[1].inode++;
    w->m = NULL;
    w->a = account_attach(w->now, &d, first_boot, sync_memory, w);
    assert_false(account_generation(w->a, generation));
    assert_int_equal(account_blocks(w->a), 0);
    account_detach(w->a);
    w->now[0] ^= 1; /* damaged */
    w->a = attach(w, first_boot);
    assert_false(account_generation(w->a, generation));
    w->m = marker_new(w->a, 1);
    marker_mark(w->m, 0, 100, 0); /* of no generation: nothing is noted */
    assert_int_equal(account_blocks(w->a), 0);
    world_free(w);
}

/* A disk that has grown since: what lies behind its end has no note. */
static void behind_the_end(void **state)
{
    (void)state;
    struct world *w = world_new(10, 0);
    uint8_t generation[ACCOUNT_ID];
    marker_mark(w->m, 1, ACCOUNT_BLOCK, (BLOCKS_1 - 1) * (uint64_t)ACCOUNT_BLOCK);
    assert_true(account_generation(w->a, generation));
    marker_mark(w->m, 1, ACCOUNT_BLOCK + 1, (BLOCKS_1 - 1) * (uint64_t)ACCOUNT_BLOCK);
    assert_false(account_generation(w->a, generation));
    world_free(w);
}

/* ---- threads ---- */

enum { THREADS = 4, WRITES = 4000 };

struct writer {
    struct marker *m;
    uint64_t seed;
    bool wrote[BLOCKS_0];
};

static int sync_nothing(void *arg, size_t offset, size_t n)
{
    (void)arg, (void)offset, (void)n;
    return 0;
}

static void *write_many(void *arg)
{
    struct writer *x = arg;
    for (unsigned i = 0; i < WRITES; i++) {
        uint64_t block = sample_random(&x->seed) % BLOCKS_0;
        marker_mark(x->m, 0, 1, block * ACCOUNT_BLOCK);
        x->wrote[block] = true;
    }
    return NULL;
}

/* A server's threads note, another one tidies, the agent moves from set to set. */
static void many_threads(void **state)
{
    (void)state;
    static struct writer writers[THREADS];
    pthread_t threads[THREADS];
    struct world *w = world_new(11, 0);
    marker_free(w->m);
    account_detach(w->a);
    w->a = account_attach(w->now, &disks, first_boot, sync_nothing, w);
    w->m = marker_new(w->a, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.m = w->m, .seed = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, &writers[i]), 0);
    }
    for (unsigned i = 0; i < 100; i++) {
        marker_tidy(w->m);
        (void)account_rotate(w->a); /* nothing is ever forgotten */
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < THREADS; i++)
        for (uint64_t b = 0; b < BLOCKS_0; b++)
            if (writers[i].wrote[b])
                assert_true(is_noted(w->a, 0, b));
    world_free(w);
}

/* The account's medium fails: no generation is left that lacks a note. */
static void medium_fails(void **state)
{
    (void)state;
    struct world *w = world_new(9, 0);
    uint8_t generation[ACCOUNT_ID];
    w->dead = true; /* every sync fails from here on */
    marker_mark(w->m, 0, 100, 0);
    assert_false(account_generation(w->a, generation));
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_is_lost), cmocka_unit_test(nothing_is_made_up), cmocka_unit_test(what_it_costs),
        cmocka_unit_test(begun_anew),   cmocka_unit_test(gathered),           cmocka_unit_test(other_disks),
        cmocka_unit_test(medium_fails), cmocka_unit_test(behind_the_end),     cmocka_unit_test(many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
