/*
 * series: the figures of one kind of move, and what the benchmark makes of all of them. Knows nothing of how they came
 * about.
 */
#ifndef HIKAE_BENCH_SERIES_H
#define HIKAE_BENCH_SERIES_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

/* In ms, but for SERIES_PAGES: pages of the last round, those that are sent while the VM stands still. */
enum column {
    SERIES_PAUSE,
    SERIES_GAP,
    SERIES_PAGES,
    SERIES_TOTAL,
    SERIES_CAPTURE, /* from here on: the parts of Hikae's pause */
    SERIES_SEND,
    SERIES_RECEIVE,
    SERIES_LOAD,
    SERIES_CLAIM,
    SERIES_RESUME,
    SERIES_DOWNTIME, /* what QEMU says of itself */
    SERIES_COLUMNS
};

struct series {
    const char *name, *title;
    bool used[SERIES_COLUMNS];
    double *values[SERIES_COLUMNS];
    unsigned n, wanted;
    double downtime_limit; /* QEMU's; 0: not QEMU */
};

void series_begin(struct series *s, const char *name, const char *title, unsigned wanted);
void series_end(struct series *s);
/* One move more. */
void series_add(struct series *s, const double row[SERIES_COLUMNS], const bool used[SERIES_COLUMNS]);

struct verdict {
    unsigned moves;
    uint64_t client_errors, violations, memory_errors;
    double memcpy_ms, round_trip_ms; /* of as many pages as the goal is for */
    bool broken;
};

enum { GOAL_PAGES = 2000, GOAL_PAUSE_MS = 25 };

/* All moves of all series done, and nobody has noticed. Whether the goal was met is another question: see series_goal.
 */
bool series_ok(const struct series *all, unsigned n, const struct verdict *v);
/* "met", "missed", or "not asked": with so many pages in the last round the goal says nothing. */
const char *series_goal(const struct series *s);
struct json_object *series_to_json(const struct series *all, unsigned n, const struct verdict *v);
/* For people, to stdout or stderr. */
void series_print(const struct series *all, unsigned n, const struct verdict *v, bool to_stderr);

#endif
