/*
 * sim: two hosts, a VM, a network, an arbiter and an outside observer, all simulated from one seed; what decides is the
 * real code: primary/protection, primary/flight, secondary/standby, netbuf. Its parts are
 *   engine.c    time, events, network, arbiter
 *   shells.c    what an action of the tables does: the mirror of primary/worker.c:act and secondary/worker.c:act
 *   moves.c     planned moves: the mirror of primary/move.c
 *   observer.c  what the outside has seen, and what must never be
 *   main.c      faults, phases, the check after each calm
 * Times are in microseconds.
 */
#ifndef HIKAE_TESTS_SIM_H
#define HIKAE_TESTS_SIM_H

#include "netbuf/netbuf.h"
#include "primary/flight.h"
#include "primary/protection.h"
#include "secondary/standby.h"

#include <stdbool.h>
#include <stdint.h>

enum { HOSTS = 2, PROCESSES = 32, CONNECTIONS = 64, BRANCHES = 1 << 16 };
enum { MS = 1000, SECOND = 1000000 };
enum { DETECT = 500 * MS, GRACE = 60 * MS, HEARTBEAT = DETECT / 5, RESTART = 20 * MS, RETRY = 200 * MS };
enum { ANSWER_TIMEOUT = 1000 * MS, ACK_LIMIT = 10 * SECOND, RECONNECT = 500 * MS, INTERVAL = 20 * MS };
enum { OPEN_AFTER = 3 * SECOND, MOVE_LIMIT = 5 * SECOND };

enum kind { KIND_PRIMARY = 1, KIND_SECONDARY };
enum timer {
    TIMER_HEARTBEAT, /* of either side, its detector too */
    TIMER_RETRY,     /* a claim */
    TIMER_CONNECT,
    TIMER_CHECKPOINT,
    TIMER_ENCODED,
    TIMER_GRACE,
    TIMER_MOVE,
    TIMERS
};
enum message {
    MESSAGE_HELLO,
    MESSAGE_HELLO_BACK,
    MESSAGE_CONFIG,
    MESSAGE_READY,
    MESSAGE_PAGES,
    MESSAGE_COMMIT,
    MESSAGE_ACK,
    MESSAGE_HANDOVER,
    MESSAGE_HEARTBEAT,
    MESSAGE_BYE,
    MESSAGE_CLOSED, /* by the kernel: no process sends it */
};
enum bye { GOODBYE_UNPROTECT, GOODBYE_STOPPED, GOODBYE_CRASHED, GOODBYE_TROUBLE, GOODBYE_TAKEN_OVER };
enum answer { ANSWER_GRANTED, ANSWER_REFUSED, ANSWER_NONE };
enum gate { GATE_HOLD, GATE_OPEN, GATE_SEALED };
enum move_kind { MOVE_NONE, MOVE_SWITCHOVER, MOVE_MIGRATE };

/* What a checkpoint holds of the VM: where its history is. */
struct content {
    uint32_t branch; /* one per VM that ever started */
    uint64_t frames; /* sent so far */
};

struct registered {
    uint64_t term;
    int owner;
    bool stopped;
};

struct claim {
    bool under_way, is_read;
    unsigned serial;
    struct registered want;
};

struct move {
    enum move_kind kind;
    bool warm, sent;
    uint64_t epoch; /* the last one; 0: not captured yet */
    int64_t paused_at;
};

struct process {
    bool alive;
    enum kind kind;
    int host;
    unsigned generation, timer_serial[TIMERS];
    int64_t stalled_until;
    int connection; /* -1: none */
    int64_t heard_at;
    uint64_t term;
    struct claim claim;

    /* primary */
    enum protection_state state;
    int64_t unanswered; /* while ISOLATED */
    bool register_read, only_look, wants, ready;
    enum gate gate;
    struct netbuf *held;
    struct flight flight;
    struct content captured[FLIGHT_MAX + 1]; /* by epoch, modulo */
    uint64_t encoded;                        /* epochs that were handed to the link */
    int64_t acked_at;
    struct move move;

    /* secondary */
    enum standby_state standby;
    bool registered, admitted, greeted, has_replica, damaged;
    bool handed, migrated; /* the VM was given to us; its old host is not wanted as its secondary */
    uint64_t epoch;
    struct content committed, staged, loaded;
    bool is_staged, is_loaded;
    uint8_t digest[PROTO_DIGEST_SIZE];
};

struct host {
    bool up, vm, record_running;
    bool still;             /* the VM: it was not resumed after its last checkpoint */
    struct content content; /* of the VM that runs here */
    int64_t arbiter_away_until, restart_at;
};

struct event;
typedef void event_run(struct process *p, const struct event *e); /* p: NULL for the world's own */

struct event {
    int64_t at;
    uint64_t order;
    event_run *run;
    int process; /* -1: the world's */
    unsigned generation;
    int timer; /* -1: none */
    unsigned timer_serial;
    int connection;
    unsigned connection_generation;
    int side; /* receiver */
    uint64_t sequence;
    enum message message;
    uint64_t number;
    struct content content;
    uint8_t digest[PROTO_DIGEST_SIZE];
    struct registered want;
    unsigned serial;
    enum answer answer;
};

struct connection {
    bool open[2]; /* as each side sees it; 0 is the primary's */
    bool aborted[2];
    unsigned generation;
    int process[2];
    unsigned process_generation[2];
    uint64_t sent[2], taken[2]; /* by receiver */
    int64_t last[2];
};

struct sim {
    uint64_t seed, random, steps;
    int64_t now;
    struct registered registered;
    struct host hosts[HOSTS];
    struct process processes[PROCESSES];
    struct connection connections[CONNECTIONS];
    int64_t cut_until[HOSTS]; /* what this host sends is lost (and sent again) until then */
    bool arbiter_slow, chaos;
    bool open;    /* the VM's policy is `isolated = open` */
    bool at_risk; /* output was opened by it: until the next calm the VM may run twice */
    bool trace;
    unsigned failovers, lost, protections, calms, risks, moves, moves_failed;
};

extern struct sim sim;

/* engine.c */
uint64_t chance(uint64_t n); /* 0 .. n-1 */
bool one_in(uint64_t n);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void violated(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
struct event *event_new(int64_t after, event_run *run);
void event_add(struct event *e);
bool event_next(void);
void world_reset(void); /* frees what a former run has left */
void timer_set(struct process *p, enum timer t, int64_t after, event_run *run);
void timer_stop(struct process *p, enum timer t);
struct process *process_new(enum kind kind, int host);
void process_vanish(struct process *p); /* with its host: nothing tells its peer */
void process_end(struct process *p);    /* its connection is reset, what it asked the arbiter may still happen */
int connect_to(struct process *p, struct process *peer);
void send_to_peer(struct process *p, enum message m, uint64_t number, const struct content *c,
                  const uint8_t digest[PROTO_DIGEST_SIZE]);
void hang_up(struct process *p, bool flush); /* flush: what was sent is delivered before the end */
void ask_arbiter(struct process *p, bool read, uint64_t term, bool stopped);

/* shells.c */
void primary_start(int host);                              /* over the VM that its record says runs there */
void primary_adopt(int host, uint64_t term, bool protect); /* the VM is ours by that term */
void primary_event(struct process *p, enum protection_event event);
void checkpoint_arm(struct process *p);
void primary_message(struct process *p, const struct event *e);
void primary_answer(struct process *p, const struct event *e);
void standby_event(struct process *p, enum standby_event event);
void standby_message(struct process *p, const struct event *e);
void standby_answer(struct process *p, const struct event *e);
void standby_begin(struct process *p);
struct process *primary_of(int host);
struct process *replica_of(const struct process *primary); /* that its connection leads to; NULL: none */

/* moves.c */
void move_switchover(struct process *p);
void move_migrate(struct process *p);
void move_abort(struct process *p);
bool move_holds_checkpoints(const struct process *p);
bool move_is_last(const struct process *p);
void move_captured(struct process *p, uint64_t epoch, bool last);
void move_acked(struct process *p, uint64_t epoch);
void move_follow(struct process *p, enum protection_event event);

/* observer.c */
void observer_reset(uint32_t branch);
void observer_forget(void); /* a new world */
uint32_t branch_new(const struct content *parent);
void observe(const uint8_t *frame, size_t n, void *arg);
void frame_write(uint8_t frame[16], const struct content *c);
void note_committed(const struct content *c);
void check_release(const struct content *c);
void check_gates(void);
void check_move(const struct process *p);
void check_handed(const struct process *p);

#endif
