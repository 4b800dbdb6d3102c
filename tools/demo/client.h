/*
 * client: the outside world, a process of its own at the LAN's switch. It holds one TCP connection to the guest's
 * counter through everything that happens and believes nothing:
 *   - it sends a line every request_ms and expects exactly the last answer plus one;
 *   - it listens for the guest's beacons, whose sequence numbers must only rise;
 *   - it asks the guest for its memory errors over a second connection, likewise held.
 * It knows nothing of hosts and agents.
 */
#ifndef HIKAE_DEMO_CLIENT_H
#define HIKAE_DEMO_CLIENT_H

#include "common/errmsg.h"
#include "tools/demo/options.h"

#include <stdbool.h>
#include <stdint.h>

struct hist;
struct client;

enum client_phase { CLIENT_IDLE, CLIENT_UNPROTECTED, CLIENT_PROTECTED, CLIENT_PHASES };

struct client_report {
    bool connected;
    uint64_t replies, beacons;
    uint64_t lost, doubled, back, disconnects; /* the client's errors; disconnects also of the second connection */
    uint64_t violations;                       /* beacons whose sequence number did not rise */
    uint64_t beacons_lost;                     /* allowed: UDP */
    uint64_t memory_errors;                    /* the most that the guest has told of */
    uint64_t counter;                          /* the last answer */
    uint64_t dirtied;                          /* pages that the guest has written */
    uint64_t disk_flushed;                     /* operations that the guest has told of as flushed */
    uint64_t disk_verified;                    /* times that it has read all of its disk */
    uint64_t disk_errors;   /* blocks that were not what its memory says; operations that failed, or were forgotten */
    uint64_t database_rows; /* transactions that were acknowledged */
    uint64_t database_checked; /* times that the guest has read all of it */
    uint64_t database_errors;  /* acknowledged transactions that are lost, rows that are wrong, damage */
    double gap_ms;             /* longest time between two answers since the mark, the one going on included */
    double after_gap_ms;       /* CLOCK_REALTIME when the answer came that ended it; 0: none since the mark */
};

/* Forks the client. NULL with `e`. It ends when its owner does. */
struct client *client_start(const struct options *o, struct errmsg *e);
void client_stop(struct client *c);
/* Lines that are sent and answered from now on are counted for this phase's latency; CLIENT_IDLE: for none. */
void client_phase(struct client *c, enum client_phase phase);
/* Starts measuring the gap anew. */
void client_mark(struct client *c);
/* Asks the guest to read its disk, and its database, and to compare: disk_verified and database_checked count when it
 * has. */
void client_verify_disks(struct client *c);
/* -1: the client is gone. */
int client_report(struct client *c, struct client_report *out);
/* Adds the latencies (ns) measured in `phase` to `h`. */
int client_latency(struct client *c, enum client_phase phase, struct hist *h);
uint64_t client_errors(const struct client_report *r);

#endif
