/*
 * floor: what it takes of a processor at the least to have a copy of what a guest writes at another host, whoever makes
 * it: to encrypt, to pass through TCP, to decrypt, and to write into a second store. No checkpoints, no journal, no
 * digests, no copy in memory but these.
 */
#ifndef HIKAE_BENCH_FLOOR_H
#define HIKAE_BENCH_FLOOR_H

#include "common/errmsg.h"

/* Milliseconds of one processor per MiB, measured with a file in `dir` and over loopback. -1 with `e`. */
double floor_ms_per_mb(const char *dir, struct errmsg *e);

#endif
