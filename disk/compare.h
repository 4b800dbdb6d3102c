/*
 * compare: what a replica's disk holds, beside what a primary says that it must (CHECK, PROTOCOL.md section 3.11).
 */
#ifndef HIKAE_DISK_COMPARE_H
#define HIKAE_DISK_COMPARE_H

#include "proto/check.h"

/* Compares the blocks that a CHECK payload tells of with those of `fd` (name: for the log); `head` is what check_read
 * has made of it. What can't be read differs. The CHECKED payload, malloc'd; NULL: no memory. What has been written out
 * is read from the medium, not from the page cache. */
uint8_t *compare_blocks(int fd, const char *name, const struct check_head *head, const uint8_t *payload, size_t n,
                        size_t *answer_n);

#endif
