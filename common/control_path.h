/*
 * control_path: names of control sockets; shared by control.c and control_call.c.
 */
#ifndef HIKAE_COMMON_CONTROL_PATH_H
#define HIKAE_COMMON_CONTROL_PATH_H

#include "common/errmsg.h"

#include <sys/un.h>

int control_path(struct sockaddr_un *out, const char *path, struct errmsg *e);
/* A connected socket; `flags`: SOCK_NONBLOCK or 0. -1 with `e` that names the remedy. */
int control_dial(const char *path, int flags, struct errmsg *e);

#endif
