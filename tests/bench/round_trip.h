/*
 * round_trip: what a message to the other host and back takes: no hand-over can be shorter.
 */
#ifndef HIKAE_BENCH_ROUND_TRIP_H
#define HIKAE_BENCH_ROUND_TRIP_H

#include "tools/demo/host.h"

/* Median of a byte over TCP on the replication link and its answer, in ms. -1 with `e`. */
double round_trip_ms(const struct host hosts[2], struct errmsg *e);

#endif
