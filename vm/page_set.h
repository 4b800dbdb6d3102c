/*
 * page_set: a set of a VM's pages, a bit for each. Pure but for its memory.
 */
#ifndef HIKAE_VM_PAGE_SET_H
#define HIKAE_VM_PAGE_SET_H

#include "vm/vm.h"

struct page_set;

struct page_set *page_set_new(uint64_t pages, const struct page_ranges *in); /* pages 0 to pages - 1; NULL: no memory */
void page_set_free(struct page_set *s);                                      /* NULL is allowed */
void page_set_add(struct page_set *s, uint64_t gfn);                         /* below `pages` */
bool page_set_has(const struct page_set *s, uint64_t gfn);
/* The first page of [first, end) that is in the set; `end` if none is. */
uint64_t page_set_next(const struct page_set *s, uint64_t first, uint64_t end);

#endif
