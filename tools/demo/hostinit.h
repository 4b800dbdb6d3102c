/*
 * hostinit: what runs as process 1 of a host.
 */
#ifndef HIKAE_DEMO_HOSTINIT_H
#define HIKAE_DEMO_HOSTINIT_H

#include "tools/demo/host.h"

/* In a host's folder: agents that end are not started again while it is there. */
#define HOST_HOLD "hold-agents"

struct hostinit_report {
    int failed;
    struct errmsg error;
};

/* Waits for a byte on go_fd (the cables are in), mounts what a host has of its own, sets up its network, starts both
 * agents, writes a struct hostinit_report to up_fd and reaps children from then on. It restarts nothing, or, with
 * options.restart, the agents. Never returns. */
void hostinit(const struct host *h, const struct options *o, int go_fd, int up_fd) __attribute__((noreturn));

#endif
