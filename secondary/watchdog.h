/*
 * watchdog: ends (SIGKILL) a worker that holds a replica and stands still (common/watch.h): one that has claimed the VM
 * and does not start it would leave it down for good. What it leaves is the cleaner's, which finishes the failover. A
 * worker's signs of life are its reports; a call of the VM's backend may take long, and excuses it unless it is
 * stopped. Promise 4.
 */
#ifndef HIKAE_SECONDARY_WATCHDOG_H
#define HIKAE_SECONDARY_WATCHDOG_H

#include "common/config.h"
#include "common/roster.h"

struct ev_loop;
struct watchdog;

/* Borrows config and roster. */
struct watchdog *watchdog_new(struct ev_loop *loop, const struct config *config, struct roster *roster);
void watchdog_free(struct watchdog *d); /* NULL is fine */

#endif
