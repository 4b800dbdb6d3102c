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
    atomic_bool hurried, waited;
    atomic_uint stopped;
    unsigned disk; /* of who waits for a flush */
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

static bool hurried(uint32_t *stopped, void *arg)
{
    struct world *w = arg;
    *stopped = atomic_load(&w->stopped);
    return atomic_load(&w->hurried);
}

static void begin(struct world *w, bool is_hurried)
{
    static const struct owed_handlers handlers = {flush, changed, hurried};
    struct errmsg e;
    sem_init(&w->begun, 0, 0);
    sem_init(&w->may_end, 0, 0);
    atomic_store(&w->hurried, is_hurried);
    w->owed = owed_new(2, &handlers, w, &e);
    assert_non_null(w->owed);
}

static void *ask(void *arg)
{
    struct world *w = arg;
    return (void *)(intptr_t)owed_flush(w->owed, w->disk);
}

static int answer(pthread_t asking)
{
    void *said;
    pthread_join(asking, &said);
    return (int)(intptr_t)said;
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
    begin(&w, true);
    owed_wait(w.owed); /* none is owed */
    owed_flush(w.owed, 1);
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
    begin(&w, true);
    owed_flush(w.owed, 0);
    sem_wait(&w.begun);
    owed_flush(w.owed, 0);
    owed_flush(w.owed, 0);
    owed_flush(w.owed, 1);
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
    begin(&w, true);
    owed_flush(w.owed, 1);
    sem_post(&w.may_end);
    owed_wait(w.owed);
    assert_int_equal(owed_take_error(w.owed, 0), 0);
    assert_int_equal(owed_take_error(w.owed, 1), EIO);
    assert_int_equal(owed_take_error(w.owed, 1), 0);
    owed_free(w.owed);
}

/* Who is not hurried waits, and hears what came of it; so does whoever came before it began, and nobody else. */
static void test_not_hurried(void **state)
{
    (void)state;
    struct world w = {.disk = 1};
    pthread_t first, second;
    begin(&w, false);
    pthread_create(&first, NULL, ask, &w);
    sem_wait(&w.begun);
    pthread_create(&second, NULL, ask, &w);
    usleep(20000);
    assert_int_equal(atomic_load(&w.count), 0);
    w.error = EIO;
    sem_post(&w.may_end);
    assert_int_equal(answer(first), EIO);
    sem_wait(&w.begun);
    w.error = 0;
    sem_post(&w.may_end);
    assert_int_equal(answer(second), 0);
    assert_int_equal(owed_take_error(w.owed, 1), 0);
    owed_free(w.owed);
}

/* The VM is paused while a flush is under way: it is answered, and owed from then on. The other disk's is done
 * meanwhile.
 */
static void test_hurried_amid_it(void **state)
{
    (void)state;
    struct world w = {.error = ENOSPC};
    pthread_t asking;
    begin(&w, false);
    pthread_create(&asking, NULL, ask, &w);
    sem_wait(&w.begun);
    assert_int_equal(atomic_load(&w.count), 0);
    atomic_store(&w.hurried, true);
    assert_int_equal(answer(asking), 0);
    assert_int_equal(atomic_load(&w.count), 1);
    assert_int_equal(owed_flush(w.owed, 1), 0);
    sem_wait(&w.begun);
    assert_int_equal(atomic_load(&w.count), 2);
    sem_post(&w.may_end);
    sem_post(&w.may_end);
    owed_wait(w.owed);
    assert_int_equal(owed_take_error(w.owed, 0), ENOSPC);
    assert_int_equal(owed_take_error(w.owed, 1), ENOSPC);
    owed_free(w.owed);
}

static bool has_waited(struct world *w, pthread_t later)
{
    usleep(50000);
    bool waited = !atomic_load(&w->waited);
    sem_post(&w->may_end);
    pthread_join(later, NULL);
    atomic_store(&w->waited, false);
    return waited;
}

/* What comes while the processors stand still was asked for before they can know of an answer of the same pause; after
 * it, and if they ran when it was answered, they may. */
static void test_stopped(void **state)
{
    (void)state;
    struct world w = {.stopped = 7};
    pthread_t later;
    begin(&w, true);
    owed_flush(w.owed, 0);
    owed_flush(w.owed, 1);
    owed_wait(w.owed);
    assert_int_equal(atomic_load(&w.count), 2);
    sem_wait(&w.begun);
    sem_wait(&w.begun);
    sem_post(&w.may_end);
    atomic_store(&w.stopped, 0);
    pthread_create(&later, NULL, wait_for_none, &w);
    assert_true(has_waited(&w, later));

    owed_flush(w.owed, 0); /* they run */
    sem_wait(&w.begun);
    atomic_store(&w.stopped, 9);
    owed_flush(w.owed, 0);
    sem_post(&w.may_end);
    pthread_create(&later, NULL, wait_for_none, &w);
    assert_true(has_waited(&w, later));

    owed_flush(w.owed, 0);
    owed_tell(w.owed); /* so this one is another */
    pthread_create(&later, NULL, wait_for_none, &w);
    assert_true(has_waited(&w, later));

    owed_flush(w.owed, 0);
    atomic_store(&w.stopped, 11); /* the next pause */
    pthread_create(&later, NULL, wait_for_none, &w);
    assert_true(has_waited(&w, later));
    owed_free(w.owed);
}

/* It waits for what was owed as it came, not for what is answered after that: else a pause would wait with it. */
static void test_not_for_later_ones(void **state)
{
    (void)state;
    struct world w = {0};
    pthread_t later;
    begin(&w, true);
    owed_flush(w.owed, 0);
    sem_wait(&w.begun);
    pthread_create(&later, NULL, wait_for_none, &w);
    usleep(50000);
    owed_flush(w.owed, 0);
    assert_true(has_waited(&w, later));
    assert_int_equal(atomic_load(&w.count), 1);
    sem_post(&w.may_end);
    owed_free(w.owed);
}

/* Who waits is answered in no order: the last flush that is owed is. */
static void test_in_no_order(void **state)
{
    (void)state;
    for (int round = 0; round < 30; round++) {
        struct world w = {0};
        pthread_t asking[4];
        begin(&w, false);
        for (int i = 0; i < 4; i++) {
            pthread_create(&asking[i], NULL, ask, &w);
            if (i == 0)
                sem_wait(&w.begun); /* this flush sees nothing of what the others ask for */
        }
        usleep(2000);
        atomic_store(&w.hurried, true);
        for (int i = 0; i < 4; i++)
            assert_int_equal(answer(asking[i]), 0);
        sem_post(&w.may_end);
        sem_wait(&w.begun);
        assert_int_equal(atomic_load(&w.count), 1);
        sem_post(&w.may_end);
        owed_free(w.owed);
    }
}

/* What another one has left owing is owed from the beginning, and paid like any other. */
static void test_begun(void **state)
{
    (void)state;
    struct world w = {0};
    pthread_t later;
    begin(&w, false);
    owed_begin(w.owed, 2);
    assert_int_equal(atomic_load(&w.count), 2);
    sem_wait(&w.begun);
    sem_wait(&w.begun);
    pthread_create(&later, NULL, wait_for_none, &w);
    usleep(50000);
    assert_false(atomic_load(&w.waited));
    sem_post(&w.may_end);
    usleep(50000);
    assert_false(atomic_load(&w.waited)); /* one of them is still owed */
    assert_int_equal(atomic_load(&w.count), 1);
    sem_post(&w.may_end);
    pthread_join(later, NULL);
    assert_int_equal(atomic_load(&w.count), 0);
    assert_int_equal(atomic_load(&w.flushes[0]), 1);
    assert_int_equal(atomic_load(&w.flushes[1]), 1);
    owed_free(w.owed);
}

/* What is owed is paid before the end. */
static void test_end(void **state)
{
    (void)state;
    struct world w = {0};
    begin(&w, true);
    owed_flush(w.owed, 0);
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
        cmocka_unit_test(test_not_hurried),
        cmocka_unit_test(test_hurried_amid_it),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_begun),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_not_for_later_ones),
        cmocka_unit_test(test_in_no_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
