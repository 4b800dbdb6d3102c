/*
 * log: the write log, a ring in shared memory. The disk server's threads append every write that they have applied to a
 * store, one reader in another process (the primary worker's encoder thread) takes them out in the same order. Nothing
 * in it blocks the reader; a writer waits while the log is full (back-pressure: the guest waits) unless the VM is about
 * to be paused.
 *
 *      tail                 soft                     hard
 *   ....[released|    read   | not read yet ]..........|.......|      positions count octets and only grow
 *
 * While the VM is being paused its I/O has to be drained, so no writer may wait for a reader that waits for it: up to
 * the hard limit the log takes what comes. Beyond that it is broken: it says so, the guest's write succeeds all the
 * same, the protection has to begin anew.
 *
 * It survives the death of either side at any instruction: there is no lock in the shared memory, only counters and a
 * futex. The reader believes nothing: an entry that can't be is reported, not followed.
 */
#ifndef HIKAE_DISK_LOG_H
#define HIKAE_DISK_LOG_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct write_log;

enum {
    DISK_MAX = 8,                   /* disks per VM */
    WRITE_LOG_DATA_MAX = 256 << 10, /* octets of one entry; a longer write is several */
    WRITE_LOG_ENTRY_HEAD = 32,      /* what an entry takes beside its data, which is rounded up to as much */
    WRITE_LOG_SOFT = 64 << 20,
    WRITE_LOG_HARD = 96 << 20,
};

enum disk_kind {
    DISK_DATA,  /* `length` octets at `data`, at most WRITE_LOG_DATA_MAX */
    DISK_ZERO,  /* `length` octets are zero now; no data */
    DISK_ERROR, /* the store failed a write or a flush, `error` says how: what is in the store there is not known */
};

struct disk_write {
    unsigned disk;
    enum disk_kind kind;
    int error; /* DISK_ERROR: errno; else 0 */
    uint64_t offset, length;
    const uint8_t *data; /* DISK_DATA; else NULL */
};

/* What happened since it was last asked. */
enum {
    DISK_EVENT_GONE = 1,    /* the server hung up: this log gets nothing more */
    DISK_EVENT_FLUSHED = 2, /* no flush is owed any more */
    DISK_EVENT_FILLING = 4, /* over half of the soft limit is in use */
    DISK_EVENT_BROKEN = 8,  /* more came than the log holds: it is not complete and never will be */
    DISK_EVENT_ERROR = 16,  /* a DISK_ERROR was appended */
    /* of shared disks */
    DISK_EVENT_DURABLE = 32, /* write_log_durable has moved */
    DISK_EVENT_CROWDED = 64, /* the guest waits, since as many of its writes are held as may be */
    DISK_EVENT_STUCK = 128,  /* write_log_stuck has changed */
};

/* soft <= hard, both multiples of the page size. The shared memory is a memfd, the bell an eventfd. NULL with `e`. */
struct write_log *write_log_create(uint64_t soft, uint64_t hard, struct errmsg *e);
/* The other side of it, from its two descriptors (taken over, also on failure). NULL with `e`. */
struct write_log *write_log_map(int memory_fd, int bell_fd, struct errmsg *e);
void write_log_free(struct write_log *l);
int write_log_memory_fd(const struct write_log *l);
int write_log_bell_fd(const struct write_log *l); /* readable: write_log_events has something to say */

/* ---- writers: any number of threads of one process ---- */

/* Appends one entry (split if it is longer than WRITE_LOG_DATA_MAX), waits for room as said above. -1: it is not in the
 * log, which is closed or broken. */
int write_log_append(struct write_log *l, const struct disk_write *w);
/* The reader is gone: who waits returns, nothing is appended any more. */
void write_log_close(struct write_log *l);
/* The pause that the VM is in or about to be in: a number, another one for each; 0: none. */
uint32_t write_log_pause(const struct write_log *l);
/* Does that wait for whoever waits for a flush? The reader has said so; or it has said nothing for 20 ms, longer than
 * it takes to stop a processor (QEMU 8 and later drain virtio disks before they say that the processors stand still).
 * *stopped: the pause, if they are known to stand still in it: what is answered from here on they can't act upon before
 * it is over. Else 0. */
bool write_log_is_urgent(const struct write_log *l, uint32_t *stopped);
/* The same, and says where the log ends behind it; then *end is valid also if it is not in the log. */
int write_log_append_at(struct write_log *l, const struct disk_write *w, uint64_t *end);
/* How many flushes were answered but are not done yet; FLUSHED is told when none is left. Not from two threads at once.
 */
void write_log_set_owed(struct write_log *l, unsigned owed);
/* Of shared disks (disk/server/gate.h). A flush was answered that is done only when durable has come to where the log
 * ends now; that position is returned. */
uint64_t write_log_barrier(struct write_log *l);
/* All that was released up to this position is durable. */
void write_log_set_durable(struct write_log *l, uint64_t position);
/* A disk does not take what was released: errno; 0: it does again. */
void write_log_set_stuck(struct write_log *l, int error);
void write_log_tell_crowded(struct write_log *l);

/* ---- the reader: one process; those before write_log_next from any thread, the rest from one ---- */

void write_log_set_pausing(struct write_log *l, bool pausing);
/* Within a pause: it is urgent, since the VM still runs and may have to end something; its processors stand still,
 * which is urgent as well. Between pauses they mean nothing. */
void write_log_set_urgent(struct write_log *l);
void write_log_set_stopped(struct write_log *l);
bool write_log_owes(const struct write_log *l);
/* Either side: are writes to shared disks held from here on? The reader says so while the VM can't write. */
void write_log_set_holding(struct write_log *l, bool holding);
bool write_log_is_holding(const struct write_log *l);
uint64_t write_log_flushed(const struct write_log *l); /* position of the last barrier */
uint64_t write_log_durable(const struct write_log *l);
int write_log_stuck(const struct write_log *l);
uint64_t write_log_head(const struct write_log *l); /* position after everything that was appended so far */
uint64_t write_log_used(const struct write_log *l); /* octets in use */
unsigned write_log_events(struct write_log *l);     /* DISK_EVENT_*, each told once */
/* The next entry before position `upto`: 1, its data is valid until it is released; 0: none; -1: the log is broken or
 * damaged. */
int write_log_next(struct write_log *l, uint64_t upto, struct disk_write *out);
void write_log_release(struct write_log *l); /* everything that write_log_next gave: its room is the writers' again */

#endif
