/*
 * report: what a run of the demo has shown: the JSON file, and the verdict for people.
 */
#ifndef HIKAE_DEMO_REPORT_H
#define HIKAE_DEMO_REPORT_H

#include "common/errmsg.h"
#include "tools/demo/client.h"
#include "tools/demo/options.h"
#include "tools/demo/status.h"

#include <stdbool.h>

enum { MAX_FAILOVERS = 10000 };

struct results {
    unsigned failovers, failovers_ok; /* hosts lost; the VM went on and its connections with it */
    double *to_running_ms, *gap_ms;   /* of each failover that was ok */
    struct client_report client;
    struct hist *unprotected, *protected; /* reply latency, ns */
    bool broken;                          /* the run ended early: something did not work at all */
};

/* Everything that must be true: all failovers done, nothing lost, doubled, gone back or wrong in memory. */
bool results_ok(const struct results *r, const struct options *o);
/* Did the client or the guest see something that must not be? */
bool results_violated(const struct results *r);
int report_json(const struct results *r, const struct totals *t, const struct options *o, struct errmsg *e);
void report_print(const struct results *r, const struct totals *t, const struct options *o);

#endif
