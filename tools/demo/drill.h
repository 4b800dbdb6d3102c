/*
 * drill: the story of the demo: start the VM, protect it, lose its host, see it go on, make the dead host the new
 * replica's, again.
 */
#ifndef HIKAE_DEMO_DRILL_H
#define HIKAE_DEMO_DRILL_H

#include "tools/demo/client.h"
#include "tools/demo/host.h"
#include "tools/demo/report.h"
#include "tools/demo/status.h"

struct drill {
    const struct options *options;
    struct host hosts[2];
    int active; /* the host that runs the VM */
    struct tracker *tracker;
    struct client *client;   /* NULL: somebody else's client watches */
    struct vm_status status; /* as of the last poll of the active host */
    struct results results;
    uint64_t random;
};

/* Hosts and agents up. */
int drill_boot(struct drill *d, struct errmsg *e);
/* VM started and, with a client, measured unprotected. */
int drill_start_vm(struct drill *d, struct errmsg *e);
/* Protects the VM to the other host and waits for it. */
int drill_protect(struct drill *d, struct errmsg *e);
/* The VM goes on without; returns when it does. */
int drill_unprotect(struct drill *d, struct errmsg *e);
/* One loss after the other. -1: something did not come in time; results tell how far it went. */
int drill_failovers(struct drill *d, struct errmsg *e);

#endif
