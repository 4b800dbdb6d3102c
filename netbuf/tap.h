/*
 * tap: a tap interface as a port of a bridge. It exists as long as its descriptor, in whatever process.
 */
#ifndef HIKAE_NETBUF_TAP_H
#define HIKAE_NETBUF_TAP_H

#include "common/errmsg.h"

/* A non-blocking descriptor, frames without any header; -1 with `e`. name[16] gets the interface's name. */
int tap_open(const char *bridge, char name[16], struct errmsg *e);
/* The same for a QEMU: frames have a virtio-net header, and the interface is down and no port of anything, so that
 * nothing goes in or out until tap_connect. */
int tap_create(char name[16], struct errmsg *e);
/* Makes it a port of the bridge ("": of none) and brings it up; does nothing to one that is so. */
int tap_connect(const char *name, const char *bridge, struct errmsg *e);
/* The bridge that an interface is a port of; "": none. */
void tap_bridge(const char *name, char bridge[16]);
void tap_name(int fd, char name[16]); /* "?" if it is no tap */

#endif
