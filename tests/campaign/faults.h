/*
 * faults: makes an event of the plan happen, and undoes it. It is the hand of the campaign: what it does may be seen by
 * the agents, and nothing of what it knows.
 */
#ifndef HIKAE_CAMPAIGN_FAULTS_H
#define HIKAE_CAMPAIGN_FAULTS_H

#include "tests/campaign/plan.h"
#include "tests/campaign/scene.h"

/* The fault begins; *at is then its moment (CLOCK_REALTIME ms). -1 with `e`: it could not be made. */
int fault_begin(struct scene *s, const struct event *v, double *at, struct errmsg *e);
/* The fault ends: hosts boot, processes go on, packets pass. `was_active`: the active host at its beginning. */
int fault_end(struct scene *s, const struct event *v, int was_active, struct errmsg *e);
/* Mounts a small disk of its own for each host's state, which can be full without filling anybody else's. Before the
 * hosts boot. */
int fault_prepare_disks(const struct scene *s, struct errmsg *e);

#endif
