/*
 * relay: the output buffer of a QEMU guest whose NIC is a stream netdev. Frames come over its unix socket (4 octets of
 * big-endian length, then the frame), are held by a netbuf or passed at once, and leave through a tap on a bridge. What
 * comes in from the tap goes to the guest at once. Needs only CAP_NET_ADMIN and /dev/net/tun.
 *
 * When this process dies the tap goes with it: a guest without its relay has no output (promise 1).
 */
#ifndef HIKAE_NETBUF_RELAY_H
#define HIKAE_NETBUF_RELAY_H

#include "common/errmsg.h"
#include "netbuf/handlers.h"
#include "netbuf/neighbour.h"
#include "netbuf/netbuf.h"

struct ev_loop;
struct relay;

struct relay_config {
    const char *stream_path;
    const char *bridge; /* "": the tap is left alone, for whoever wants to use it */
    uint8_t mac[6];
    uint64_t limit_bytes;
};

/* The two ends of a guest's network, connected and not read yet: what comes waits in their queues. They may be
 * inherited by the process that then relays (secondary/failover.c). */
struct relay_line {
    int tap, vm; /* descriptors */
};
int relay_line_open(const struct relay_config *c, struct relay_line *out, struct errmsg *e);
void relay_line_close(struct relay_line *l);
/* Tells the LAN where the guest with that MAC address is now, in a way that needs no IP address (RARP). */
void relay_line_announce(const struct relay_line *l, const uint8_t mac[6]);

/* Starts closed: everything is held. `line`: taken over; NULL: it opens one. */
struct relay *relay_open(struct ev_loop *loop, const struct relay_config *c, const struct relay_line *line,
                         const struct netbuf_handlers *h, void *arg, struct errmsg *e);
void relay_close(struct relay *r); /* what is held is dropped */

/* Takes what the VM has sent and we have not read yet, until there is no more or no room. Called while the VM is
 * paused, so that the barrier that follows has all of the epoch in front of it. (A frame that stays behind lands in the
 * next epoch: late, never early.) */
void relay_drain(struct relay *r);
/* Moves what waits in both directions, without the loop. */
void relay_poll(struct relay *r);
void relay_barrier(struct relay *r, uint64_t epoch);
void relay_release(struct relay *r, uint64_t epoch);
/* From now on frames are held / pass at once. Opening lets out what is held: only the sole owner of the VM may. */
void relay_hold(struct relay *r);
void relay_let_go(struct relay *r);
/* The VM runs elsewhere: what is held is dropped, nothing passes any more. */
void relay_seal(struct relay *r);
/* Tells the LAN where the guest is now. */
void relay_announce(struct relay *r);

struct netbuf_counts relay_counts(const struct relay *r);
bool relay_has_output(const struct relay *r); /* the running epoch holds a frame */
struct neighbour_table *relay_neighbours(struct relay *r);

#endif
