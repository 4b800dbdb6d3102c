/*
 * check: CHECK, in which a primary says by digest what blocks of a disk, or pages of the guest's memory, hold at the
 * end of an epoch, and CHECKED, in which the secondary says which of them it holds otherwise (PROTOCOL.md section
 * 3.11). Pure.
 */
#ifndef HIKAE_PROTO_CHECK_H
#define HIKAE_PROTO_CHECK_H

#include "proto/disk.h"

/* Feature in HELLO. */
#define FEATURE_CHECK "check"

enum {
    CHECK_HEAD_SIZE = 40,
    CHECK_RUN_SIZE = 8,
    CHECK_BLOCKS_MAX = 65536,   /* in one CHECK */
    CHECK_UNANSWERED_MAX = 256, /* of a connection */
    CHECKED_HEAD_SIZE = 8,
    CHECK_MEMORY = 0xffff, /* in place of a disk: the guest's memory, in which a block is a page */
};

/* The first octets of a CHECK; runs {from u40, count u24, count digests} follow. */
struct check_head {
    uint64_t number, seed;
    uint64_t first, end; /* blocks */
    unsigned disk;       /* or CHECK_MEMORY */
};
struct check_run {
    uint64_t from; /* block */
    uint32_t count;
    const uint8_t *digests; /* of a CHECK: PROTO_DIGEST_SIZE each; borrowed */
};

void check_head_write(uint8_t out[CHECK_HEAD_SIZE], const struct check_head *h);
void check_run_write(uint8_t out[CHECK_RUN_SIZE], uint64_t from, uint32_t count);
void checked_head_write(uint8_t out[CHECKED_HEAD_SIZE], uint64_t number);

/* Validates a whole CHECK of a VM with such disks and so many pages; its number must be `due`. 0; -1 with the reason.
 */
int check_read(const uint8_t *payload, size_t n, const struct disk_sizes *sizes, uint64_t pages, uint64_t due,
               struct check_head *out, struct proto_error *e);
/* Validates a whole CHECKED against the CHECK that it must answer. */
int checked_read(const uint8_t *payload, size_t n, const struct check_head *asked, struct proto_error *e);
/* Runs of a valid payload. 1: *out filled; 0: its end. *offset starts at the size of the head. */
int check_next(const uint8_t *payload, size_t n, size_t *offset, struct check_run *out);
int checked_next(const uint8_t *payload, size_t n, size_t *offset, struct check_run *out);

/* A CHECKED payload on its way: blocks that differ, ascending, become runs. */
struct checked {
    uint8_t *payload;
    size_t n;
    uint64_t from; /* the last run */
    uint32_t count;
};
size_t checked_bound(const struct check_head *asked); /* the octets that it may have at most */
void checked_begin(struct checked *c, uint8_t *payload, const struct check_head *asked);
void checked_differs(struct checked *c, uint64_t block);

#endif
