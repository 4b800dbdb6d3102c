/*
 * replica: the content of the VM as the last committed epoch left it: memory in place, device state beside it. Takes
 * the records of an epoch, validates them at once, keeps them staged until the commit. Knows memory and bytes, no
 * hypervisor.
 *
 * The first epoch is the whole memory: it goes into place as it comes, since there is nothing to start from before it
 * is committed anyway.
 */
#ifndef HIKAE_SECONDARY_REPLICA_H
#define HIKAE_SECONDARY_REPLICA_H

#include "common/errmsg.h"
#include "proto/record.h"
#include "vm/page_set.h"

struct replica;

/* memory: pages * VM_PAGE_SIZE octets, writable, zero; borrowed. NULL: no memory. */
struct replica *replica_new(uint8_t *memory, uint64_t pages, uint64_t staging_bytes, const char *spool_dir);
void replica_free(struct replica *r);
/* Unless it is REPLICA_TAKEN the replica is as it was. */
enum replica_result {
    REPLICA_TAKEN,
    REPLICA_MALFORMED, /* the sender's fault */
    REPLICA_NO_ROOM    /* ours: memory, or the spool directory */
};
/* A PAGES or DEVICE record, of an epoch that stream_check let pass. */
enum replica_result replica_take(struct replica *r, const struct record *record, struct errmsg *e);
/* Is the epoch complete enough to start from (device state there)? To be asked before it is acknowledged. */
int replica_check(const struct replica *r, struct errmsg *e);
/* The epoch is committed: applies it. -1: it could not be read back from the spool: the replica is no good any more. */
int replica_commit(struct replica *r, struct errmsg *e);
/* The primary is lost: what is not committed never was. */
void replica_abort(struct replica *r);
/* From here on the pages that are written to are added to `written` (borrowed). NULL: no more. */
void replica_note_pages(struct replica *r, struct page_set *written);
const struct vm_blob *replica_initial(const struct replica *r);
const struct vm_blob *replica_state(const struct replica *r);
uint64_t replica_staged_bytes(const struct replica *r);

#endif
