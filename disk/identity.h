/*
 * identity: which disk something is, in words that mean the same on another host that sees it: of a block device what
 * its maker or its volume group calls it (World Wide Name, serial number, UUID of the volume), of a file its number
 * in its file system. What can be told without writing to it.
 */
#ifndef HIKAE_DISK_IDENTITY_H
#define HIKAE_DISK_IDENTITY_H

#include "common/errmsg.h"

#include <stdint.h>

enum { DISK_IDENTITY_MAX = 200 };

/* device and inode as in struct backing. "": a block device that has no name. */
void disk_identity(uint64_t device, uint64_t inode, char out[DISK_IDENTITY_MAX]);
/* The same with sysfs elsewhere, for tests. */
void disk_identity_in(const char *sysfs, uint64_t device, uint64_t inode, char out[DISK_IDENTITY_MAX]);

#endif
