/*
 * disk: DISK, in which a primary sends what was written to a VM's disks, and BLOCKS, in which a secondary says what its
 * disks hold before the first epoch (PROTOCOL.md sections 3.10 and 6). Pure; LZ4 and memory given by the caller are all
 * it uses.
 */
#ifndef HIKAE_PROTO_DISK_H
#define HIKAE_PROTO_DISK_H

#include "proto/record.h"
#include "proto/regions.h"

/* Features in HELLO. */
#define FEATURE_DISKS      "disks"
#define FEATURE_SHARED     "shared"
#define FEATURE_DISK_PAGES "disk-pages"

enum {
    DISKS_MAX = 8,
    DISK_BLOCK_SIZE = 4096, /* a disk has a whole number of them */
    DISK_REGION_BLOCKS = 16,
    DISK_HEAD_SIZE = 16,
    DISK_DATA_MAX = 256 << 10, /* octets of a disk in one record, but for zeroes */
    DISK_PAYLOAD_MAX = DISK_HEAD_SIZE + DISK_DATA_MAX,
    DISK_BLOCKS_MAX = DISK_DATA_MAX / DISK_BLOCK_SIZE, /* whole ones in one record */
    DISK_GFN_SIZE = 8,
    BLOCKS_HEAD_SIZE = 8,
};

/* The disks of a VM as CONFIG tells them. */
struct disk_sizes {
    unsigned count;
    uint64_t bytes[DISKS_MAX];
};
/* NULL, or why no disk can have so many octets. */
const char *disk_size_refusal(uint64_t bytes);

enum disk_encoding {
    DISK_AS_DATA = 0,   /* exactly `length` octets */
    DISK_AS_LZ4 = 1,    /* an LZ4 block that decodes to `length` octets */
    DISK_AS_ZEROES = 2, /* no data */
    DISK_AS_PAGES = 3,  /* `length` octets, whole blocks, are what pages of the replica hold: {gfn u64} .. */
    DISK_ENCODINGS
};

/* DISK payload: {disk u16, encoding u8, 0 u8, length u32, offset u64, data}. */
struct disk_extent {
    unsigned disk;
    enum disk_encoding encoding;
    uint32_t length; /* octets of the disk, from `offset` on */
    uint64_t offset;
    const uint8_t *data; /* encoded; borrowed */
    size_t n;
};

/* What became of the attempts to pack what is written to one disk; zeroed: none was made. After each that was in vain
 * twice as many pieces are sent as they are before the next one, 15 at most. */
struct disk_packing {
    uint8_t skip, left;
};
/* Writes a payload that sets `length` (1 to DISK_DATA_MAX) octets at `offset` to `data`: as zeroes, as LZ4 if that is
 * smaller by a quarter (of what is large, 64 KiB, samples tell), else as data. packing: of pieces that came before;
 * NULL: it is tried. `out` has DISK_HEAD_SIZE + length octets. Returns how many were written. Deterministic. */
size_t disk_encode(unsigned disk, uint64_t offset, const uint8_t *data, uint32_t length, struct disk_packing *packing,
                   uint8_t *out);
/* Writes a payload that sets any number of octets but 0 to zeroes. Returns DISK_HEAD_SIZE. */
size_t disk_encode_zeroes(unsigned disk, uint64_t offset, uint32_t length, uint8_t out[DISK_HEAD_SIZE]);
/* Writes a payload that sets `blocks` blocks (1 to DISK_BLOCKS_MAX) to what these pages of the replica hold at the end
 * of the epoch before. Returns how many octets were written. */
size_t disk_encode_pages(unsigned disk, uint64_t offset, const uint64_t *gfns, uint32_t blocks, uint8_t *out);
/* Validates a payload but for the inside of an LZ4 block. 0, or -1 with the reason. */
int disk_read(const uint8_t *payload, size_t n, const struct disk_sizes *sizes, struct disk_extent *out,
              struct proto_error *e);
/* What DISK_AS_PAGES refers to, in this memory of so many pages, as a payload of DISK_AS_DATA, into `out`
 * (DISK_PAYLOAD_MAX octets). Returns how many were written; 0: malformed. */
size_t disk_resolve(const struct disk_extent *x, const uint8_t *memory, uint64_t pages, uint8_t *out,
                    struct proto_error *e);
/* The octets that a valid extent, which is neither DISK_AS_ZEROES nor DISK_AS_PAGES, sets: borrowed from it, or decoded
 * into `room` (DISK_DATA_MAX octets). NULL: malformed. */
const uint8_t *disk_decode(const struct disk_extent *x, uint8_t *room, struct proto_error *e);

/* BLOCKS payload: {disk u16, 0 u16, 0 u32}, then a REGIONS payload whose pages are blocks of that disk. */
void blocks_head_write(uint8_t out[BLOCKS_HEAD_SIZE], unsigned disk);
/* How far the telling of each disk has come. */
struct blocks_told {
    unsigned count;
    struct regions_told disks[DISKS_MAX];
};
/* A disk of 0 octets is one that is not told. */
void blocks_told_init(struct blocks_told *told, const struct disk_sizes *sizes);
/* Validates a whole payload against what was told before. 0: `told` has advanced, the REGIONS payload (for
 * regions_next) is behind the first BLOCKS_HEAD_SIZE octets; -1. */
int blocks_check(struct blocks_told *told, const uint8_t *payload, size_t n, unsigned *disk, struct proto_error *e);
bool blocks_all_told(const struct blocks_told *told);

#endif
