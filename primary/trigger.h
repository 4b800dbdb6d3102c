/*
 * trigger: when the next checkpoint is due. Pure; times are nanoseconds of any one clock.
 *
 *   periodic (Remus):   every `interval`, whatever the guest does
 *   on-output (Kemari): as soon as the guest has sent something, but not before `min_interval` after it was last
 * resumed; without output every `max_interval`, so that the replica does not grow old
 */
#ifndef HIKAE_PRIMARY_TRIGGER_H
#define HIKAE_PRIMARY_TRIGGER_H

#include <stdbool.h>
#include <stdint.h>

struct trigger {
    bool on_output;
    int64_t interval, max_interval, min_interval; /* ns */
    int64_t paused_at, resumed_at;                /* of the last checkpoint */
    bool output;                                  /* the running epoch holds a frame */
    bool full;                                    /* the output buffer has no room: as soon as possible, in any mode */
};

/* The time of the next checkpoint; may lie in the past: it is due. */
int64_t trigger_due(const struct trigger *t);

#endif
