/*
 * resolve: a name's addresses, without a wait: a name server that does not answer must not hold a loop that looks after
 * a VM. The system's resolver only blocks, so it has a thread of its own.
 */
#ifndef HIKAE_COMMON_RESOLVE_H
#define HIKAE_COMMON_RESOLVE_H

#include "common/errmsg.h"

#include <netdb.h>

struct ev_loop;
struct resolve;

/* `found` is the callee's to free (freeaddrinfo); NULL: there is none, and why. Called once, from the loop. */
typedef void resolve_callback(struct addrinfo *found, const char *why, void *arg);

/* Addresses for a stream connection. NULL with `e`: it can't even be tried. There is no time limit but resolve_cancel.
 */
struct resolve *resolve_begin(struct ev_loop *loop, const char *host, const char *port, resolve_callback *done,
                              void *arg, struct errmsg *e);
/* Before `done` was called; it never will be. Does not wait. NULL is fine. */
void resolve_cancel(struct resolve *r);
/* An address that is no name, at once. NULL: it is one. */
struct addrinfo *resolve_numeric(const char *address, const char *port);

#endif
