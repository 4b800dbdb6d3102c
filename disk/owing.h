/*
 * owing: does a VM's disk server owe the guest a flush that it has answered (disk/server/owed.h)? DIR/owed says how
 * many disks', in memory that outlives the server, as what was written does: the page cache has it, and the next server
 * makes it durable before it does anything that the guest could notice. Agents read it, whether a server runs or not.
 */
#ifndef HIKAE_DISK_OWING_H
#define HIKAE_DISK_OWING_H

#include "common/errmsg.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define OWING_NAME "owed"

/* Of the server in `dir`, which is as the former one left it. NULL with `e`. */
_Atomic uint32_t *owing_map(const char *dir, struct errmsg *e);
void owing_unmap(_Atomic uint32_t *owing); /* NULL is allowed */
/* False also if there is no such file. */
bool owing_is_noted(const char *dir);

#endif
