#include "primary/page_index.h"

#include "proto/record.h"

#include <stdlib.h>
#include <xxhash.h>

enum { ENTRIES_MAX = 1 << 20 };

struct entry {
    XXH128_hash_t digest;
    uint64_t gfn, epoch; /* epoch 0: there is none here */
};

/* An entry is where its digest says. Whoever comes later takes its place. */
struct page_index {
    uint64_t seed, mask;
    struct entry *entries;
    uint32_t *entry_of; /* by gfn: entry + 1, 0: none */
};

struct page_index *page_index_new(uint64_t pages, uint64_t seed)
{
    struct page_index *x = calloc(1, sizeof *x);
    uint64_t count = 1;
    if (!x)
        return NULL;
    while (count < 2 * pages && count < ENTRIES_MAX)
        count *= 2;
    x->seed = seed;
    x->mask = count - 1;
    x->entries = calloc(count, sizeof *x->entries);
    x->entry_of = calloc(pages ? pages : 1, sizeof *x->entry_of);
    if (x->entries && x->entry_of)
        return x;
    page_index_free(x);
    return NULL;
}

void page_index_free(struct page_index *x)
{
    if (!x)
        return;
    free(x->entries);
    free(x->entry_of);
    free(x);
}

void page_index_forget(struct page_index *x, uint64_t gfn)
{
    if (x->entry_of[gfn])
        x->entries[x->entry_of[gfn] - 1].epoch = 0;
    x->entry_of[gfn] = 0;
}

void page_index_put(struct page_index *x, uint64_t gfn, const uint8_t *page, uint64_t epoch)
{
    XXH128_hash_t digest = XXH3_128bits_withSeed(page, PROTO_PAGE_SIZE, x->seed);
    uint64_t at = digest.low64 & x->mask;
    struct entry *e = &x->entries[at];
    page_index_forget(x, gfn);
    if (e->epoch)
        x->entry_of[e->gfn] = 0;
    *e = (struct entry){digest, gfn, epoch};
    x->entry_of[gfn] = (uint32_t)at + 1;
}

bool page_index_find(const struct page_index *x, const uint8_t *page, uint64_t epoch, uint64_t *gfn)
{
    XXH128_hash_t digest = XXH3_128bits_withSeed(page, PROTO_PAGE_SIZE, x->seed);
    const struct entry *e = &x->entries[digest.low64 & x->mask];
    *gfn = e->gfn;
    return e->epoch && e->epoch < epoch && XXH128_isEqual(e->digest, digest);
}
