/* Unit tests of proto/page.h: device blobs and their pieces. */
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed = 1234567;

static uint8_t *new_blob(size_t n, bool noise)
{
    uint8_t *blob = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        blob[i] = noise ? (uint8_t)(sample_random(&seed) >> 9) : (uint8_t)(i / 100);
    return blob;
}

static enum blob_encoding round_trip(const uint8_t *blob, size_t n, const uint8_t *base, size_t base_size, size_t *size)
{
    uint8_t *out = malloc(blob_bound(n)), *back = malloc(n + 1);
    enum blob_encoding encoding;
    struct proto_error e = {""};
    *size = blob_encode(blob, n, base, base_size, out, &encoding);
    assert_true(*size <= n);
    if (blob_decode(encoding, out, *size, base, base_size, back, n, &e))
        fail_msg("%s", e.text);
    assert_memory_equal(back, blob, n);
    /* cut short, it is no blob */
    if (*size)
        assert_int_equal(blob_decode(encoding, out, *size - 1, base, base_size, back, n, &e), -1);
    free(back);
    free(out);
    return encoding;
}

static void test_choice(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 15, 100, 15000, 105000, 3 << 20};
    size_t size;
    assert_int_equal(round_trip((const uint8_t *)"", 0, NULL, 0, &size), BLOB_RAW);
    assert_int_equal(size, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        uint8_t *noise = new_blob(n, true), *next = new_blob(n, true), *smooth = new_blob(n, false);
        assert_int_equal(round_trip(noise, n, NULL, 0, &size), BLOB_RAW);
        assert_int_equal(round_trip(noise, n, next, n, &size), BLOB_RAW);
        round_trip(smooth, n, noise, n, &size);
        round_trip(noise, n, noise, n - 1, &size); /* a base of another size is not used */
        memcpy(next, noise, n);
        next[n / 2]++;
        enum blob_encoding encoding = round_trip(next, n, noise, n, &size);
        if (n >= 100) {
            assert_int_equal(encoding, BLOB_DELTA_LZ4);
            assert_true(size < n / 4);
            assert_int_equal(round_trip(smooth, n, NULL, 0, &size), BLOB_LZ4);
        }
        free(noise);
        free(next);
        free(smooth);
    }
}

static void test_malformed(void **state)
{
    (void)state;
    uint8_t out[64], block[64] = {0};
    struct proto_error e;
    assert_int_equal(blob_decode(BLOB_RAW, block, 3, NULL, 0, out, 4, &e), -1);
    assert_int_equal(blob_decode(BLOB_LZ4, block, 0, NULL, 0, out, 4, &e), -1);
    assert_int_equal(blob_decode(BLOB_LZ4, block, 4, NULL, 0, out, 4, &e), -1);
    assert_int_equal(blob_decode(BLOB_LZ4, block, 3, NULL, 0, out, 64, &e), -1);
    assert_int_equal(blob_decode(BLOB_DELTA_LZ4, block, 3, NULL, 0, out, 64, &e), -1);
    assert_int_equal(blob_decode(BLOB_DELTA_LZ4, block, 3, block, 63, out, 64, &e), -1);
    assert_int_equal(blob_decode((enum blob_encoding)3, block, 3, NULL, 0, out, 3, &e), -1);
    assert_int_equal(blob_decode(BLOB_RAW, block, 3, NULL, 0, out, (size_t)DEVICE_BLOB_MAX + 1, &e), -1);
}

static int read_head(unsigned kind, unsigned encoding, uint32_t total, uint32_t encoded, uint32_t offset, size_t data)
{
    uint8_t payload[DEVICE_HEAD_SIZE + 64] = {0};
    struct device_piece p;
    struct proto_error e;
    device_head_write(payload, (enum device_kind)kind, (enum blob_encoding)encoding, total, encoded, offset);
    int said = device_read(payload, DEVICE_HEAD_SIZE + data, &p, &e);
    if (!said) {
        assert_int_equal(p.kind, kind);
        assert_int_equal(p.encoding, encoding);
        assert_int_equal(p.total, total);
        assert_int_equal(p.encoded_total, encoded);
        assert_int_equal(p.offset, offset);
        assert_int_equal(p.length, data);
        assert_ptr_equal(p.data, payload + DEVICE_HEAD_SIZE);
    }
    return said;
}

static void test_pieces(void **state)
{
    (void)state;
    assert_int_equal(read_head(DEVICE_STATE, BLOB_RAW, 50, 50, 0, 50), 0);
    assert_int_equal(read_head(DEVICE_INITIAL, BLOB_LZ4, 500, 50, 20, 30), 0);
    assert_int_equal(read_head(DEVICE_INITIAL, BLOB_RAW, 0, 0, 0, 0), 0);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_DELTA_LZ4, DEVICE_BLOB_MAX, 1 << 20, (1 << 20) - 1, 1), 0);
    assert_int_equal(read_head(DEVICE_KINDS, BLOB_RAW, 50, 50, 0, 50), -1);
    assert_int_equal(read_head(DEVICE_STATE, 3, 50, 50, 0, 50), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_RAW, 50, 49, 0, 49), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_LZ4, 50, 50, 0, 50), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_LZ4, 50, 0, 0, 0), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_LZ4, 0, 0, 0, 0), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_LZ4, DEVICE_BLOB_MAX + 1, 50, 0, 50), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_RAW, 50, 50, 1, 50), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_RAW, 50, 50, UINT32_MAX, 2), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_RAW, 50, 50, 50, 0), -1);
    assert_int_equal(read_head(DEVICE_STATE, BLOB_RAW, 50, 50, 0, 51), -1);
    struct device_piece p;
    struct proto_error e;
    uint8_t payload[DEVICE_HEAD_SIZE + 1] = {0};
    for (size_t n = 0; n < DEVICE_HEAD_SIZE; n++)
        assert_int_equal(device_read(payload, n, &p, &e), -1);
    payload[2] = 1; /* reserved */
    assert_int_equal(device_read(payload, DEVICE_HEAD_SIZE, &p, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
