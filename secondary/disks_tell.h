/*
 * disks_tell: says to the primary what the replica's disks hold (block_teller), read by a thread, so that heartbeats go
 * on however slow they are, and no faster than the connection takes it. Internal to disks.c.
 */
#ifndef HIKAE_SECONDARY_DISKS_TELL_H
#define HIKAE_SECONDARY_DISKS_TELL_H

#include "common/errmsg.h"
#include "disk/store.h"

struct disks_telling;
struct worker;

struct disks_telling *disks_telling_begin(struct worker *w, const struct stores *s, struct errmsg *e);
void disks_telling_on(struct disks_telling *t); /* the connection has room again; NULL is allowed */
void disks_telling_set_rate(struct disks_telling *t, uint64_t rate); /* octets per second; NULL is allowed */
void disks_telling_end(struct disks_telling *t);                     /* waits for the thread; NULL is allowed */
uint64_t disks_telling_at(struct disks_telling *t);                  /* octets of all disks that are told */

#endif
