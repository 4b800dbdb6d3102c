/*
 * disks: a replica's disks, as the worker uses them: opened and served when CONFIG tells of them, told of (BLOCKS),
 * brought from epoch to epoch by the applier's thread (disk/applier.h), sealed before the VM may run from them. A VM
 * without disks has NULL, and all of this does nothing.
 */
#ifndef HIKAE_SECONDARY_DISKS_H
#define HIKAE_SECONDARY_DISKS_H

#include "common/errmsg.h"
#include "proto/check.h"
#include "proto/record.h"
#include "secondary/replica.h"

#include <stdbool.h>

struct config;
struct json_object;
struct disks;
struct worker;

/* RUN_DIR/disks/VM: of the VM's disk server on this host. */
enum { DISKS_DIR_MAX = 256 };
void disks_dir(char out[DISKS_DIR_MAX], const struct config *c, const char *vm);

/* For what CONFIG says: refuses, or has w->disks and its server run. -1: what was begun is undone by disks_drop. */
int disks_open(struct worker *w, struct json_object *config, struct errmsg *e);
/* For vm_spec: valid as long as `d`. */
const struct vm_disk *disks_exports(const struct disks *d, unsigned *count);
/* The replica is made. If its disks come from the kernel (Xen) and it is one that another worker made, they are
 * connected to the server of now. */
int disks_attach(struct worker *w, struct errmsg *e);
/* READY was said, and that they are told. */
int disks_begin_telling(struct worker *w, struct errmsg *e);
void disks_set_sync_rate(struct worker *w);      /* w->disk_sync_rate has changed */
bool disks_tell_changes(const struct worker *w); /* ..by CHANGED */
void disks_tell_durable(struct worker *w);       /* tells the primary what would survive, if there is news */
void disks_tell_on(struct worker *w);            /* the connection has room again */
void disks_end_telling(struct worker *w);

/* A DISK record, of an epoch that stream_check let pass. */
enum replica_result disks_take(struct worker *w, const struct record *record, struct errmsg *e);
/* Is nothing read from the connection, until the disks have taken what came? */
bool disks_hold_reading(const struct worker *w);
/* w->epoch is committed: hands its writes to the applier. */
void disks_commit(struct worker *w);
/* May this epoch be acknowledged now? If not, session_send_acks is called when it may be. */
bool disks_let_ack(const struct worker *w, uint64_t epoch);
/* Those that a CHECK may be of. */
const struct disk_sizes *disks_compared(const struct disks *d);
unsigned disks_unanswered(const struct disks *d); /* CHECKs */
/* A CHECK of one: compared when the last committed epoch is in the disks, and answered. */
void disks_check(struct disks *d, const struct check_head *head, const struct record *record);
/* NOTE has said that what was written to shared disks up to that epoch is durable. -1 with `e`: a violation. */
int disks_note_durable(struct worker *w, uint64_t epoch, struct errmsg *e);
/* Is all that was committed to shared disks so? */
bool disks_are_durable(const struct worker *w);
void disks_abort(struct worker *w); /* what is not committed never was */

/* Before a claim: are the disks at the end of the last committed epoch, durably, and will stay so whoever writes to
 * them from here on? If not it is begun, and failover_claim is called when they are. */
bool disks_are_sealed(struct worker *w);

bool disks_are_shared(const struct worker *w); /* any of them */
/* The claim was granted and the lost host is fenced: brings shared disks to the last committed epoch, then calls
 * failover_run. */
void disks_bring(struct worker *w);

void disks_drop(struct worker *w);  /* the replica is given up: its server ends */
void disks_close(struct worker *w); /* after all that was committed is in them */
void disks_report(const struct worker *w, struct json_object *status);

#endif
