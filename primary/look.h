/*
 * look: a look at a piece of a disk's store, or of the guest's memory, while the guest writes to it, turned into what
 * exactly it holds at the end of an epoch. Pure; the pipeline's thread, which is the reader of the write log, uses it.
 *
 *      store   ..|w1 |.....read the piece.....|  w2  |...
 *      log     ..........w1............................w2.|  M = the log's end when the VM stood still
 *
 * What was read may have any part of the writes that were under way meanwhile. All that is taken out of the log after
 * the read began is written over it, in its order. At the end of an epoch for which the VM was paused after the read
 * had ended, it is exact: the VM's I/O is drained in the pause, so whatever the read saw is in the log before M, and
 * for each octet the last entry wins there as it does in the store.
 *
 * Of memory what a log is to a disk are the captures: a page that changed since it was read is in one that is taken
 * later, or tracking has missed it. That is what comparing memory is to find.
 */
#ifndef HIKAE_PRIMARY_LOOK_H
#define HIKAE_PRIMARY_LOOK_H

#include "disk/log.h"
#include "proto/check.h"
#include "vm/page_set.h"

enum { LOOK_BLOCKS = 128, LOOK_HOLE_BLOCKS = 16384 }; /* at most in one: with data; of a hole */

struct look_block;

struct look {
    struct look *next;
    uint64_t number;     /* of its CHECK */
    unsigned disk;       /* or CHECK_MEMORY */
    uint64_t first, end; /* blocks; `end` may shrink in look_at */
    bool repair;         /* what is there is also sent */
    int error;           /* of reading the store: it is good for nothing */
    int64_t read_at;     /* when the read had ended, CLOCK_MONOTONIC ns */
    uint8_t *data;       /* its blocks; NULL: zeroes, but for: */
    struct look_block *written;
    size_t n, capacity;
    uint8_t *notes; /* of memory: an enum look_note for each page */
};

/* What can be said on this side of a page that differs. */
enum look_note {
    LOOK_ZEROES = 1,  /* it is all zeroes here */
    LOOK_DIRTY = 2,   /* it was reported dirty since it was read, so it is in the epoch that is compared */
    LOOK_AS_SENT = 4, /* it is what was last sent of it */
    LOOK_UNSENT = 8,  /* it is not what was last sent of it; neither: that is not known */
};
enum { LOOK_EXPLAIN_MAX = 160 };
void look_explain(unsigned notes, char out[LOOK_EXPLAIN_MAX]); /* one line for an admin */

/* Of blocks [first, end). NULL: no memory. */
struct look *look_new(uint64_t number, unsigned disk, uint64_t first, uint64_t end, bool repair);
void look_free(struct look *l); /* NULL is allowed */
/* Reads them from `fd`: as many as are data, or a hole, up to the limits above. `error` is set on failure. -1: no
 * memory. */
int look_at(struct look *l, int fd);
/* An entry of the log that was taken out after look_at. -1: no memory. */
int look_write(struct look *l, const struct disk_write *w);

/* Reads it from the guest's memory: of pages that are not in `populated` nothing, they are zeroes. -1: no memory. */
int look_at_memory(struct look *l, const uint8_t *memory, const struct page_set *populated);
/* A page of a capture that is encoded after look_at_memory. -1: no memory. */
int look_page(struct look *l, uint64_t gfn, const uint8_t *page);
/* Completes the notes of a page: `sent` is what was last sent of it; NULL: not known. */
void look_note_sent(struct look *l, uint64_t gfn, const uint8_t *sent);

/* Runs of blocks with data, one after the other: 1 with the blocks and their octets; 0: there are no more. *from starts
 * at l->first; blocks between the runs are zeroes. A run ends where its octets don't follow each other. */
int look_run(const struct look *l, uint64_t *from, uint64_t *count, const uint8_t **data);
/* The CHECK payload: malloc'd, or NULL. */
uint8_t *look_payload(const struct look *l, uint64_t seed, size_t *n);

#endif
