#include "primary/encoder.h"
#include "primary/delta_cache.h"
#include "primary/page_index.h"
#include "proto/disk.h"
#include "proto/epoch.h"
#include "proto/page.h"

#include <stdlib.h>
#include <string.h>

/* Octets of a record that goes out alone, and of those together that do not. */
enum { ALONE = 16 << 10, GATHERED_MAX = 64 << 10 };
/* Blocks in a row that a record refers to: fewer are not worth that it is three, unless they are all. And of how many
 * blocks so many are looked at first. */
enum { REFERRED_LEAST = 4, SAMPLED_FROM = 16, SAMPLES = 4 };
#define NO_PAGE UINT64_MAX

struct encoder {
    struct pipeline_config config;
    encoder_emit *emit;
    void *arg;
    struct delta_cache *cache;
    struct page_index *index; /* NULL: nothing is referred to */
    struct digest *digest;
    uint32_t records;
    struct pipeline_chunk *open; /* one PAGES record under way, its header not written yet */
    uint64_t open_epoch;
    struct pipeline_chunk *gathered; /* small records, whole and digested */
    struct vm_blob last_state;       /* as it was sent: base of the next one */
    struct disk_packing packing[DISKS_MAX];
    uint64_t dropped_clock;
};

struct encoder *encoder_new(const struct pipeline_config *c, encoder_emit *emit, void *arg)
{
    struct encoder *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    *e = (struct encoder){.config = *c, .emit = emit, .arg = arg};
    e->cache = delta_cache_new(c->pages, c->delta_cache_bytes);
    e->digest = digest_new();
    e->index = c->refers ? page_index_new(c->pages, c->seed) : NULL;
    if (e->cache && e->digest && (e->index || !c->refers))
        return e;
    encoder_free(e);
    return NULL;
}

void encoder_free(struct encoder *e)
{
    if (!e)
        return;
    delta_cache_free(e->cache);
    page_index_free(e->index);
    digest_free(e->digest);
    vm_blob_free(&e->last_state);
    free(e->open);
    free(e->gathered);
    free(e);
}

static struct pipeline_chunk *chunk_new(size_t capacity)
{
    struct pipeline_chunk *c = malloc(sizeof *c + capacity);
    if (c)
        *c = (struct pipeline_chunk){.n = RECORD_HEADER_SIZE};
    return c;
}

/* Hands out what is digested already, and then `c`, which may be NULL: the octets of the stream are in the order in
 * which they were digested. */
static void hand_out(struct encoder *e, struct pipeline_chunk *c)
{
    if (e->gathered)
        e->emit(e->gathered, e->arg);
    e->gathered = NULL;
    if (c)
        e->emit(c, e->arg);
}

/* A chunk with the room for a record of up to n octets at its end. Small ones share it: each alone would be a TLS
 * record, a turn of the loop here and one at the peer. NULL: no memory. */
static struct pipeline_chunk *begin_record(struct encoder *e, size_t n)
{
    if (n > ALONE)
        return chunk_new(n);
    if (e->gathered && e->gathered->n + n > GATHERED_MAX)
        hand_out(e, NULL);
    if (e->gathered)
        e->gathered->n += RECORD_HEADER_SIZE;
    else
        e->gathered = chunk_new(GATHERED_MAX);
    return e->gathered;
}

/* Completes the record that `c` has from `at` to its end, digests it, and hands it out if it has its chunk for itself.
 */
static void end_record(struct encoder *e, struct pipeline_chunk *c, size_t at, uint16_t type, uint64_t epoch)
{
    record_header_write(c->data + at, type, 0, (uint32_t)(c->n - at - RECORD_HEADER_SIZE), epoch);
    digest_add(e->digest, c->data + at, c->n - at);
    e->records++;
    if (c != e->gathered)
        hand_out(e, c);
}

int encoder_flush(struct encoder *e)
{
    if (e->open)
        end_record(e, e->open, 0, RECORD_PAGES, e->open_epoch);
    e->open = NULL;
    hand_out(e, NULL);
    return 0;
}

/* Fault injection (a negative control of the tests): leaves out one page in drop_page. */
static bool is_dropped(struct encoder *e)
{
    return e->config.drop_page && ++e->dropped_clock % e->config.drop_page == 0;
}

/* Zeroes stay what they are: a hole. */
static void note_sent(struct encoder *e, uint64_t epoch, uint64_t gfn, const uint8_t *page, enum page_encoding encoding)
{
    if (e->index && encoding == PAGE_ZERO)
        page_index_forget(e->index, gfn);
    else if (e->index)
        page_index_put(e->index, gfn, page, epoch);
}

int encoder_page(struct encoder *e, uint64_t epoch, uint64_t gfn, const uint8_t *page, bool remember)
{
    if (!e->open) {
        e->open = chunk_new(PIPELINE_CHUNK);
        if (!e->open)
            return -1;
        e->open_epoch = epoch;
    }
    uint8_t encoded[PAGE_ENCODED_MAX];
    enum page_encoding encoding;
    size_t n = page_encode(page, delta_cache_get(e->cache, gfn), encoded, &encoding);
    if (encoding == PAGE_UNCHANGED || (remember && is_dropped(e)))
        return 0;
    e->open->n += pages_entry_write(e->open->data + e->open->n, gfn, encoding, encoded, n);
    note_sent(e, epoch, gfn, page, encoding);
    if (remember)
        delta_cache_put(e->cache, gfn, page);
    if (e->open->n + PAGES_ENTRY_SIZE + PAGE_ENCODED_MAX > PIPELINE_CHUNK)
        return encoder_flush(e);
    return 0;
}

int encoder_page_anew(struct encoder *e, uint64_t epoch, uint64_t gfn, const uint8_t *page)
{
    delta_cache_forget(e->cache, gfn);
    return encoder_page(e, epoch, gfn, page, true);
}

const uint8_t *encoder_last_sent(const struct encoder *e, uint64_t gfn)
{
    return delta_cache_peek(e->cache, gfn);
}

static int emit_pieces(struct encoder *e, uint64_t epoch, unsigned kind, enum blob_encoding encoding, size_t total,
                       const uint8_t *data, size_t n)
{
    size_t at = 0;
    do {
        size_t piece = n - at < DEVICE_PIECE_MAX ? n - at : DEVICE_PIECE_MAX;
        struct pipeline_chunk *c = chunk_new(RECORD_HEADER_SIZE + DEVICE_HEAD_SIZE + piece);
        if (!c)
            return -1;
        device_head_write(c->data + c->n, (enum device_kind)kind, encoding, (uint32_t)total, (uint32_t)n, (uint32_t)at);
        memcpy(c->data + c->n + DEVICE_HEAD_SIZE, data + at, piece);
        c->n += DEVICE_HEAD_SIZE + piece;
        end_record(e, c, 0, RECORD_DEVICE, epoch);
        at += piece;
    } while (at < n);
    return 0;
}

int encoder_blob(struct encoder *e, uint64_t epoch, unsigned kind, const struct vm_blob *blob)
{
    if (encoder_flush(e) || blob->size > DEVICE_BLOB_MAX)
        return -1;
    uint8_t *out = malloc(blob_bound(blob->size));
    if (!out)
        return -1;
    enum blob_encoding encoding;
    bool is_state = kind == DEVICE_STATE;
    size_t n = blob_encode(blob->data, blob->size, is_state ? e->last_state.data : NULL,
                           is_state ? e->last_state.size : 0, out, &encoding);
    int result = emit_pieces(e, epoch, kind, encoding, blob->size, out, n);
    free(out);
    if (result || !is_state)
        return result;
    e->last_state.size = 0;
    return vm_blob_append(&e->last_state, blob->data, blob->size);
}

/* A DISK record, whose payload of n octets stands at the end of its chunk. */
static void end_disk(struct encoder *e, struct pipeline_chunk *c, size_t n, uint64_t epoch)
{
    size_t at = c->n - RECORD_HEADER_SIZE;
    c->n += n;
    end_record(e, c, at, RECORD_DISK, epoch);
}

static int put_data(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, const uint8_t *data, uint32_t n)
{
    struct pipeline_chunk *c = begin_record(e, RECORD_HEADER_SIZE + DISK_HEAD_SIZE + n);
    if (!c)
        return -1;
    end_disk(e, c, disk_encode(disk, offset, data, n, &e->packing[disk], c->data + c->n), epoch);
    return 0;
}

static int put_pages(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, const uint64_t *gfns,
                     uint32_t blocks)
{
    struct pipeline_chunk *c = begin_record(e, RECORD_HEADER_SIZE + DISK_HEAD_SIZE + blocks * DISK_GFN_SIZE);
    if (!c)
        return -1;
    end_disk(e, c, disk_encode_pages(disk, offset, gfns, blocks, c->data + c->n), epoch);
    return 0;
}

static uint64_t find_page(const struct encoder *e, uint64_t epoch, const uint8_t *block)
{
    uint64_t gfn;
    return page_index_find(e->index, block, epoch, &gfn) ? gfn : NO_PAGE;
}

/* Most of what is found at all is found as a whole, so a few blocks tell whether the rest is worth its digests. */
static bool is_worth_finding(const struct encoder *e, uint64_t epoch, const uint8_t *data, uint32_t blocks)
{
    bool found = blocks < SAMPLED_FROM;
    for (uint32_t i = 0; i < SAMPLES && !found; i++)
        found = find_page(e, epoch, data + (blocks - 1) / (SAMPLES - 1) * i * DISK_BLOCK_SIZE) != NO_PAGE;
    return found;
}

/* From block `first` on, how many have a page, as that one, or have none. */
static uint32_t run_length(const uint64_t *gfns, uint32_t first, uint32_t blocks)
{
    uint32_t n = 1;
    while (first + n < blocks && (gfns[first + n] == NO_PAGE) == (gfns[first] == NO_PAGE))
        n++;
    return n;
}

static void find_pages(const struct encoder *e, uint64_t epoch, const uint8_t *data, uint32_t blocks, uint64_t *gfns)
{
    for (uint32_t i = 0; i < blocks; i++)
        gfns[i] = find_page(e, epoch, data + (size_t)i * DISK_BLOCK_SIZE);
    for (uint32_t i = 0, n; i < blocks; i += n) {
        n = run_length(gfns, i, blocks);
        if (n < REFERRED_LEAST && n < blocks)
            for (uint32_t k = 0; k < n; k++)
                gfns[i + k] = NO_PAGE;
    }
}

/* At most DISK_DATA_MAX octets: as references to pages so far as the replica has them. */
static int put_piece(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, const uint8_t *data, uint32_t n)
{
    uint64_t gfns[DISK_BLOCKS_MAX];
    uint32_t blocks = n / DISK_BLOCK_SIZE;
    bool is_whole = n % DISK_BLOCK_SIZE == 0 && offset % DISK_BLOCK_SIZE == 0;
    if (!e->index || !is_whole || !is_worth_finding(e, epoch, data, blocks))
        return put_data(e, epoch, disk, offset, data, n);
    find_pages(e, epoch, data, blocks, gfns);
    int result = 0;
    for (uint32_t i = 0, run; i < blocks && !result; i += run) {
        uint64_t at = (uint64_t)i * DISK_BLOCK_SIZE;
        run = run_length(gfns, i, blocks);
        result = gfns[i] == NO_PAGE ? put_data(e, epoch, disk, offset + at, data + at, run * DISK_BLOCK_SIZE)
                                    : put_pages(e, epoch, disk, offset + at, gfns + i, run);
    }
    return result;
}

/* DISK and PAGES records may stand in any order: the PAGES record under way stays open. But it is a record of its own
 * epoch: it was closed with that. */
int encoder_disk(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, const uint8_t *data,
                 uint64_t length)
{
    while (length) {
        uint32_t n = length < DISK_DATA_MAX ? (uint32_t)length : DISK_DATA_MAX;
        if (put_piece(e, epoch, disk, offset, data, n))
            return -1;
        offset += n;
        data += n;
        length -= n;
    }
    return 0;
}

int encoder_disk_zeroes(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, uint64_t length)
{
    enum { MOST = 1 << 30 };
    while (length) {
        uint32_t n = length < MOST ? (uint32_t)length : MOST;
        struct pipeline_chunk *c = begin_record(e, RECORD_HEADER_SIZE + DISK_HEAD_SIZE);
        if (!c)
            return -1;
        end_disk(e, c, disk_encode_zeroes(disk, offset, n, c->data + c->n), epoch);
        offset += n;
        length -= n;
    }
    return 0;
}

int encoder_check(struct encoder *e, uint64_t epoch, const uint8_t *payload, size_t n)
{
    struct pipeline_chunk *c = chunk_new(RECORD_HEADER_SIZE + n);
    if (!c)
        return -1;
    record_header_write(c->data, RECORD_CHECK, 0, (uint32_t)n, epoch);
    memcpy(c->data + RECORD_HEADER_SIZE, payload, n);
    c->n += n;
    hand_out(e, c); /* no part of any epoch: not digested, not counted */
    return 0;
}

int encoder_commit(struct encoder *e, uint64_t epoch)
{
    if (encoder_flush(e))
        return -1;
    struct pipeline_chunk *c = chunk_new(RECORD_HEADER_SIZE + COMMIT_SIZE);
    if (!c)
        return -1;
    digest_final(e->digest, c->digest);
    c->committed = epoch;
    record_header_write(c->data, RECORD_COMMIT, 0, COMMIT_SIZE, epoch);
    commit_write(c->data + RECORD_HEADER_SIZE, c->digest, e->records);
    c->n += COMMIT_SIZE;
    digest_reset(e->digest);
    e->records = 0;
    hand_out(e, c);
    return 0;
}
