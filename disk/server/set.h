/*
 * set: a VM's disks as the server has them: their stores, who tracks what is written to them, and the order of it all.
 * Knows neither NBD nor sockets. Any number of threads use one.
 *
 * A write locks its range, goes into the store (the page cache), then into the log, unlocks, and is answered. So store
 * and log see overlapping writes in one order (promise 2: the replica's disk becomes the very same), and whoever starts
 * to track and then reads the store has all that is not in the log.
 *
 * A flush is an fdatasync before the answer; FUA likewise. It is done on a thread of its own, and if the VM is paused
 * meanwhile it is answered before it is done, but owed, and what arrives later waits for its end. So the store still
 * sees what was flushed before what came after, and the pause does not feel the store. The epoch's output waits for it,
 * and so does the next checkpoint (disk_owes_flush).
 *
 * QEMU itself flushes each time that it pauses a VM, after the VM's last request was answered, and first of all a disk
 * that is none: the export "still". What is flushed between that and the end of the pause nobody has asked for, and it
 * is not done.
 *
 * The last ones may be shared with another host: their writes go through a gate (disk/server/gate.h), and are in the
 * log while that holds them. What else is said here of stores is then true of what the gate lets out.
 */
#ifndef HIKAE_DISK_SERVER_SET_H
#define HIKAE_DISK_SERVER_SET_H

#include "disk/log.h"
#include "disk/server/backing.h"

#include <stdatomic.h>
#include <stdint.h>

struct disk_set;

/* Opens all stores or none; the last `shared` of them are shared. bytes: of each the first so many are the disk, 0:
 * all; NULL: all of all. NULL with `e`. Starts no thread. */
struct disk_set *disk_set_open(const char *const *paths, const uint64_t *bytes, unsigned n, unsigned shared,
                               struct errmsg *e);
/* Starts its threads (after the process has forked for the last time). holding: the shared disks' writes are held from
 * the start. */
int disk_set_start(struct disk_set *s, bool holding, struct errmsg *e);
/* When no request is under way. Owed flushes are done before it returns. NULL is allowed. */
void disk_set_close(struct disk_set *s);

/* Where it stands how many disks' flushes are owed: those that the server before this one has left owing are done
 * first. Before disk_set_start; stays the caller's. */
void disk_set_note_owing(struct disk_set *s, _Atomic uint32_t *owing);

/* Who notes what is about to be written; NULL: nobody. Before the first request; stays the caller's. */
struct noter;
void disk_set_note_in(struct disk_set *s, struct noter *n);

unsigned disk_set_count(const struct disk_set *s);
unsigned disk_set_shared(const struct disk_set *s); /* how many, the last ones, are */
const struct backing *disk_set_backing(const struct disk_set *s, unsigned disk);

/* From here on every write is in `log` (taken over; NULL: nothing is tracked). The former log is closed, its waiting
 * writers go on, and freed. From one thread. */
void disk_set_track(struct disk_set *s, struct write_log *log);

/* All return 0 or an errno for the guest; offset and length have been checked by the caller. `fua`: durable when it
 * returns. */
int disk_set_read(struct disk_set *s, unsigned disk, void *out, size_t n, uint64_t offset);
int disk_set_write(struct disk_set *s, unsigned disk, const void *data, size_t n, uint64_t offset, bool fua);
/* punch: the store may free the room. EOPNOTSUPP: the store can't; nothing was done. */
int disk_set_zero(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool punch, bool fua);
/* The guest does not need this any more. It reads as zeroes afterwards, or, where the store can't free room, as before.
 */
int disk_set_trim(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool fua);
int disk_set_flush(struct disk_set *s, unsigned disk);
/* The VM stands still: no request of its own is under way until the pause that was announced is over. */
void disk_set_stands_still(struct disk_set *s);

/* Of shared disks: lets out what is in the log before this position (of the log that is tracked to). */
void disk_set_release(struct disk_set *s, uint64_t position);
/* Lets everything out, now and from here on, until the tracker says that it is held. True: what was held is durable;
 * false: not yet, ask again. Without shared disks: true. */
bool disk_set_let_out(struct disk_set *s);

#endif
