#include "proto/disk.h"

#include "proto/cursor.h"

#include <inttypes.h>
#include <lz4.h>

_Static_assert(DISK_HEAD_SIZE == 2 + 1 + 1 + 4 + 8, "disk, encoding, reserved, length, offset");
_Static_assert((int)DISK_BLOCK_SIZE == (int)PROTO_PAGE_SIZE, "a block is as large as a page");
_Static_assert(BLOCKS_HEAD_SIZE == 2 + 2 + 4, "disk, reserved");

const char *disk_size_refusal(uint64_t bytes)
{
    if (!bytes)
        return "it is empty";
    if (bytes % DISK_BLOCK_SIZE)
        return "its size is not a multiple of 4096 octets";
    return bytes > INT64_MAX ? "it is too large" : NULL;
}

/* ---- DISK ---- */

static void head_write(uint8_t out[DISK_HEAD_SIZE], unsigned disk, enum disk_encoding encoding, uint32_t length,
                       uint64_t offset)
{
    uint8_t *at = put_int(put_int(put_int(out, 2, disk), 1, encoding), 1, 0);
    put_int(put_int(at, 4, length), 8, offset);
}

static bool is_zero(const uint8_t *data, size_t n)
{
    return !data[0] && !memcmp(data, data + 1, n - 1);
}

/* To pack a MiB takes a processor a millisecond and more, to send and write one elsewhere two or three: what gets
 * smaller by less than a quarter is not worth it. */
static int most_packed(uint32_t length)
{
    return (int)(length - length / 4);
}

/* So of what is large some pieces are tried first. */
static bool is_worth_packing(const uint8_t *data, uint32_t length)
{
    enum { SAMPLE = 4096, SAMPLES = 4, LARGE = 64 << 10 };
    char scratch[LZ4_COMPRESSBOUND(SAMPLE)];
    int packed = 0;
    if (length < LARGE)
        return true;
    for (uint32_t i = 0; i < SAMPLES; i++)
        packed += LZ4_compress_default((const char *)data + (length - SAMPLE) / (SAMPLES - 1) * i, scratch, SAMPLE,
                                       sizeof scratch);
    return packed < most_packed(SAMPLES * SAMPLE);
}

/* 0: as it is. */
static int pack(const uint8_t *data, uint32_t length, struct disk_packing *p, uint8_t *out)
{
    enum { SKIP_MOST = 15 };
    if (p && p->left) {
        p->left--;
        return 0;
    }
    int n = is_worth_packing(data, length)
                ? LZ4_compress_default((const char *)data, (char *)out, (int)length, most_packed(length))
                : 0;
    if (p) {
        p->skip = (uint8_t)(n ? 0 : p->skip < SKIP_MOST ? 2 * p->skip + 1 : SKIP_MOST);
        p->left = p->skip;
    }
    return n;
}

size_t disk_encode(unsigned disk, uint64_t offset, const uint8_t *data, uint32_t length, struct disk_packing *packing,
                   uint8_t *out)
{
    if (is_zero(data, length))
        return disk_encode_zeroes(disk, offset, length, out);
    enum disk_encoding encoding = DISK_AS_LZ4;
    int n = pack(data, length, packing, out + DISK_HEAD_SIZE);
    if (n <= 0) {
        encoding = DISK_AS_DATA;
        n = (int)length;
        memcpy(out + DISK_HEAD_SIZE, data, length);
    }
    head_write(out, disk, encoding, length, offset);
    return DISK_HEAD_SIZE + (size_t)n;
}

size_t disk_encode_zeroes(unsigned disk, uint64_t offset, uint32_t length, uint8_t out[DISK_HEAD_SIZE])
{
    head_write(out, disk, DISK_AS_ZEROES, length, offset);
    return DISK_HEAD_SIZE;
}

size_t disk_encode_pages(unsigned disk, uint64_t offset, const uint64_t *gfns, uint32_t blocks, uint8_t *out)
{
    uint8_t *at = out + DISK_HEAD_SIZE;
    head_write(out, disk, DISK_AS_PAGES, blocks * DISK_BLOCK_SIZE, offset);
    for (uint32_t i = 0; i < blocks; i++)
        at = put_int(at, DISK_GFN_SIZE, gfns[i]);
    return (size_t)(at - out);
}

static bool data_fits(const struct disk_extent *x)
{
    switch (x->encoding) {
    case DISK_AS_DATA:
        return x->n == x->length;
    case DISK_AS_LZ4:
        return x->n >= 1 && x->n < x->length;
    case DISK_AS_PAGES:
        return x->n == x->length / DISK_BLOCK_SIZE * DISK_GFN_SIZE;
    case DISK_AS_ZEROES:
    case DISK_ENCODINGS:
        break;
    }
    return x->n == 0;
}

static int check_length(const struct disk_extent *x, struct proto_error *e)
{
    if (!x->length || (x->encoding != DISK_AS_ZEROES && x->length > DISK_DATA_MAX))
        return proto_fail(e, "DISK of %u octets", x->length);
    if (x->encoding == DISK_AS_PAGES && (x->length % DISK_BLOCK_SIZE || x->offset % DISK_BLOCK_SIZE))
        return proto_fail(e, "DISK of pages, %u octets at %" PRIu64 ": no whole blocks", x->length, x->offset);
    return data_fits(x)
               ? 0
               : proto_fail(e, "DISK of %u octets, kind %u, with %zu octets of data", x->length, x->encoding, x->n);
}

int disk_read(const uint8_t *payload, size_t n, const struct disk_sizes *sizes, struct disk_extent *out,
              struct proto_error *e)
{
    struct cursor c = {payload, n};
    uint16_t disk;
    uint8_t encoding, reserved;
    if (!cursor_u16(&c, &disk) || !cursor_u8(&c, &encoding) || !cursor_u8(&c, &reserved) ||
        !cursor_u32(&c, &out->length) || !cursor_u64(&c, &out->offset))
        return proto_fail(e, "DISK has %zu octets", n);
    if (reserved)
        return proto_fail(e, "DISK with reserved octet %02x", reserved);
    if (disk >= sizes->count)
        return proto_fail(e, "DISK: disk %u of %u", disk, sizes->count);
    if (encoding >= DISK_ENCODINGS)
        return proto_fail(e, "DISK of unknown kind %u", encoding);
    out->disk = disk;
    out->encoding = (enum disk_encoding)encoding;
    out->data = c.at;
    out->n = c.left;
    if (check_length(out, e))
        return -1;
    uint64_t bytes = sizes->bytes[disk];
    if (out->offset > bytes || out->length > bytes - out->offset)
        return proto_fail(e, "DISK: %u octets at %" PRIu64 " of disk %u, which has %" PRIu64, out->length, out->offset,
                          disk, bytes);
    return 0;
}

size_t disk_resolve(const struct disk_extent *x, const uint8_t *memory, uint64_t pages, uint8_t *out,
                    struct proto_error *e)
{
    uint8_t *to = out + DISK_HEAD_SIZE;
    head_write(out, x->disk, DISK_AS_DATA, x->length, x->offset);
    for (const uint8_t *at = x->data; at < x->data + x->n; at += DISK_GFN_SIZE, to += PROTO_PAGE_SIZE) {
        uint64_t gfn = octets_to_u64(at, DISK_GFN_SIZE);
        if (gfn >= pages) {
            proto_fail(e, "DISK: page %" PRIu64 " of %" PRIu64, gfn, pages);
            return 0;
        }
        memcpy(to, memory + gfn * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE);
    }
    return (size_t)(to - out);
}

const uint8_t *disk_decode(const struct disk_extent *x, uint8_t *room, struct proto_error *e)
{
    if (x->encoding == DISK_AS_DATA)
        return x->data;
    if (x->encoding != DISK_AS_LZ4) {
        proto_fail(e, "DISK of kind %u has no data", x->encoding);
        return NULL;
    }
    if (LZ4_decompress_safe((const char *)x->data, (char *)room, (int)x->n, (int)x->length) == (int)x->length)
        return room;
    proto_fail(e, "DISK: no LZ4 block of %u octets", x->length);
    return NULL;
}

/* ---- BLOCKS ---- */

void blocks_head_write(uint8_t out[BLOCKS_HEAD_SIZE], unsigned disk)
{
    put_int(put_int(out, 2, disk), 6, 0);
}

void blocks_told_init(struct blocks_told *told, const struct disk_sizes *sizes)
{
    *told = (struct blocks_told){.count = sizes->count};
    for (unsigned i = 0; i < sizes->count; i++)
        told->disks[i].pages = sizes->bytes[i] / DISK_BLOCK_SIZE;
}

int blocks_check(struct blocks_told *told, const uint8_t *payload, size_t n, unsigned *disk, struct proto_error *e)
{
    struct cursor c = {payload, n};
    uint16_t number;
    uint64_t reserved;
    struct proto_error why;
    if (!cursor_u16(&c, &number) || !cursor_int(&c, 6, &reserved))
        return proto_fail(e, "BLOCKS has %zu octets", n);
    if (reserved)
        return proto_fail(e, "BLOCKS with reserved octets %012" PRIx64, reserved);
    if (number >= told->count)
        return proto_fail(e, "BLOCKS of disk %u of %u", number, told->count);
    if (regions_check(&told->disks[number], c.at, c.left, &why))
        return proto_fail(e, "BLOCKS of disk %u: %.200s", number, why.text);
    *disk = number;
    return 0;
}

bool blocks_all_told(const struct blocks_told *told)
{
    for (unsigned i = 0; i < told->count; i++)
        if (told->disks[i].pages && !regions_all_told(&told->disks[i]))
            return false;
    return true;
}
