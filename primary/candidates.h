/*
 * candidates: which host is to hold the replica: the one that was asked for or that the VM came from, then the spares,
 * in turns, each for a while. Pure; times are nanoseconds of any one clock.
 */
#ifndef HIKAE_PRIMARY_CANDIDATES_H
#define HIKAE_PRIMARY_CANDIDATES_H

#include <stdbool.h>
#include <stdint.h>

/* A host that comes back after a failover is to be found at once; one that stays away is not to be bothered. */
enum { CANDIDATE_QUICK_TRIES = 10, CANDIDATE_QUICK_MS = 500, CANDIDATE_SLOW_MS = 5000 };
enum { CANDIDATES_MAX = 8, CANDIDATE_NAME = 64 };

struct candidates {
    char names[CANDIDATES_MAX][CANDIDATE_NAME];
    unsigned n, at;
    int64_t failing_since; /* of the one at `at`; 0: it has not failed */
    unsigned failures;     /* of the same, in a row */
};

void candidates_clear(struct candidates *c);
/* Adds a name to the end. false: it is there already, is too long, or there is no room. */
bool candidates_add(struct candidates *c, const char *name);
const char *candidates_now(const struct candidates *c); /* "": none */
/* An attempt has failed. After `patience` of failures it is the next one's turn; true: it is. */
bool candidates_failed(struct candidates *c, int64_t now, int64_t patience);
/* How long to wait before the next attempt, ms: the same for the first failures in a row, then doubling to a bound. */
unsigned candidates_wait_ms(const struct candidates *c);
void candidates_succeeded(struct candidates *c);

#endif
