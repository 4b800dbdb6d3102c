/*
 * sample: makes streams as a primary would, for the tests of proto/, of hikae-verify and for the fuzzers' seeds. Aborts
 * when out of memory.
 */
#ifndef HIKAE_TESTS_UNIT_SAMPLE_H
#define HIKAE_TESTS_UNIT_SAMPLE_H

#include "proto/check.h"
#include "proto/epoch.h"
#include "proto/page.h"

enum { SAMPLE_PAGES = 24, SAMPLE_EPOCHS = 4, SAMPLE_DISKS = 2, SAMPLE_DISK_BYTES = 5 * DISK_BLOCK_SIZE };
/* What sample_begin's CONFIG tells. */
extern const struct disk_sizes sample_disk_sizes;

struct sample {
    uint8_t *data; /* the stream, without the file's head */
    size_t n, capacity;
    struct digest *digest; /* of the epoch that is being written */
    uint32_t records;
    uint8_t memory[SAMPLE_PAGES * PROTO_PAGE_SIZE]; /* what a replica has after the last COMMIT */
    uint8_t disks[SAMPLE_DISKS][SAMPLE_DISK_BYTES];
    uint8_t state[3000];                     /* the last device state */
    unsigned encodings[PAGE_ENCODINGS];      /* entries written, by encoding */
    bool diskless;                           /* set by a test: epochs have no disk writes */
    unsigned disk_encodings[DISK_ENCODINGS]; /* runs written, by kind */
};

struct sample *sample_new(void);
void sample_free(struct sample *s);
void sample_octets(struct sample *s, const void *data, size_t n);
/* Appends a record; PAGES, DISK and DEVICE go into the epoch's digest and count. */
void sample_record(struct sample *s, uint16_t type, uint16_t flags, uint64_t epoch, const void *payload, size_t n);
void sample_json(struct sample *s, uint16_t type, const char *json);
void sample_commit(struct sample *s, uint64_t epoch);
/* HELLO and CONFIG. */
void sample_begin(struct sample *s);
/* A whole epoch that has every page encoding (from the second on), every kind of disk write, a device state in two
 * pieces, and between them a HEARTBEAT, a NOTE and an optional record of an unknown type. */
void sample_epoch(struct sample *s, uint64_t epoch);
/* A CHECK of all of disk 1, after that epoch. */
void sample_check(struct sample *s, uint64_t epoch, uint64_t number);
/* The same of all of the memory. */
void sample_check_memory(struct sample *s, uint64_t epoch, uint64_t number);
/* HELLO CONFIG, SAMPLE_EPOCHS epochs with a CHECK of each kind after each, BYE. */
void sample_whole(struct sample *s);

/* A small generator of reproducible noise. */
uint64_t sample_random(uint64_t *state);

#endif
