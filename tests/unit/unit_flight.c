/* Unit tests of primary/flight.h: promise 1 hangs on what it takes for an epoch to count as committed. */
#include "primary/flight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t digest_a[PROTO_DIGEST_SIZE] = "epoch one digest", digest_b[PROTO_DIGEST_SIZE] = "epoch two digest";

static void expect_refused(struct flight *f, uint64_t epoch, const uint8_t *digest, const char *why)
{
    struct flight before = *f;
    struct flight_epoch done = {.epoch = 4711};
    struct proto_error e = {""};
    assert_int_equal(flight_ack(f, epoch, digest, &done, &e), -1);
    assert_non_null(strstr(e.text, why));
    assert_memory_equal(f, &before, sizeof before);
    assert_int_equal(done.epoch, 4711);
}

static void test_in_order(void **state)
{
    (void)state;
    struct flight f;
    struct flight_epoch done;
    struct proto_error e;
    memset(&f, 0xff, sizeof f);
    flight_reset(&f);
    assert_true(flight_has_room(&f));
    assert_int_equal(flight_open(&f, 100), 1);
    assert_true(flight_has_room(&f));
    assert_int_equal(flight_open(&f, 200), 2);
    assert_false(flight_has_room(&f));
    flight_sent(&f, 1, digest_a);
    flight_sent(&f, 2, digest_b);
    assert_int_equal(flight_ack(&f, 1, digest_a, &done, &e), 0);
    assert_int_equal(done.epoch, 1);
    assert_int_equal(done.paused_at, 100);
    assert_int_equal(f.acked, 1);
    assert_int_equal(f.acked_age, 100);
    assert_true(flight_has_room(&f));
    assert_int_equal(flight_open(&f, 300), 3);
    assert_int_equal(flight_ack(&f, 2, digest_b, &done, &e), 0);
    assert_int_equal(done.paused_at, 200);
    flight_sent(&f, 3, digest_a);
    assert_int_equal(flight_ack(&f, 3, digest_a, &done, &e), 0);
    assert_int_equal(f.acked, 3);
    assert_int_equal(f.n, 0);
}

static void test_refused(void **state)
{
    (void)state;
    struct flight f;
    struct flight_epoch done;
    struct proto_error e;
    flight_reset(&f);
    expect_refused(&f, 1, digest_a, "oldest"); /* nothing in flight */
    expect_refused(&f, 0, digest_a, "oldest");
    flight_open(&f, 100);
    expect_refused(&f, 1, digest_a, "not sent"); /* a secondary that acknowledges what it can't have */
    static const uint8_t zero[PROTO_DIGEST_SIZE];
    expect_refused(&f, 1, zero, "not sent");
    flight_sent(&f, 1, digest_a);
    expect_refused(&f, 1, digest_b, "digest");
    uint8_t nearly[PROTO_DIGEST_SIZE];
    for (unsigned bit = 0; bit < 8 * PROTO_DIGEST_SIZE; bit++) {
        memcpy(nearly, digest_a, sizeof nearly);
        nearly[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_refused(&f, 1, nearly, "digest");
    }
    flight_open(&f, 200);
    flight_sent(&f, 2, digest_b);
    expect_refused(&f, 2, digest_b, "oldest"); /* skips one */
    assert_int_equal(flight_ack(&f, 1, digest_a, &done, &e), 0);
    expect_refused(&f, 1, digest_a, "oldest"); /* replayed */
    expect_refused(&f, 3, digest_a, "oldest");
}

static void test_sent_of_another(void **state)
{
    (void)state;
    struct flight f;
    flight_reset(&f);
    flight_open(&f, 100);
    flight_open(&f, 200);
    flight_sent(&f, 2, digest_b);
    flight_sent(&f, 9, digest_b);
    expect_refused(&f, 1, digest_b, "not sent");
    flight_sent(&f, 1, digest_a);
    assert_memory_equal(f.at[1].digest, digest_b, PROTO_DIGEST_SIZE);
}

static void test_new_stream(void **state)
{
    (void)state;
    struct flight f;
    flight_reset(&f);
    flight_open(&f, 100);
    flight_sent(&f, 1, digest_a);
    flight_open(&f, 200);
    flight_reset(&f);
    assert_true(flight_has_room(&f));
    expect_refused(&f, 1, digest_a, "oldest"); /* an ack of the stream before */
    assert_int_equal(flight_open(&f, 300), 1);
    expect_refused(&f, 1, digest_a, "not sent");
    assert_int_equal(f.acked, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_sent_of_another),
        cmocka_unit_test(test_new_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
