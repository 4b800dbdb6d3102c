/*
 * store_open: a VM's disks found and opened for a replica, or refused before anything is written.
 */
#ifndef HIKAE_DISK_STORE_OPEN_H
#define HIKAE_DISK_STORE_OPEN_H

#include "disk/server/backing.h"
#include "disk/store.h"

/* Opens all of `paths`, each for us alone. -1: none stays open. */
int backings_open(struct backing at[DISKS_MAX], const struct store_paths *paths, struct errmsg *e);
void backings_close(struct backing at[DISKS_MAX], unsigned count);
/* As backings_open, for disks that a primary has told of. Fills *paths; makes images that are missing. */
int backings_open_wanted(struct backing at[DISKS_MAX], const struct config *c, const char *vm,
                         const struct store_wanted *wanted, struct store_paths *paths, struct errmsg *e);

#endif
