/*
 * supervisor: the secondary agent's process that listens for primaries and answers people on RUN_DIR/secondary.sock.
 * Each connection gets a worker process before a single byte of it is read: what a stranger sends touches nobody's
 * replica.
 */
#ifndef HIKAE_SECONDARY_SUPERVISOR_H
#define HIKAE_SECONDARY_SUPERVISOR_H

#include "common/config.h"

int supervisor_main(struct config *config, const char *program);

#endif
