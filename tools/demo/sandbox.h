/*
 * sandbox: the world of the demo, namespaces that vanish with its processes.
 *
 *   network of the calling process:   sw0, 10.77.0.1/24: the LAN's switch, and the client that sits at it
 *                                     sw1: the switch of the replication link, 10.78.0.0/24
 *   hosts (see host.h):               own PID, mount, network, IPC and UTS namespace each
 */
#ifndef HIKAE_DEMO_SANDBOX_H
#define HIKAE_DEMO_SANDBOX_H

#include "common/errmsg.h"

#include <stdbool.h>

#define CLIENT_ADDRESS "10.77.0.1"
#define GUEST_ADDRESS  "10.77.0.100"
#define GUEST_MAC      "52:54:00:77:00:64"

enum { BEACON_PORT = 7777 };

/* To be called first. In a chroot the program is started anew, with the chroot as a root mount of its own; returns 0
 * when there is nothing to do. */
int sandbox_leave_chroot(char **argv, struct errmsg *e);
/* Moves the calling process, which must be single-threaded, into it; as an ordinary user with a user namespace around.
 * /run is then an empty tmpfs of our own. Errors say what the system does not allow, and how to change it. */
int sandbox_enter(struct errmsg *e);
/* Was a user namespace needed? */
bool sandbox_is_users(void);

#endif
