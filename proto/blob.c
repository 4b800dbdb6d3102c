/*
 * blob: the encodings of the device state and its pieces, PROTOCOL.md section 5. Once per checkpoint, so plain loops
 * do.
 */
#include "proto/page.h"

#include "proto/cursor.h"

#include <lz4.h>

_Static_assert(DEVICE_BLOB_MAX <= LZ4_MAX_INPUT_SIZE, "one LZ4 block holds any blob");
_Static_assert((int)BLOB_DELTA_LZ4 == 2, "the last one");

/* The encoded blob, and behind it room for the XOR or for a second candidate. */
size_t blob_bound(size_t n)
{
    return 2 * n + 1; /* never 0: what it sizes is an allocation */
}

/* LZ4 of `in` if that makes fewer than `below` octets; 0 if not. */
static size_t lz4_below(const uint8_t *in, size_t n, uint8_t *out, size_t below)
{
    return below < 2 ? 0 : (size_t)LZ4_compress_fast((const char *)in, (char *)out, (int)n, (int)below - 1, 1);
}

size_t blob_encode(const uint8_t *blob, size_t n, const uint8_t *base, size_t base_size, uint8_t *out,
                   enum blob_encoding *encoding)
{
    uint8_t *scratch = out + n;
    size_t best = n, size;
    *encoding = BLOB_RAW;
    if (!n)
        return 0;
    if (base && base_size == n) {
        for (size_t i = 0; i < n; i++)
            scratch[i] = blob[i] ^ base[i];
        if ((size = lz4_below(scratch, n, out, best)) > 0) {
            *encoding = BLOB_DELTA_LZ4;
            best = size;
        }
    }
    /* A delta to a tenth is what a device state between two checkpoints has; plain LZ4 does not beat that. */
    if (best > n / 10 && (size = lz4_below(blob, n, scratch, best)) > 0) {
        *encoding = BLOB_LZ4;
        memcpy(out, scratch, size); /* size < n: they do not overlap */
        best = size;
    }
    if (*encoding == BLOB_RAW)
        memcpy(out, blob, n);
    return best;
}

int blob_decode(enum blob_encoding encoding, const uint8_t *in, size_t n, const uint8_t *base, size_t base_size,
                uint8_t *out, size_t total, struct proto_error *e)
{
    if (total > DEVICE_BLOB_MAX)
        return proto_fail(e, "DEVICE: a blob of %zu octets", total);
    switch (encoding) {
    case BLOB_RAW:
        if (n != total)
            return proto_fail(e, "DEVICE: raw blob of %zu octets has %zu", total, n);
        if (n)
            memcpy(out, in, n);
        return 0;
    case BLOB_DELTA_LZ4:
        if (!base || base_size != total)
            return proto_fail(e, "DEVICE: delta to a blob of %zu octets, ours has %zu", total, base ? base_size : 0);
        break;
    case BLOB_LZ4:
        break;
    default:
        return proto_fail(e, "DEVICE: unknown blob encoding %u", (unsigned)encoding);
    }
    if (n < 1 || n >= total)
        return proto_fail(e, "DEVICE: %zu octets of LZ4 for a blob of %zu", n, total);
    memset(out, 0, total); /* the outcome shall depend on nothing but the data */
    if (LZ4_decompress_safe((const char *)in, (char *)out, (int)n, (int)total) != (int)total)
        return proto_fail(e, "DEVICE: no LZ4 block of %zu octets", total);
    if (encoding == BLOB_DELTA_LZ4)
        for (size_t i = 0; i < total; i++)
            out[i] ^= base[i];
    return 0;
}

void device_head_write(uint8_t out[DEVICE_HEAD_SIZE], enum device_kind kind, enum blob_encoding encoding,
                       uint32_t total, uint32_t encoded_total, uint32_t offset)
{
    uint8_t *at = put_int(put_int(put_int(out, 1, kind), 1, encoding), 2, 0);
    put_int(put_int(put_int(at, 4, total), 4, encoded_total), 4, offset);
}

static int check_sizes(const struct device_piece *p, struct proto_error *e)
{
    bool raw = p->encoding == BLOB_RAW;
    if (p->total > DEVICE_BLOB_MAX)
        return proto_fail(e, "DEVICE: a blob of %u octets, at most %u are allowed", p->total,
                          (unsigned)DEVICE_BLOB_MAX);
    if (raw ? p->encoded_total != p->total : (p->encoded_total < 1 || p->encoded_total >= p->total))
        return proto_fail(e, "DEVICE: %u octets encoded for a blob of %u", p->encoded_total, p->total);
    if (p->length > p->encoded_total || p->offset > p->encoded_total - p->length)
        return proto_fail(e, "DEVICE: piece of %zu octets at %u of %u", p->length, p->offset, p->encoded_total);
    if (!p->length && p->encoded_total)
        return proto_fail(e, "DEVICE: piece without data");
    return 0;
}

int device_read(const uint8_t *payload, size_t n, struct device_piece *out, struct proto_error *e)
{
    struct cursor c = {payload, n};
    uint8_t kind, encoding;
    uint16_t reserved;
    if (!cursor_u8(&c, &kind) || !cursor_u8(&c, &encoding) || !cursor_u16(&c, &reserved) ||
        !cursor_u32(&c, &out->total) || !cursor_u32(&c, &out->encoded_total) || !cursor_u32(&c, &out->offset))
        return proto_fail(e, "DEVICE of %zu octets", n);
    if (kind >= DEVICE_KINDS)
        return proto_fail(e, "DEVICE: unknown kind %u", kind);
    if (encoding > BLOB_DELTA_LZ4)
        return proto_fail(e, "DEVICE: unknown blob encoding %u", encoding);
    if (reserved)
        return proto_fail(e, "DEVICE with reserved octets %04x", reserved);
    out->kind = (enum device_kind)kind;
    out->encoding = (enum blob_encoding)encoding;
    out->data = c.at;
    out->length = c.left;
    return check_sizes(out, e);
}
