/*
 * stock: the demo's guest on a QEMU as Debian ships it, in the same hosts, with a tap at their bridge, moved by QEMU's
 * own live migration over TLS (X.509, both sides verified). Hikae has no part in it. Capabilities and parameters are
 * QEMU's defaults, but for the bandwidth, which is not limited, and the limit of the downtime where one is asked for.
 */
#ifndef HIKAE_BENCH_STOCK_H
#define HIKAE_BENCH_STOCK_H

#include "tools/demo/host.h"

#include <stdbool.h>

struct stock;

struct stock_move {  /* times: ms */
    double pause;    /* from the source's STOP to the destination's RESUME */
    double total;    /* from the order to RESUME */
    double pages;    /* sent while it stood still, by the bytes that QEMU counts */
    double downtime; /* what QEMU itself says */
    double limit;    /* downtime-limit */
};

/* Credentials and taps. `dir` is seen by both hosts, which must be up. NULL with `e`. */
struct stock *stock_new(const struct host hosts[2], const char *dir, const struct options *o, struct errmsg *e);
/* QEMU before 9.0 loses pages of a TCG guest that it migrates: it clears whole words of its dirty bitmap without
 * telling TCG (mended by "physmem: Fix migration dirty bitmap coherency with TCG memory access"); the guest then
 * crashes. It does so only for RAM of a multiple of 256 KiB, so such a QEMU's guest gets 8 KiB less. Is it one? */
bool stock_is_evaded(const struct stock *s);
/* Gives the VM a disk that is served over NBD at this socket, which must be seen by its host; before stock_boot. */
void stock_use_disk(struct stock *s, const char *socket);
/* Starts the VM on that host. */
int stock_boot(struct stock *s, int host, struct errmsg *e);
/* Moves it to the other host. downtime_limit_ms 0: QEMU's default. Returns when it runs there and the source is gone.
 */
int stock_move(struct stock *s, unsigned downtime_limit_ms, struct stock_move *out, struct errmsg *e);
/* Ends the VM, if there is one. */
void stock_free(struct stock *s);

#endif
