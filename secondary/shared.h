/*
 * shared: a replica's disks that its primary's host sees as well. Nothing is written to them here before the VM is
 * ours: what committed epochs wrote to them is kept until the primary says that it is durable there ("durable" in
 * NOTE). Before a claim what is left is put into a journal (disk/shared.h), durably; after the fencing it is brought to
 * the disks, and then the disk server, which held everything until then, lets writes through.
 */
#ifndef HIKAE_SECONDARY_SHARED_H
#define HIKAE_SECONDARY_SHARED_H

#include "common/config.h"
#include "common/errmsg.h"
#include "disk/shared.h"

#include <ev.h>
#include <stdbool.h>

struct shared;

/* sealed, brought: what was begun has come to its end; on the loop. */
struct shared_handlers {
    void (*sealed)(void *arg);
    void (*brought)(void *arg);
    void (*failed)(const char *why, void *arg); /* of either; bringing is tried again by itself */
};

/* Refuses what can't be, or makes the journal. NULL with `e`. */
struct shared *shared_open(struct ev_loop *loop, const struct config *c, const char *vm, const struct shared_wanted *w,
                           const struct shared_handlers *h, void *arg, struct errmsg *e);
/* Waits for what is under way. The journal stays. NULL is allowed, as below. */
void shared_close(struct shared *s);

/* A DISK payload of a shared disk, valid. -1 with `e`: no room. */
int shared_take(struct shared *s, const uint8_t *payload, size_t n, struct errmsg *e);
void shared_commit(struct shared *s, uint64_t epoch);
void shared_abort(struct shared *s); /* what is not committed never was */
/* -1 with `e`: the primary can't say that. */
int shared_durable(struct shared *s, uint64_t epoch, struct errmsg *e);
bool shared_is_durable(const struct shared *s, uint64_t epoch); /* all that was committed up to there; NULL: true */
uint64_t shared_bytes(const struct shared *s);                  /* kept */

/* Before a claim. True: all that is left is in the journal; false: it will be, then `sealed` is called. */
bool shared_is_sealed(struct shared *s);
/* The claim was granted with this term, and the lost host is fenced: brings it to the disks; calls `brought`. */
void shared_bring(struct shared *s, uint64_t term);

/* The same at once, by whoever finishes what a worker has begun. -1: try again. */
int shared_bring_now(const struct config *c, const char *vm, uint64_t term, struct errmsg *e);

#endif
