/*
 * traffic: the kernel's side of a plug, through netlink: the ifb, its qdisc, the redirection.
 */
#ifndef HIKAE_NETBUF_TRAFFIC_H
#define HIKAE_NETBUF_TRAFFIC_H

#include "common/errmsg.h"

#include <stdint.h>

struct traffic;

/* Makes them, or takes over what a predecessor has left on the interface; either way the plug is closed. The
 * interface's index is *ifindex. */
struct traffic *traffic_open(const char *ifname, uint64_t limit_bytes, int *ifindex, struct errmsg *e);
/* Frees the handle only. */
void traffic_free(struct traffic *t);

/* Has this kernel what it takes, and are we allowed to? Makes a plug and takes it away. */
int traffic_check(struct errmsg *e);

enum traffic_order { TRAFFIC_BARRIER, TRAFFIC_RELEASE, TRAFFIC_OPEN };
int traffic_order(struct traffic *t, enum traffic_order order, struct errmsg *e);
/* The ifb goes, with all that is held; the redirection stays, and leads nowhere. */
void traffic_seal(struct traffic *t);
/* Nothing of ours is left on the interface. */
void traffic_remove(struct traffic *t);
/* Ends what agents that died have left of interfaces that are gone since. */
void traffic_sweep(void);
/* Frames that were lost for want of room, ever. */
uint64_t traffic_drops(struct traffic *t);

#endif
