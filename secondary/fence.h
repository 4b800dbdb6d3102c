/*
 * fence: runs the command that makes sure that a lost host does nothing any more (switches its power off, closes its
 * ports), again and again until it ends with status 0. It never blocks the loop, which must not be libev's default one.
 *
 * The command is the text of the configuration, split at blanks, run without a shell, in a process group of its own,
 * with HIKAE_VM, HIKAE_TERM, HIKAE_HOST (this one) and HIKAE_LOST_HOST in its environment. One that takes longer than
 * fence_timeout is killed with its group and counts as failed.
 */
#ifndef HIKAE_SECONDARY_FENCE_H
#define HIKAE_SECONDARY_FENCE_H

#include "common/config.h"
#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

struct ev_loop;
struct fence;

struct fence_handlers {
    /* An attempt failed, another one will be made. */
    void (*failed)(const char *why, void *arg);
    void (*done)(void *arg); /* the last call; the fence may be freed in it */
};

/* The command for this VM, by its section or [host]; NULL: none is configured. */
const char *fence_command(const struct config *c, const char *vm);
/* Could it be run? 0 also if there is none; -1 with `e`, which says what to do. */
int fence_check(const struct config *c, const char *vm, struct errmsg *e);
/* Makes the first attempt at once. All names are copied. There must be a command. */
struct fence *fence_begin(struct ev_loop *loop, const struct config *c, const char *vm, uint64_t term,
                          const char *lost_host, const struct fence_handlers *h, void *arg);
void fence_free(struct fence *f); /* an attempt under way is killed */

#endif
