/*
 * fuzz_blob: device_read and blob_decode on any octets, and blobs made from the input must come back as they were.
 */
#include "proto/page.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { DECODED_MAX = 1 << 16 }; /* what a blob of the input may claim to be, to keep runs fast */

static uint8_t *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static void decode(const uint8_t *data, size_t n)
{
    struct device_piece p;
    struct proto_error e;
    if (device_read(data, n, &p, &e))
        return;
    if (p.length > p.encoded_total || p.offset + p.length > p.encoded_total || p.total > DEVICE_BLOB_MAX)
        abort();
    if (p.length != p.encoded_total || p.total > DECODED_MAX)
        return;
    uint8_t *out = must(malloc((size_t)p.total + 1)), *base = must(calloc(1, (size_t)p.total + 1));
    blob_decode(p.encoding, p.data, p.length, base, p.total, out, p.total, &e);
    blob_decode(p.encoding, p.data, p.length, NULL, 0, out, p.total, &e);
    free(base);
    free(out);
}

static void round_trip(const uint8_t *blob, size_t n, const uint8_t *base, size_t base_size)
{
    struct proto_error e;
    enum blob_encoding encoding;
    uint8_t *out = must(malloc(blob_bound(n))), *back = must(malloc(n + 1));
    size_t size = blob_encode(blob, n, base, base_size, out, &encoding);
    if (size > n || blob_decode(encoding, out, size, base, base_size, back, n, &e) || memcmp(back, blob, n) != 0)
        abort();
    free(back);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    decode(data, n);
    round_trip(data, n, NULL, 0);
    round_trip(data, n / 2, data + n / 2, n / 2);
    round_trip(data, n, data, n / 2);
    return 0;
}
