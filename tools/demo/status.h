/*
 * status: what the agents say of the VM, and the sum of it over all their workers, which come and go with the
 * failovers.
 */
#ifndef HIKAE_DEMO_STATUS_H
#define HIKAE_DEMO_STATUS_H

#include "tools/demo/host.h"

#include <stdbool.h>
#include <stdint.h>

struct hist;
struct tracker;

enum stage {
    STAGE_PAUSE,
    STAGE_STOP,
    STAGE_SCAN,
    STAGE_COPY,
    STAGE_STATE,
    STAGE_NET,
    STAGE_RESUME,
    STAGE_COMMIT,
    STAGE_PAGES,
    STAGES
};
extern const char *const stage_names[STAGES];

/* Of a failover; CLOCK_REALTIME ms, 0: not told. */
struct timeline {
    double paused, captured, sent; /* of a planned move */
    double last_commit, detected, sealed, claimed, loaded, running, announced;
    unsigned pages; /* of a planned move: in its last epoch */
};

struct vm_status {
    bool present; /* this host's primary agent has the VM */
    char state[32], reason[200];
    uint64_t term;        /* as it last knew */
    double report_age_ms; /* of all this: its worker may be stopped */
    uint64_t epoch, sync_done, sync_total, dirty_pages, wire_bytes, held_packets, rss_bytes, checkpoints;
    double replica_age_ms, pause_p50_ms, pause_p99_ms; /* pause: 0 when not told */
    struct timeline timeline;
};

/* The replica of the VM, as this host's secondary agent tells of it. */
struct replica_status {
    bool present;
    char state[32];
    uint64_t epoch, rss_bytes;
};

struct totals {
    uint64_t checkpoints, bytes_dirty, bytes_wire;
    uint64_t rss_primary, rss_secondary; /* the most that was seen */
    struct hist *stages[STAGES];         /* ns; pages: a number. The tracker's */
};

struct tracker *tracker_new(void);
void tracker_free(struct tracker *t);
/* Asks host `h`. 0, or -1 if its primary agent does not answer (`out` is then zeroed). with_hist also renews the
 * pauses. */
int tracker_poll(struct tracker *t, const struct host *h, bool with_hist, struct vm_status *out);
/* 0, or -1 if its secondary agent does not answer. */
int tracker_poll_replica(struct tracker *t, const struct host *h, struct replica_status *out);
/* Sums up; valid until the next call. */
const struct totals *tracker_totals(struct tracker *t);
bool vm_is_protected(const struct vm_status *s);
/* It runs here and has no replica yet, or none any more. */
bool vm_runs(const struct vm_status *s);

#endif
