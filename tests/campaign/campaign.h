/*
 * campaign: one event after the other: wait for its moment, let it happen, undo it, wait until the VM is protected
 * again, judge.
 */
#ifndef HIKAE_CAMPAIGN_CAMPAIGN_H
#define HIKAE_CAMPAIGN_CAMPAIGN_H

#include "tests/campaign/ledger.h"
#include "tests/campaign/scene.h"
#include "tests/campaign/witness.h"

#include <stdio.h>

struct campaign {
    struct scene scene;
    struct tracker *tracker;
    struct client *client;
    struct witness *witness;
    struct ledger ledger;
    const char *kinds; /* "a,b,c": these, once each, in this order; NULL: from the seed until all failovers are done */
    FILE *log;         /* a line of JSON before and after each event */
    uint64_t term;     /* of the VM, as of the last event */
    uint64_t wire_bytes; /* that the VM's worker had sent before this one */
};

/* Hosts up, VM started, protected, its client connected. */
int campaign_start(struct campaign *c, struct errmsg *e);
/* -1: something could not be done, with `e`. 0: it ran, or was stopped by the first thing that must not be: see
 * ledger. */
int campaign_run(struct campaign *c, struct errmsg *e);

#endif
