/*
 * epoch: the grammar of a stream as data, its digests, and the small records. Pure. Both agents and no verifier use it:
 * hikae-verify has its own.
 *
 * Primary -> secondary:  HELLO CONFIG epoch* BYE?     epoch(e) = (PAGES | DISK)* DEVICE+ COMMIT, all with epoch e;
 * e = 1, 2, 3, ..., CHECK(e)* after epoch(e). Secondary -> primary:  HELLO READY (REGIONS | BLOCKS)* (ACK | CHECKED)*
 * BYE? HEARTBEAT and NOTE anywhere after HELLO, both ways, outside the digest
 */
#ifndef HIKAE_PROTO_EPOCH_H
#define HIKAE_PROTO_EPOCH_H

#include "proto/record.h"

struct json_object;

/* The digest of an epoch: XXH3-128 over header and payload of each PAGES, DISK and DEVICE record, in order, seeded by
 * nothing. */
struct digest;
struct digest *digest_new(void);
void digest_free(struct digest *d);
void digest_reset(struct digest *d);
void digest_add(struct digest *d, const void *data, size_t n);
void digest_final(const struct digest *d, uint8_t out[PROTO_DIGEST_SIZE]);

/* Checks the order of the records that one side receives. */
enum stream_side { STREAM_FROM_PRIMARY, STREAM_FROM_SECONDARY };
struct stream_check; /* where in the grammar we are */
struct stream_check *stream_check_new(enum stream_side from);
void stream_check_free(struct stream_check *s);
/* 0: `r` may come here; advances. -1: out of order, replayed, skipped or mixed epoch, wrong digest in COMMIT, bad fixed
 * size; stays failed. For COMMIT the digest of what was added must equal the one sent. */
int stream_check_record(struct stream_check *s, const struct record *r, struct proto_error *e);
uint64_t stream_check_committed(const struct stream_check *s); /* last epoch whose COMMIT passed */

/* COMMIT and ACK payload: digest[16], u32 records, u32 reserved 0 */
enum { COMMIT_SIZE = 24 };
void commit_write(uint8_t out[COMMIT_SIZE], const uint8_t digest[PROTO_DIGEST_SIZE], uint32_t records);
/* HEARTBEAT payload: u64 sequence, u64 echo (the peer's last sequence seen) */
enum { HEARTBEAT_SIZE = 16 };
void heartbeat_write(uint8_t out[HEARTBEAT_SIZE], uint64_t sequence, uint64_t echo);
int heartbeat_read(const struct record *r, uint64_t *sequence, uint64_t *echo, struct proto_error *e);
/* BYE payload: u16 reason, u16 0, text (printable ASCII, at most PROTO_REASON_MAX octets) */
enum bye_reason {
    BYE_UNPROTECT = 1,  /* primary: drop the replica */
    BYE_VM_STOPPED = 2, /* primary: the guest shut down by itself; drop the replica */
    BYE_VM_CRASHED = 3, /* primary: the VM's process is gone, take over now */
    BYE_REFUSED = 4,    /* not paired, not this VM, wrong version, can't make the replica */
    BYE_PROTOCOL = 5,   /* what you sent is not the protocol */
    BYE_TAKEN_OVER = 6, /* secondary: the VM runs here now */
    BYE_TROUBLE = 7,    /* this side can't go on (disk full, replica died) */
    BYE_RESTART = 8,    /* primary: the agent is going away for a moment, wait for it */
};
const char *bye_name(unsigned reason);
size_t bye_write(uint8_t *out /* 4 + PROTO_REASON_MAX */, enum bye_reason reason, const char *text);
int bye_read(const struct record *r, enum bye_reason *reason, char text[PROTO_REASON_MAX + 1], struct proto_error *e);

#endif
