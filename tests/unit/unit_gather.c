/*
 * Unit tests of disk/gather.h: what is in the files at the end is what plain writes in that order would have left, with
 * fewer calls; what is long goes past the page cache, if it can; what fails is said, with its name.
 */
#include "disk/gather.h"
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { FILES = 2, BYTES = 3 << 20, BLOCK = MEDIUM_BLOCK, CALLS_MAX = 64 };

/* Notes what it is asked for. */
struct noting {
    struct medium medium; /* first */
    unsigned calls, direct_calls;
    int direct_fd, direct_error, error; /* errors: 0 for none */
    size_t n[CALLS_MAX];
    uint64_t offset[CALLS_MAX];
};

static uint8_t model[FILES][BYTES], data[BYTES], seen[BYTES];
static char paths[FILES][64];
static struct gather_file files[FILES];
static struct noting noting;

static int note_write(const struct medium *m, int fd, const void *from, size_t n, uint64_t offset)
{
    struct noting *t = (struct noting *)(uintptr_t)m;
    int error = fd == t->direct_fd ? t->direct_error : t->error;
    if (t->calls < CALLS_MAX) {
        t->n[t->calls] = n;
        t->offset[t->calls] = offset;
    }
    t->calls++;
    t->direct_calls += fd == t->direct_fd;
    errno = error;
    return error ? -1 : medium_kernel.write(&medium_kernel, fd, from, n, offset);
}

static int set_up(void **state)
{
    struct gather *g;
    noting = (struct noting){.medium = {note_write, medium_kernel.zero, medium_kernel.sync}, .direct_fd = -1};
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(paths[i], sizeof paths[i], "/tmp/hikae-unit-gather-%u-XXXXXX", i);
        files[i] = (struct gather_file){.fd = mkostemp(paths[i], O_CLOEXEC), .path = paths[i]};
        files[i].direct = medium_open_direct(files[i].fd);
        memset(model[i], 0, BYTES);
        if (files[i].fd < 0 || ftruncate(files[i].fd, BYTES))
            return -1;
    }
    noting.direct_fd = files[0].direct;
    *state = g = gather_new(&noting.medium);
    return g ? 0 : -1;
}

static int tear_down(void **state)
{
    gather_free(*state);
    for (unsigned i = 0; i < FILES; i++) {
        close(files[i].fd);
        if (files[i].direct >= 0)
            close(files[i].direct);
        unlink(paths[i]);
    }
    return 0;
}

static void put(struct gather *g, unsigned file, uint64_t offset, size_t n, uint64_t *seed)
{
    struct errmsg e = {""};
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)sample_random(seed);
    memcpy(model[file] + offset, data, n);
    if (gather_write(g, &files[file], data, n, offset, &e))
        fail_msg("%s", e.text);
}

static void assert_written(struct gather *g)
{
    struct errmsg e = {""};
    if (gather_end(g, &e))
        fail_msg("%s", e.text);
    for (unsigned i = 0; i < FILES; i++) {
        assert_int_equal(medium_read(files[i].fd, seen, BYTES, 0), 0);
        assert_memory_equal(seen, model[i], BYTES);
    }
}

static void any_writes(void **state)
{
    struct gather *g = *state;
    uint64_t seed = 5;
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < 12; i++) {
            size_t n = 1 + (size_t)sample_random(&seed) % (i % 4 ? 20000 : 300000);
            uint64_t offset = sample_random(&seed) % (BYTES - n);
            if (sample_random(&seed) % 4) { /* most are of whole blocks */
                n = n / BLOCK * BLOCK + BLOCK;
                offset = offset / BLOCK * BLOCK;
                offset = offset + n <= BYTES ? offset : BYTES - n;
            }
            put(g, (unsigned)(sample_random(&seed) % FILES), offset, n, &seed);
        }
        assert_written(g);
    }
}

static void neighbours_go_together(void **state)
{
    struct gather *g = *state;
    uint64_t seed = 6;
    static const unsigned order[] = {0, 2, 1, 3, 2, 5}; /* one is written twice, 4 never */
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        put(g, 1, order[i] * BLOCK, BLOCK, &seed);
    assert_int_equal(noting.calls, 0);
    assert_written(g);
    assert_int_equal(noting.calls, 2);
    assert_int_equal(noting.n[0], 4 * BLOCK);
    assert_int_equal(noting.offset[1], 5 * BLOCK);
    assert_written(g); /* nothing is left */
    assert_int_equal(noting.calls, 2);
}

static void one_file_after_the_other(void **state)
{
    struct gather *g = *state;
    uint64_t seed = 7;
    put(g, 0, 0, BLOCK, &seed);
    put(g, 1, 0, BLOCK, &seed);
    assert_int_equal(noting.calls, 1);
    put(g, 0, BLOCK, BLOCK, &seed);
    put(g, 0, 100, 50, &seed); /* not of whole blocks: after what was there */
    assert_int_equal(noting.calls, 4);
    assert_written(g);
}

static void long_ones_go_past_the_cache(void **state)
{
    struct gather *g = *state;
    uint64_t seed = 8;
    if (files[0].direct < 0)
        skip();                 /* this file system can't */
    put(g, 0, 0, BLOCK, &seed); /* in the cache first, and then over it */
    assert_written(g);
    assert_int_equal(noting.direct_calls, 0);
    put(g, 0, 0, 1 << 20, &seed);
    put(g, 0, (1 << 20) + 8 * BLOCK, 300000 / BLOCK * BLOCK, &seed);
    assert_written(g);
    assert_int_equal(noting.direct_calls, 2);
}

/* As one whose blocks are larger than ours. */
static void what_refuses_is_written_otherwise(void **state)
{
    struct gather *g = *state;
    uint64_t seed = 9;
    if (files[0].direct < 0)
        skip();
    noting.direct_error = EINVAL;
    put(g, 0, 0, 1 << 20, &seed);
    assert_written(g);
    assert_int_equal(noting.direct_calls, 1);
    assert_int_equal(files[0].direct, -1);
    put(g, 0, 0, 1 << 20, &seed);
    assert_written(g);
    assert_int_equal(noting.direct_calls, 1);
}

static void errors_are_those_of_the_file_that_waited(void **state)
{
    struct gather *g = *state;
    struct errmsg e = {""};
    uint64_t seed = 10;
    put(g, 0, 0, BLOCK, &seed);
    noting.error = EIO;
    assert_int_equal(gather_write(g, &files[1], data, BLOCK, 0, &e), -1);
    assert_non_null(strstr(e.text, paths[0]));
    assert_non_null(strstr(e.text, strerror(EIO)));
    noting.error = noting.direct_error = ENOSPC;
    assert_int_equal(gather_write(g, &files[1], data, 1 << 20, 0, &e), 0);
    assert_int_equal(gather_end(g, &e), -1);
    assert_non_null(strstr(e.text, paths[1]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_writes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(neighbours_go_together, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_file_after_the_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_ones_go_past_the_cache, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_refuses_is_written_otherwise, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errors_are_those_of_the_file_that_waited, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
