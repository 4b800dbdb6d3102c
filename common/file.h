/*
 * file: whole files, read and written so that a crash or a full disk never leaves half of one.
 */
#ifndef HIKAE_COMMON_FILE_H
#define HIKAE_COMMON_FILE_H

#include "common/errmsg.h"

#include <stddef.h>
#include <sys/types.h>

/* Replaces `path` by a file with this content and mode: after a crash it is the old one or the new one, never a piece.
 * When it returns 0 the new one is on the disk. On error the old one is untouched and no temporary file is left. */
int file_write_atomic(const char *path, const void *data, size_t n, mode_t mode, struct errmsg *e);
/* The whole file with a NUL after it, malloc'd; *n (may be NULL) is its length. NULL with errno set and `e` filled; a
 * file of more than `max` bytes is an error (EFBIG). */
char *file_read_all(const char *path, size_t max, size_t *n, struct errmsg *e);
/* mkdir -p. Existing directories are left as they are. */
int dir_make(const char *path, mode_t mode, struct errmsg *e);
/* fsync of the directory that holds `path`, so that its entry is on the disk. */
int dir_sync_of(const char *path, struct errmsg *e);
/* Writes all of it to a descriptor. -1 with errno. */
int file_write_fd(int fd, const void *data, size_t n);

#endif
