/*
 * sight: what both hosts' agents say at one moment, and whether that is the state that everything must come back to.
 */
#ifndef HIKAE_CAMPAIGN_SIGHT_H
#define HIKAE_CAMPAIGN_SIGHT_H

#include "tests/campaign/scene.h"
#include "tools/demo/status.h"

struct sight {
    bool primary_answers[2], secondary_answers[2];
    struct vm_status vm[2];
    struct replica_status replica[2];
};

void sight_take(struct tracker *t, const struct scene *s, struct sight *out);
/* The host that has the VM protected, while the other holds its replica and nothing else of it; -1: it isn't so. */
int sight_settled(const struct sight *g);
/* What is left over beside one VM on `active` and one replica on the other: processes and folders. 0: nothing. */
int sight_leftovers(const struct scene *s, char *text, size_t size);
/* One line of both hosts' states. */
void sight_describe(const struct sight *g, char *text, size_t size);

#endif
