/*
 * crash_medium: a medium (disk/medium.h) that stops after any step and then, as a host that loses its power, has lost
 * any part of what was not synced: whole writes, or sectors of them.
 */
#ifndef HIKAE_TESTS_UNIT_CRASH_MEDIUM_H
#define HIKAE_TESTS_UNIT_CRASH_MEDIUM_H

#include "disk/medium.h"

#include <pthread.h>
#include <stdbool.h>

enum { CRASH_FILES = 4, CRASH_FILE_MAX = 1 << 20 };

struct crash_op;
struct crash_medium {
    struct medium medium; /* first: what is handed out */
    pthread_mutex_t lock;
    unsigned steps, stop_after; /* from then on every call fails */
    int error;                  /* with this errno */
    unsigned files;
    char path[CRASH_FILES][256];
    uint8_t *durable[CRASH_FILES]; /* what is on the disk for sure */
    struct crash_op *ops;          /* that may be lost, in order */
    size_t op_count, op_capacity;
};

/* Aborts when out of memory, or when a file grows beyond CRASH_FILE_MAX, as all of it does. */
void crash_medium_init(struct crash_medium *m, unsigned stop_after, int error);
/* A file that is written through it, as it is now (one that is not watched loses nothing); of a longer one the first
 * CRASH_FILE_MAX octets. */
void crash_medium_watch(struct crash_medium *m, const char *path);
void crash_medium_free(struct crash_medium *m);
/* Makes the files what they may be after a loss of power. */
void crash_medium_lose_power(struct crash_medium *m, uint64_t *random);

#endif
