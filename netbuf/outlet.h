/*
 * outlet: where one NIC's output is held, whatever kind of NIC it is: a relay (QEMU's stream netdev) or a plug (an
 * interface of this host). The calls are those of relay.h and plug.h.
 */
#ifndef HIKAE_NETBUF_OUTLET_H
#define HIKAE_NETBUF_OUTLET_H

#include "common/errmsg.h"
#include "netbuf/handlers.h"
#include "netbuf/neighbour.h"
#include "netbuf/netbuf.h"

#include <stdbool.h>
#include <stdint.h>

struct ev_loop;
struct outlet;
struct relay_line;

struct outlet_config {
    const char *stream_path; /* of a relay */
    const char *bridge;      /* of a relay; "": none */
    const char *ifname;      /* of a plug; "": it is a relay */
    uint8_t mac[6];
    uint64_t limit_bytes;
};

/* Starts closed: everything is held. `line`: of a relay, taken over; NULL: it opens one. */
struct outlet *outlet_open(struct ev_loop *loop, const struct outlet_config *c, const struct relay_line *line,
                           const struct netbuf_handlers *h, void *arg, struct errmsg *e);
void outlet_close(struct outlet *o);
void outlet_drain(struct outlet *o);
void outlet_poll(struct outlet *o);                   /* relay_poll; nothing waits in a plug */
int outlet_barrier(struct outlet *o, uint64_t epoch); /* -1: it could not be set */
void outlet_release(struct outlet *o, uint64_t epoch);
void outlet_hold(struct outlet *o);
void outlet_let_go(struct outlet *o);
void outlet_seal(struct outlet *o);
/* Tells the LAN where the guest is now; with a plug the guest's own driver does that when its backend connects. */
void outlet_announce(struct outlet *o);
struct netbuf_counts outlet_counts(const struct outlet *o);
bool outlet_has_output(const struct outlet *o);
struct neighbour_table *outlet_neighbours(struct outlet *o);

#endif
