/*
 * account: which blocks of a VM's disks on this host may be other than on the host that they were last synced with. Two
 * accounts of one generation, one on each host: their stores differ in no block but those that the one or the other has
 * noted. So a re-sync needs these and no other; with another generation, or none, everything has to be compared.
 *
 * Who writes to a store notes the block first (marker.h), in memory that is a file's, so that whatever process dies, it
 * is there. And should the host die, at whatever instant: before an extent (4 MiB) is written to for the first time it
 * is durably in the list of extents; all blocks of a listed extent count as noted after a loss of the host. From time
 * to time an extent leaves the list, when its notes are durable and nobody writes to it any more.
 *
 *         0  header     magic, version, generation, boot id, which disks
 *      4096  extents    a bit each
 *      ....  blocks     two sets of bits: noted since the last rotation, and before it
 *      ....  summary    of both: in which extents there are any
 *
 * Blocks are forgotten when the other host has them durably: account_rotate at some moment of an epoch, and, once all
 * that was written up to the end of that epoch is durable there, account_forget. What is under way at the rotation may
 * be noted in either set: it is drained before the epoch ends.
 *
 * This part knows memory and a function that makes it durable, no file. Any number of processes may have one attached,
 * with one marker among them.
 */
#ifndef HIKAE_DISK_ACCOUNT_H
#define HIKAE_DISK_ACCOUNT_H

#include "disk/log.h"

enum { ACCOUNT_BLOCK = 4096, ACCOUNT_EXTENT_BLOCKS = 1024, ACCOUNT_ID = 16 };

struct account;

struct account_disks { /* which stores: a file's device and inode, a block device's number and 0 */
    unsigned count;
    struct {
        uint64_t bytes, device, inode;
    } at[DISK_MAX];
};

/* Makes octets [offset, offset + n) of the memory durable. 0, or -1. */
typedef int account_sync(void *arg, size_t offset, size_t n);

size_t account_octets(const struct account_disks *d);
/* `memory` (account_octets, aligned to a page) is as it was left, or zeroes. One of other disks, or that is damaged, is
 * made anew, without a generation. With another boot id than before, the listed extents are noted. Nobody else attaches
 * or marks meanwhile. NULL: no memory, or it can't be made durable. */
struct account *account_attach(void *memory, const struct account_disks *d, const uint8_t boot[ACCOUNT_ID],
                               account_sync *sync, void *arg);
void account_detach(struct account *a); /* NULL is allowed */

/* false: it has none, and nothing is noted. */
bool account_generation(const struct account *a, uint8_t out[ACCOUNT_ID]);
/* Another generation, and no block is noted; NULL: none from here on. Durable when it returns 0. */
int account_begin(struct account *a, const uint8_t generation[ACCOUNT_ID]);

/* Blocks that may be other on the other host; from before the last rotation. */
void account_note(struct account *a, unsigned disk, uint64_t first, uint64_t count);
/* All that is noted is now from before the last rotation. 0, or -1. */
int account_gather(struct account *a);
/* false: there is something from before the last rotation still. */
bool account_rotate(struct account *a);
void account_forget(struct account *a); /* what is from before it */
void account_clear(struct account *a);  /* everything */
bool account_is_forgotten(struct account *a);

/* The next run of noted blocks from *first on: 1; 0: there is none. */
int account_next(const struct account *a, unsigned disk, uint64_t *first, uint64_t *count);
uint64_t account_blocks(const struct account *a); /* noted, of all disks */

/* The stores are let go of, in order: when each was last modified (ns; of a block device 0). */
int account_close_stores(struct account *a, const int64_t modified[DISK_MAX]);
/* They are about to be written to, or may be. */
int account_open_stores(struct account *a);
/* true: nobody has had them since account_close_stores, as far as it is known here, and then they were modified then.
 */
bool account_is_closed(const struct account *a, int64_t modified[DISK_MAX]);

/* The process that marks, as it says (marker.h); 0: none. */
int account_marker(const struct account *a);

#endif
