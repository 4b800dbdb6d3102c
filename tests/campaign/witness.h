/*
 * witness: sees the guest's frames come in at the switch of the LAN, and from which host: a process of its own that
 * never misses one. Output that comes from two hosts in turn is what must never be.
 */
#ifndef HIKAE_CAMPAIGN_WITNESS_H
#define HIKAE_CAMPAIGN_WITNESS_H

#include "common/errmsg.h"
#include <stdint.h>

struct witness;

struct witness_report {
    uint64_t frames[2];  /* from each host */
    uint64_t switches;   /* how often a frame came from another host than the one before */
    uint64_t overlooked; /* that did not fit into the socket: then nothing can be said */
};

/* `mac`: of the guest. `cables`: the names of the switch's interfaces to which the hosts are plugged, in the network
 * namespace of the caller. NULL with `e`. It ends with its owner. */
struct witness *witness_start(const char *mac, const char *const cables[2], struct errmsg *e);
void witness_stop(struct witness *w);
struct witness_report witness_report(const struct witness *w);

#endif
