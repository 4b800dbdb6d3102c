/*
 * neighbour: which addresses the guest has, learnt from its ARP and neighbour discovery (not from what it routes for
 * others), and the frames that tell the LAN that they live behind another port now: gratuitous ARP (RFC 5227),
 * unsolicited neighbour advertisement (RFC 4861), RARP for switches if nothing is known. Pure.
 */
#ifndef HIKAE_NETBUF_NEIGHBOUR_H
#define HIKAE_NETBUF_NEIGHBOUR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NEIGHBOUR_MAX = 16, NEIGHBOUR_FRAME_MAX = 96 };

struct neighbour_address {
    uint8_t length; /* 4 or 16 */
    uint8_t octets[16];
};

struct neighbour_table {
    uint8_t mac[6];
    size_t count;
    struct neighbour_address at[NEIGHBOUR_MAX]; /* when full, what is new replaces the oldest */
    size_t oldest;
};

/* Looks at a frame that the guest has sent. True: an address was added. */
bool neighbour_learn(struct neighbour_table *t, const uint8_t *frame, size_t n);
bool neighbour_add(struct neighbour_table *t,
                   const struct neighbour_address *a); /* false: known or no unicast address */
/* Writes the frame that announces address i (0 to count - 1), or with i == count the RARP; returns its length. */
size_t neighbour_announce(const struct neighbour_table *t, size_t i, uint8_t out[NEIGHBOUR_FRAME_MAX]);

#endif
