/*
 * noter: the disk server's part of the account (disk/account.h) of its VM's disks: notes each block before it is
 * written. The account is DIR/account, a link that an agent has made; without one, nothing is noted.
 */
#ifndef HIKAE_DISK_SERVER_NOTER_H
#define HIKAE_DISK_SERVER_NOTER_H

#include "disk/server/set.h"

struct noter;

/* *out: NULL if there is no account to note in; if it can't be used it is removed, so that nobody counts on it. -1 with
 * `e`: that can't be done either. Starts a thread. */
int noter_start(struct noter **out, const char *dir, const struct disk_set *set, struct errmsg *e);
/* When nothing is written any more, before the set is closed. NULL is allowed. */
void noter_stop(struct noter *n);
/* Before octets [offset, offset + n) are written. NULL is allowed. */
void noter_note(struct noter *n, unsigned disk, uint64_t count, uint64_t offset);

#endif
