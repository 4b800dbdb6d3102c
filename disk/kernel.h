/*
 * kernel: disks of a disk server as block devices of this host (/dev/nbdN, the kernel's NBD client), for hypervisors
 * that want their disks from the kernel: Xen. A device is known by what is written at it (sysfs: `backend`), so no file
 * of ours can say anything else: which disk of which server, and for which domain.
 *
 * Nothing of ours stands between the kernel and the server, and what is connected stays so when we die. The kernel does
 * not connect anew by itself: when a server has died, requests wait (for a day) until somebody does.
 */
#ifndef HIKAE_DISK_KERNEL_H
#define HIKAE_DISK_KERNEL_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

enum { KERNEL_DISK_NAME_MAX = 16, KERNEL_DISK_BACKEND_MAX = 512, KERNEL_DISK_DIR_MAX = 256 };

struct kernel_disk {
    char dir[KERNEL_DISK_DIR_MAX]; /* the server's */
    unsigned disk;
    uint32_t domid;
    uint32_t index; /* N of /dev/nbdN */
};

/* What is written at a device; pure. parse: false: it is none of ours. `index` is left alone. */
int kernel_disk_format(char out[KERNEL_DISK_BACKEND_MAX], const struct kernel_disk *k, struct errmsg *e);
bool kernel_disk_parse(const char *backend, struct kernel_disk *k);

/* Makes a device of k->disk of the server in k->dir, which runs, for k->domid; fills k->index. */
int kernel_disk_connect(struct kernel_disk *k, struct errmsg *e);
/* Takes it away: requests that still wait fail. It may stay for as long as somebody has it open. No such device: 0. */
int kernel_disk_disconnect(const struct kernel_disk *k, struct errmsg *e);
/* The same for all devices of the server in `dir`, which has ended for good. */
void kernel_disks_disconnect(const char *dir);
/* Calls `found` for each device of the server in `dir`, until that returns other than 0, which is returned. */
int kernel_disks(const char *dir, int (*found)(const struct kernel_disk *k, void *arg), void *arg);
/* Gives every device of the server in `dir`, which runs, a new connection in the place of one that has ended. The
 * requests that were under way are asked once more, 3 s later at the latest. */
int kernel_disks_reconnect(const char *dir, struct errmsg *e);

#endif
