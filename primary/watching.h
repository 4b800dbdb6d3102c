/*
 * watching: the supervisor's side of the pages that workers share with it (common/watch.h, watched.h). One that is
 * stuck is ended; the one that is started in its place resumes a VM that it finds paused. Promise 4.
 */
#ifndef HIKAE_PRIMARY_WATCHING_H
#define HIKAE_PRIMARY_WATCHING_H

#include "common/config.h"
#include "common/watchdog.h"

/* Borrows config and roster. */
struct watchdog *watching_new(struct ev_loop *loop, const struct config *config, struct roster *roster);
/* The living worker of `vm` by its page, whoever started it; 0: none. It may be unable to register: stuck. */
int watching_find(const struct config *config, const char *vm);

#endif
