#include "vm/page_set.h"

#include <stdlib.h>

struct page_set {
    uint64_t pages;
    uint64_t words[];
};

static uint64_t bit(uint64_t gfn)
{
    return UINT64_C(1) << (gfn % 64);
}

struct page_set *page_set_new(uint64_t pages, const struct page_ranges *in)
{
    struct page_set *s = calloc(1, sizeof *s + (pages + 63) / 64 * sizeof s->words[0]);
    if (!s)
        return NULL;
    s->pages = pages;
    for (size_t i = 0; i < in->n; i++)
        for (uint64_t k = 0; k < in->at[i].count && in->at[i].first + k < pages; k++)
            page_set_add(s, in->at[i].first + k);
    return s;
}

void page_set_free(struct page_set *s)
{
    free(s);
}

void page_set_add(struct page_set *s, uint64_t gfn)
{
    s->words[gfn / 64] |= bit(gfn);
}

bool page_set_has(const struct page_set *s, uint64_t gfn)
{
    return s->words[gfn / 64] & bit(gfn);
}

uint64_t page_set_next(const struct page_set *s, uint64_t first, uint64_t end)
{
    for (uint64_t gfn = first; gfn < end; gfn = (gfn / 64 + 1) * 64) {
        uint64_t word = s->words[gfn / 64] & (UINT64_MAX << (gfn % 64));
        if (!word)
            continue;
        uint64_t found = gfn / 64 * 64 + (unsigned)__builtin_ctzll(word);
        return found < end ? found : end;
    }
    return end;
}
