/*
 * watched: the worker's side of the watchdog (see watch.h). It keeps the page, and stands as a filter before the VM's
 * backend: so pauses and calls that may take long are known without a word about it in the code of a checkpoint. One
 * per process.
 */
#ifndef HIKAE_PRIMARY_WATCHED_H
#define HIKAE_PRIMARY_WATCHED_H

#include "common/errmsg.h"
#include "vm/vm.h"

#include <stdbool.h>
#include <stddef.h>

struct ev_loop;

/* Where the page of `vm`'s worker is. */
void watched_path(char *out, size_t size, const char *run_dir, const char *vm);
/* Makes the page anew and begins to give signs of life; to be called by the one that holds the VM's lock. -1 with `e`:
 * nobody watches then, the rest works. */
int watched_begin(struct ev_loop *loop, const char *run_dir, const char *vm, struct errmsg *e);
void watched_end(struct ev_loop *loop);
/* What is done next, outside of the backend, may take so long; 0: it is done. */
void watched_allow(unsigned ms);
/* Does the VM stand still, or may it? From any thread, until watched_end. */
bool watched_is_paused(void);
/* The same backend, watched. stall_at: fault, in so many pauses from now this process stops itself (SIGSTOP) before it
 * resumes the VM; 0: never. The result is static. */
const struct vm_ops *watched_vm(const struct vm_ops *backend, unsigned stall_at);

#endif
