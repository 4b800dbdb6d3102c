/*
 * store: the disks of a VM on the host that holds its replica: files or block devices, brought from one committed epoch
 * to the next. Beside them, in STATE_DIR/disks, VM.json says what they are good for and VM.journal has what may not be
 * in them yet (disk/journal.h).
 *
 *      (no VM.json)   never a replica's: whatever the admin put there
 *      consistent     as of a committed epoch, once the journal is replayed; or the VM's own, since it ran here
 *      syncing        amid the first epoch of a replica: nobody may start from them
 *
 * It is durable before a store is touched that it speaks of. Not thread-safe; the applier's thread has them for itself
 * while it runs.
 */
#ifndef HIKAE_DISK_STORE_H
#define HIKAE_DISK_STORE_H

#include "common/errmsg.h"
#include "disk/medium.h"
#include "proto/disk.h"

#include <stdbool.h>

struct account;
struct config;
struct journal;
struct stores;

enum { STORE_PATH_MAX = 512 };
struct store_paths {
    unsigned count;
    char at[DISKS_MAX][STORE_PATH_MAX];
};
/* Where the disks of a VM are on this host: `disk` of its section, else those that were made for a replica, which
 * VM.json names. 0 of them: it has none here. -1 with `e`: VM.json can't be read. */
int store_paths(const struct config *c, const char *vm, struct store_paths *out, struct errmsg *e);

/* Before a VM starts here from its disks alone, and before its disk server does: brings them to the end of the last
 * epoch that was committed here, if they were a replica's. 0; -1 with `e`: nobody may start from them, or they can't be
 * read or written, or are in use. */
int stores_recover(const struct config *c, const char *vm, const struct medium *m, struct errmsg *e);

/* What a primary tells of a VM's disks. */
struct store_wanted {
    struct disk_sizes sizes;
    uint64_t used[DISKS_MAX]; /* octets of each that hold something; 0: not told */
};
/* Opens the disks for a replica, and recovers them. Those that no section [vm] names are made, as sparse files in
 * disk_dir. -1 with `e`, before anything was written: another number or size of disks, missing, read-only, in use, not
 * enough room. Nobody else can have opened them for writing until then; a disk server may do so now. */
struct stores *stores_open(const struct config *c, const char *vm, const struct store_wanted *wanted,
                           const struct medium *m, struct errmsg *e);
/* Keeps others from opening the disks of that VM until *lock is closed (-1: there is nothing to lock). -1: they are
 * open. */
int stores_lock(const struct config *c, const char *vm, int *lock);
void stores_close(struct stores *s); /* as they are; NULL is allowed */
const struct store_paths *stores_paths(const struct stores *s);
const struct disk_sizes *stores_sizes(const struct stores *s);
int stores_fd(const struct stores *s, unsigned disk); /* for reading; stays ours */

/* The account of what is written to them otherwise (borrowed). keep: what the first epoch brings is what was noted
 * since its generation, which stays. Else there is none from the first write on, and `next` (NULL: none) when that
 * epoch is whole. */
void stores_keep_account(struct stores *s, struct account *a, bool keep, const uint8_t *next);

/* The first epoch: between the two nobody may start from them. */
int stores_begin_sync(struct stores *s, struct errmsg *e);
int stores_end_sync(struct stores *s, struct errmsg *e);
/* Applies DISK payloads, in order: after stores_write_end they are in the disks, whoever reads these. */
int stores_write(struct stores *s, const uint8_t *payload, size_t n, struct errmsg *e);
int stores_write_end(struct stores *s, struct errmsg *e);
/* A later epoch is added to the journal and made durable there before it is written. */
struct journal *stores_journal(struct stores *s);
int stores_sync(struct stores *s, struct errmsg *e);  /* all is durable; the journal is as it was */
void stores_begin_flush(struct stores *s);            /* writes out what it can without waiting */
int stores_flush(struct stores *s, struct errmsg *e); /* all is durable, and the journal empty */
/* As stores_flush, and the journal is gone for good: the VM is going to run from them. */
int stores_seal(struct stores *s, struct errmsg *e);

#endif
