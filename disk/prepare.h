/*
 * prepare: what has to be done before a VM starts on this host from its disks alone, and before their server does: they
 * may have been a replica's until a moment ago.
 */
#ifndef HIKAE_DISK_PREPARE_H
#define HIKAE_DISK_PREPARE_H

#include "common/errmsg.h"
#include "disk/store.h"

#include <stdbool.h>
#include <stdint.h>

struct config;

/* Brings the disks to what was committed here; `term`: of the last grant to this host, 0: none is known. drains: is
 * what the VM writes drained at its checkpoints? Then an account is kept of it by the server in `dir` (disk/account.h),
 * as an account counts on that. -1 with `e`: nobody may start from them. */
int disks_prepare(const struct config *c, const char *vm, const char *dir, const struct store_paths *stores,
                  uint64_t term, bool drains, struct errmsg *e);

#endif
