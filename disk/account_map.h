/*
 * account_map: what account.c and marker.c share: where in the memory everything is. Internal to disk/.
 */
#ifndef HIKAE_DISK_ACCOUNT_MAP_H
#define HIKAE_DISK_ACCOUNT_MAP_H

#include "disk/account.h"

#include <stddef.h>

enum { WORD_BITS = 64, ACCOUNT_PAGE = 4096, EXTENT_WORDS = ACCOUNT_EXTENT_BLOCKS / WORD_BITS };

struct account_header { /* its first 512 octets: written by a medium whole or not at all */
    char magic[8];      /* "HIKAEACC" */
    uint32_t version;
    uint32_t active; /* there is a generation: blocks are noted */
    uint8_t generation[ACCOUNT_ID];
    uint8_t boot[ACCOUNT_ID];
    uint32_t current; /* the set that notes go to */
    int32_t marker;   /* pid */
    uint32_t count;
    uint32_t closed; /* the stores are nobody's, since they were as `modified` says */
    struct {
        uint64_t bytes, device, inode;
    } disks[DISK_MAX];
    int64_t modified[DISK_MAX];
};
_Static_assert(sizeof(struct account_header) <= 512, "one sector");

struct account {
    struct account_header *header;
    uint64_t *extents, *blocks[2]; /* bits, of one disk behind the other, each from a word of its own on */
    uint64_t *summary[2];          /* of each set: the extents that may have one; need not be durable */
    size_t extent_words, block_words;
    size_t extent_at[DISK_MAX], block_at[DISK_MAX]; /* words */
    struct account_disks disks;
    account_sync *sync;
    void *arg;
};

/* Makes words of it durable. */
int account_sync_words(const struct account *a, const uint64_t *from, size_t words);
int account_sync_header(const struct account *a);

/* Other processes change words at the same time. */
static inline uint64_t word_get(const uint64_t *w)
{
    return __atomic_load_n(w, __ATOMIC_SEQ_CST);
}
static inline void word_set(uint64_t *w, uint64_t bits)
{
    __atomic_fetch_or(w, bits, __ATOMIC_SEQ_CST);
}
static inline void word_clear(uint64_t *w, uint64_t bits)
{
    __atomic_fetch_and(w, ~bits, __ATOMIC_SEQ_CST);
}
/* Sets bits [first, end) of the words at `at`. */
void bits_set(uint64_t *at, uint64_t first, uint64_t end);
uint64_t account_blocks_of(const struct account *a, unsigned disk);
uint64_t account_extents_of(const struct account *a, unsigned disk);
/* Notes blocks in a set. */
void account_set(struct account *a, unsigned set, unsigned disk, uint64_t first, uint64_t end);

#endif
