/*
 * watchdog: a supervisor's looks at its workers, as often as watch.h says, and the end (SIGKILL) of one that is stuck.
 * What a worker's signs of life are, each agent knows.
 */
#ifndef HIKAE_COMMON_WATCHDOG_H
#define HIKAE_COMMON_WATCHDOG_H

#include "common/roster.h"
#include "common/watch.h"

struct ev_loop;
struct watchdog;

struct watchdog_handlers {
    /* Fills *s. still: it has not moved since the last look, so that `stopped` matters. False: it is not judged (yet).
     */
    bool (*sample)(const char *vm, int pid, bool still, struct watch_sample *s, void *arg);
    /* It is about to be ended; for the log. */
    void (*stuck)(const char *vm, int pid, enum watch_verdict verdict, int64_t still_ms, void *arg);
};

/* Borrows the roster and what `arg` points to. */
struct watchdog *watchdog_new(struct ev_loop *loop, struct roster *roster, const struct watch_bounds *bounds,
                              const struct watchdog_handlers *h, void *arg);
void watchdog_free(struct watchdog *d); /* NULL is fine */

#endif
