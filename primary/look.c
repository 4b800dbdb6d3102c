#include "primary/look.h"

#include "disk/medium.h"
#include "proto/regions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct look_block { /* one that was written to since it was seen to be a hole */
    uint64_t number;
    uint8_t *data;
};

struct look *look_new(uint64_t number, unsigned disk, uint64_t first, uint64_t end, bool repair)
{
    struct look *l = calloc(1, sizeof *l);
    if (l)
        *l = (struct look){.number = number, .disk = disk, .first = first, .end = end, .repair = repair};
    return l;
}

void look_free(struct look *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++)
        free(l->written[i].data);
    free(l->written);
    free(l->data);
    free(l->notes);
    free(l);
}

/* ---- reading ---- */

/* The first block from `block` on that may have data. */
static uint64_t next_data(int fd, uint64_t block, uint64_t end)
{
    off_t at = lseek(fd, (off_t)(block * DISK_BLOCK_SIZE), SEEK_DATA);
    if (at < 0) /* nothing follows; or there are no holes to know of */
        return errno == ENXIO ? end : block;
    uint64_t found = (uint64_t)at / DISK_BLOCK_SIZE;
    return found < end ? found : end;
}

static void cut(struct look *l, uint64_t end, uint64_t most)
{
    if (end > l->first + most)
        end = l->first + most;
    if (end < l->end)
        l->end = end;
}

int look_at(struct look *l, int fd)
{
    uint64_t data = next_data(fd, l->first, l->end);
    if (data > l->first) {
        cut(l, data, LOOK_HOLE_BLOCKS);
        return 0;
    }
    cut(l, l->end, LOOK_BLOCKS);
    size_t n = (size_t)(l->end - l->first) * DISK_BLOCK_SIZE;
    l->data = malloc(n);
    if (!l->data)
        return -1;
    if (medium_read(fd, l->data, n, l->first * DISK_BLOCK_SIZE))
        l->error = errno;
    return 0;
}

/* ---- what is written meanwhile ---- */

/* Where the block is in l->written, or belongs. */
static size_t place_of(const struct look *l, uint64_t block)
{
    size_t low = 0, high = l->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->written[middle].number < block)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint8_t *block_of(struct look *l, uint64_t block)
{
    if (l->data)
        return l->data + (block - l->first) * DISK_BLOCK_SIZE;
    size_t at = place_of(l, block);
    if (at < l->n && l->written[at].number == block)
        return l->written[at].data;
    if (l->n == l->capacity) {
        size_t capacity = 2 * l->capacity + 16;
        struct look_block *grown = realloc(l->written, capacity * sizeof *grown);
        if (!grown)
            return NULL;
        l->written = grown;
        l->capacity = capacity;
    }
    uint8_t *data = calloc(1, DISK_BLOCK_SIZE);
    if (!data)
        return NULL;
    memmove(l->written + at + 1, l->written + at, (l->n - at) * sizeof *l->written);
    l->written[at] = (struct look_block){block, data};
    l->n++;
    return data;
}

int look_write(struct look *l, const struct disk_write *w)
{
    uint64_t begin = l->first * DISK_BLOCK_SIZE, end = l->end * DISK_BLOCK_SIZE, at = w->offset;
    if (w->disk != l->disk || w->kind == DISK_ERROR)
        return 0;
    uint64_t stop = w->offset + w->length < end ? w->offset + w->length : end;
    at = at > begin ? at : begin;
    while (at < stop) {
        uint64_t block = at / DISK_BLOCK_SIZE, within = at % DISK_BLOCK_SIZE, n = DISK_BLOCK_SIZE - within;
        n = n < stop - at ? n : stop - at;
        uint8_t *to = block_of(l, block);
        if (!to)
            return -1;
        if (w->kind == DISK_DATA)
            memcpy(to + within, w->data + (at - w->offset), n);
        else
            memset(to + within, 0, n);
        at += n;
    }
    return 0;
}

/* ---- memory ---- */

/* The end of a hole that is worth a look of its own: then nothing of it is read or kept. Else `first`. */
static uint64_t end_of_hole(const struct look *l, const struct page_set *populated)
{
    uint64_t data = page_set_next(populated, l->first, l->end);
    return data == l->end || data >= l->first + LOOK_BLOCKS ? data : l->first;
}

static int copy_memory(struct look *l, const uint8_t *memory, const struct page_set *populated)
{
    l->data = calloc((size_t)(l->end - l->first), DISK_BLOCK_SIZE);
    for (uint64_t gfn = l->first; l->data && gfn < l->end; gfn++)
        if (page_set_has(populated, gfn))
            memcpy(l->data + (gfn - l->first) * DISK_BLOCK_SIZE, memory + gfn * DISK_BLOCK_SIZE, DISK_BLOCK_SIZE);
    return l->data ? 0 : -1;
}

int look_at_memory(struct look *l, const uint8_t *memory, const struct page_set *populated)
{
    uint64_t hole_end = end_of_hole(l, populated);
    if (hole_end > l->first)
        cut(l, hole_end, LOOK_HOLE_BLOCKS);
    else
        cut(l, l->end, LOOK_BLOCKS);
    l->notes = calloc((size_t)(l->end - l->first), 1);
    if (!l->notes)
        return -1;
    return hole_end > l->first ? 0 : copy_memory(l, memory, populated);
}

int look_page(struct look *l, uint64_t gfn, const uint8_t *page)
{
    if (l->disk != CHECK_MEMORY || gfn < l->first || gfn >= l->end)
        return 0;
    uint8_t *to = block_of(l, gfn);
    if (!to)
        return -1;
    memcpy(to, page, DISK_BLOCK_SIZE);
    l->notes[gfn - l->first] |= LOOK_DIRTY;
    return 0;
}

/* ---- what it has come to ---- */

static bool is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, DISK_BLOCK_SIZE - 1) == 0;
}

static int run_of_data(const struct look *l, uint64_t *from, uint64_t *count, const uint8_t **data)
{
    uint64_t at = *from, end;
    while (at < l->end && is_zero(l->data + (at - l->first) * DISK_BLOCK_SIZE))
        at++;
    for (end = at; end < l->end && !is_zero(l->data + (end - l->first) * DISK_BLOCK_SIZE);)
        end++;
    *from = at;
    *count = end - at;
    *data = l->data + (at - l->first) * DISK_BLOCK_SIZE;
    return end > at;
}

static int run_of_written(const struct look *l, uint64_t *from, uint64_t *count, const uint8_t **data)
{
    for (size_t i = place_of(l, *from); i < l->n; i++)
        if (!is_zero(l->written[i].data)) {
            *from = l->written[i].number;
            *count = 1;
            *data = l->written[i].data;
            return 1;
        }
    return 0;
}

int look_run(const struct look *l, uint64_t *from, uint64_t *count, const uint8_t **data)
{
    return l->data ? run_of_data(l, from, count, data) : run_of_written(l, from, count, data);
}

static const uint8_t *content(const struct look *l, uint64_t block)
{
    static const uint8_t zeroes[DISK_BLOCK_SIZE];
    if (l->data)
        return l->data + (block - l->first) * DISK_BLOCK_SIZE;
    size_t at = place_of(l, block);
    return at < l->n && l->written[at].number == block ? l->written[at].data : zeroes;
}

void look_note_sent(struct look *l, uint64_t gfn, const uint8_t *sent)
{
    const uint8_t *is = content(l, gfn);
    uint8_t *note = &l->notes[gfn - l->first];
    if (is_zero(is))
        *note |= LOOK_ZEROES;
    if (sent)
        *note |= memcmp(is, sent, DISK_BLOCK_SIZE) ? LOOK_UNSENT : LOOK_AS_SENT;
}

void look_explain(unsigned notes, char out[LOOK_EXPLAIN_MAX])
{
    const char *why;
    if (notes & LOOK_AS_SENT)
        why = "it is what was last sent of it: lost on the way, or changed at the other host";
    else if (!(notes & LOOK_UNSENT))
        why = notes & LOOK_DIRTY ? "it was written to and sent in the epoch that was compared"
                                 : "it was not written to lately, and what was last sent of it is not known any more";
    else if (notes & LOOK_DIRTY)
        why = "it was seen to be written to, but not sent";
    else
        why = "it changed since it was last sent, and was not seen to be written to, or not sent";
    snprintf(out, LOOK_EXPLAIN_MAX, "%s%s", why, notes & LOOK_ZEROES ? "; all zeroes here" : "");
}

/* Most octets that its payload may have. */
static size_t payload_bound(const struct look *l)
{
    size_t blocks = l->data ? (size_t)(l->end - l->first) : l->n;
    return CHECK_HEAD_SIZE + blocks * (CHECK_RUN_SIZE + PROTO_DIGEST_SIZE);
}

uint8_t *look_payload(const struct look *l, uint64_t seed, size_t *n)
{
    struct check_head head = {.number = l->number, .seed = seed, .first = l->first, .end = l->end, .disk = l->disk};
    uint8_t *payload = malloc(payload_bound(l)), *at = payload + CHECK_HEAD_SIZE;
    const uint8_t *data;
    uint64_t count;
    if (!payload)
        return NULL;
    check_head_write(payload, &head);
    for (uint64_t from = l->first; look_run(l, &from, &count, &data); from += count) {
        check_run_write(at, from, (uint32_t)count);
        at += CHECK_RUN_SIZE;
        for (uint64_t i = 0; i < count; i++, at += PROTO_DIGEST_SIZE)
            region_digest(seed, data + i * DISK_BLOCK_SIZE, DISK_BLOCK_SIZE, at);
    }
    *n = (size_t)(at - payload);
    return payload;
}
