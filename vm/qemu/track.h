/*
 * track: dirty tracking of another process's memory by asynchronous userfaultfd write protection and PAGEMAP_SCAN
 * (Linux 6.7). It knows processes and mappings, nothing of QEMU or QMP.
 *
 * A userfaultfd belongs to the address space of the process that made it, whoever calls its ioctls. So only its making
 * has to happen in that process (preload.c, inject.c).
 */
#ifndef HIKAE_VM_QEMU_TRACK_H
#define HIKAE_VM_QEMU_TRACK_H

#include "common/errmsg.h"
#include "vm/qemu/proc.h"
#include "vm/vm.h"

#include <sys/types.h>

struct track {
    int userfaultfd, pagemap; /* -1: not open */
    struct shared_map map;
    void *regions; /* scratch of track_scan */
    bool armed;
};

void track_init(struct track *t);
/* Can this kernel do it at all? Tries it on a page of our own. */
int track_check_kernel(struct errmsg *e);
/* Takes a userfaultfd of `pid` (one that exists there, else one made by ptrace injection) and opens its pagemap.
 * *injected tells which. Does not touch the guest's memory. */
int track_open(struct track *t, pid_t pid, int pidfd, const struct shared_map *map, bool *injected, struct errmsg *e);
/* Registers and protects everything; from here on all writes are seen. Again: starts anew. */
int track_arm(struct track *t, struct errmsg *e);
/* Adds the pages written since arm or the last scan, as numbers of VM_PAGE_SIZE units of file offset, and protects them
 * again, atomically per page. Only while nothing writes: a scan that races with in-flight I/O of the kernel may lose
 * it. */
int track_scan(struct track *t, struct page_ranges *out, struct errmsg *e);
int track_disarm(struct track *t, struct errmsg *e);
void track_close(struct track *t);

#endif
