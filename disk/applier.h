/*
 * applier: the thread that brings what was committed into a replica's disks. What it is handed it owns, and does in
 * order:
 *
 *      the first epoch   written as it comes, then made durable: no epoch before it is worth keeping
 *      a later one       added to the journal; durable there; written. From time to time the stores are made durable
 *                        and the journal is emptied.
 *
 * So at any instant, and after a loss of the host at any instant, the disks are those of a whole epoch or become so by
 * stores_recover (promise 2). Epochs that wait while one is made durable share the next one's turn.
 *
 * It stops at its first error: what it was handed later is dropped, the replica is no good any more.
 */
#ifndef HIKAE_DISK_APPLIER_H
#define HIKAE_DISK_APPLIER_H

#include "common/staging.h"
#include "disk/store.h"
#include "proto/check.h"

#include <stdbool.h>

struct applier;

/* Has `s` for itself until applier_free. */
struct applier *applier_start(struct stores *s, struct errmsg *e);
/* After all it was handed is in the journal and the stores; stores_close is the caller's. NULL is allowed. */
void applier_free(struct applier *a);

/* Writes of the first epoch, as many as there are so far. */
void applier_write(struct applier *a, struct staging *writes);
/* The first epoch is whole. */
void applier_end_sync(struct applier *a, uint64_t epoch);
/* A later one; `writes` has one DISK payload in each piece. */
void applier_commit(struct applier *a, uint64_t epoch, struct staging *writes);
/* A CHECK payload (copied) and what check_read has made of it: what is in the stores when all that was ordered before
 * is, is compared with it. Not before the first epoch is whole. */
void applier_check(struct applier *a, const struct check_head *head, const uint8_t *payload, size_t n);
/* The next CHECKED payload, in the order of the checks: the caller's to free. NULL: none is done that was not given.
 * What is not done when the order to seal comes is never answered. */
uint8_t *applier_answer(struct applier *a, size_t *n);
/* The last order: all that was committed is made durable and the journal is removed, since the VM is going to run from
 * the stores. */
void applier_seal(struct applier *a);

struct applier_progress {
    uint64_t queued;    /* octets handed over and not written to the stores yet */
    uint64_t epoch;     /* all up to this one are in the stores, or in the journal */
    uint64_t written;   /* octets of the disks that were written or zeroed, since the start */
    uint64_t unflushed; /* octets in the journal */
    bool sealed, failed;
    struct errmsg why; /* of `failed` */
};
void applier_progress(struct applier *a, struct applier_progress *out);
/* For the caller's loop: readable when there was progress, or an answer, since the last call of applier_news. */
int applier_fd(const struct applier *a);
/* For whom that has woken: the progress, of which everything is to be seen to now, and the answers. */
void applier_news(struct applier *a, struct applier_progress *out);

#endif
