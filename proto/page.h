/*
 * page: encodings of one 4 KiB page and of the device state. Pure; LZ4 and memory given by the caller are all it uses.
 */
#ifndef HIKAE_PROTO_PAGE_H
#define HIKAE_PROTO_PAGE_H

#include "proto/record.h"

enum page_encoding {
    PAGE_ZERO = 0,      /* no data */
    PAGE_UNCHANGED = 1, /* no data; equal to the base (never sent by page_encode's caller: such a page is left out) */
    PAGE_RAW = 2,       /* 4096 octets */
    PAGE_LZ4 = 3,       /* an LZ4 block of the page */
    PAGE_DELTA = 4,     /* the 64-bit words that changed, behind a two-level bit mask */
    PAGE_DELTA_LZ4 = 5, /* an LZ4 block of the page XOR its base */
    PAGE_ENCODINGS
};
const char *page_encoding_name(unsigned encoding);

enum { PAGE_ENCODED_MAX = PROTO_PAGE_SIZE };

/* Encodes `page` as the smallest of what is worth trying, against `base` (the replica's content of that page when this
 * will be applied; NULL: not known). Writes at most PAGE_ENCODED_MAX octets, returns how many. Deterministic. */
size_t page_encode(const uint8_t *page, const uint8_t *base, uint8_t *out, enum page_encoding *encoding);

/* Validates without applying: 0, or -1 with the reason. What passed can be applied without failing. */
int page_check(unsigned encoding, const uint8_t *data, size_t n, struct proto_error *e);
/* Makes `page`, which holds the base, the encoded page. The data has passed page_check. */
void page_apply(unsigned encoding, const uint8_t *data, size_t n, uint8_t *page);

/* PAGES payload: a run of entries {gfn u40, encoding u8, length u16, data}. */
enum { PAGES_ENTRY_SIZE = 8 };
struct pages_entry {
    uint64_t gfn;
    unsigned encoding;
    size_t length;
    const uint8_t *data;
};
/* Appends an entry at `at` (room for PAGES_ENTRY_SIZE + n); returns octets written. */
size_t pages_entry_write(uint8_t *at, uint64_t gfn, enum page_encoding encoding, const uint8_t *data, size_t n);
/* Validates a whole payload: framing, gfn < pages, encodings. 0 or -1. */
int pages_check(const uint8_t *payload, size_t n, uint64_t pages, struct proto_error *e);
/* Walks a payload: *offset starts at 0. 1: *out filled; 0: end; -1: malformed framing. */
int pages_next(const uint8_t *payload, size_t n, size_t *offset, struct pages_entry *out, struct proto_error *e);

/* DEVICE: a blob (kind initial or state) in one or more records of one epoch, each {kind u8, encoding u8, 0 u16, total
 * u32 (octets of the decoded blob), encoded_total u32, offset u32 (of this piece in the encoded blob), data}. */
enum device_kind { DEVICE_INITIAL = 0, DEVICE_STATE = 1, DEVICE_KINDS };
enum blob_encoding {
    BLOB_RAW = 0,
    BLOB_LZ4 = 1,
    BLOB_DELTA_LZ4 = 2 /* XOR with the previous epoch's blob, same size */
};
enum { DEVICE_HEAD_SIZE = 16, DEVICE_BLOB_MAX = 64 << 20, DEVICE_PIECE_MAX = RECORD_PAYLOAD_MAX - DEVICE_HEAD_SIZE };

/* Encodes `blob` against `base` (base_size must equal n to be used; NULL: none). `out` has blob_bound(n) octets. */
size_t blob_bound(size_t n);
size_t blob_encode(const uint8_t *blob, size_t n, const uint8_t *base, size_t base_size, uint8_t *out,
                   enum blob_encoding *encoding);
/* Decodes into out[total]. -1: malformed. */
int blob_decode(enum blob_encoding encoding, const uint8_t *in, size_t n, const uint8_t *base, size_t base_size,
                uint8_t *out, size_t total, struct proto_error *e);
void device_head_write(uint8_t out[DEVICE_HEAD_SIZE], enum device_kind kind, enum blob_encoding encoding,
                       uint32_t total, uint32_t encoded_total, uint32_t offset);
struct device_piece {
    enum device_kind kind;
    enum blob_encoding encoding;
    uint32_t total, encoded_total, offset;
    const uint8_t *data;
    size_t length;
};
int device_read(const uint8_t *payload, size_t n, struct device_piece *out, struct proto_error *e); /* validates */

#endif
