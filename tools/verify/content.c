/*
 * content: PROTOCOL.md sections 4, 5 and 6, read once more.
 */
#include "verify.h"

#include <inttypes.h>
#include <lz4.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ZERO, UNCHANGED, RAW, LZ4, DELTA, DELTA_LZ4 };
enum { BLOB_RAW, BLOB_LZ4, BLOB_DELTA_LZ4 };
enum { DISK_DATA, DISK_LZ4, DISK_ZEROES, DISK_PAGES };
enum { BLOCK = 4096, DISK_HEAD = 16, DISK_OCTETS_MAX = 262144 };
enum { ENTRY_HEAD = 8, DEVICE_HEAD = 16, BLOB_OCTETS_MAX = 67108864, LINE = 64, WORD = 8 };

const char *const encoding_names[ENCODINGS] = {"ZERO", "UNCHANGED", "RAW", "LZ4", "DELTA", "DELTA_LZ4"};

bool complain(struct complaint *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(c->text, sizeof c->text, format, ap);
    va_end(ap);
    return false;
}

uint64_t little(const uint8_t *at, unsigned octets)
{
    uint64_t v = 0;
    while (octets--)
        v = v << 8 | at[octets];
    return v;
}

static unsigned ones(uint64_t v)
{
    return (unsigned)__builtin_popcountll(v);
}

static bool unpack(const uint8_t *at, size_t n, uint8_t *out, size_t size)
{
    memset(out, 0, size);
    return LZ4_decompress_safe((const char *)at, (char *)out, (int)n, (int)size) == (int)size;
}

/* ---- pages ---- */

static bool delta_is_valid(const uint8_t *at, size_t n, struct complaint *c)
{
    if (n < 8 || !little(at, 8))
        return complain(c, "DELTA without a summary");
    unsigned masks = ones(little(at, 8)), words = 0;
    if (n < 8 + masks)
        return complain(c, "DELTA of %zu octets is too short for its %u masks", n, masks);
    for (unsigned i = 0; i < masks; i++) {
        if (!at[8 + i])
            return complain(c, "DELTA with a mask of 0");
        words += ones(at[8 + i]);
    }
    if (n != 8 + masks + (size_t)words * WORD)
        return complain(c, "DELTA of %zu octets, its %u masks name %u words", n, masks, words);
    return true;
}

static bool page_is_valid(unsigned encoding, const uint8_t *at, size_t n, struct complaint *c)
{
    uint8_t page[PAGE_OCTETS];
    switch (encoding) {
    case ZERO:
    case UNCHANGED:
        return n == 0 || complain(c, "%s with %zu octets of data", encoding_names[encoding], n);
    case RAW:
        return n == PAGE_OCTETS || complain(c, "RAW with %zu octets of data", n);
    case LZ4:
    case DELTA_LZ4:
        if (n < 1 || n >= PAGE_OCTETS)
            return complain(c, "%s with %zu octets of data", encoding_names[encoding], n);
        return unpack(at, n, page, sizeof page) ||
               complain(c, "%s: no LZ4 block of %d octets", encoding_names[encoding], PAGE_OCTETS);
    case DELTA:
        if (n > PAGE_OCTETS)
            return complain(c, "DELTA with %zu octets of data", n);
        return delta_is_valid(at, n, c);
    default:
        return complain(c, "unknown encoding %u", encoding);
    }
}

bool pages_are_valid(const uint8_t *at, size_t n, uint64_t pages, struct tally *t, struct complaint *c)
{
    for (const uint8_t *end = at + n; at < end;) {
        if (end - at < ENTRY_HEAD)
            return complain(c, "PAGES ends inside of an entry's head");
        uint64_t gfn = little(at, 5);
        unsigned encoding = at[5];
        size_t length = (size_t)little(at + 6, 2);
        at += ENTRY_HEAD;
        if (length > (size_t)(end - at))
            return complain(c, "gfn %" PRIu64 ": %zu octets of data, %td are left", gfn, length, end - at);
        if (gfn >= pages)
            return complain(c, "gfn %" PRIu64 " of %" PRIu64 " pages", gfn, pages);
        struct complaint why;
        if (!page_is_valid(encoding, at, length, &why))
            return complain(c, "gfn %" PRIu64 ": %.180s", gfn, why.text);
        t->entries[encoding]++;
        t->page_octets[encoding] += length;
        at += length;
    }
    return true;
}

static void replay(unsigned encoding, const uint8_t *at, size_t n, uint8_t *page)
{
    uint8_t scratch[PAGE_OCTETS];
    if (encoding == ZERO)
        memset(page, 0, PAGE_OCTETS);
    if (encoding == RAW)
        memcpy(page, at, PAGE_OCTETS);
    if (encoding == LZ4)
        unpack(at, n, page, PAGE_OCTETS);
    if (encoding == DELTA_LZ4) {
        unpack(at, n, scratch, PAGE_OCTETS);
        for (unsigned i = 0; i < PAGE_OCTETS; i++)
            page[i] ^= scratch[i];
    }
    if (encoding != DELTA)
        return;
    uint64_t summary = little(at, 8);
    const uint8_t *mask = at + 8, *word = mask + ones(summary);
    for (unsigned line = 0; line < PAGE_OCTETS / LINE; line++) {
        if (!(summary >> line & 1))
            continue;
        for (unsigned b = 0; b < LINE / WORD; b++)
            if (*mask >> b & 1) {
                memcpy(page + line * LINE + b * WORD, word, WORD);
                word += WORD;
            }
        mask++;
    }
}

bool pages_replay(const uint8_t *at, size_t n, struct memory *m)
{
    for (const uint8_t *end = at + n; at < end;) {
        size_t length = (size_t)little(at + 6, 2);
        uint8_t *page = memory_page(m, little(at, 5));
        if (!page)
            return false;
        replay(at[5], at + ENTRY_HEAD, length, page);
        at += ENTRY_HEAD + length;
    }
    return true;
}

/* ---- disk ---- */

static bool data_is_valid(unsigned kind, const uint8_t *data, size_t n, size_t length, struct complaint *c)
{
    if (kind == DISK_ZEROES)
        return n == 0 || complain(c, "ZEROES with %zu octets of data", n);
    if (length > DISK_OCTETS_MAX)
        return complain(c, "%zu octets in one record", length);
    if (kind == DISK_PAGES)
        return (length % BLOCK == 0 && n == length / BLOCK * 8) || complain(c, "PAGES of %zu octets in %zu", length, n);
    if (kind == DISK_DATA)
        return n == length || complain(c, "DATA of %zu octets with %zu octets", length, n);
    if (n < 1 || n >= length)
        return complain(c, "LZ4 of %zu octets in %zu", length, n);
    uint8_t *room = malloc(length);
    bool ok = room && unpack(data, n, room, length);
    free(room);
    return ok || complain(c, "no LZ4 block of %zu octets", length);
}

static bool references_are_valid(const uint8_t *at, size_t n, uint64_t offset, uint64_t pages, struct complaint *c)
{
    if (!pages)
        return complain(c, "DISK of pages in the first epoch");
    if (offset % BLOCK)
        return complain(c, "DISK of pages at %" PRIu64, offset);
    for (size_t i = 0; i < n; i += 8)
        if (little(at + i, 8) >= pages)
            return complain(c, "DISK: page %" PRIu64 " of %" PRIu64, little(at + i, 8), pages);
    return true;
}

bool disk_is_valid(const uint8_t *at, size_t n, const struct disks *d, uint64_t pages, struct tally *t,
                   struct complaint *c)
{
    uint64_t disk = little(at, 2), length = little(at + 4, 4), offset = little(at + 8, 8);
    struct complaint why;
    if (disk >= d->count)
        return complain(c, "DISK: number %" PRIu64 " of %u", disk, d->count);
    if (at[2] > DISK_PAGES)
        return complain(c, "DISK: unknown kind %u", at[2]);
    if (at[3])
        return complain(c, "DISK with a reserved octet");
    if (!length || length > d->octets[disk] || offset > d->octets[disk] - length)
        return complain(c, "DISK: %" PRIu64 " octets at %" PRIu64 " of a disk of %" PRIu64, length, offset,
                        d->octets[disk]);
    if (!data_is_valid(at[2], at + DISK_HEAD, n - DISK_HEAD, (size_t)length, &why))
        return complain(c, "DISK: %.180s", why.text);
    if (at[2] == DISK_PAGES && !references_are_valid(at + DISK_HEAD, n - DISK_HEAD, offset, pages, c))
        return false;
    t->disk_octets += n - DISK_HEAD;
    t->disk_written += length;
    return true;
}

/* ---- check ---- */

bool check_is_valid(const uint8_t *at, size_t n, const struct disks *d, uint64_t pages, uint64_t due,
                    struct complaint *c)
{
    enum { CHECK_HEAD = 40, RUN_HEAD = 8, DIGEST = 16, BLOCKS_MOST = 65536, MEMORY = 0xffff };
    uint64_t number = little(at, 8), first = little(at + 16, 8), end = little(at + 24, 8), disk = little(at + 32, 2);
    if (number != due)
        return complain(c, "CHECK number %" PRIu64 ", due is %" PRIu64, number, due);
    if (little(at + 34, 6))
        return complain(c, "CHECK with reserved octets");
    if (disk != MEMORY && disk >= d->count)
        return complain(c, "CHECK: disk %" PRIu64 " of %u", disk, d->count);
    uint64_t blocks = disk == MEMORY ? pages : d->octets[disk] / BLOCK;
    if (first >= end || end > blocks || end - first > BLOCKS_MOST)
        return complain(c, "CHECK of blocks %" PRIu64 " to %" PRIu64, first, end);
    for (size_t run = CHECK_HEAD; run < n;) {
        if (n - run < RUN_HEAD)
            return complain(c, "CHECK: half a run at its end");
        uint64_t from = little(at + run, 5), count = little(at + run + 5, 3);
        if (!count || from < first || from >= end || count > end - from)
            return complain(c, "CHECK: a run of %" PRIu64 " at %" PRIu64, count, from);
        if (count > (n - run - RUN_HEAD) / DIGEST)
            return complain(c, "CHECK: a run without all of its digests");
        first = from + count;
        run += RUN_HEAD + (size_t)count * DIGEST;
    }
    return true;
}

/* ---- device ---- */

/* Opens the blob that a first piece announces. */
static bool blob_begin(struct blobs *b, const uint8_t *at, struct complaint *c)
{
    unsigned kind = at[0], encoding = at[1];
    uint32_t total = (uint32_t)little(at + 4, 4), encoded_total = (uint32_t)little(at + 8, 4);
    if (kind >= BLOB_KINDS)
        return complain(c, "DEVICE of unknown kind %u", kind);
    if (encoding > BLOB_DELTA_LZ4)
        return complain(c, "DEVICE of unknown encoding %u", encoding);
    if (at[2] || at[3])
        return complain(c, "DEVICE with reserved octets");
    if (total > BLOB_OCTETS_MAX)
        return complain(c, "DEVICE of %u octets", total);
    if (encoding == BLOB_RAW ? encoded_total != total : encoded_total < 1 || encoded_total >= total)
        return complain(c, "DEVICE of %u octets, encoded %u", total, encoded_total);
    if (b->next[kind].exists)
        return complain(c, "DEVICE kind %u twice in an epoch", kind);
    if (encoding == BLOB_DELTA_LZ4 && (!b->now[kind].exists || b->now[kind].size != total))
        return complain(c, "DEVICE kind %u is a delta without a base of %u octets", kind, total);
    b->encoded = malloc((size_t)encoded_total + 1);
    if (!b->encoded)
        return complain(c, "no memory for a blob of %u octets", encoded_total);
    b->received = 0;
    memcpy(b->head, at, sizeof b->head);
    return true;
}

static bool blob_end(struct blobs *b, struct tally *t, struct complaint *c)
{
    unsigned kind = b->head[0], encoding = b->head[1];
    uint32_t total = (uint32_t)little(b->head + 4, 4);
    struct blob *next = &b->next[kind];
    next->data = malloc((size_t)total + 1);
    if (!next->data)
        return complain(c, "no memory for a blob of %u octets", total);
    next->size = total;
    next->exists = true;
    t->blob_octets += b->received;
    if (encoding == BLOB_RAW)
        memcpy(next->data, b->encoded, total);
    else if (!unpack(b->encoded, b->received, next->data, total))
        return complain(c, "DEVICE kind %u: no LZ4 block of %u octets", kind, total);
    if (encoding == BLOB_DELTA_LZ4)
        for (uint32_t i = 0; i < total; i++)
            next->data[i] ^= b->now[kind].data[i];
    free(b->encoded);
    b->encoded = NULL;
    return true;
}

bool device_is_valid(struct blobs *b, const uint8_t *at, size_t n, struct tally *t, struct complaint *c)
{
    if (n < DEVICE_HEAD)
        return complain(c, "DEVICE of %zu octets", n);
    if (!b->encoded) {
        if (!blob_begin(b, at, c) || !b->encoded)
            return false;
    } else if (memcmp(b->head, at, sizeof b->head) != 0) {
        return complain(c, "DEVICE: another blob begins before the end of one");
    }
    uint32_t encoded_total = (uint32_t)little(at + 8, 4), offset = (uint32_t)little(at + 12, 4);
    size_t piece = n - DEVICE_HEAD;
    if (offset != b->received)
        return complain(c, "DEVICE: a piece at %u, %u is due", offset, b->received);
    if (piece > encoded_total - b->received || (!piece && encoded_total))
        return complain(c, "DEVICE: a piece of %zu octets at %u of %u", piece, offset, encoded_total);
    memcpy(b->encoded + offset, at + DEVICE_HEAD, piece);
    b->received += (uint32_t)piece;
    return b->received < encoded_total || blob_end(b, t, c);
}

void blobs_commit(struct blobs *b)
{
    for (unsigned kind = 0; kind < BLOB_KINDS; kind++) {
        if (!b->next[kind].exists)
            continue;
        free(b->now[kind].data);
        b->now[kind] = b->next[kind];
        b->next[kind] = (struct blob){0};
    }
}

void blobs_free(struct blobs *b)
{
    for (unsigned kind = 0; kind < BLOB_KINDS; kind++) {
        free(b->now[kind].data);
        free(b->next[kind].data);
    }
    free(b->encoded);
}
