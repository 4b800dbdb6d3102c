/*
 * look: a look at a piece of a disk's store while the guest writes to it, turned into what exactly it holds at the end
 * of an epoch. Pure; the pipeline's thread, which is the reader of the write log, uses it.
 *
 *      store   ..|w1 |.....read the piece.....|  w2  |...
 *      log     ..........w1............................w2.|  M = the log's end when the VM stood still
 *
 * What was read may have any part of the writes that were under way meanwhile. All that is taken out of the log after
 * the read began is written over it, in its order. At the end of an epoch for which the VM was paused after the read
 * had ended, it is exact: the VM's I/O is drained in the pause, so whatever the read saw is in the log before M, and
 * for each octet the last entry wins there as it does in the store.
 */
#ifndef HIKAE_PRIMARY_LOOK_H
#define HIKAE_PRIMARY_LOOK_H

#include "disk/log.h"
#include "proto/check.h"

enum { LOOK_BLOCKS = 128, LOOK_HOLE_BLOCKS = 16384 }; /* at most in one: with data; of a hole */

struct look_block;

struct look {
    struct look *next;
    uint64_t number; /* of its CHECK */
    unsigned disk;
    uint64_t first, end; /* blocks; `end` may shrink in look_at */
    bool repair;         /* what is there is also sent */
    int error;           /* of reading the store: it is good for nothing */
    int64_t read_at;     /* when the read had ended, CLOCK_MONOTONIC ns */
    uint8_t *data;       /* its blocks; NULL: zeroes, but for: */
    struct look_block *written;
    size_t n, capacity;
};

/* Of blocks [first, end). NULL: no memory. */
struct look *look_new(uint64_t number, unsigned disk, uint64_t first, uint64_t end, bool repair);
void look_free(struct look *l); /* NULL is allowed */
/* Reads them from `fd`: as many as are data, or a hole, up to the limits above. `error` is set on failure. -1: no
 * memory. */
int look_at(struct look *l, int fd);
/* An entry of the log that was taken out after look_at. -1: no memory. */
int look_write(struct look *l, const struct disk_write *w);

/* Runs of blocks with data, one after the other: 1 with the blocks and their octets; 0: there are no more. *from starts
 * at l->first; blocks between the runs are zeroes. A run ends where its octets don't follow each other. */
int look_run(const struct look *l, uint64_t *from, uint64_t *count, const uint8_t **data);
/* The CHECK payload: malloc'd, or NULL. */
uint8_t *look_payload(const struct look *l, uint64_t seed, size_t *n);

#endif
