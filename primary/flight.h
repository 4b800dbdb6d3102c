/*
 * flight: the epochs that are captured and not acknowledged yet. Pure. Serves promise 1: an epoch counts as committed
 * only when an ack names it, in order, with the digest of what was sent.
 */
#ifndef HIKAE_PRIMARY_FLIGHT_H
#define HIKAE_PRIMARY_FLIGHT_H

#include "proto/record.h"

enum { FLIGHT_MAX = 2 }; /* one that is encoded and sent while the other waits for its ack */

struct flight_epoch {
    uint64_t epoch;
    int64_t paused_at; /* ns: what the replica knows ends here */
    bool sent;
    uint8_t digest[PROTO_DIGEST_SIZE];
};

struct flight {
    struct flight_epoch at[FLIGHT_MAX];
    unsigned n;
    uint64_t last;     /* captured */
    uint64_t acked;    /* 0: none */
    int64_t acked_age; /* paused_at of the last acknowledged epoch */
};

void flight_reset(struct flight *f); /* a new stream: the next epoch is 1 */
bool flight_has_room(const struct flight *f);
uint64_t flight_open(struct flight *f, int64_t paused_at); /* captured; returns its epoch. There must be room. */
void flight_sent(struct flight *f, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE]);
/* 0, *done is the epoch that is now committed; -1: an ack for an epoch that was not sent, out of order, or of other
 * content. */
int flight_ack(struct flight *f, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE], struct flight_epoch *done,
               struct proto_error *e);

#endif
