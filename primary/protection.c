#include "primary/protection.h"

#include <stddef.h>

struct row {
    enum protection_state state;
    enum protection_event event;
    enum protection_state next;
    unsigned actions;
};

#define ROW(state, event, next, actions)                                                                               \
    {                                                                                                                  \
        PROTECTION_##state, EVENT_##event, PROTECTION_##next, actions                                                  \
    }

static const struct row table[] = {
    ROW(CLAIMING, GRANTED, OPEN, ACTION_OPEN_GATE),
    ROW(CLAIMING, REFUSED, LOST, ACTION_DESTROY),
    ROW(CLAIMING, NO_ANSWER, CLAIMING, ACTION_CLAIM_LATER),
    ROW(CLAIMING, VM_SHUT_DOWN, STOPPING, 0),
    ROW(CLAIMING, VM_GONE, ENDED, ACTION_DESTROY),

    ROW(OPEN, WANT, CONNECTING, ACTION_CONNECT),
    ROW(OPEN, VM_SHUT_DOWN, ENDED, ACTION_DESTROY),
    ROW(OPEN, VM_GONE, ENDED, ACTION_DESTROY),

    ROW(CONNECTING, READY, SYNCING, ACTION_SYNC),
    ROW(CONNECTING, LINK_DOWN, CONNECTING, ACTION_HANG_UP | ACTION_CONNECT_LATER),
    ROW(CONNECTING, UNWANT, OPEN, ACTION_BYE_UNPROTECT),
    ROW(CONNECTING, VM_SHUT_DOWN, ENDED, ACTION_BYE_STOPPED | ACTION_DESTROY),
    ROW(CONNECTING, VM_GONE, ENDED, ACTION_BYE_STOPPED | ACTION_DESTROY),

    /* Until the first epoch is captured no replica can start: output is free, nothing has to be claimed. */
    ROW(SYNCING, CHECKPOINTED, SEALED, 0),
    ROW(SYNCING, LINK_DOWN, CONNECTING, ACTION_CONNECT_LATER | ACTION_STOP_SYNC | ACTION_HANG_UP),
    ROW(SYNCING, UNWANT, OPEN, ACTION_STOP_SYNC | ACTION_BYE_UNPROTECT),
    ROW(SYNCING, VM_SHUT_DOWN, ENDED, ACTION_STOP_SYNC | ACTION_BYE_STOPPED | ACTION_DESTROY),
    ROW(SYNCING, VM_GONE, ENDED, ACTION_STOP_SYNC | ACTION_BYE_STOPPED | ACTION_DESTROY),

    ROW(SEALED, ACKED, PROTECTED, 0),
    ROW(SEALED, LINK_DOWN, ISOLATED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_HANG_UP),
    ROW(SEALED, UNWANT, ISOLATED, ACTION_CLAIM | ACTION_STOP_SYNC),
    /* the peer's word is not enough to end a VM: the arbiter is asked */
    ROW(SEALED, TAKEN_OVER, DISPUTED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_HANG_UP),
    ROW(SEALED, VM_SHUT_DOWN, STOPPING, ACTION_CLAIM | ACTION_STOP_SYNC),
    ROW(SEALED, VM_GONE, ENDED, ACTION_STOP_SYNC | ACTION_BYE_CRASHED | ACTION_DESTROY),

    ROW(PROTECTED, LINK_DOWN, ISOLATED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_HANG_UP),
    ROW(PROTECTED, UNWANT, ISOLATED, ACTION_CLAIM | ACTION_STOP_SYNC),
    ROW(PROTECTED, TAKEN_OVER, DISPUTED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_HANG_UP),
    ROW(PROTECTED, VM_SHUT_DOWN, STOPPING, ACTION_CLAIM | ACTION_STOP_SYNC),
    ROW(PROTECTED, VM_GONE, ENDED, ACTION_STOP_SYNC | ACTION_BYE_CRASHED | ACTION_DESTROY),
    /* Only here is there surely an epoch that goes on elsewhere. */
    ROW(PROTECTED, VM_STUCK, ENDED, ACTION_STOP_SYNC | ACTION_BYE_CRASHED | ACTION_DESTROY),

    /* From HANDOVER on both sides have the same VM, and the arbiter decides whose it is. Unless the secondary says that
       it has taken the VM over, ours goes on at once, its output held until it was granted. */
    ROW(SEALED, HAND_OVER, HANDING, 0),
    ROW(PROTECTED, HAND_OVER, HANDING, 0),
    ROW(HANDING, LINK_DOWN, DISPUTED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_RESUME | ACTION_HANG_UP),
    ROW(HANDING, UNWANT, ISOLATED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_RESUME),
    ROW(HANDING, TAKEN_OVER, DISPUTED, ACTION_CLAIM | ACTION_STOP_SYNC | ACTION_HANG_UP),
    ROW(HANDING, VM_SHUT_DOWN, STOPPING, ACTION_CLAIM | ACTION_STOP_SYNC),
    ROW(HANDING, VM_GONE, ENDED, ACTION_STOP_SYNC | ACTION_BYE_CRASHED | ACTION_DESTROY),

    /* GRANTED fences the replica, which holds an older term: only now may the gate open and the secondary be let go. */
    ROW(ISOLATED, GRANTED, OPEN, ACTION_OPEN_GATE | ACTION_BYE_UNPROTECT),
    ROW(ISOLATED, REFUSED, LOST, ACTION_DESTROY),
    ROW(ISOLATED, NO_ANSWER, ISOLATED, ACTION_CLAIM_LATER),
    /* A replica that can be reached after all is let go: one that could start less. */
    ROW(ISOLATED, UNANSWERED, AT_RISK, ACTION_OPEN_GATE | ACTION_BYE_UNPROTECT),
    ROW(ISOLATED, VM_SHUT_DOWN, STOPPING, 0),
    ROW(ISOLATED, VM_GONE, ENDED, ACTION_BYE_CRASHED | ACTION_DESTROY),

    ROW(DISPUTED, GRANTED, OPEN, ACTION_OPEN_GATE),
    ROW(DISPUTED, REFUSED, LOST, ACTION_DESTROY),
    ROW(DISPUTED, NO_ANSWER, DISPUTED, ACTION_CLAIM_LATER),
    ROW(DISPUTED, VM_SHUT_DOWN, STOPPING, 0),
    ROW(DISPUTED, VM_GONE, ENDED, ACTION_DESTROY),

    ROW(AT_RISK, GRANTED, OPEN, ACTION_OPEN_GATE),
    ROW(AT_RISK, REFUSED, LOST, ACTION_DESTROY),
    ROW(AT_RISK, NO_ANSWER, AT_RISK, ACTION_CLAIM_LATER),
    /* The replica would start the VM again if it were not told through the arbiter. */
    ROW(AT_RISK, VM_SHUT_DOWN, STOPPING, ACTION_CLOSE_GATE),
    ROW(AT_RISK, VM_GONE, ENDED, ACTION_DESTROY),

    ROW(STOPPING, GRANTED, ENDED, ACTION_BYE_STOPPED | ACTION_DESTROY),
    ROW(STOPPING, REFUSED, LOST, ACTION_DESTROY),
    ROW(STOPPING, NO_ANSWER, STOPPING, ACTION_CLAIM_LATER),
};

unsigned protection_step(enum protection_state *state, enum protection_event event)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].state == *state && table[i].event == event) {
            *state = table[i].next;
            return table[i].actions;
        }
    }
    return 0;
}

int protection_gate_is_closed(enum protection_state state)
{
    return state != PROTECTION_OPEN && state != PROTECTION_CONNECTING && state != PROTECTION_SYNCING &&
           state != PROTECTION_AT_RISK;
}

const char *protection_state_name(enum protection_state state)
{
    static const char *const names[] = {
        [PROTECTION_CLAIMING] = "CLAIMING",     [PROTECTION_OPEN] = "UNPROTECTED",
        [PROTECTION_CONNECTING] = "CONNECTING", [PROTECTION_SYNCING] = "SYNCING",
        [PROTECTION_SEALED] = "SYNCING",        [PROTECTION_PROTECTED] = "PROTECTED",
        [PROTECTION_HANDING] = "HANDING_OVER",  [PROTECTION_ISOLATED] = "ISOLATED",
        [PROTECTION_DISPUTED] = "ISOLATED",     [PROTECTION_AT_RISK] = "AT_RISK",
        [PROTECTION_STOPPING] = "STOPPING",     [PROTECTION_LOST] = "LOST",
        [PROTECTION_ENDED] = "STOPPED",
    };
    return (unsigned)state < PROTECTION_STATES ? names[state] : "?";
}

const char *protection_event_name(enum protection_event event)
{
    static const char *const names[] = {
        [EVENT_GRANTED] = "granted",
        [EVENT_REFUSED] = "refused",
        [EVENT_NO_ANSWER] = "no answer",
        [EVENT_UNANSWERED] = "unanswered",
        [EVENT_WANT] = "protect",
        [EVENT_UNWANT] = "unprotect",
        [EVENT_READY] = "replica ready",
        [EVENT_LINK_DOWN] = "link down",
        [EVENT_CHECKPOINTED] = "checkpointed",
        [EVENT_ACKED] = "acknowledged",
        [EVENT_HAND_OVER] = "last epoch captured",
        [EVENT_TAKEN_OVER] = "taken over",
        [EVENT_VM_SHUT_DOWN] = "guest shut down",
        [EVENT_VM_GONE] = "VM's process gone",
        [EVENT_VM_STUCK] = "VM does not answer",
    };
    return (unsigned)event < PROTECTION_EVENTS ? names[event] : "?";
}
