/*
 * page_explain: what a page is that differs between a Xen guest that stands still and its replica, and how it differs:
 * for who looks for a page that tracking has missed. Pure. What Xen itself writes to is in no list: it is known by its
 * form, and called by what it looks like.
 */
#ifndef HIKAE_TESTS_PAGE_EXPLAIN_H
#define HIKAE_TESTS_PAGE_EXPLAIN_H

#include "vm/vm.h"

struct explain_guest {
    uint64_t shared_info;            /* gfn; UINT64_MAX: none is known */
    const struct page_ranges *dirty; /* of the checkpoint, copied then */
};

/* One line, without its end. The pages are VM_PAGE_SIZE bytes and differ. */
void explain_page(const struct explain_guest *g, uint64_t gfn, const uint8_t *guest, const uint8_t *replica, char *out,
                  size_t size);

#endif
