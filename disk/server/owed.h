/*
 * owed: flushes that were answered before they were done. They are done on a thread of their own, at once; several of
 * one disk that come meanwhile are done as one.
 */
#ifndef HIKAE_DISK_SERVER_OWED_H
#define HIKAE_DISK_SERVER_OWED_H

#include "common/errmsg.h"

struct owed;

/* flush: makes what was written to `disk` durable, 0 or an errno; on owed's thread. changed: so many disks' flushes are
 * owed now; calls come one at a time and in order. NULL with `e`. */
struct owed *owed_new(int (*flush)(unsigned disk, void *arg), void (*changed)(unsigned owed, void *arg), void *arg,
                      struct errmsg *e);
void owed_free(struct owed *o); /* when they are done; NULL is allowed */

void owed_add(struct owed *o, unsigned disk);
void owed_wait(struct owed *o); /* until none is owed */
void owed_tell(struct owed *o); /* calls changed */
/* What an owed flush of `disk` failed with since this was last asked; 0: none did. */
int owed_take_error(struct owed *o, unsigned disk);

#endif
