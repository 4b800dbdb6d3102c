/*
 * owed: flushes, done on a thread for each disk, so that whoever asked for one can be answered before it is done: then
 * it is owed, and what comes later waits for it. But what comes in the same pause of the VM, whose processors stood
 * still as it was answered, was asked for before they can know of the answer: it does not wait, and the pause not for
 * it. Several of one disk that come while it is being flushed are done as one.
 */
#ifndef HIKAE_DISK_SERVER_OWED_H
#define HIKAE_DISK_SERVER_OWED_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

struct owed;

struct owed_handlers {
    int (*flush)(unsigned disk, void *arg);    /* makes what was written to it durable, 0 or an errno; on its thread */
    void (*changed)(unsigned owed, void *arg); /* so many disks' flushes are owed now; one call at a time, in order */
    /* Must whoever waits for a flush be answered now? *stopped: the pause, each a number, in which the processors stand
     * still; 0: they run. On any thread. */
    bool (*hurried)(uint32_t *stopped, void *arg);
};

/* Of so many disks, at least one. NULL with `e`. */
struct owed *owed_new(unsigned disks, const struct owed_handlers *h, void *arg, struct errmsg *e);
void owed_free(struct owed *o); /* when they are done; NULL is allowed */

/* Returns when it is done, with what it said; or 0 as soon as it is hurried, and then it is owed. */
int owed_flush(struct owed *o, unsigned disk);
/* Those of the first `disks` are owed from here on, of a server before this one. */
void owed_begin(struct owed *o, unsigned disks);
void owed_wait(struct owed *o); /* until none is owed of those that who calls must wait for */
void owed_tell(struct owed *o); /* calls changed; pauses are numbered anew from here on */
/* What an owed flush of `disk` failed with since this was last asked; 0: none did. */
int owed_take_error(struct owed *o, unsigned disk);

#endif
