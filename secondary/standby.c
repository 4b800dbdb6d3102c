#include "secondary/standby.h"

#include <stddef.h>

struct row {
    enum standby_state state;
    enum standby_event event;
    enum standby_state next;
    unsigned actions;
};

#define ROW(state, event, next, actions)                                                                               \
    {                                                                                                                  \
        STANDBY_##state, STANDBY_EVENT_##event, STANDBY_##next, actions                                                \
    }
#define ACT(action) STANDBY_ACT_##action

static const struct row table[] = {
    ROW(GREETING, MADE, SYNCING, ACT(SAY_READY)),
    ROW(GREETING, RESET, DROPPED, ACT(DROP)),
    ROW(GREETING, SILENT, DROPPED, ACT(DROP)),
    ROW(GREETING, RELEASED, DROPPED, ACT(DROP)),
    ROW(GREETING, CRASHED, DROPPED, ACT(DROP)),
    ROW(GREETING, YIELD, DROPPED, ACT(DROP)),
    ROW(GREETING, TROUBLE, DROPPED, ACT(DROP)),

    ROW(SYNCING, COMMIT, READY, ACT(APPLY)),
    ROW(SYNCING, RESET, DROPPED, ACT(DROP)),
    ROW(SYNCING, SILENT, DROPPED, ACT(DROP)),
    ROW(SYNCING, RELEASED, DROPPED, ACT(DROP)),
    ROW(SYNCING, CRASHED, DROPPED, ACT(DROP)),
    ROW(SYNCING, YIELD, DROPPED, ACT(DROP)),
    ROW(SYNCING, TROUBLE, DROPPED, ACT(DROP)),
    ROW(SYNCING, DAMAGED, DROPPED, ACT(DROP)),

    ROW(READY, COMMIT, READY, ACT(APPLY)),
    ROW(READY, RESET, GRACE, ACT(WAIT)),
    ROW(READY, SILENT, CLAIMING, ACT(CLAIM)),
    ROW(READY, CRASHED, CLAIMING, ACT(CLAIM)),
    ROW(READY, FAILOVER, CLAIMING, ACT(CLAIM)),
    ROW(READY, HANDED, CLAIMING, ACT(CLAIM)),
    ROW(READY, RELEASED, DROPPED, ACT(DROP)),
    ROW(READY, YIELD, DROPPED, ACT(DROP)),
    ROW(READY, DAMAGED, DROPPED, ACT(DROP)),
    /* What is committed stays good. A primary that lives claims the VM at once, and our claim is refused; else we go
       on. */
    ROW(READY, TROUBLE, GRACE, ACT(WAIT)),

    ROW(GRACE, GRACE_OVER, CLAIMING, ACT(CLAIM)),
    ROW(GRACE, FAILOVER, CLAIMING, ACT(CLAIM)),
    ROW(GRACE, YIELD, DROPPED, ACT(DROP)),
    ROW(GRACE, DAMAGED, DROPPED, ACT(DROP)),

    /* With nobody to ask: the primary, if it lives, goes on alone and may come anew. */
    ROW(READY, LOST, ORPHANED, ACT(HANG_UP)),
    ROW(GRACE, LOST, ORPHANED, ACT(HANG_UP)),
    ROW(ORPHANED, FAILOVER, CLAIMING, ACT(CLAIM)),
    ROW(ORPHANED, RELEASED, DROPPED, ACT(DROP)),
    ROW(ORPHANED, YIELD, DROPPED, ACT(DROP)),
    ROW(ORPHANED, DAMAGED, DROPPED, ACT(DROP)),

    /* A claim may have been carried out though no answer came: no way back but the arbiter's word. Meanwhile nothing is
       acknowledged: the primary, which may hear our heartbeats again, has to see that and ask the arbiter itself. */
    ROW(CLAIMING, GRANTED, STARTING, ACT(START)),
    ROW(CLAIMING, REFUSED, DROPPED, ACT(DROP)),
    ROW(CLAIMING, NO_ANSWER, CLAIMING, ACT(CLAIM_LATER) | ACT(HANG_UP)),

    ROW(STARTING, LOADED, OVER, ACT(BECOME_PRIMARY)),
    ROW(STARTING, DAMAGED, DROPPED, ACT(DROP)),
};

unsigned standby_step(enum standby_state *state, enum standby_event event)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].state == *state && table[i].event == event) {
            *state = table[i].next;
            return table[i].actions;
        }
    }
    return 0;
}

const char *standby_state_name(enum standby_state state)
{
    static const char *const names[] = {
        [STANDBY_GREETING] = "GREETING", [STANDBY_SYNCING] = "SYNCING",   [STANDBY_READY] = "STANDBY",
        [STANDBY_GRACE] = "GRACE",       [STANDBY_CLAIMING] = "CLAIMING", [STANDBY_STARTING] = "STARTING",
        [STANDBY_ORPHANED] = "ORPHANED", [STANDBY_OVER] = "TAKEN_OVER",   [STANDBY_DROPPED] = "DROPPED",
    };
    return (unsigned)state < STANDBY_STATES ? names[state] : "?";
}

const char *standby_event_name(enum standby_event event)
{
    static const char *const names[] = {
        [STANDBY_EVENT_MADE] = "replica made",       [STANDBY_EVENT_COMMIT] = "epoch committed",
        [STANDBY_EVENT_RESET] = "connection reset",  [STANDBY_EVENT_GRACE_OVER] = "nobody came back",
        [STANDBY_EVENT_SILENT] = "primary silent",   [STANDBY_EVENT_CRASHED] = "VM crashed",
        [STANDBY_EVENT_RELEASED] = "released",       [STANDBY_EVENT_FAILOVER] = "failover by the admin",
        [STANDBY_EVENT_YIELD] = "primary came anew", [STANDBY_EVENT_TROUBLE] = "trouble",
        [STANDBY_EVENT_DAMAGED] = "replica damaged", [STANDBY_EVENT_GRANTED] = "granted",
        [STANDBY_EVENT_REFUSED] = "refused",         [STANDBY_EVENT_NO_ANSWER] = "no answer",
        [STANDBY_EVENT_LOADED] = "loaded",           [STANDBY_EVENT_LOST] = "primary lost",
        [STANDBY_EVENT_HANDED] = "handed over",
    };
    return (unsigned)event < STANDBY_EVENTS ? names[event] : "?";
}
