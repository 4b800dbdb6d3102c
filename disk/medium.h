/*
 * medium: the calls that change a store or a journal on a disk, as a table, so that a test can stop after any of them
 * and lose what was not synced by then. Reading is plain pread.
 */
#ifndef HIKAE_DISK_MEDIUM_H
#define HIKAE_DISK_MEDIUM_H

#include <stddef.h>
#include <stdint.h>

struct medium {
    /* All of it, or -1 with errno. What is written may be lost, whole or in part, until `sync`. */
    int (*write)(const struct medium *m, int fd, const void *data, size_t n, uint64_t offset);
    /* Zeroes, as a hole where that can be. */
    int (*zero)(const struct medium *m, int fd, uint64_t offset, uint64_t n);
    int (*sync)(const struct medium *m, int fd); /* what was written is durable */
};

extern const struct medium medium_kernel;

enum { MEDIUM_BLOCK = 4096 };
/* A second descriptor of what fd has open, for writing past the page cache. -1: its file system can't. */
int medium_open_direct(int fd);
/* Writes whole blocks from an address that is a multiple of MEDIUM_BLOCK, past the page cache if *direct is not -1. One
 * that refuses such a write (its blocks are larger, say) is closed, *direct becomes -1, and fd takes it. */
int medium_write_direct(const struct medium *m, int *direct, int fd, const void *data, size_t n, uint64_t offset);

/* pread of all of it. -1 with errno; a file that ends before is EIO. */
int medium_read(int fd, void *data, size_t n, uint64_t offset);

#endif
