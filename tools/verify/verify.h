/*
 * verify: checks a recorded stream against proto/PROTOCOL.md, and nothing but that text: it includes no header of
 * proto/ and links none of its code, so that a mistake there is not made here again.
 */
#ifndef HIKAE_TOOLS_VERIFY_VERIFY_H
#define HIKAE_TOOLS_VERIFY_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE_OCTETS = 4096, ENCODINGS = 6, BLOB_KINDS = 2, DISKS = 8 };
extern const char *const encoding_names[ENCODINGS];

/* What was seen, in one epoch or in all. */
struct tally {
    uint64_t epoch;
    uint64_t records;                /* PAGES, DISK and DEVICE */
    uint64_t octets;                 /* of these records, with headers */
    uint64_t entries[ENCODINGS];     /* page entries */
    uint64_t page_octets[ENCODINGS]; /* data of these entries */
    uint64_t blob_octets;            /* encoded device blobs */
    uint64_t disk_octets;            /* encoded disk writes */
    uint64_t disk_written;           /* octets of disks that they set */
};

/* ---- memory.c: a guest's memory of which most is zero ---- */

struct memory;
struct memory *memory_new(void);
void memory_free(struct memory *m);
/* The page, made as zeroes if it was not there. NULL: out of memory. */
uint8_t *memory_page(struct memory *m, uint64_t gfn);
/* XXH3-128 of pages 0 to pages - 1, as 32 hex digits: what `xxhsum -H128` says of a file that holds the memory. */
void memory_digest(const struct memory *m, uint64_t pages, char out[33]);

/* ---- content.c: what is in PAGES, DISK and DEVICE ---- */

/* One line that says what is wrong. */
struct complaint {
    char text[240];
};
bool complain(struct complaint *c, const char *format, ...) __attribute__((format(printf, 2, 3))); /* false */

uint64_t little(const uint8_t *at, unsigned octets);
/* Checks a PAGES payload and adds to `t`. */
bool pages_are_valid(const uint8_t *at, size_t n, uint64_t pages, struct tally *t, struct complaint *c);
/* Applies a valid one. false: out of memory. */
bool pages_replay(const uint8_t *at, size_t n, struct memory *m);

struct disks {              /* of CONFIG */
    unsigned count, shared; /* the last ones are shared */
    uint64_t octets[DISKS];
};
/* Checks a DISK payload and adds to `t`. pages: those that it may refer to; 0: none yet. */
bool disk_is_valid(const uint8_t *at, size_t n, const struct disks *d, uint64_t pages, struct tally *t,
                   struct complaint *c);

/* Checks a CHECK payload, whose number must be `due`; pages: of the guest. */
bool check_is_valid(const uint8_t *at, size_t n, const struct disks *d, uint64_t pages, uint64_t due,
                    struct complaint *c);

struct blob { /* a device blob of one kind */
    uint8_t *data;
    uint32_t size;
    bool exists;
};
struct blobs {
    struct blob now[BLOB_KINDS];  /* as of the last committed epoch */
    struct blob next[BLOB_KINDS]; /* of the epoch that comes in */
    uint8_t *encoded;             /* the one that is being received, NULL: none */
    uint32_t received;
    uint8_t head[12]; /* that all its pieces share */
};
bool device_is_valid(struct blobs *b, const uint8_t *at, size_t n, struct tally *t, struct complaint *c);
void blobs_commit(struct blobs *b);
void blobs_free(struct blobs *b);

/* ---- stream.c ---- */

struct verdict {
    bool ok;
    uint64_t offset; /* of the record that is wrong */
    struct complaint what;
    bool complete; /* ends between two epochs */
    char end[160]; /* how it ends, for people */
    uint64_t pages, records, octets;
    struct disks disks;
    struct tally total;
    struct tally *epochs; /* one for each committed, if asked for; owned by the caller */
    size_t epoch_count;
    uint64_t last_epoch;
    char memory_digest[33]; /* "" unless asked for */
};
void verify_stream(const uint8_t *data, size_t n, bool keep_epochs, bool digest_memory, struct verdict *out);

#endif
