/*
 * protection: what state the protection of one VM is in on the primary's side, and what follows from what happens.
 * Pure: a table of rows {state, event} -> {next state, actions}; the shell (worker.c) carries the actions out. The
 * table in docs/architecture.md is this one.
 *
 * Promise 1 and 3 hang on it: the gate for output is opened only by a row whose event is GRANTED (the arbiter says that
 * we own the VM alone) and is closed before the first epoch that a replica could start from is sent. The one exception
 * is UNANSWERED, which comes only if the VM's admin has chosen the policy `isolated = open` and with it given up
 * promise 3.
 */
#ifndef HIKAE_PRIMARY_PROTECTION_H
#define HIKAE_PRIMARY_PROTECTION_H

enum protection_state {
    PROTECTION_CLAIMING,   /* the VM is ours only if the arbiter says so; output closed */
    PROTECTION_OPEN,       /* ours alone, not protected */
    PROTECTION_CONNECTING, /* as OPEN, looking for the secondary */
    PROTECTION_SYNCING,    /* as OPEN, memory goes over for the first time */
    PROTECTION_SEALED,     /* output closed, the first whole epoch is on its way */
    PROTECTION_PROTECTED,  /* the replica can take over; output leaves with each ack */
    PROTECTION_HANDING,    /* a planned move: the VM stands still, its last epoch is with the secondary, which is to
                              take it over */
    PROTECTION_ISOLATED, /* the replica is out of reach or no longer wanted: claiming the VM for us alone; output closed
                          */
    PROTECTION_DISPUTED, /* as ISOLATED, but the secondary says that the VM runs there: nothing but a grant opens */
    PROTECTION_AT_RISK,  /* as ISOLATED, but output is open by the admin's policy: the VM may run twice */
    PROTECTION_STOPPING, /* the guest shut down: claiming, so that the replica doesn't start it again */
    PROTECTION_LOST,     /* the VM runs elsewhere: ours is destroyed */
    PROTECTION_ENDED,    /* the VM ended here */
    PROTECTION_STATES
};

enum protection_event {
    EVENT_GRANTED, /* the arbiter's answers to a claim */
    EVENT_REFUSED,
    EVENT_NO_ANSWER,
    EVENT_UNANSWERED, /* policy `open`: no claim has been answered for open_after */
    EVENT_WANT,       /* the admin wants protection */
    EVENT_UNWANT,
    EVENT_READY,        /* the secondary has made the replica */
    EVENT_LINK_DOWN,    /* connection failed, reset, silent for the detection time, or protocol trouble */
    EVENT_CHECKPOINTED, /* an epoch was captured (output is held from its pause on) */
    EVENT_ACKED,
    EVENT_HAND_OVER,    /* the last epoch of a planned move was captured; the VM was not resumed */
    EVENT_TAKEN_OVER,   /* the secondary says that the VM runs there */
    EVENT_VM_SHUT_DOWN, /* by the guest */
    EVENT_VM_GONE,      /* its process died */
    EVENT_VM_STUCK,     /* its process can neither pause it nor let it go on, each within VM_CALL_MS */
    PROTECTION_EVENTS
};

enum protection_action {
    ACTION_CLAIM = 1 << 0, /* ask the arbiter for the next term */
    ACTION_CLAIM_LATER = 1 << 1,
    ACTION_CONNECT = 1 << 2,
    ACTION_CONNECT_LATER = 1 << 3,
    ACTION_SYNC = 1 << 4,          /* arm dirty tracking, begin the first sync */
    ACTION_STOP_SYNC = 1 << 5,     /* no more captures; dirty tracking off */
    ACTION_RESUME = 1 << 6,        /* the VM that stands still goes on, its output held */
    ACTION_BYE_UNPROTECT = 1 << 7, /* tell the secondary, if it is there, and close the link */
    ACTION_BYE_STOPPED = 1 << 8,
    ACTION_BYE_CRASHED = 1 << 9,
    ACTION_HANG_UP = 1 << 10,
    ACTION_OPEN_GATE = 1 << 11, /* after the link: with the gate open the next connection may begin */
    ACTION_CLOSE_GATE = 1 << 12,
    ACTION_DESTROY = 1 << 13, /* end the VM on this host and this worker */
};

/* Returns the actions (bits, to be done in ascending order) and changes *state; an event that means nothing in a state
 * does nothing. */
unsigned protection_step(enum protection_state *state, enum protection_event event);
/* Is output held back until an ack or the arbiter's word? */
int protection_gate_is_closed(enum protection_state state);
const char *protection_state_name(enum protection_state state); /* as shown to people: "PROTECTED" */
const char *protection_event_name(enum protection_event event);

#endif
