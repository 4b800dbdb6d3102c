/*
 * worker: the process that runs one VM's protection: shell around the pure cores (protection, trigger, flight,
 * encoder). Private to primary/; its parts are worker.c      life: finding the VM, carrying out the protection table's
 * actions, the supervisor's requests ownership.c   claims at the arbiter, network.c   the VM's NICs session.c     the
 * connection to the secondary: greeting, heartbeats, acks, sending checkpoint.c  first sync and the checkpoint cycle,
 * disks.c, disks_grow.c  the VM's disks, move.c  planned moves report.c status
 */
#ifndef HIKAE_PRIMARY_WORKER_H
#define HIKAE_PRIMARY_WORKER_H

#include "arbiter/arbiter.h"
#include "common/config.h"
#include "common/control.h"
#include "common/hist.h"
#include "common/link.h"
#include "common/repeated.h"
#include "common/state.h"
#include "common/token_bucket.h"
#include "netbuf/outlet.h"
#include "primary/candidates.h"
#include "primary/capture.h"
#include "primary/flight.h"
#include "primary/pipeline.h"
#include "primary/protection.h"
#include "primary/trigger.h"
#include "primary/written.h"
#include "proto/check.h"
#include "proto/epoch.h"
#include "vm/vm.h"

#include <ev.h>
#include <stdbool.h>

/* How the worker comes by its VM. */
enum worker_begin {
    BEGIN_AUTO,  /* the one that the record says runs here, else attach to or launch what the config says */
    BEGIN_ADOPT, /* a replica that was just loaded on this host: paused, and the term is ours already */
};

struct worker_options {
    const char *vm;
    enum worker_begin begin;
    bool force; /* arbiter = none: its admin says that it runs nowhere else */
};

struct ownership {
    struct arbiter *arbiter;
    struct arbiter_request *request;
    ev_timer retry;
    bool register_read; /* `term` is the register's, not a guess */
    int64_t asked_at;   /* when the claim under way was made, CLOCK_MONOTONIC ns */
    int64_t unanswered; /* ns: for how long claims have been without an answer, while ISOLATED */
    int64_t not_before; /* nothing is claimed until then: a replica may be about to */
    bool only_look;     /* the VM is gone: whose it is is asked for the record's sake, nothing is claimed */
    struct arbiter_register want;
};

enum session_state { SESSION_NONE, SESSION_CONNECTING, SESSION_HELLO, SESSION_CONFIG, SESSION_READY };

struct session {
    enum session_state state;
    struct tls_identity *identity;
    struct link *link;
    struct framer *framer;
    struct stream_check *check;
    ev_timer heartbeat, reconnect;
    uint64_t sequence, echo;
    bool knows_check; /* the secondary answers CHECK */
    bool knows_generations, knows_disk_pages;
    bool told_regions;     /* READY said that REGIONS follow */
    int64_t heard_at;      /* last time any byte came */
    size_t unread;         /* that had come and were not read at the last look */
    int64_t sent_at;       /* last time that any was sent in time */
    uint64_t bytes_before; /* sent over earlier connections */
};

struct sync {
    unsigned round;       /* rounds begun */
    uint64_t round_pages; /* of the round under way */
    uint64_t total;       /* pages of the first round */
    bool waiting;         /* for the round to be encoded */
    bool differences;     /* the replica did not begin empty: the first round sends only what differs */
    uint64_t sent;        /* pages of the first round that were sent, once it is over */
    uint64_t bytes;       /* that went over the wire until its epoch was acknowledged; 0: it is not yet */
    uint64_t sent_before; /* over this connection */
    /* of a first round that compares */
    struct regions_told told;
    struct page_ranges populated;
    size_t cursor;  /* in `populated` */
    unsigned spans; /* in the pipeline */
};

struct checkpoint {
    int timer_fd;
    ev_io timer;
    struct trigger trigger;
    struct flight flight;
    struct pipeline *pipeline;
    struct capture *free[FLIGHT_MAX];
    unsigned free_count;
    struct vm_blob initial;
    struct page_ranges dirty;
    struct sync sync;
    ev_timer pace; /* of the rounds of the first sync */
    /* The VM is stuck: it is given up as soon as the secondary, which is to take it over, says something. */
    ev_timer stuck;
    int64_t stuck_heard; /* when it was last heard before that; 0: that is not known yet */
    struct errmsg stuck_why;
};

struct disk_client;
struct disk_guard;

struct disk_sync { /* of one disk */
    bool open;
    int fd;                       /* of its store, for reading */
    struct page_ranges populated; /* blocks of its store that are no hole */
    size_t cursor;                /* in `populated` */
};

/* Shared disks: an epoch that was captured, of which something may not be durable on them yet. */
struct shared_epoch {
    uint64_t epoch;
    uint64_t mark;    /* where it ends in the log */
    uint64_t flushed; /* what the guest was told to be durable is so when the log is up to here */
};
enum { SHARED_EPOCHS = 32 };

struct shared {
    unsigned disks; /* how many of the VM's are shared, the last ones; 0: none */
    struct shared_epoch at[SHARED_EPOCHS];
    unsigned n;
    uint64_t acked, released; /* newest epoch that was; its output was let go */
};

struct disks {
    struct vm_disk at[VM_MAX_DISKS];
    unsigned n; /* 0: the VM has none */
    struct shared shared;
    struct disk_client *client; /* NULL: there is no server, for now */
    struct disk_guard *guard;   /* sees to it that there is one again */
    struct errmsg trouble;      /* why there is none; "": it is being started */
    bool tracking;
    uint64_t pushed;     /* position in the log: all before it is in the pipeline */
    uint64_t owed_since; /* oldest epoch in whose last pause a flush was answered that may not be done yet; 0: none */
    int64_t owed_from;   /* when that pause was, ns */
    uint64_t waiting;    /* newest epoch that is acknowledged and whose output waits for such flushes; 0: none */
    struct blocks_told told;
    struct written written;
    struct disk_sync sync[VM_MAX_DISKS];
    uint64_t populated; /* blocks, of all disks */
    struct speed speed; /* of the sync, octets */
    unsigned growing;   /* the VM is to be told that disks have grown: so many tries are left */
    ev_io event, news;  /* of the client, of the guard */
    ev_timer push, grow;
    bool has_owner; /* they are block devices of this host, of this domain: */
    uint32_t owner;
    ev_timer out;       /* looks whether the VM's disks allow its output to be free */
    bool frees_network; /* the network is let go when they do */
};

enum move_kind { MOVE_NONE, MOVE_SWITCHOVER, MOVE_MIGRATE };

struct move {
    enum move_kind kind; /* of the one under way */
    char to[64];
    bool warm;          /* a checkpoint was taken since it began: the last one will find little */
    uint64_t epoch;     /* the last one; 0: not captured yet */
    double paused_at;   /* when; CLOCK_REALTIME, ms */
    double captured_at; /* when its copy was complete */
    uint64_t pages;     /* in it */
    bool sent;          /* HANDOVER */
    const char *result; /* of the latest: "running", "done", "failed"; NULL: there was none */
    char error[320];
    ev_timer limit;
};

struct verify;

struct metrics { /* histograms in ns, but for pages */
    struct hist *pause, *stop, *net, *scan, *copy, *state, *resume, *commit, *pages;
    uint64_t checkpoints, pages_dirty; /* first syncs included: what had to be brought to the replica */
    uint64_t last_pages;
};

struct worker {
    struct ev_loop *loop;
    struct config **config_owner; /* where `config` is freed from */
    struct config *config;
    const struct config_vm *settings;
    const char *name;
    enum worker_begin begin;
    char run_dir[256];

    const struct vm_ops *ops;
    struct vm *vm; /* NULL: not there yet, or not any more */
    struct vm_info info;
    ev_io vm_event;
    struct outlet *outlets[VM_MAX_NICS];
    unsigned outlet_count;
    ev_timer announce; /* repeats the announcement for a while */
    unsigned announcements;

    enum protection_state state;
    uint64_t term, term_seen; /* ours; the highest that this host has ever known: the register can't be behind it */
    char peer[64];            /* wanted secondary, the candidates' turn; "": none */
    struct candidates candidates;
    char reason[REPEATED_TEXT];
    char cause[REPEATED_TEXT]; /* why the arbiter is asked, as long as it is */
    struct repeated repeated;  /* what fails without a change of state */
    char origin[160];          /* how the VM came here, if from another host */
    struct vm_record record;
    bool force;
    bool may_run_elsewhere; /* by its record it ended here while another host could hold a replica */
    bool record_runs;       /* by its record the VM ran here before this process */
    bool cold_boot;         /* and ended when this host did: if it is ours still, it is started by its configuration */

    struct ownership ownership;
    struct session session;
    struct checkpoint checkpoint;
    struct disks disks;
    struct verify *verify; /* NULL: nothing was ever compared */
    struct move move;
    struct metrics metrics;

    struct control_conn *supervisor;
    ev_timer supervisor_retry, report, exit, resume_retry, note, network_lost;
    int reply_to; /* id of a start request that is not answered yet; 0: none */
    int exit_code;
    struct arbiter_request *upgrade_question; /* does the arbiter answer? NULL: not asked */
    bool upgrading;                           /* makes way for a successor as soon as the VM is ours alone */
    struct json_object *timeline;             /* of the failover that brought the VM here */
};

/* worker.c */
/* May replace *config by what the file says by then; the caller frees it. */
int worker_main(struct config **config, const struct worker_options *options);
void worker_event(struct worker *w, enum protection_event event, const char *reason_format, ...)
    __attribute__((format(printf, 3, 4)));
int worker_save_record(struct worker *w, const char *role);
/* Protection by that peer is wanted from now on; "": by nobody, and why. */
void worker_want_peer(struct worker *w, const char *peer, const char *why);
/* Answers the request `reply_to`, if it is not answered yet. error: NULL if it was done. */
void worker_answer(struct worker *w, const char *error);
/* The connection to the secondary failed: perhaps it is another one's turn. */
void worker_peer_failed(struct worker *w);
/* The VM or its socket may have ended: looks and tells the protection table. True: it has. */
bool worker_check_vm(struct worker *w);
/* Has the VM other memory or network interfaces than when it was found? Then a new process takes its place, which finds
 * it as it is. */
bool worker_is_outgrown(struct worker *w);

/* network.c */
void network_init(struct worker *w);
int network_open(struct worker *w, struct errmsg *e); /* of the NICs that have no outlet yet; output closed */
void network_adopt(struct worker *w);                 /* those that this process inherits; output open */
void network_let_go(struct worker *w);
void network_hold(struct worker *w);
void network_seal(struct worker *w);
void network_announce(struct worker *w); /* now, and some more times */
void network_close(struct worker *w);

/* ownership.c */
void ownership_init(struct worker *w);
void ownership_claim(struct worker *w);
void ownership_claim_later(struct worker *w);
/* Only asks, beside any claim; to be cancelled before ownership_end. NULL: there is no arbiter. */
struct arbiter_request *ownership_read(struct worker *w, arbiter_callback *done);
/* For so long it is only asked whose the VM is. Before the first answer has come. */
void ownership_wait(struct worker *w, unsigned ms);
void ownership_end(struct worker *w);

/* session.c */
void session_init(struct worker *w);
void session_connect(struct worker *w);
void session_connect_later(struct worker *w);
void session_hurry(struct worker *w); /* what was to be tried later is tried now */
void session_bye(struct worker *w, enum bye_reason reason, const char *text); /* if it is up; closes */
void session_close(struct worker *w);
/* From outside of the loop (vm_told.waits): a heartbeat if one is due. A link that fails is told of later. */
void session_keep_alive(struct worker *w);
void session_pump(struct worker *w); /* moves encoded chunks to the link while it takes them */
void session_note_addresses(struct worker *w);
void session_note_durable(struct worker *w, uint64_t epoch); /* on the shared disks */
void session_note_disk_sync_rate(struct worker *w);
void session_hand_over(struct worker *w, uint64_t epoch, struct json_object *payload); /* takes the payload over */

/* checkpoint.c */
int checkpoint_init(struct worker *w, struct errmsg *e);
void checkpoint_sync(struct worker *w); /* begins the first sync */
void checkpoint_stop(struct worker *w);
int checkpoint_regions(struct worker *w, const struct record *r, struct proto_error *e); /* -1: a violation */
void checkpoint_arm(struct worker *w); /* something changed that the time of the next checkpoint depends on */
void checkpoint_acked(struct worker *w, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE]);
void checkpoint_configure(struct worker *w); /* mode or interval changed */
void checkpoint_end(struct worker *w);

/* disks.c */
enum { DISKS_DIR_MAX = 256 };
void disks_dir(const struct worker *w, char out[DISKS_DIR_MAX]); /* of their server */
void disks_init(struct worker *w);
int disks_start(struct worker *w, struct errmsg *e); /* those that the configuration names, for a VM to be launched */
/* Of a VM that runs. Before it is attached to: a hypervisor that waits for its disks answers nothing. */
int disks_find(struct worker *w, struct errmsg *e);
/* The VM is no more: its disk server goes too, unless somebody else has its disks by now. */
void disks_end(struct worker *w);
/* The VM is about to end, and its disk server has: what it still asks of its disks fails. */
void disks_cut(struct worker *w);
void disks_let_go(struct worker *w); /* this process ends, the VM doesn't */
/* Has their server ended with writes to shared disks? Then the VM is ended by that (EVENT_VM_GONE). */
bool disks_are_lost(struct worker *w);
/* The VM stood still at the end of that epoch, of which the log ended at `mark`. */
void disks_captured(struct worker *w, uint64_t epoch, uint64_t mark);
void disks_release(struct worker *w, uint64_t epoch); /* that epoch is acknowledged: lets its output go, now or soon */
void disks_flushed(struct worker *w);
bool disks_hold_checkpoints(const struct worker *w); /* until disks_flushed */
void disks_stop(struct worker *w);                   /* the stream has ended, and with it the pipeline */

/* The VM is ours: by whom its disks are used, if they are block devices of this host. */
void disks_note_owner(struct worker *w);

/* disks_sync.c */
/* Logs from here on. Before dirty tracking is armed or after, but before any BLOCKS. */
int disks_begin_sync(struct worker *w, struct errmsg *e);
int disks_blocks(struct worker *w, const struct record *r, struct proto_error *e); /* -1: a violation */
int disks_changed(struct worker *w, const struct record *r, struct proto_error *e);
bool disks_are_told(const struct worker *w);
void disks_end_sync(struct worker *w);
uint64_t disks_sync_rate(const struct worker *w);          /* octets per second; 0: no limit */
void disks_set_sync_rate(struct worker *w, uint64_t rate); /* from now on, here and at the secondary */

/* disks_out.c */
void disks_init_out(struct worker *w);
/* The network is let go of: now, or as soon as what the guest has flushed is durable and what was held is out. */
void disks_free_output(struct worker *w);
bool disks_output_waits(const struct worker *w); /* for that: no epoch may begin before it is free */
/* Around a call that makes the VM stand still while no epoch ends, its output being free. */
void disks_begin_pause(struct worker *w);
void disks_end_pause(struct worker *w);
void disks_stop_freeing(struct worker *w);

/* shared.c: disks that another host sees as well. Without any all of it does nothing. */
/* Output is free: lets out what was held for them. Is all of it durable there? Else it is to be asked again. */
bool shared_are_out(struct worker *w);
void shared_begin_sync(struct worker *w);
int shared_begin_holding(struct worker *w, struct errmsg *e); /* before the first checkpoint */
bool shared_hold_checkpoints(const struct worker *w);         /* they are too far behind */
void shared_captured(struct worker *w, uint64_t epoch, uint64_t mark);
/* The epoch is acknowledged: its writes go out, its other output follows when it may, and move_acked. */
void shared_acked(struct worker *w, uint64_t epoch);
void shared_on_events(struct worker *w, unsigned events); /* DISK_EVENT_* */
void shared_stop(struct worker *w);
/* The VM has ended, and is ours: waits, for some seconds at most, until all that it wrote is on them. */
void shared_settle(struct worker *w);
/* The VM is about to be taken over, by our word: nothing is written to them from here any more. */
void shared_cut(struct worker *w);
/* Did the disk server die with writes that the guest believes to have made? Then the VM can't go on. */
bool shared_are_lost(const struct worker *w);

/* verify.c: comparing the disks, or the memory, with the replica's. The first returns what is wrong, or NULL. */
const char *verify_begin(struct worker *w, bool of_memory, bool repair);
void verify_abort(struct worker *w, const char *why); /* if one is under way */
void verify_looked(struct worker *w, const struct looked *at);
int verify_answered(struct worker *w, const struct record *r, struct proto_error *e); /* CHECKED; -1: a violation */
void verify_stop(struct worker *w);                                                   /* the pipeline is gone */
void verify_report(const struct worker *w, struct json_object *status);
void verify_end(struct worker *w);

/* disks_grow.c */
void disks_init_growing(struct worker *w);
/* Disks whose stores have grown become as large: their server and the replica are made anew. NULL, or what is wrong. */
const char *disks_grow(struct worker *w);
/* The VM was found: it may not have heard yet how large its disks are. */
void disks_tell_sizes(struct worker *w);

/* move.c: planned moves. The first three return what is wrong, or NULL. */
const char *move_switchover(struct worker *w);
const char *move_migrate(struct worker *w, const char *to);
const char *move_abort(struct worker *w);
const char *move_forbids(const struct worker *w); /* what else can't be done meanwhile, for the admin; NULL: nothing */
bool move_is_due(const struct worker *w);         /* the next checkpoint shall be as soon as possible */
bool move_holds_checkpoints(const struct worker *w); /* none before what is in flight is acknowledged */
bool move_is_last(const struct worker *w);           /* the next checkpoint leaves the VM paused */
void move_captured(struct worker *w, uint64_t epoch, int64_t paused_at, uint64_t pages, bool last);
/* That epoch's output was released. Only when that of the last one was is the VM handed over: its new host can't send
 * anything before. */
void move_acked(struct worker *w, uint64_t epoch);
void move_follow(struct worker *w, enum protection_event event); /* after the protection table has taken the event */
bool move_is_done(const struct worker *w);
void move_report(const struct worker *w, struct json_object *status);
void move_init(struct worker *w);
/* upgrade.c */
/* This process is to be replaced by one of the installed program. Ends the protection first, so that no failover comes
 * of it; the successor begins it again. NULL, or why not. */
const char *upgrade_begin(struct worker *w, int reply_to);
/* Makes way for a new process that finds the VM as it is now, whatever the arbiter says. False: not in this state. */
bool upgrade_make_way(struct worker *w, const char *why);
bool upgrade_is_under_way(const struct worker *w);
void upgrade_proceed(struct worker *w); /* the state has changed */
void upgrade_end(struct worker *w);

/* report.c */
void report_init(struct worker *w);
void report_now(struct worker *w);
/* Notes the wall-clock time of a step of a failover in the timeline. */
void report_mark(struct worker *w, const char *what);
void report_end(struct worker *w);

#endif
