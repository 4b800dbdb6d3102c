/*
 * shared: what a host that takes a VM over does with the VM's shared disks. Their last host may not have come to write
 * what was committed. So before the VM is claimed that is made durable on this host, in a journal (disk/journal.h);
 * after the claim and the fencing it is brought to the disks, and only then the VM runs. Written again it is the same.
 *
 *      STATE_DIR/disks/VM.shared         the journal of a replica: what it has counts only if its claim is granted
 *      STATE_DIR/disks/VM.shared-TERM    it was, with this term: to be brought to the disks before the VM runs
 *
 * Whatever this host had read of the disks is forgotten: another one has written to them.
 */
#ifndef HIKAE_DISK_SHARED_H
#define HIKAE_DISK_SHARED_H

#include "common/errmsg.h"
#include "disk/medium.h"
#include "disk/store.h"
#include "proto/disk.h"

struct config;

/* Where all disks of a VM are on this host, in the order of their numbers: its stores, then `shared` that its section
 * names. They point into `stores` and the configuration. -1 with `e`: more than a VM can have. */
struct disk_paths {
    const char *at[DISKS_MAX];
    unsigned n, shared;
};
int disk_paths(const struct config *c, const char *vm, const struct store_paths *stores, struct disk_paths *out,
               struct errmsg *e);

/* The shared disks of a VM as this host's configuration names them: which numbers they have, what they are. For a
 * replica: refuses, -1 with `e`, what can't be those of its primary: another number or size; missing, read-only, or in
 * use by something else; evidently another disk, by identity[i] ("": not known; disk/identity.h). `first`: number of
 * the first one. */
struct shared_wanted {
    unsigned first, count;
    uint64_t bytes[DISKS_MAX];
    const char *identity[DISKS_MAX];
};
int shared_check(const struct config *c, const char *vm, const struct shared_wanted *wanted, struct errmsg *e);

struct journal;
/* A new journal for a replica; what an older one left is removed. NULL with `e`. */
struct journal *shared_journal(const struct config *c, const char *vm, const struct medium *m, struct errmsg *e);
/* The claim was granted, with `term`. The journal was closed. */
int shared_granted(const struct config *c, const char *vm, uint64_t term, struct errmsg *e);
/* Brings what was committed to the disks, durably, if there is something for that term (0: there is not); -1 with `e`:
 * the VM must not run yet, and it can be tried again. */
int shared_apply(const struct config *c, const char *vm, uint64_t term, const struct medium *m, struct errmsg *e);
/* The replica is given up, or was never claimed: removes its journal, and all that were never brought to the disks. */
void shared_drop(const struct config *c, const char *vm);

#endif
