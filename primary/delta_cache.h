/*
 * delta_cache: what the replica holds of the pages that change most, so that only their differences need to be sent.
 * Bounded in bytes. Pure.
 *
 * The content is what was last *sent*. The stream is ordered and an epoch is applied after the one before it or not at
 * all, so when a delta is applied, what was sent before is what it is applied to; after a lost connection the cache
 * starts empty.
 */
#ifndef HIKAE_PRIMARY_DELTA_CACHE_H
#define HIKAE_PRIMARY_DELTA_CACHE_H

#include <stddef.h>
#include <stdint.h>

struct delta_cache;

struct delta_cache *delta_cache_new(uint64_t guest_pages, uint64_t bytes); /* NULL: no memory */
void delta_cache_free(struct delta_cache *c);
/* The page as it was last sent, NULL if not known. Valid until the next call. */
const uint8_t *delta_cache_get(struct delta_cache *c, uint64_t gfn);
/* The same, but nobody asks for it: it does not count as used. */
const uint8_t *delta_cache_peek(const struct delta_cache *c, uint64_t gfn);
/* What was sent is not known any more, or not what the replica holds. */
void delta_cache_forget(struct delta_cache *c, uint64_t gfn);
/* `page` was sent. May forget another page, one that was not asked for lately (clock). */
void delta_cache_put(struct delta_cache *c, uint64_t gfn, const uint8_t *page);

#endif
