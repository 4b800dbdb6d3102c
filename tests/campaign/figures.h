/*
 * figures: a growing list of measured values, and its percentiles.
 */
#ifndef HIKAE_CAMPAIGN_FIGURES_H
#define HIKAE_CAMPAIGN_FIGURES_H

#include <stddef.h>

struct figures {
    double *values;
    size_t count, room;
};

struct json_object;

void figures_add(struct figures *f, double value); /* aborts when out of memory */
/* Nearest rank; 0 when empty. */
double figures_percentile(const struct figures *f, unsigned percent);
/* {"count", "p50", "p99", "max"}; the last three are null when empty. */
struct json_object *figures_to_json(const struct figures *f);
void figures_clear(struct figures *f);

#endif
