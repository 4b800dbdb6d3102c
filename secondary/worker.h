/*
 * worker: the process that serves one connection of a primary and holds one replica; shell around the pure cores
 * (standby, replica). Private to secondary/; its parts are worker.c    life, the standby table's actions, the
 * supervisor's requests session.c   the connection: greeting, records, acks, heartbeats, the failure detector
 *   failover.c  claim, start, becoming the VM's primary worker
 *   report.c    status
 */
#ifndef HIKAE_SECONDARY_WORKER_H
#define HIKAE_SECONDARY_WORKER_H

#include "arbiter/arbiter.h"
#include "common/config.h"
#include "common/control.h"
#include "common/link.h"
#include "common/state.h"
#include "proto/epoch.h"
#include "secondary/cleaner.h"
#include "secondary/disks.h"
#include "secondary/network.h"
#include "secondary/replica.h"
#include "secondary/standby.h"
#include "secondary/teller.h"
#include "vm/vm.h"

#include <ev.h>
#include <stdbool.h>
#include <stdio.h>

struct fence;

struct epoch_ack {
    uint64_t epoch;
    uint8_t digest[PROTO_DIGEST_SIZE];
};
struct epoch_acks { /* that are due, and not sent since the disks are behind; a ring */
    struct epoch_ack *at;
    size_t first, n, capacity;
};

struct worker {
    struct ev_loop *loop;
    struct config *config;
    const char *program;            /* path of this executable */
    const struct config_peer *peer; /* NULL until the handshake */
    char vm_name[64];               /* "" until HELLO */
    uint64_t term;                  /* of the primary's ownership; once granted, ours */
    char run_dir[WORKER_RUN_DIR_MAX];

    struct tls_identity *identity;
    struct link *link;
    struct framer *framer;
    struct stream_check *check;
    FILE *recording; /* of the stream; NULL: not wanted */
    uint64_t sequence, echo;
    int64_t heard_at;                  /* CLOCK_MONOTONIC ns */
    bool admitted;                     /* by the supervisor, which knows us from then on */
    bool said_hello;                   /* and was answered */
    bool knows_regions;                /* the primary can be told what the replica holds */
    uint8_t digest[PROTO_DIGEST_SIZE]; /* of the last committed epoch */
    struct epoch_acks acks;

    const struct vm_ops *ops;
    struct vm *vm;
    struct vm_info info;
    ev_io vm_event;
    struct network network;
    struct replica *replica;
    struct disks *disks;     /* NULL: the VM has none */
    uint64_t disk_sync_rate; /* by the primary's word: octets per second that are read of them to tell; 0: no limit */
    uint64_t checks;         /* CHECKs that came */
    struct page_set *populated; /* since memory is compared: what may hold something; NULL: it was not */
    struct teller *teller;      /* NULL: the replica began empty, or all is told */
    ev_idle telling;
    bool keep; /* what is dropped: its memory is worth keeping */
    struct vm_record record;
    bool handed;          /* a planned move: it was given to us, not lost */
    bool crashed;         /* the VM alone was lost: its host says so, and is well */
    bool loaded;          /* it has its devices' state: it could be resumed */
    bool warming;         /* that is what `request` is for */
    uint64_t epoch;       /* last committed */
    int64_t committed_at; /* CLOCK_MONOTONIC ns */

    enum standby_state state;
    char reason[320];
    struct arbiter *arbiter;
    struct arbiter_request *request;
    struct fence *fence;          /* NULL: none is under way */
    struct json_object *timeline; /* of a failover: what happened when, CLOCK_REALTIME ms */

    struct control_conn *supervisor;
    ev_timer detector, grace, claim_retry, supervisor_retry, report, exit;
    int reply_to; /* id of a failover request that is not answered yet; 0: none */
};

/* worker.c */
int worker_main(struct config *config, const char *program, int fd);
void worker_event(struct worker *w, enum standby_event event, const char *reason_format, ...)
    __attribute__((format(printf, 3, 4)));
int64_t worker_now(void); /* CLOCK_MONOTONIC ns */

/* session.c */
int session_begin(struct worker *w, int fd, struct errmsg *e);
void session_admitted(struct worker *w, const char *refusal); /* the supervisor's word on HELLO; NULL: welcome */
void session_say_ready(struct worker *w);
void session_send(struct worker *w, uint16_t type, const void *payload, size_t n); /* epoch 0; if it is up */
/* Acknowledges w->epoch, at once or when the disks let it. */
void session_ack(struct worker *w);
void session_send_acks(struct worker *w); /* those that may be sent now */
/* Ends the connection, with the reason in both hosts' logs. */
void session_turn_away(struct worker *w, enum bye_reason reason, const char *what);
void session_bye(struct worker *w, enum bye_reason reason, const char *text); /* closes */
void session_close(struct worker *w);

/* tell.c: says what a replica holds that did not begin empty */
int tell_init(struct worker *w, struct errmsg *e); /* once the replica is made */
void tell_begin(struct worker *w);                 /* READY was said */
void tell_on(struct worker *w);                    /* the connection has room again */
void tell_end(struct worker *w);

/* check.c: compares what the primary says that disks and memory hold. -1: a violation. */
int check_take(struct worker *w, const struct record *r, struct proto_error *e);
void check_end(struct worker *w);

/* failover.c */
void failover_read_register(struct worker *w, arbiter_callback *done);
/* arbiter = none: notes the primary's term in this host's own register, if it knows no higher one. */
void failover_note_primary(struct worker *w, arbiter_callback *done);
/* While it is not yet sure that there will be a claim: the arbiter is connected to and the register read, of which
 * nothing is made here, so that a claim takes less. */
void failover_warm(struct worker *w);
void failover_claim(struct worker *w);
/* The VM is ours: fences the host that lost it, if that is configured, and says LOADED. */
void failover_start(struct worker *w);
void failover_run(struct worker *w); /* its disks are as the epoch says: resumes it */
void failover_end_fencing(struct worker *w);
/* Gives up the replica and replaces this process; returns only if that failed. */
void failover_become_primary(struct worker *w);
void failover_mark(struct worker *w, const char *what);

/* report.c */
void report_init(struct worker *w);
void report_now(struct worker *w);

#endif
