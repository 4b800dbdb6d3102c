/*
 * cleaner: what becomes of a replica whose worker died. One that was not given its state yet can't be anybody's any
 * more: it is ended, or kept for the next one for a while. One that was, belonged to a failover that was cut short
 * between loading and resuming: if the arbiter says that the VM is this host's, that failover is finished.
 */
#ifndef HIKAE_SECONDARY_CLEANER_H
#define HIKAE_SECONDARY_CLEANER_H

#include "common/config.h"

#include <stdint.h>

enum { WORKER_RUN_DIR_MAX = 256 };

/* The directory of the replica that the worker with this pid made. */
void worker_run_dir(char out[WORKER_RUN_DIR_MAX], const struct config *config, const char *vm, int pid);
/* What is kept of a VM's memory on this host (vm/remains.h), written to `out`. NULL: the admin wants nothing kept. */
const char *cleaner_remains(const struct config *config, const char *vm, char *out /* REMAINS_PATH_MAX */);
/* Path of hikae-primary, beside `program` (hikae-secondary). -1: it is not installed there. */
int primary_program(char out[512], const char *program, struct errmsg *e);
struct network;
/* Replaces this process by the VM's primary worker, for a VM that is loaded and ours. `net`, which may be NULL, is
 * inherited. Returns only if that failed. */
void exec_primary(const char *program, const struct config *config, const char *vm, uint64_t term,
                  const struct network *net);
int cleaner_main(struct config *config, const char *program, const char *vm, const char *run_dir);

#endif
