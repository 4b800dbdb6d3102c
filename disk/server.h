/*
 * server: starting and ending a VM's disk server, for agents. It is an nbdkit process with our plugin (disk/server/),
 * in a session of its own: it outlives agents as the VM does. In its folder: nbd.sock (exports "0", "1", ..),
 * control.sock (disk/client.h), server.log.
 */
#ifndef HIKAE_DISK_SERVER_H
#define HIKAE_DISK_SERVER_H

#include "common/errmsg.h"

#include <stdbool.h>

/* Starts the server of these stores (paths of files or block devices, 1 to DISK_MAX, in the order of the disks) in
 * `dir`, which is made if need be, unless one runs there with the very same stores; returns when it serves. One that
 * says nothing for 5 s is ended, and another takes its place. -1 with
 * `e`: a store is missing, a directory, read-only, in use, or its size is no multiple of 4096; another server with
 * other stores runs there; nbdkit is not installed. paths NULL and n 0: those that the server of `dir` had, as large as
 * they were in it; they are noted there until disk_server_stop. */
int disk_server_start(const char *dir, const char *const *paths, unsigned n, struct errmsg *e);
/* As disk_server_start with paths NULL. listener: the socket at nbd.sock that the former server had
 * (server_process_listener), borrowed: who connected since waits in its queue, so a hypervisor's first try succeeds.
 * -1: there is none any more. */
int disk_server_restart(const char *dir, int listener, struct errmsg *e);
/* The same for disks of which the last `shared` are shared with another host. holding: writes to those are held until
 * somebody lets them out. */
int disk_server_start_shared(const char *dir, const char *const *paths, unsigned n, unsigned shared, bool holding,
                             struct errmsg *e);
/* Notes that the server of `dir` holds writes of shared disks, or may from here on; or not any more. One that dies then
 * takes with it what the guest believes to have written: it is not started again (by the note of its disks), and the
 * VM has to end. */
int disk_server_note_holding(const char *dir, bool holding, struct errmsg *e);
bool disk_server_is_holding(const char *dir); /* is that noted? */
/* Notes that a VM which no agent has started has the disks of the server in `dir`: until that is stopped. */
int disk_server_note_taken(const char *dir, struct errmsg *e);
bool disk_server_is_taken(const char *dir);
/* Has such a server died? */
bool disk_server_has_lost_writes(const char *dir);
/* The disks are to be as large as their stores are by now: ends the server, the next one (whoever guards it starts it)
 * has them so. -1 with `e`: none has grown, one has shrunk, or is no multiple of 4096, or it
 * holds writes of shared disks; nothing was done. */
int disk_server_grow(const char *dir, struct errmsg *e);
/* Ends the server of `dir`; returns when it has closed its stores. 0 also if there is none. What was written is in the
 * stores, but flushed only as far as the guest asked for it. */
int disk_server_stop(const char *dir, struct errmsg *e);

/* Was a server started in `dir` and not stopped since? It may have died. */
bool disk_server_exists(const char *dir);

#endif
