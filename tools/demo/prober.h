/*
 * prober: what the client's process does.
 */
#ifndef HIKAE_DEMO_PROBER_H
#define HIKAE_DEMO_PROBER_H

#include "tools/demo/options.h"

/* Probes the guest and answers requests on `fd` (a byte each: '0'..'2' phase, 'm' mark, 'r' report, 'a'..'c' latency of
 * a phase; a JSON line as answer) until its other end is closed. Never returns. */
void prober_run(int fd, const struct options *o) __attribute__((noreturn));

#endif
