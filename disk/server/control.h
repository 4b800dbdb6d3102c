/*
 * control: the server's side of control.sock (disk/socket.h), on a thread of its own. A client that tracks and dies
 * ends the tracking: its connection is closed by the kernel, whatever it died of.
 */
#ifndef HIKAE_DISK_SERVER_CONTROL_H
#define HIKAE_DISK_SERVER_CONTROL_H

#include "disk/server/set.h"

struct control;

/* Listens at DIR/control.sock; a socket that is there already is replaced. NULL with `e`. */
struct control *control_start(const char *dir, struct disk_set *set, struct errmsg *e);
void control_stop(struct control *c); /* hangs up on all clients, ends the tracking; NULL is allowed */

#endif
