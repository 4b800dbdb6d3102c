/*
 * marker: notes in an account what is about to be written, for the process that writes to the stores: its disk server.
 * Any number of threads. Only the first write to an extent that is not listed waits for a medium: the account's.
 */
#ifndef HIKAE_DISK_MARKER_H
#define HIKAE_DISK_MARKER_H

#include "disk/account.h"

struct marker;

/* The account stays the caller's. It says from here on that process `pid` marks. NULL: no memory. */
struct marker *marker_new(struct account *a, int pid);
/* Nothing is written any more: all is durable, no extent is listed. NULL is allowed. */
void marker_free(struct marker *m);
/* Before octets [offset, offset + n) are written. If it can't be made durable, or they lie behind the disk as the
 * account knows it, the account is given up: the guest shall not suffer from it. */
void marker_mark(struct marker *m, unsigned disk, uint64_t n, uint64_t offset);
/* From time to time, from one thread: extents that were not written to since the last call leave the list. */
void marker_tidy(struct marker *m);

#endif
