/*
 * track: dirty tracking of another process's memory, in one of two ways. It knows processes and mappings, nothing of
 * QEMU or QMP.
 *
 *   track_scan.c       asynchronous userfaultfd write protection and PAGEMAP_SCAN: Linux 6.7
 *   track_softdirty.c  soft-dirty bits: Linux 6.1, for kernels without the former
 *   track.c            chooses; the first that this kernel has is taken
 */
#ifndef HIKAE_VM_QEMU_TRACK_H
#define HIKAE_VM_QEMU_TRACK_H

#include "common/errmsg.h"
#include "vm/qemu/proc.h"
#include "vm/vm.h"

#include <sys/types.h>

struct track;

/* One way of tracking. `open` has filled pid and map before; `close` is called in any case. */
struct track_method {
    const char *name;
    /* Is a scan atomic for each page? Else what is written while it runs may be lost, by whomever: the writer must
     * stand still, and QEMU save nothing meanwhile. */
    bool is_atomic;
    int (*check_kernel)(struct errmsg *e);
    int (*open)(struct track *t, int pidfd, struct errmsg *e);
    int (*arm)(struct track *t, struct errmsg *e);
    int (*scan)(struct track *t, struct page_ranges *out, struct errmsg *e);
    int (*disarm)(struct track *t, struct errmsg *e);
    void (*close)(struct track *t);
};
extern const struct track_method track_method_scan, track_method_softdirty;

struct track {
    const struct track_method *method; /* NULL: not chosen yet */
    pid_t pid;
    struct shared_map map;
    const char *note; /* for status, of an open one: how */
    bool armed;
    /* the method's own */
    int userfaultfd, pagemap, clear_refs; /* -1: not open */
    void *buffer;                         /* scratch of a scan */
};

void track_init(struct track *t);
/* The best method of this kernel; NULL: it has none, and `e` says what it lacks for each. */
const struct track_method *track_choose(struct errmsg *e);
/* Prepares the process (a system call or more may be injected into it) and opens what is needed to track `map`, by
 * t->method, or if that is NULL by the best. Does not touch the guest's memory. */
int track_open(struct track *t, pid_t pid, int pidfd, const struct shared_map *map, struct errmsg *e);
/* From here on all writes are seen. Again: starts anew. */
int track_arm(struct track *t, struct errmsg *e);
/* Adds the pages written since arm or the last scan, as numbers of VM_PAGE_SIZE units of file offset, and starts anew.
 * Only while nothing writes: a scan that races with in-flight I/O of the kernel may lose it. */
int track_scan(struct track *t, struct page_ranges *out, struct errmsg *e);
int track_disarm(struct track *t, struct errmsg *e);
void track_close(struct track *t);

/* ---- for the methods ---- */
int track_open_proc(const struct track *t, const char *file, int flags, struct errmsg *e); /* a file in /proc/PID */
/* Adds the pages of a stretch of the piece's addresses. */
int track_add(const struct map_piece *piece, uint64_t start, uint64_t end, struct page_ranges *out, struct errmsg *e);

#endif
