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

struct json_object;

enum { MAX_FAILOVERS = 10000 };

struct results {
    unsigned failovers, failovers_ok; /* hosts lost; the VM went on and its connections with it */
    double *to_running_ms, *gap_ms;   /* of each failover that was ok */
    double *total_ms;                 /* of a planned move: from the order to running */
    struct timeline *timelines;
    struct client_report client;
    struct hist *unprotected, *protected; /* reply latency, ns */
    bool broken;                          /* the run ended early: something did not work at all */
};

/* Room for so many failovers; to be ended by results_end. */
void results_begin(struct results *r, unsigned failovers);
void results_end(struct results *r);
/* Everything that must be true: all failovers done, nothing lost, doubled, gone back or wrong in memory. */
bool results_ok(const struct results *r, const struct options *o);
/* Did the client or the guest see something that must not be? */
bool results_violated(const struct results *r);
int report_json(const struct results *r, const struct totals *t, const struct options *o, struct errmsg *e);
void report_print(const struct results *r, const struct totals *t, const struct options *o);

/* {"p50","p99","max","all"} of n values, by nearest rank; null where there is none. */
struct json_object *report_spread(const double *values, unsigned n);
/* The value of which so many percent of the n > 0 values are no larger. */
double report_percentile(const double *values, unsigned n, unsigned percent);
/* Writes pretty JSON to a file, "-": stdout. */
int report_write(struct json_object *j, const char *file, struct errmsg *e);

#endif
