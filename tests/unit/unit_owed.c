/* Unit tests of disk/server/owed.h: flushes that are answered first and done on the way. */
#include "disk/server/owed.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

struct world {
    struct owed *owed;
    sem_t begun, may_end; /* of each flush */
    int error;            /* what a flush ends with */
    atomic_uint flushes[2], count;
    atomic_bool waited;
};

static int flush(unsigned disk, void *arg)
{
    struct world *w = arg;
    atomic_fetch_add(&w->flushes[disk], 1);
    sem_post(&w->begun);
    sem_wait(&w->may_end);
    return w->error;
}

static void changed(unsigned owed, void *arg)
{
    struct world *w = arg;
    atomic_store(&w->count, owed);
}

static void begin(struct world *w)
{
    struct errmsg e;
    sem_init(&w->begun, 0, 0);
    sem_init(&w->may_end, 0, 0);
    w->owed = owed_new(flush, changed, w, &e);
    assert_non_null(w->owed);
}

static void *wait_for_none(void *arg)
{
    struct world *w = arg;
    owed_wait(w->owed);
    atomic_store(&w->waited, true);
    return NULL;
}

/* The one who asked goes on at once, the flush begins at once, who comes later waits for its end. */
static void test_order(void **state)
{
    (void)state;
    struct world w = {0};
    pthread_t later;
    begin(&w);
    owed_wait(w.owed); /* none is owed */
    owed_add(w.owed, 1);
    assert_int_equal(atomic_load(&w.count), 1);
    sem_wait(&w.begun);
    pthread_create(&later, NULL, wait_for_none, &w);
    usleep(50000);
    assert_false(atomic_load(&w.waited));
    sem_post(&w.may_end);
    pthread_join(later, NULL);
    assert_int_equal(atomic_load(&w.count), 0);
    assert_int_equal(atomic_load(&w.flushes[1]), 1);
    owed_free(w.owed);
}

/* One that comes while its disk is being flushed may be of writes that this flush does not see: it is done anew, once.
 */
static void test_again(void **state)
{
    (void)state;
    struct world w = {0};
    begin(&w);
    owed_add(w.owed, 0);
    sem_wait(&w.begun);
    owed_add(w.owed, 0);
    owed_add(w.owed, 0);
    owed_add(w.owed, 1);
    assert_int_equal(atomic_load(&w.count), 2);
    for (int i = 0; i < 3; i++)
        sem_post(&w.may_end);
    owed_wait(w.owed);
    assert_int_equal(atomic_load(&w.flushes[0]), 2);
    assert_int_equal(atomic_load(&w.flushes[1]), 1);
    owed_free(w.owed);
}

static void test_error(void **state)
{
    (void)state;
    struct world w = {.error = EIO};
    begin(&w);
    owed_add(w.owed, 1);
    sem_post(&w.may_end);
    owed_wait(w.owed);
    assert_int_equal(owed_take_error(w.owed, 0), 0);
    assert_int_equal(owed_take_error(w.owed, 1), EIO);
    assert_int_equal(owed_take_error(w.owed, 1), 0);
    owed_free(w.owed);
}

/* What is owed is paid before the end. */
static void test_end(void **state)
{
    (void)state;
    struct world w = {0};
    begin(&w);
    owed_add(w.owed, 0);
    sem_post(&w.may_end);
    owed_free(w.owed);
    assert_int_equal(atomic_load(&w.flushes[0]), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
