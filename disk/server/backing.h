/*
 * backing: a disk's store, a file or a block device: opened for us alone, or refused in words that say what to do.
 */
#ifndef HIKAE_DISK_SERVER_BACKING_H
#define HIKAE_DISK_SERVER_BACKING_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

enum { DISK_BLOCK = 4096 }; /* a disk's size is a multiple of it */

struct backing {
    int fd;
    bool is_device;
    uint64_t bytes;
    uint64_t device, inode; /* which one it is: see disk_hello */
};

/* Opens it for reading and writing and locks it: against other disk servers (flock), QEMU (its locks are OFD locks)
 * and, a block device, against mounts and other exclusive users. -1 with `e`: missing, neither file nor block device,
 * read-only, in use, empty or of a size that is no multiple of DISK_BLOCK. shared: a disk server of another host may
 * have it open as well; where locks reach that far (a file of a cluster's file system) they exclude only others. */
int backing_open(struct backing *b, const char *path, bool shared, struct errmsg *e);
/* The same with only the first `bytes` of it, whatever its size by now; 0: all. -1 with `e` also if it has fewer. */
int backing_open_part(struct backing *b, const char *path, bool shared, uint64_t bytes, struct errmsg *e);
void backing_close(struct backing *b);
/* Which store `path` is, without opening it. -1: there is none. */
int backing_identify(const char *path, uint64_t *device, uint64_t *inode);
/* How large a store is now, whoever has it open. -1 with errno. */
int backing_size(int fd, uint64_t *bytes);
int backing_size_of(const char *path, uint64_t *bytes);

#endif
