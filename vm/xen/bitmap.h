/*
 * bitmap: Xen's dirty bitmap (a bit per gfn, from 0) as ranges of pages. Pure.
 */
#ifndef HIKAE_VM_XEN_BITMAP_H
#define HIKAE_VM_XEN_BITMAP_H

#include "vm/vm.h"

/* Adds the pages whose bit is set and that lie in `within` (ascending) to `out`. -1: no memory. */
int bitmap_ranges(const unsigned long *bits, const struct page_ranges *within, struct page_ranges *out);

#endif
