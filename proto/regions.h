/*
 * regions: REGIONS, in which a secondary whose replica did not begin empty says what it holds, region by region
 * (PROTOCOL.md section 3.9). Pure.
 */
#ifndef HIKAE_PROTO_REGIONS_H
#define HIKAE_PROTO_REGIONS_H

#include "proto/record.h"

enum { REGIONS_HEAD_SIZE = 24, REGIONS_RUN_SIZE = 8, REGION_PAGES_MAX = 64 };

/* Feature in HELLO. */
#define FEATURE_REGIONS "regions"

/* The first octets of the payload; runs {first u40, count u24, count digests} follow. */
struct regions_head {
    uint64_t seed;         /* of all digests of the connection */
    uint64_t end;          /* regions below are told of: by a digest in a run, or else all zeroes */
    uint32_t region_pages; /* a power of two, at most REGION_PAGES_MAX */
};
struct regions_run {
    uint64_t first; /* region */
    uint32_t count;
    const uint8_t *digests; /* PROTO_DIGEST_SIZE each; borrowed */
};
void regions_head_write(uint8_t out[REGIONS_HEAD_SIZE], const struct regions_head *head);
void regions_run_write(uint8_t out[REGIONS_RUN_SIZE], uint64_t first, uint32_t count);
/* What follows after a check. 1: *out filled; 0: the payload's end. *offset starts at REGIONS_HEAD_SIZE. */
int regions_next(const uint8_t *payload, size_t n, size_t *offset, struct regions_run *out);

/* How far the telling has come. Begins as {.pages = pages of the guest}. */
struct regions_told {
    uint64_t pages;
    struct regions_head head; /* of the last record */
};
/* Validates a whole payload against what was told before. 0: `told` has advanced; -1. */
int regions_check(struct regions_told *told, const uint8_t *payload, size_t n, struct proto_error *e);
/* Regions that a guest of so many pages has: the last one may be short. */
uint64_t regions_count(uint64_t pages, uint32_t region_pages);
bool regions_all_told(const struct regions_told *told);

/* XXH3, 128 bits, canonical, of the octets of a region that the guest has. */
void region_digest(uint64_t seed, const void *data, size_t n, uint8_t out[PROTO_DIGEST_SIZE]);

#endif
