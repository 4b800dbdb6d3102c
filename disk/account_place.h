/*
 * account_place: where an agent finds the account of a VM's disks: STATE_DIR/disks/VM.account, and the link to it by
 * which the disk server does.
 */
#ifndef HIKAE_DISK_ACCOUNT_PLACE_H
#define HIKAE_DISK_ACCOUNT_PLACE_H

#include "disk/account_file.h"
#include "disk/store.h"

/* Before the disk server of `dir` is started: an account of these stores, whether it was there or not, is what it will
 * note in. On failure it notes nothing; -1 with `e`. */
int account_place(const struct config *c, const char *vm, const char *dir, const struct store_paths *paths,
                  struct errmsg *e);
/* Before a VM is started from its stores: were they changed since its disk server ended in order? Then they are of no
 * generation any more. What was not ended in order is not looked at. After account_place. */
int account_distrust_changed(const struct config *c, const char *vm, const struct store_paths *paths, struct errmsg *e);
/* The account in which the server that runs in `dir` notes what it writes. NULL with `e`: there is none. */
struct account_file *account_served(const struct config *c, const char *vm, const char *dir, struct errmsg *e);
/* Nobody counts on it any more. No server runs. */
int account_remove(const struct config *c, const char *vm, struct errmsg *e);

#endif
