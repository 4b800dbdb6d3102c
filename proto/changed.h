/*
 * changed: CHANGED, in which a secondary whose disks are of the primary's generation says which of their blocks may be
 * other, and the generations' names in JSON (PROTOCOL.md section 3.12). Pure.
 */
#ifndef HIKAE_PROTO_CHANGED_H
#define HIKAE_PROTO_CHANGED_H

#include "proto/check.h"
#include "proto/disk.h"

/* Feature in HELLO. */
#define FEATURE_GENERATIONS "generations"

enum { CHANGED_HEAD_SIZE = 16, CHANGED_RUN_SIZE = CHECK_RUN_SIZE, GENERATION_SIZE = 16, GENERATION_TEXT = 33 };

/* The first octets; runs as in a CHECKED follow (check_run_write). */
void changed_head_write(uint8_t out[CHANGED_HEAD_SIZE], unsigned disk, uint64_t end);

/* How far the telling of each disk has come. */
struct changed_told {
    unsigned count;
    uint64_t blocks[DISKS_MAX], end[DISKS_MAX];
};
void changed_told_init(struct changed_told *told, const struct disk_sizes *sizes);
/* Validates a whole payload against what was told before. 0: `told` has advanced; -1. */
int changed_check(struct changed_told *told, const uint8_t *payload, size_t n, unsigned *disk, struct proto_error *e);
/* Runs of a valid payload. 1: *out filled; 0: its end. *offset starts at CHANGED_HEAD_SIZE. */
int changed_next(const uint8_t *payload, size_t n, size_t *offset, struct check_run *out);
bool changed_all_told(const struct changed_told *told);

void generation_print(char out[GENERATION_TEXT], const uint8_t generation[GENERATION_SIZE]);
bool generation_parse(const char *text, uint8_t out[GENERATION_SIZE]); /* NULL is none */

#endif
