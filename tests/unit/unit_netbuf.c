/* Unit tests of netbuf/netbuf.h: promise 1. No frame comes out before its epoch is released, none is lost or doubled.
 */
#include "netbuf/netbuf.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Frames are numbered; `out` is what came out last. Each is as long as its number says, filled with it. */
struct sink {
    uint64_t next; /* the number that must come next */
    uint64_t count;
};

enum { FRAME_MIN = 8, FRAME_SPAN = 60 };

static size_t make_frame(uint64_t number, uint8_t *out)
{
    size_t n = FRAME_MIN + number % FRAME_SPAN;
    memset(out, (int)(number % 251), n);
    memcpy(out, &number, sizeof number);
    return n;
}

static void take(const uint8_t *frame, size_t n, void *arg)
{
    struct sink *s = arg;
    uint8_t want[FRAME_MIN + FRAME_SPAN];
    size_t length = make_frame(s->next, want);
    assert_int_equal(n, length);
    assert_memory_equal(frame, want, n);
    s->next++;
    s->count++;
}

static void hold(struct netbuf *b, uint64_t number)
{
    uint8_t frame[FRAME_MIN + FRAME_SPAN];
    size_t n = make_frame(number, frame);
    assert_int_equal(netbuf_hold(b, frame, n), 0);
    memset(frame, 0xee, sizeof frame); /* it has its own copy */
}

static void test_epochs(void **state)
{
    (void)state;
    struct netbuf *b = netbuf_new(1 << 20);
    struct sink s = {0};
    hold(b, 0);
    hold(b, 1);
    assert_int_equal(netbuf_running_frames(b), 2);
    netbuf_barrier(b, 1);
    assert_int_equal(netbuf_running_frames(b), 0);
    hold(b, 2);
    assert_int_equal(netbuf_running_frames(b), 1);
    netbuf_barrier(b, 2);
    hold(b, 3);
    netbuf_release(b, 0, take, &s); /* before the first barrier: nothing */
    assert_int_equal(s.count, 0);
    netbuf_release(b, 1, take, &s);
    assert_int_equal(s.count, 2);
    assert_int_equal(netbuf_running_frames(b), 1);
    netbuf_release(b, 1, take, &s); /* twice is once */
    assert_int_equal(s.count, 2);
    netbuf_release(b, 2, take, &s);
    assert_int_equal(s.count, 3);
    netbuf_release(b, 7, take, &s); /* frame 3 is behind no barrier yet, whatever is acknowledged */
    assert_int_equal(s.count, 3);
    netbuf_barrier(b, 3);
    netbuf_release(b, 3, take, &s);
    assert_int_equal(s.count, 4);
    struct netbuf_counts c = netbuf_counts(b);
    assert_int_equal(c.frames, 0);
    assert_int_equal(c.bytes, 0);
    assert_int_equal(c.released, 4);
    assert_int_equal(c.dropped, 0);
    netbuf_free(b);
}

/* An epoch without a frame has a barrier as well; a release of a later epoch frees the earlier ones. */
static void test_empty_epochs(void **state)
{
    (void)state;
    struct netbuf *b = netbuf_new(1 << 20);
    struct sink s = {0};
    netbuf_barrier(b, 1);
    hold(b, 0);
    netbuf_barrier(b, 2);
    netbuf_barrier(b, 3);
    hold(b, 1);
    netbuf_release(b, 1, take, &s);
    assert_int_equal(s.count, 0);
    netbuf_release(b, 3, take, &s);
    assert_int_equal(s.count, 1);
    assert_int_equal(netbuf_running_frames(b), 1);
    netbuf_free(b); /* with a frame inside */
}

/* As while a flush holds back what was acknowledged: the last ones are released together, and none too early. */
static void test_more_epochs_than_barriers(void **state)
{
    (void)state;
    enum { EPOCHS = 3 * NETBUF_BARRIERS_MAX };
    struct netbuf *b = netbuf_new(1 << 20);
    struct sink s = {0};
    for (uint64_t e = 1; e <= EPOCHS; e++) {
        hold(b, e - 1);
        netbuf_barrier(b, e);
        assert_int_equal(netbuf_running_frames(b), 0);
    }
    for (uint64_t e = 1; e < EPOCHS; e++) {
        netbuf_release(b, e, take, &s);
        assert_int_equal(s.count, e < NETBUF_BARRIERS_MAX ? e : NETBUF_BARRIERS_MAX - 1);
    }
    netbuf_release(b, EPOCHS, take, &s);
    assert_int_equal(s.count, EPOCHS);
    netbuf_free(b);
}

static void test_limit(void **state)
{
    (void)state;
    static const uint8_t frame[100];
    struct netbuf *b = netbuf_new(250);
    assert_false(netbuf_full(b));
    netbuf_hold(b, frame, sizeof frame);
    netbuf_hold(b, frame, sizeof frame);
    assert_false(netbuf_full(b));
    netbuf_hold(b, frame, sizeof frame); /* over it by one frame, as promised */
    assert_true(netbuf_full(b));
    assert_int_equal(netbuf_counts(b).bytes, 300);
    netbuf_drop_all(b);
    assert_false(netbuf_full(b));
    netbuf_free(b);
}

static void test_all(void **state)
{
    (void)state;
    struct netbuf *b = netbuf_new(1 << 20);
    struct sink s = {0};
    hold(b, 0);
    netbuf_barrier(b, 1);
    hold(b, 1);
    netbuf_barrier(b, 2);
    hold(b, 2);
    netbuf_release_all(b, take, &s);
    assert_int_equal(s.count, 3);
    assert_int_equal(netbuf_counts(b).released, 3);
    /* No barrier of the stream before is left: epochs begin at 1 again. */
    hold(b, 3);
    netbuf_release(b, 2, take, &s);
    assert_int_equal(s.count, 3);
    assert_int_equal(netbuf_running_frames(b), 1);
    netbuf_barrier(b, 1);
    netbuf_drop_all(b);
    assert_int_equal(netbuf_counts(b).dropped, 1);
    assert_int_equal(netbuf_counts(b).frames, 0);
    assert_int_equal(netbuf_running_frames(b), 0);
    netbuf_release(b, 9, take, &s);
    netbuf_release_all(b, take, &s);
    assert_int_equal(s.count, 3);
    s.next = 4;
    hold(b, 4);
    assert_int_equal(netbuf_running_frames(b), 1);
    netbuf_barrier(b, 1);
    netbuf_release(b, 1, take, &s);
    assert_int_equal(s.count, 4);
    netbuf_free(b);
}

/* Random use against a model: which frames belong to which epoch, and which epochs are acknowledged. */
static void test_random(void **state)
{
    (void)state;
    enum { STEPS = 20000, EPOCHS = 8192 };
    static uint64_t end_of[EPOCHS]; /* number of the first frame behind the epoch's barrier */
    uint64_t seed = 7, frames = 0, epoch = 0, acked = 0;
    struct netbuf *b = netbuf_new(UINT64_MAX);
    struct sink s = {0};
    bool crowded = false;
    for (unsigned i = 0; i < STEPS; i++) {
        unsigned choice = (unsigned)(sample_random(&seed) >> 20) % 10;
        if (choice < 6) {
            hold(b, frames++);
        } else if (choice < 8 && epoch + 1 < EPOCHS) {
            netbuf_barrier(b, ++epoch);
            end_of[epoch] = frames;
        } else if (acked < epoch) {
            acked += 1 + (sample_random(&seed) >> 20) % (epoch - acked);
            netbuf_release(b, acked, take, &s);
        }
        crowded = epoch > acked && (crowded || epoch - acked > NETBUF_BARRIERS_MAX);
        if (crowded) /* later, and not earlier */
            assert_true(s.count <= (acked ? end_of[acked] : 0));
        else
            assert_int_equal(s.count, acked ? end_of[acked] : 0);
        assert_int_equal(netbuf_counts(b).frames, frames - s.count);
        assert_int_equal(netbuf_running_frames(b), frames - (epoch ? end_of[epoch] : 0));
    }
    assert_true(acked > 1000);
    netbuf_release_all(b, take, &s);
    assert_int_equal(s.count, frames);
    assert_int_equal(netbuf_counts(b).bytes, 0);
    netbuf_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_empty_epochs),
        cmocka_unit_test(test_more_epochs_than_barriers),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
