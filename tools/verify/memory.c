/*
 * memory: a hash table of the pages that are not known to be zero. Open addressing; nothing is ever removed.
 */
#include "verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

struct slot {
    uint64_t gfn;
    uint8_t *page; /* NULL: free */
};

struct memory {
    struct slot *slots;
    size_t capacity, used; /* capacity: a power of two */
};

enum { FIRST_CAPACITY = 1024 };

struct memory *memory_new(void)
{
    struct memory *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->capacity = FIRST_CAPACITY;
    m->slots = calloc(m->capacity, sizeof *m->slots);
    if (!m->slots) {
        free(m);
        return NULL;
    }
    return m;
}

void memory_free(struct memory *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->capacity; i++)
        free(m->slots[i].page);
    free(m->slots);
    free(m);
}

/* The slot of gfn, or the free one where it belongs. */
static struct slot *find(struct slot *slots, size_t capacity, uint64_t gfn)
{
    size_t i = (size_t)(gfn * 0x9e3779b97f4a7c15u >> 20) & (capacity - 1);
    while (slots[i].page && slots[i].gfn != gfn)
        i = (i + 1) & (capacity - 1);
    return &slots[i];
}

static bool grow(struct memory *m)
{
    struct slot *slots = calloc(m->capacity * 2, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < m->capacity; i++)
        if (m->slots[i].page)
            *find(slots, m->capacity * 2, m->slots[i].gfn) = m->slots[i];
    free(m->slots);
    m->slots = slots;
    m->capacity *= 2;
    return true;
}

uint8_t *memory_page(struct memory *m, uint64_t gfn)
{
    struct slot *s = find(m->slots, m->capacity, gfn);
    if (s->page)
        return s->page;
    if (m->used >= m->capacity / 2) {
        if (!grow(m))
            return NULL;
        s = find(m->slots, m->capacity, gfn);
    }
    s->gfn = gfn;
    s->page = calloc(1, PAGE_OCTETS);
    m->used += s->page != NULL;
    return s->page;
}

void memory_digest(const struct memory *m, uint64_t pages, char out[33])
{
    static const uint8_t zeroes[PAGE_OCTETS];
    XXH128_canonical_t sum;
    XXH3_state_t *state = XXH3_createState();
    out[0] = 0;
    if (!state)
        return;
    XXH3_128bits_reset(state);
    for (uint64_t gfn = 0; gfn < pages; gfn++) {
        const struct slot *s = find(m->slots, m->capacity, gfn);
        XXH3_128bits_update(state, s->page ? s->page : zeroes, PAGE_OCTETS);
    }
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    for (unsigned i = 0; i < sizeof sum.digest; i++)
        snprintf(out + 2 * i, 3, "%02x", sum.digest[i]);
}
