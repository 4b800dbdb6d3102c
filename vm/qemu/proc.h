/*
 * proc: what /proc tells about a QEMU process: when it started, its command line, its mappings, its descriptors.
 */
#ifndef HIKAE_VM_QEMU_PROC_H
#define HIKAE_VM_QEMU_PROC_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { PROC_PIECES_MAX = 64, PROC_PATH_MAX = 256 };

/* One mapping of a file: addresses start to end show the file from `offset` on. */
struct map_piece {
    uint64_t start, end, offset;
};

/* A file that a process has mapped shared and writable. */
struct shared_map {
    dev_t dev;
    ino_t inode;
    uint64_t bytes; /* mapped, all pieces together */
    size_t n;
    struct map_piece piece[PROC_PIECES_MAX]; /* ascending file offset */
    char path[PROC_PATH_MAX];
};

/* Finds the shared writable mapping of one file: that with dev and inode, or, with inode 0, of exactly `bytes` bytes in
 * all (which must be only one). */
int proc_find_shared(pid_t pid, dev_t dev, ino_t inode, uint64_t bytes, struct shared_map *out, struct errmsg *e);
/* Opens the file of a mapping through the process's own descriptor of it (works for memfds and deleted files). */
int proc_open_inode(pid_t pid, dev_t dev, ino_t inode, bool writable, struct errmsg *e);
/* Is there a mapping of huge pages, or one that may get them, in the pieces of `m`? Then says so in `e` and returns -1.
 */
int proc_check_page_size(pid_t pid, const struct shared_map *m, struct errmsg *e);
/* How many of the mappings in the pieces of `m` have which flag (VmFlags of smaps(5)). */
struct proc_flags {
    size_t mappings, locked, no_huge_pages, soft_dirty;
};
int proc_count_flags(pid_t pid, const struct shared_map *m, struct proc_flags *out, struct errmsg *e);
/* The next descriptor of `pid` above `after` that is a userfaultfd; -1: none. */
int proc_next_userfaultfd(pid_t pid, int after);
/* The words of its command line: a NULL-terminated array in one allocation, free() it. */
char **proc_command_line(pid_t pid, size_t *n, struct errmsg *e);
/* Start and end of the mapping whose name is `name`, e.g. "[vdso]". */
int proc_named_mapping(pid_t pid, const char *name, uint64_t *start, uint64_t *end);

#endif
