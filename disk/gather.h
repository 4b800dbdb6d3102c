/*
 * gather: what is written to a replica's stores, put together. Writes to the same MiB of a file wait for each other in
 * a window, where the last one of a block counts, and go out in as few calls as there are gaps between them. Long ones
 * go past the page cache (O_DIRECT), where the file system can: nobody reads a replica's disk before it is the VM's,
 * and to copy it into the cache and out again took more of a processor than anything else did with a write.
 *
 * Nothing here is thread-safe.
 */
#ifndef HIKAE_DISK_GATHER_H
#define HIKAE_DISK_GATHER_H

#include "common/errmsg.h"
#include "disk/medium.h"

#include <stddef.h>
#include <stdint.h>

struct gather;
struct gather_file {
    int fd;           /* for reading and writing; -1: none */
    int direct;       /* the same file by medium_open_direct; -1: it can't be */
    const char *path; /* for what is said of errors; borrowed */
};

struct gather *gather_new(const struct medium *m); /* NULL: no memory */
void gather_free(struct gather *g);                /* what waits is not written; NULL is allowed */
/* Writes n octets at `offset`, or keeps a copy of them until gather_end, or a write elsewhere, does. `f` stays as it is
 * until then. -1: these, or what had waited before them, can't be written. */
int gather_write(struct gather *g, struct gather_file *f, const uint8_t *data, size_t n, uint64_t offset,
                 struct errmsg *e);
/* All is written (not durable), and can be read from the file. */
int gather_end(struct gather *g, struct errmsg *e);

#endif
