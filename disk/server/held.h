/*
 * held: writes to shared disks that were answered and must not be seen yet: a disk that both hosts see is output
 * (promise 1). Pure but for memory: no lock, no clock, no I/O. What it does not know: logs, epochs, who says when.
 *
 *      added, in order   [ durable: forgotten | given to be written | released | held ]
 *                                                                              `released`: up to this position
 *
 * Until a write is known to be durable on its disk it is kept, and reads see it: the newest one of each octet.
 */
#ifndef HIKAE_DISK_SERVER_HELD_H
#define HIKAE_DISK_SERVER_HELD_H

#include "disk/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct held;

enum held_kind {
    HELD_DATA,    /* `length` octets at `data` */
    HELD_ZERO,    /* `length` octets are zero */
    HELD_TRIM,    /* they are not needed any more, and read as zero as long as this is held */
    HELD_BARRIER, /* what was added before, of this disk, is durable before anything added later is written */
};

enum { HELD_ENTRY_BYTES = 256 }; /* what an entry counts for in held_bytes, beside its data */

struct held_write {
    unsigned disk;
    enum held_kind kind;
    uint64_t offset, length; /* of a barrier: 0 */
    uint64_t position;
    const uint8_t *data; /* HELD_DATA; else NULL */
};

struct held *held_new(void);
void held_free(struct held *h); /* forgets everything; NULL is allowed */

/* Copies it. Positions need not ascend, but what is released in one step must have been added by then. Not empty, but
 * for a barrier. */
void held_add(struct held *h, const struct held_write *w);
uint64_t held_bytes(const struct held *h); /* memory in use */
bool held_is_empty(const struct held *h);
bool held_has(const struct held *h, unsigned disk); /* a write of this disk that is not known to be durable */

/* Puts what is held of a range into `out`, and calls `gap` for each part of it that is not, in ascending order. */
void held_read(const struct held *h, unsigned disk, void *out, size_t n, uint64_t offset,
               void (*gap)(uint64_t offset, uint64_t n, void *arg), void *arg);

/* What was added up to this position may be written. Only grows. */
void held_release(struct held *h, uint64_t position);
void held_release_all(struct held *h); /* that was added so far */
uint64_t held_released(const struct held *h);
/* The next released one before or at this position, to be written; valid until held_done. NULL: none, for now. */
const struct held_write *held_next(struct held *h, uint64_t upto);
void held_rewind(struct held *h); /* what was given is given again: it did not become durable */
void held_done(struct held *h);   /* what was given is durable */

#endif
