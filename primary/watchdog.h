/*
 * watchdog: the supervisor's side (see watch.h). It looks at its workers' pages and ends (SIGKILL) one that is stuck;
 * the one that is started in its place resumes a VM that it finds paused. Promise 4.
 */
#ifndef HIKAE_PRIMARY_WATCHDOG_H
#define HIKAE_PRIMARY_WATCHDOG_H

#include "common/config.h"
#include "common/roster.h"

struct ev_loop;
struct watchdog;

/* Borrows config and roster. */
struct watchdog *watchdog_new(struct ev_loop *loop, const struct config *config, struct roster *roster);
void watchdog_free(struct watchdog *d);
/* The living worker of `vm` by its page, whoever started it; 0: none. It may be unable to register: stuck. */
int watchdog_find(const struct config *config, const char *vm);

#endif
