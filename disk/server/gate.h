/*
 * gate: lets writes to shared disks out when they may be seen, and not before (promise 1). Any number of threads bring
 * writes, one of ours carries them out, in their order.
 *
 *      open      writes go to the disk at once; the gate has no part in them, once what it held is out
 *      holding   they are answered and held (disk/server/held.h), reads see them, and they go when they are released
 *
 * It begins to hold when the tracker says so, in memory shared with it, while the VM stands still; it goes on holding
 * whatever becomes of the tracker, until somebody who may (a worker whose claim was granted) opens it. Nobody opens it:
 * the process ends, and what was held was never written.
 *
 * A flush while it holds is answered at once, as a barrier: no later write goes out before what was written before is
 * durable, and the guest's other output waits until it is (write_log_barrier). A disk that fails a write or a flush is
 * tried again for as long as it takes: what was answered is never dropped, and never let pass by a later one.
 *
 * What is held is bounded by GATE_ROOM: then writers wait, except while the VM is being paused, since that waits for
 * them. Those few that do wait have their data in memory anyway.
 */
#ifndef HIKAE_DISK_SERVER_GATE_H
#define HIKAE_DISK_SERVER_GATE_H

#include "common/errmsg.h"
#include "disk/server/held.h"

struct gate;

enum { GATE_ROOM = 64 << 20 }; /* octets held, after which writers wait */

/* What the gate's owner does for it, on any thread. */
struct gate_handlers {
    bool (*is_holding)(void *arg); /* does the tracker say so? */
    bool (*is_pausing)(void *arg);
    uint64_t (*barrier)(void *arg);                      /* a flush was answered: its position */
    int (*write)(const struct held_write *w, void *arg); /* to the disk: 0 or errno; not of a barrier */
    int (*sync)(unsigned disk, void *arg);               /* fdatasync: 0 or errno */
    void (*durable)(uint64_t position, void *arg);       /* what was released up to here is */
    void (*stuck)(int error, void *arg); /* the disk does not take what was released; 0: it does (again) */
    void (*crowded)(void *arg);          /* a writer waits for room */
};

/* holding: from the start. NULL with `e`. */
struct gate *gate_new(const struct gate_handlers *h, void *arg, bool holding, uint64_t room, struct errmsg *e);
void gate_free(struct gate *g); /* what is held is dropped; NULL is allowed */

/* A write is about to be made: waits for its turn. True: to be held, by gate_add; false: the disk is its own. */
bool gate_enter(struct gate *g);
void gate_add(struct gate *g, const struct held_write *w);
/* As held_read. */
void gate_read(struct gate *g, unsigned disk, void *out, size_t n, uint64_t offset,
               void (*gap)(uint64_t offset, uint64_t n, void *arg), void *arg);
/* True: there is no more to do for now; false: the disk has to be flushed before it is answered. */
bool gate_flush(struct gate *g, unsigned disk);

void gate_release(struct gate *g, uint64_t position);
void gate_latch(struct gate *g); /* the tracker ends: what it says last (is_holding) counts from here on */
/* Lets out all that is held, and what comes. The tracker must not say any more that it is to be held. True: all is
 * durable by now; false: not yet, ask again. */
bool gate_open(struct gate *g);

#endif
