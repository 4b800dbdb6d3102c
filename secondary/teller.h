/*
 * teller: makes the REGIONS records that say what a replica's memory holds before the first epoch. Pure but for its own
 * memory; in slices, so that the loop it is called from does nothing else for a millisecond at most.
 */
#ifndef HIKAE_SECONDARY_TELLER_H
#define HIKAE_SECONDARY_TELLER_H

#include "proto/regions.h"
#include "vm/vm.h"

struct teller;

/* `memory` must not change until all is told, but for what an epoch brings. `populated` (taken over, empty afterwards):
 * what of it may be other than zeroes. NULL: no memory. */
struct teller *teller_new(const uint8_t *memory, uint64_t pages, struct page_ranges *populated, uint64_t seed);
void teller_free(struct teller *t);

/* The next payload, valid until the next call; 0: all is told. */
size_t teller_next(struct teller *t, const uint8_t **payload);
uint64_t teller_pages(const struct teller *t); /* populated pages that were looked at */

/* Pages of a region. Small ones cost digests (16 octets each, the other way than the pages), large ones cost pages that
 * are sent because a neighbour differs. Of a guest with 170 MB that writes 1000 pages/s all over 78 MB, a re-sync took
 * (digests + what differed) 700 + 400 KB with 1 page, 170 + 530 with 4, 45 + 780 with 16. */
enum { TELLER_REGION_PAGES = 4 };

#endif
