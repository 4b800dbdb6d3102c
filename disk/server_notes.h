/*
 * server_notes: which stores the server of a folder has, and how much of each: DIR/disks.json, from its start to its
 * stop. A server that is started again has the very same, whatever became of the stores since. Internal to disk/.
 */
#ifndef HIKAE_DISK_SERVER_NOTES_H
#define HIKAE_DISK_SERVER_NOTES_H

#include "common/errmsg.h"
#include "disk/log.h"

struct server_notes {
    char *path[DISK_MAX];     /* absolute: nbdkit runs elsewhere */
    uint64_t bytes[DISK_MAX]; /* of the disk: the first ones of its store; 0: not noted, by an older release */
    unsigned n, shared;       /* the last ones are shared */
    bool holding;             /* writes to those are held from its start; not noted */
};

/* Adds a store that must be there, with the size that it has now. -1 with `e`. */
int server_notes_add(struct server_notes *s, const char *path, struct errmsg *e);
int server_notes_write(const char *dir, const struct server_notes *s, struct errmsg *e);
/* -1 with `e`: there are none, or no good ones. The caller clears *s in any case. */
int server_notes_read(const char *dir, struct server_notes *s, struct errmsg *e);
void server_notes_clear(struct server_notes *s);

#endif
