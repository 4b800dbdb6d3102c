#include "primary/delta_cache.h"
#include "proto/record.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct slot {
    uint64_t gfn;
    bool used, asked;
};

struct delta_cache {
    uint32_t *slot_of; /* by gfn: slot + 1, 0: none */
    struct slot *slots;
    uint8_t *pages;
    uint32_t slot_count, hand;
};

struct delta_cache *delta_cache_new(uint64_t guest_pages, uint64_t bytes)
{
    struct delta_cache *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    uint64_t slots = bytes / PROTO_PAGE_SIZE;
    if (slots > guest_pages)
        slots = guest_pages;
    if (slots > UINT32_MAX - 1)
        slots = UINT32_MAX - 1;
    c->slot_count = (uint32_t)slots;
    c->slot_of = calloc(guest_pages ? guest_pages : 1, sizeof *c->slot_of);
    c->slots = calloc(slots ? slots : 1, sizeof *c->slots);
    c->pages = malloc(slots ? slots * PROTO_PAGE_SIZE : 1);
    if (c->slot_of && c->slots && c->pages)
        return c;
    delta_cache_free(c);
    return NULL;
}

void delta_cache_free(struct delta_cache *c)
{
    if (!c)
        return;
    free(c->slot_of);
    free(c->slots);
    free(c->pages);
    free(c);
}

const uint8_t *delta_cache_get(struct delta_cache *c, uint64_t gfn)
{
    uint32_t slot = c->slot_of[gfn];
    if (!slot)
        return NULL;
    c->slots[slot - 1].asked = true;
    return c->pages + (size_t)(slot - 1) * PROTO_PAGE_SIZE;
}

const uint8_t *delta_cache_peek(const struct delta_cache *c, uint64_t gfn)
{
    uint32_t slot = c->slot_of[gfn];
    return slot ? c->pages + (size_t)(slot - 1) * PROTO_PAGE_SIZE : NULL;
}

void delta_cache_forget(struct delta_cache *c, uint64_t gfn)
{
    if (c->slot_of[gfn])
        c->slots[c->slot_of[gfn] - 1].used = false;
    c->slot_of[gfn] = 0;
}

/* The clock's hand goes on until it finds a slot that nobody asked for since it last came by. */
static uint32_t evict(struct delta_cache *c)
{
    for (;;) {
        uint32_t at = c->hand;
        c->hand = at + 1 == c->slot_count ? 0 : at + 1;
        struct slot *s = &c->slots[at];
        if (s->used && s->asked) {
            s->asked = false;
            continue;
        }
        if (s->used)
            c->slot_of[s->gfn] = 0;
        return at;
    }
}

void delta_cache_put(struct delta_cache *c, uint64_t gfn, const uint8_t *page)
{
    uint32_t slot = c->slot_of[gfn];
    if (!slot && c->slot_count) {
        slot = evict(c) + 1;
        c->slots[slot - 1] = (struct slot){.gfn = gfn, .used = true};
        c->slot_of[gfn] = slot;
    }
    if (slot)
        memcpy(c->pages + (size_t)(slot - 1) * PROTO_PAGE_SIZE, page, PROTO_PAGE_SIZE);
}
