/*
 * client: a disk server as the primary worker sees it: which disks there are, and the log of what the guest writes to
 * them.
 *
 * Two threads may use one: the loop's everything but disk_next and disk_release, which are the reader's (the encoder
 * thread). disk_track and disk_disconnect only while the reader does nothing with it: they take the log away.
 *
 * A checkpoint:   disk_set_pausing(true); pause the VM, meanwhile disk_set_urgent() or disk_set_stopped();
 *                 mark = disk_mark(); save its state; disk_set_pausing(false);
 * resume and later, on the encoder thread:   while (disk_next(mark) == 1) encode; disk_release All that the guest wrote
 * before the pause, and nothing that it writes after, is before `mark`.
 */
#ifndef HIKAE_DISK_CLIENT_H
#define HIKAE_DISK_CLIENT_H

#include "disk/identity.h"
#include "disk/log.h"

struct disk_client;

/* Connects to the server of `dir`. NULL with `e`: none runs there, or it does not answer. Nothing is tracked yet. */
struct disk_client *disk_connect(const char *dir, struct errmsg *e);
void disk_disconnect(struct disk_client *c); /* tracking ends, no guest's write waits any more; NULL is allowed */

int disk_fd(const struct disk_client *c);    /* for the loop; readable: disk_events has something to say */
unsigned disk_events(struct disk_client *c); /* DISK_EVENT_* of disk/log.h, each told once, but GONE always */
unsigned disk_count(const struct disk_client *c);
unsigned disk_shared(const struct disk_client *c); /* how many, the last ones, are shared with another host */
uint64_t disk_bytes(const struct disk_client *c, unsigned disk);
void disk_store_identity(const struct disk_client *c, unsigned disk, char out[DISK_IDENTITY_MAX]);
/* Shared disks: lets out all that is held, and what comes, until disk_hold. 1: all of it is durable; 0: not yet, ask
 * again; -1 with `e`: the server does not answer. Without shared disks: 1. Without tracking, too. */
int disk_let_out(struct disk_client *c, struct errmsg *e);

/* on: what is written from here on is in the log, which starts empty; what was written before is in the stores when it
 * returns 0. Again while it is on: the same, with a new log (after BROKEN). off: nothing is logged. -1 with `e`:
 * another client tracks, or the server is gone. */
int disk_track(struct disk_client *c, bool on, struct errmsg *e);

/* The functions below need tracking on; without it they do nothing and return 0. */

/* Set before the VM is paused, cleared while it still stands still. No write waits for room in the log meanwhile, and
 * what the hypervisor flushes of its own is not done. */
void disk_set_pausing(struct disk_client *c, bool pausing);
/* Within that, from any time on (without a word after 20 ms, as the first): a flush is answered at once and done on the
 * way (see disk_owes_flush). What comes later waits for its end, unless the VM's processors stand still (stopped): then
 * nothing that comes can be there because of the answer. */
void disk_set_urgent(struct disk_client *c);
void disk_set_stopped(struct disk_client *c);
uint64_t disk_mark(const struct disk_client *c); /* position in the log after everything written so far; NULL: 0 */
/* Is the server still the one whose log this is? Asked when the VM's I/O is drained: then the log has all that the VM
 * wrote. Else another one may have answered some of it, of which nothing is in the log: the epoch must not be closed.
 */
bool disk_is_whole(const struct disk_client *c);
uint64_t disk_used(const struct disk_client *c); /* octets of the log that are in use: not yet released */
/* Is a flush that was answered during a pause not done yet? The epoch's output waits for it: DISK_EVENT_FLUSHED. */
bool disk_owes_flush(const struct disk_client *c);

/* Shared disks (disk/server/gate.h). From here on what is written to them is held; while the VM's I/O is drained, or
 * about to be. */
void disk_hold(struct disk_client *c);
void disk_let_out_to(struct disk_client *c, uint64_t mark); /* lets out what was written before; DISK_EVENT_DURABLE */
uint64_t disk_durable(const struct disk_client *c);         /* what was let out before this position is durable */
/* What the guest has been told to be durable is so when disk_durable has come here. */
uint64_t disk_flushed(const struct disk_client *c);
int disk_stuck(const struct disk_client *c); /* errno with which a disk refuses what is let out; 0: none does */

/* A descriptor of the disk's store, with a file position of its own, read-only or also for writing. The caller closes
 * it. */
int disk_store_open(struct disk_client *c, unsigned disk, bool writable, struct errmsg *e);

/* The reader: as write_log_next and write_log_release. */
int disk_next(struct disk_client *c, uint64_t upto, struct disk_write *out);
void disk_release(struct disk_client *c);

#endif
