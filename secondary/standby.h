/*
 * standby: what state a replica is in on the secondary's side, and what follows from what happens. Pure: a table, as
 * primary/protection is.
 *
 * Promise 2: only a row that starts in STANDBY, i.e. after a whole epoch was committed, leads to a claim. Promise 3:
 * the VM is started by no row but CLAIMING + GRANTED, and from the claim on nothing is acknowledged any more.
 */
#ifndef HIKAE_SECONDARY_STANDBY_H
#define HIKAE_SECONDARY_STANDBY_H

enum standby_state {
    STANDBY_GREETING, /* who is it, what VM, may it */
    STANDBY_SYNCING,  /* the replica stands, no whole epoch yet: it can't start */
    STANDBY_READY,    /* an epoch is committed: it can take over */
    STANDBY_GRACE,    /* the connection was reset: a restarted primary agent may be back in a moment */
    STANDBY_ORPHANED, /* arbiter = none, the primary is lost: keeps what is committed until the admin decides */
    STANDBY_CLAIMING, /* the primary is lost: asking the arbiter */
    STANDBY_STARTING, /* the VM is ours */
    STANDBY_OVER,     /* it runs here; this process becomes its primary worker */
    STANDBY_DROPPED,  /* the replica is destroyed */
    STANDBY_STATES
};

enum standby_event {
    STANDBY_EVENT_MADE,   /* the replica was created */
    STANDBY_EVENT_COMMIT, /* an epoch was received whole and verified */
    STANDBY_EVENT_RESET,  /* the connection ended without a BYE */
    STANDBY_EVENT_GRACE_OVER,
    STANDBY_EVENT_SILENT,   /* nothing was heard for the detection time */
    STANDBY_EVENT_CRASHED,  /* the primary says that the VM's process died */
    STANDBY_EVENT_LOST,     /* arbiter = none: in place of GRACE_OVER, SILENT and CRASHED */
    STANDBY_EVENT_RELEASED, /* the primary says that the replica isn't needed */
    STANDBY_EVENT_FAILOVER, /* the admin wants it */
    STANDBY_EVENT_HANDED,   /* the primary hands the VM over: a planned move */
    STANDBY_EVENT_YIELD,    /* the same VM's primary has come anew, over another connection */
    STANDBY_EVENT_TROUBLE,  /* this connection can't go on: protocol violation, no room to stage */
    STANDBY_EVENT_DAMAGED,  /* the replica is no good any more: its process died, an epoch is lost */
    STANDBY_EVENT_GRANTED,
    STANDBY_EVENT_REFUSED, /* by the arbiter; or it wasn't asked, since the replica can't be loaded */
    STANDBY_EVENT_NO_ANSWER,
    STANDBY_EVENT_LOADED,
    STANDBY_EVENTS
};

enum standby_action {
    STANDBY_ACT_SAY_READY = 1 << 0,
    STANDBY_ACT_APPLY = 1 << 1, /* acknowledge, then bring the epoch into the replica */
    STANDBY_ACT_WAIT = 1 << 2,  /* for the grace time */
    STANDBY_ACT_CLAIM = 1 << 3,
    STANDBY_ACT_CLAIM_LATER = 1 << 4,
    STANDBY_ACT_HANG_UP = 1 << 5,
    STANDBY_ACT_START = 1 << 6,
    STANDBY_ACT_BECOME_PRIMARY = 1 << 7,
    STANDBY_ACT_DROP = 1 << 8,
};

unsigned standby_step(enum standby_state *state, enum standby_event event);
const char *standby_state_name(enum standby_state state);
const char *standby_event_name(enum standby_event event);

#endif
