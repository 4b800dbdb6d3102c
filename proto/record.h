/*
 * record: the records of the Hikae protocol (proto/PROTOCOL.md is normative) and how they are cut out of a byte stream.
 * Pure: no system call, no clock, no socket.
 */
#ifndef HIKAE_PROTO_RECORD_H
#define HIKAE_PROTO_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RECORD_HEADER_SIZE = 16,
    RECORD_PAYLOAD_MAX = 1 << 20, /* of any type; each type has its own, record_limit() */
    PROTO_VERSION = 1,
    PROTO_PAGE_SIZE = 4096,
    PROTO_DIGEST_SIZE = 16,
    PROTO_REASON_MAX = 255,
};

/* Flag of a record that a receiver may skip if it doesn't know its type. All others must be known. */
enum { RECORD_OPTIONAL = 0x8000 };

enum record_type {
    RECORD_HELLO = 1,  /* JSON; first record of each side */
    RECORD_CONFIG = 2, /* JSON, primary: what the replica is to be */
    RECORD_PAGES = 3,
    RECORD_DEVICE = 4,
    RECORD_COMMIT = 5, /* digest of the epoch */
    RECORD_ACK = 6,    /* secondary: epoch and digest */
    RECORD_HEARTBEAT = 7,
    RECORD_BYE = 8,       /* reason code, text; last record of a side */
    RECORD_READY = 9,     /* JSON, secondary: the replica stands, send the first epoch; JSON, both ways: */
    RECORD_NOTE = 10,     /* JSON, optional: small facts, e.g. the guest's addresses */
    RECORD_DISK = 11,     /* what was written to a disk */
    RECORD_HANDOVER = 12, /* JSON, primary: the VM stands still here since its last epoch, take it over */
    RECORD_REGIONS = 13,  /* secondary: what a replica holds that did not begin empty */
    RECORD_BLOCKS = 14,   /* secondary: what its disks hold */
    RECORD_CHECK = 15,    /* what blocks of a disk hold at the end of an epoch */
    RECORD_CHECKED = 16,  /* secondary: which of them it holds otherwise */
    RECORD_CHANGED = 17,  /* secondary: which blocks of its disks may be other than the generation's */
    RECORD_TYPES,         /* one more than the last */
};

const char *record_name(uint16_t type); /* "PAGES"; "unknown" */
/* Is it part of an epoch's content, and so of its digest and count? (PAGES, DISK, DEVICE) */
bool record_is_content(uint16_t type);
/* Most payload bytes of that type; 0: unknown type. */
uint32_t record_limit(uint16_t type);

struct record {
    uint16_t type, flags;
    uint32_t length; /* of payload */
    uint64_t epoch;
    const uint8_t *payload; /* borrowed */
};

/* What is wrong with a stream: one line, filled wherever a function here returns -1. */
struct proto_error {
    char text[256];
};

/* Writes the 16 octets. */
void record_header_write(uint8_t out[RECORD_HEADER_SIZE], uint16_t type, uint16_t flags, uint32_t length,
                         uint64_t epoch);

/* Cuts records out of bytes that arrive in pieces. Holds at most one record's bytes plus a few times what one feed
 * brings. */
struct framer;
struct framer *framer_new(void); /* NULL: no memory */
void framer_free(struct framer *f);
/* Where the next n bytes may be put, to be fed from there, which saves a copy. Records that were given out are not
 * valid any more. NULL: no memory. */
uint8_t *framer_room(struct framer *f, size_t n);
/* Appends n bytes (copied, unless they are where framer_room has said). -1: no memory, or the framer has failed before.
 */
int framer_feed(struct framer *f, const uint8_t *data, size_t n, struct proto_error *e);
/* 1: *r is the next record, valid until the next feed or next. 0: feed more. -1: not our protocol (oversized, an
 * unknown mandatory record); stays failed. Unknown optional records are skipped. */
int framer_next(struct framer *f, struct record *r, struct proto_error *e);
size_t framer_pending(
    const struct framer *f); /* bytes of a record that is not whole yet: a truncated stream if it ends here */

#endif
