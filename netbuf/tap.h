/*
 * tap: a tap interface as a port of a bridge. It exists as long as its descriptor.
 */
#ifndef HIKAE_NETBUF_TAP_H
#define HIKAE_NETBUF_TAP_H

#include "common/errmsg.h"

/* A non-blocking descriptor, frames without any header; -1 with `e`. name[16] gets the interface's name. */
int tap_open(const char *bridge, char name[16], struct errmsg *e);
void tap_name(int fd, char name[16]); /* "?" if it is no tap */

#endif
