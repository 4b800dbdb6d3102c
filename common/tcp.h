/*
 * tcp: listening sockets.
 */
#ifndef HIKAE_COMMON_TCP_H
#define HIKAE_COMMON_TCP_H

#include "common/errmsg.h"

/* Listens on all addresses of `host` ("*": every address), non-blocking, close-on-exec. Returns how many descriptors
 * were written to fds (at most max), -1 with `e` if there is none: e.g. the port is occupied. */
int tcp_listen(const char *host, const char *port, int *fds, int max, struct errmsg *e);

#endif
