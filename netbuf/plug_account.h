/*
 * plug_account: which epochs' frames are behind the barrier of a sch_plug qdisc. Pure.
 *
 * sch_plug knows one barrier that is not released; a second one would make it forget how many frames lie before the
 * first, and the next release would let out too many. So a barrier is set only while none is outstanding. An epoch that
 * ends meanwhile has none of its own: its frames leave behind the next one, later than they could, never earlier
 * (promise 1).
 */
#ifndef HIKAE_NETBUF_PLUG_ACCOUNT_H
#define HIKAE_NETBUF_PLUG_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

struct plug_account {
    uint64_t barrier; /* epoch of the outstanding barrier, 0: none */
    uint64_t running; /* frames since the last epoch was closed */
    uint64_t unbound; /* frames of closed epochs that have no barrier */
    uint64_t bound;   /* frames before the outstanding barrier */
};

/* An epoch is closed. True: set the qdisc's barrier now. */
bool plug_account_close(struct plug_account *a, uint64_t epoch);
/* ack(epoch) is back. True: release the qdisc's barrier. *released: how many frames that lets out. */
bool plug_account_release(struct plug_account *a, uint64_t epoch, uint64_t *released);
/* Frames that no barrier lies behind: there is something for a checkpoint to do. */
bool plug_account_waiting(const struct plug_account *a);
uint64_t plug_account_held(const struct plug_account *a);

#endif
