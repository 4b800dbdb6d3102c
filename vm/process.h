/*
 * process: the processes that are VMs: starting one so that it outlives the agent, knowing it again later. For
 * backends.
 */
#ifndef HIKAE_VM_PROCESS_H
#define HIKAE_VM_PROCESS_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { PROCESS_FDS_MAX = 8 };

/* Starts command[0] (searched in PATH) as a daemon in a session of its own, with LD_PRELOAD=preload (NULL: none), its
 * messages going to log_path. Returns its pid, or -1: e says why it could not be executed. */
pid_t process_spawn(char *const *command, const char *preload, const char *log_path, struct errmsg *e);
/* The same, and it has the n (at most PROCESS_FDS_MAX) descriptors as its 3, 4 and so on. */
pid_t process_spawn_with(char *const *command, const char *preload, const int *fds, size_t n, const char *log_path,
                         struct errmsg *e);
/* The same with a socket that listens already, handed over as systemd does it: descriptor 3, LISTEN_FDS, LISTEN_PID. */
pid_t process_spawn_listening(char *const *command, int socket, const char *log_path, struct errmsg *e);
/* Appends the last line of log_path to what e says. */
void process_explain(const char *log_path, struct errmsg *e);
/* Clock ticks from boot to the start of `pid`; 0: no such process (a zombie counts as none). With the pid it names a
 * process for good. */
unsigned long long process_start_time(pid_t pid);
/* Does it stand still by a signal (SIGSTOP), or under a debugger? */
bool process_is_stopped(pid_t pid);

#endif
