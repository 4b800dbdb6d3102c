/*
 * view: what the demo shows while it runs. On a terminal one line is drawn over; elsewhere plain lines, fewer of them.
 */
#ifndef HIKAE_DEMO_VIEW_H
#define HIKAE_DEMO_VIEW_H

#include "tools/demo/status.h"

#include <stdbool.h>

/* quiet: only failures. to_stderr: stdout is wanted for something else. */
void view_init(bool quiet, bool to_stderr);
void view_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void view_fail(const char *format, ...) __attribute__((format(printf, 1, 2))); /* to stderr, also when quiet */
/* Call as often as wanted: draws no more often than there is something to see. */
void view_progress(const char *what, uint64_t done, uint64_t total);
void view_live(const struct host *h, const struct vm_status *s);

struct failover_times { /* CLOCK_REALTIME ms, 0: not known */
    double lost, first_reply;
    struct timeline agent;
    double gap_ms;
};
/* A line for the failover, and with_moments: one for each step of it. */
void view_timeline(unsigned number, unsigned of, const char *from, const char *to, const struct failover_times *t,
                   bool with_moments);

#endif
