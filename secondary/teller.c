#include "secondary/teller.h"

#include <stdlib.h>
#include <string.h>

enum { SLICE_PAGES = 1024, SLICE_REGIONS = SLICE_PAGES / TELLER_REGION_PAGES };
/* Each region a run of its own is the worst. */
enum { PAYLOAD_MAX = REGIONS_HEAD_SIZE + SLICE_REGIONS * (REGIONS_RUN_SIZE + PROTO_DIGEST_SIZE) };

struct teller {
    const uint8_t *memory;
    uint64_t pages, seed;
    struct page_ranges populated;
    size_t range;                                       /* next */
    uint64_t told, hashed;                              /* regions, pages */
    uint8_t zero[PROTO_DIGEST_SIZE];                    /* of a whole region */
    uint8_t digests[SLICE_REGIONS * PROTO_DIGEST_SIZE]; /* of the run under way */
    uint64_t run_first;
    uint32_t run_count;
    uint8_t payload[PAYLOAD_MAX];
    size_t n;
};

struct teller *teller_new(const uint8_t *memory, uint64_t pages, struct page_ranges *populated, uint64_t seed)
{
    static const uint8_t zeroes[TELLER_REGION_PAGES * VM_PAGE_SIZE];
    struct teller *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->memory = memory;
    t->pages = pages;
    t->seed = seed;
    t->populated = *populated;
    *populated = (struct page_ranges){0};
    region_digest(seed, zeroes, sizeof zeroes, t->zero);
    return t;
}

void teller_free(struct teller *t)
{
    if (!t)
        return;
    page_ranges_free(&t->populated);
    free(t);
}

/* The first region from t->told on that has a populated page, or the one after the last. */
static uint64_t next_region(struct teller *t)
{
    const struct page_ranges *p = &t->populated;
    uint64_t begin = t->told * TELLER_REGION_PAGES;
    while (t->range < p->n && p->at[t->range].first + p->at[t->range].count <= begin)
        t->range++;
    if (t->range == p->n)
        return regions_count(t->pages, TELLER_REGION_PAGES);
    uint64_t first = p->at[t->range].first;
    return (first > begin ? first : begin) / TELLER_REGION_PAGES;
}

static void end_run(struct teller *t)
{
    if (!t->run_count)
        return;
    regions_run_write(t->payload + t->n, t->run_first, t->run_count);
    t->n += REGIONS_RUN_SIZE;
    memcpy(t->payload + t->n, t->digests, (size_t)t->run_count * PROTO_DIGEST_SIZE);
    t->n += (size_t)t->run_count * PROTO_DIGEST_SIZE;
    t->run_count = 0;
}

/* Reads holes inside of a region as well: they are zeroes, and there are few. */
static void hash_region(struct teller *t, uint64_t region)
{
    uint64_t first = region * TELLER_REGION_PAGES, left = t->pages - first;
    uint64_t count = left < TELLER_REGION_PAGES ? left : TELLER_REGION_PAGES;
    uint8_t digest[PROTO_DIGEST_SIZE];
    region_digest(t->seed, t->memory + first * VM_PAGE_SIZE, count * VM_PAGE_SIZE, digest);
    t->hashed += count;
    if (memcmp(digest, t->zero, sizeof digest) == 0)
        return;
    if (t->run_count && t->run_first + t->run_count != region)
        end_run(t);
    if (!t->run_count)
        t->run_first = region;
    memcpy(t->digests + (size_t)t->run_count++ * PROTO_DIGEST_SIZE, digest, sizeof digest);
}

size_t teller_next(struct teller *t, const uint8_t **payload)
{
    uint64_t all = regions_count(t->pages, TELLER_REGION_PAGES);
    if (t->told == all)
        return 0;
    t->n = REGIONS_HEAD_SIZE;
    for (unsigned i = 0; i < SLICE_REGIONS && (t->told = next_region(t)) < all; i++)
        hash_region(t, t->told++);
    t->told = next_region(t); /* a hole behind the last one costs nothing more */
    end_run(t);
    regions_head_write(t->payload, &(struct regions_head){t->seed, t->told, TELLER_REGION_PAGES});
    *payload = t->payload;
    return t->n;
}

uint64_t teller_pages(const struct teller *t)
{
    return t->hashed;
}
