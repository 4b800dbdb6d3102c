/*
 * block_teller: makes the BLOCKS records that say what a replica's disk holds before the first epoch. Holes are not
 * read. Knows a descriptor and no more; it reads, so it is for a thread that may wait.
 */
#ifndef HIKAE_SECONDARY_BLOCK_TELLER_H
#define HIKAE_SECONDARY_BLOCK_TELLER_H

#include "common/errmsg.h"
#include "proto/disk.h"

#include <sys/types.h>

struct block_teller;

/* The disk must not change until all is told, but for what the first epoch brings. NULL: no memory. */
struct block_teller *block_teller_new(unsigned disk, int fd, uint64_t bytes, uint64_t seed);
void block_teller_free(struct block_teller *t); /* NULL is allowed */

/* The next payload, valid until the next call; 0: all is told; -1 with `e`: it can't be read. */
ssize_t block_teller_next(struct block_teller *t, const uint8_t **payload, struct errmsg *e);
uint64_t block_teller_at(const struct block_teller *t);   /* all octets below it are told */
uint64_t block_teller_read(const struct block_teller *t); /* octets that were read for that */

#endif
