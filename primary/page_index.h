/*
 * page_index: which page of the replica holds these octets? What a guest writes to a disk is in its memory, and was
 * often sent with that already: then the replica has it (DISK_AS_PAGES). Pages are known by a digest with a seed that
 * the guest can't know, and those sent last are remembered best. Pure.
 */
#ifndef HIKAE_PRIMARY_PAGE_INDEX_H
#define HIKAE_PRIMARY_PAGE_INDEX_H

#include <stdbool.h>
#include <stdint.h>

struct page_index;

/* For so many pages of a guest; takes 68 to 132 octets for each, and not more than 32 MiB and 4 octets for each. NULL:
 * no memory. */
struct page_index *page_index_new(uint64_t pages, uint64_t seed);
void page_index_free(struct page_index *x); /* NULL is allowed */
/* The page is sent in that epoch, and holds this from its end on. */
void page_index_put(struct page_index *x, uint64_t gfn, const uint8_t *page, uint64_t epoch);
/* It holds something else now, which is not worth to be remembered. */
void page_index_forget(struct page_index *x, uint64_t gfn);
/* true: at the end of an epoch before `epoch`, and since then, the replica's page *gfn holds what is in `page`. */
bool page_index_find(const struct page_index *x, const uint8_t *page, uint64_t epoch, uint64_t *gfn);

#endif
