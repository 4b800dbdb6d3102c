/*
 * plug: the output buffer of a NIC that is an interface of this host: a Xen vif, a tap. All that the guest sends (any
 * protocol) is redirected from the interface's ingress to an ifb of ours, whose qdisc sch_plug holds it; what is
 * released comes back to the interface and goes where it would have gone. Needs CAP_NET_ADMIN, CAP_NET_RAW and the
 * modules ifb, sch_plug, sch_ingress, cls_matchall and act_mirred, which the kernel loads by itself.
 *
 * The kernel holds the frames, not this process: if it dies, what is held stays held, and the next one on the same
 * interface takes the plug over (promise 1).
 */
#ifndef HIKAE_NETBUF_PLUG_H
#define HIKAE_NETBUF_PLUG_H

#include "common/errmsg.h"
#include "netbuf/handlers.h"
#include "netbuf/neighbour.h"
#include "netbuf/netbuf.h"

struct ev_loop;
struct plug;

struct plug_config {
    const char *ifname;
    uint8_t mac[6];
    uint64_t limit_bytes; /* of held frames; with no more room frames are lost, and counted */
};

/* Starts closed: everything is held. */
struct plug *plug_open(struct ev_loop *loop, const struct plug_config *c, const struct netbuf_handlers *h, void *arg,
                       struct errmsg *e);
/* An open plug is taken away, a closed one stays as it is, for whoever owns the VM next. */
void plug_close(struct plug *p);

/* Can there be one on this host? */
int plug_check(struct errmsg *e);
/* Removes the plugs of interfaces that are gone since, whose agents died. Opening one does so too. */
void plug_sweep(void);

/* These as in relay.h. */
void plug_drain(struct plug *p);
int plug_barrier(struct plug *p, uint64_t epoch);
void plug_release(struct plug *p, uint64_t epoch);
void plug_hold(struct plug *p);
void plug_let_go(struct plug *p);
void plug_seal(struct plug *p);
struct netbuf_counts plug_counts(const struct plug *p);
bool plug_has_output(const struct plug *p);
struct neighbour_table *plug_neighbours(struct plug *p);

#endif
