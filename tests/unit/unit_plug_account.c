/* Unit tests of netbuf/plug_account.h against a model of sch_plug: no frame leaves before its epoch's ack. */
#include "netbuf/plug_account.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { FRAMES = 4096 };

/* The qdisc as the kernel has it: two counters, and a queue. */
struct qdisc {
    uint64_t current, last;
    uint64_t queue[FRAMES]; /* epoch of each frame */
    size_t head, tail;
};

static void enqueue(struct qdisc *q, uint64_t epoch)
{
    assert_true(q->tail < FRAMES);
    q->queue[q->tail++] = epoch;
    q->current++;
}

static void buffer(struct qdisc *q)
{
    q->last = q->current;
    q->current = 0;
}

static void release_one(struct qdisc *q, uint64_t acked)
{
    for (; q->last > 0; q->last--) {
        assert_true(q->head < q->tail);
        assert_true(q->queue[q->head++] <= acked); /* promise 1 */
    }
}

static void test_one_epoch(void **unused)
{
    (void)unused;
    struct plug_account a = {0};
    uint64_t released;
    a.running = 3;
    assert_true(plug_account_waiting(&a));
    assert_true(plug_account_close(&a, 1));
    assert_false(plug_account_waiting(&a));
    assert_int_equal(plug_account_held(&a), 3);
    assert_true(plug_account_release(&a, 1, &released));
    assert_int_equal(released, 3);
    assert_int_equal(plug_account_held(&a), 0);
    assert_false(plug_account_release(&a, 1, &released));
}

static void test_closed_while_one_is_outstanding(void **unused)
{
    (void)unused;
    struct plug_account a = {0};
    uint64_t released;
    a.running = 1;
    assert_true(plug_account_close(&a, 1));
    a.running = 5;
    assert_false(plug_account_close(&a, 2)); /* the kernel would forget epoch 1's count */
    assert_false(plug_account_waiting(&a));
    assert_true(plug_account_release(&a, 1, &released));
    assert_int_equal(released, 1);
    assert_true(plug_account_waiting(&a)); /* so that another checkpoint lets them go */
    assert_false(plug_account_release(&a, 2, &released));
    assert_true(plug_account_close(&a, 3));
    assert_false(plug_account_release(&a, 2, &released));
    assert_true(plug_account_release(&a, 3, &released));
    assert_int_equal(released, 5);
}

/* Any order of sending, closing and acknowledging, two epochs in flight. */
static void test_against_the_kernel(void **unused)
{
    (void)unused;
    for (unsigned seed = 1; seed <= 200; seed++) {
        struct plug_account a = {0};
        static struct qdisc q;
        q = (struct qdisc){0};
        uint64_t epoch = 1, acked = 0, released, sent = 0, out = 0;
        srand(seed);
        for (int step = 0; step < 2000; step++) {
            int what = rand() % 4;
            if (what < 2) {
                enqueue(&q, epoch);
                a.running++;
                sent++;
            } else if (what == 2 && epoch - 1 - acked < 2) {
                if (plug_account_close(&a, epoch))
                    buffer(&q);
                epoch++;
            } else if (what == 3 && acked < epoch - 1) {
                acked++;
                if (plug_account_release(&a, acked, &released)) {
                    assert_int_equal(released, q.last);
                    release_one(&q, acked);
                    out += released;
                }
            }
            assert_int_equal(plug_account_held(&a), sent - out);
        }
        /* Nothing is forgotten: with nobody sending, one or two more epochs empty it. */
        for (int i = 0; i < 2; i++) {
            while (acked < epoch - 1)
                if (plug_account_release(&a, ++acked, &released))
                    release_one(&q, acked);
            if (plug_account_close(&a, epoch++))
                buffer(&q);
        }
        while (acked < epoch - 1)
            if (plug_account_release(&a, ++acked, &released))
                release_one(&q, acked);
        assert_int_equal(plug_account_held(&a), 0);
        assert_int_equal(q.head, q.tail);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_epoch),
        cmocka_unit_test(test_closed_while_one_is_outstanding),
        cmocka_unit_test(test_against_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
