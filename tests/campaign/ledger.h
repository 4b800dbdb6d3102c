/*
 * ledger: what the events of a campaign have led to: judged, counted, written. Pure but for the writing.
 */
#ifndef HIKAE_CAMPAIGN_LEDGER_H
#define HIKAE_CAMPAIGN_LEDGER_H

#include "common/errmsg.h"
#include "tests/campaign/figures.h"
#include "tests/campaign/plan.h"
#include "tools/demo/client.h"
#include "tools/demo/status.h"

/* What was seen of one event. */
struct outcome {
    struct event event;
    double at;         /* CLOCK_REALTIME ms: the fault began */
    double held_ms;    /* how long it really was, at most */
    bool moved;        /* another host has the VM now */
    uint64_t switches; /* of the host that the guest's frames come from */
    uint64_t terms;    /* by how much the VM's term has grown */
    struct timeline survivor;
    double gap_ms;       /* the client's */
    double reprotect_ms; /* from running again, and both hosts up, to protected again; < 0: it was so by then */
    uint64_t wire_bytes; /* that this took */
    bool settled;        /* one VM, protected, one replica; the client hears from it */
    bool silent_vm;      /* not settled, and the VM's process lives and answers nobody */
    bool helped;         /* somebody had to say `hikae protect` */
    int leftovers;
    uint64_t overlooked;         /* frames that the witness had no room for */
    struct client_report client; /* as of its end */
    char text[512];              /* what was amiss, for people */
};

struct ledger {
    uint64_t seed;
    unsigned wanted, events, failovers;
    unsigned done[KINDS], moved[KINDS];
    unsigned overruns; /* what was to be short, made so long by this machine that it may be taken for a loss */
    unsigned missed, unneeded_failovers, tolerated_failovers, unneeded_claims, helped, not_settled;
    uint64_t dual_active, left_paused, leftovers, overlooked;
    unsigned terms_granted, terms_twice; /* by what the agents' logs say */
    struct client_report client;
    struct figures detected[3], running[3], gap[3]; /* by enum notice, of events that had to or may move the VM */
    struct figures stay_gap;                        /* of those that didn't */
    struct figures reprotect_ms, reprotect_mb;
    double link_rate; /* bytes/s */
};

void ledger_add(struct ledger *l, const struct outcome *o);
/* Everything that must be so, as far as it went. */
bool ledger_is_clean(const struct ledger *l);
/* "moved to the other host; detected 512 ms, running 640 ms, ..." */
void ledger_line(const struct ledger *l, const struct outcome *o, char *text, size_t size);
int ledger_write(const struct ledger *l, const char *path, struct errmsg *e);
void ledger_print(const struct ledger *l, bool broken);
void ledger_clear(struct ledger *l);

#endif
