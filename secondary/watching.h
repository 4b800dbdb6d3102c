/*
 * watching: a worker that holds a replica and stands still is ended (common/watchdog.h): one that has claimed the VM
 * and does not start it would leave it down for good. What it leaves is the cleaner's, which finishes the failover. A
 * worker's signs of life are its reports; a call of the VM's backend may take long, and excuses it unless it is
 * stopped. Promise 4.
 */
#ifndef HIKAE_SECONDARY_WATCHING_H
#define HIKAE_SECONDARY_WATCHING_H

#include "common/config.h"
#include "common/watchdog.h"

struct watching { /* what `watching_new` borrows; the supervisor's */
    const struct config *config;
    struct roster *roster;
};

struct watchdog *watching_new(struct ev_loop *loop, struct watching *w);

#endif
