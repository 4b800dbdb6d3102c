/*
 * server_process: the process of a disk server, found by its control socket and ended. Internal to disk/.
 */
#ifndef HIKAE_DISK_SERVER_PROCESS_H
#define HIKAE_DISK_SERVER_PROCESS_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <sys/types.h>

/* A pidfd of the process that listens at the other end of `socket`, a connection of disk/socket.h. -1 with errno;
 * ESRCH: it has ended. The caller closes it. */
int server_process_open(int socket, pid_t *pid);
bool server_process_has_ended(int pidfd, int wait_ms);
/* politely: it may answer first what it was asked. Returns when it has ended; -1 with `e`: it does not. */
int server_process_end(int pidfd, pid_t pid, bool politely, struct errmsg *e);
/* A duplicate of the socket at `path` on which it listens for NBD. -1: it is not to be had. */
int server_process_listener(int pidfd, const char *path);

#endif
