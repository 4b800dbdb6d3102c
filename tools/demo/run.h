/*
 * run: starts other programs and waits for them, with a deadline. Knows nothing of what they are for.
 */
#ifndef HIKAE_DEMO_RUN_H
#define HIKAE_DEMO_RUN_H

#include "common/errmsg.h"

#include <stdint.h>

/* Runs argv (searched in PATH) with `input` (may be NULL) on stdin. 0 when it ended with status 0 within timeout_ms,
 * else -1 with what it wrote to stderr in `e`. */
int run_program(const char *const argv[], const char *input, int timeout_ms, struct errmsg *e);
/* `ip -batch` with this script, made as by printf. */
int run_ip(struct errmsg *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
int write_file(struct errmsg *e, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

int64_t now_ms(void); /* CLOCK_MONOTONIC */
double wall_ms(void); /* CLOCK_REALTIME */
void sleep_ms(int64_t ms);

#endif
