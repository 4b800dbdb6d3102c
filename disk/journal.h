/*
 * journal: the redo journal of a replica's disks. The writes of committed epochs, of all disks of a VM, are durable
 * here before they touch a store. So a host that is lost in the middle of applying an epoch applies it again: its
 * stores are always at the end of a whole epoch once the journal was replayed (promise 2).
 *
 * One file. All integers are little endian, digests are XXH3, 128 bits, canonical.
 *
 *      0  slot 0    {"HIKAEJNL", version u32 = 1, 0 u32, generation u64, seed u64, digest[16] of these 32 octets}
 *   4096  slot 1    the same; the valid slot of the higher generation counts
 *   8192  epochs    each at a multiple of 4096, one behind the other:
 *                   {"EPOCHJNL", generation u64, epoch u64, length u64, durable u64, digest[16], with the seed, of
 *                   the body and these 40 octets}
 *                   body, `length` octets: {n u32, DISK payload of n octets (proto/disk.h)} ..
 *
 * `durable`: the last epoch that was, when this one was written (0: none yet). The journal ends before the first place
 * that has no valid epoch of its generation with a higher number. What was being written when the host was lost is such
 * a place; if one further on says that there was a durable epoch here, the journal is damaged.
 *
 * To empty it the next generation, with a seed that no guest can guess, is written to the other slot: nothing is
 * overwritten before that is durable, and what is left of an older generation is no epoch any more, whatever a guest
 * had it contain. So the file keeps its blocks, and room for JOURNAL_ROOM octets is there before it is needed.
 *
 * Nothing here is thread-safe.
 */
#ifndef HIKAE_DISK_JOURNAL_H
#define HIKAE_DISK_JOURNAL_H

#include "common/errmsg.h"
#include "disk/medium.h"

#include <stdbool.h>

struct journal;

enum { JOURNAL_ROOM = 64 << 20 };

/* Opens it, or makes an empty one. It is locked: one that another process has open is waited for up to wait_ms. */
struct journal *journal_open(const char *path, const struct medium *m, unsigned wait_ms, struct errmsg *e);
void journal_close(struct journal *j); /* as it is */

/* Hands out the writes of each whole epoch, in order. `each` returns 0, or -1 with its `e`, which ends the replay.
 * Before anything is appended, and journal_void comes next. */
typedef int journal_each(const uint8_t *payload, size_t n, void *arg, struct errmsg *e);
enum journal_result {
    JOURNAL_REPLAYED,
    JOURNAL_FAILED, /* it could not be read, or `each` has said so */
    JOURNAL_DAMAGED /* an epoch that was durable is not there: the stores can't be made those of any epoch */
};
enum journal_result journal_replay(struct journal *j, journal_each *each, void *arg, uint64_t *epochs /* replayed */,
                                   struct errmsg *e);

/* Appends an epoch: begin, its writes, end. Epochs ascend. Durable when journal_sync has returned 0. */
void journal_begin(struct journal *j, uint64_t epoch);
int journal_add(struct journal *j, const uint8_t *payload, size_t n, struct errmsg *e);
int journal_end(struct journal *j, struct errmsg *e);
int journal_sync(struct journal *j, struct errmsg *e);
/* Empties it, durably. All that it had must be durable in the stores. */
int journal_void(struct journal *j, struct errmsg *e);
/* Removes the file, durably: an empty one, whose stores somebody else writes to from here on. Whatever becomes of them,
 * nothing is ever replayed over it. */
int journal_remove(struct journal *j, struct errmsg *e);
uint64_t journal_bytes(const struct journal *j); /* in use */

#endif
