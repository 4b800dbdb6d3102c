/*
 * supervisor: the primary agent's process that people talk to. It starts a worker per VM, starts it again when it dies,
 * and answers on RUN_DIR/primary.sock. It touches no VM: it may end and come back at any time.
 */
#ifndef HIKAE_PRIMARY_SUPERVISOR_H
#define HIKAE_PRIMARY_SUPERVISOR_H

#include "common/config.h"

/* A worker's exit code: start me again, all is well. */
enum { WORKER_REPLACE_ME = 3 };

int supervisor_main(struct config *config, const char *program);

#endif
