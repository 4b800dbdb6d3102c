/*
 * hist: a histogram of durations or sizes, log-linear (64 steps per power of two, 1.6 % precision), for percentiles
 * that can be merged. Pure.
 */
#ifndef HIKAE_COMMON_HIST_H
#define HIKAE_COMMON_HIST_H

#include <stdint.h>

struct json_object;
struct hist;

struct hist *hist_new(void); /* aborts when out of memory */
void hist_free(struct hist *h);
void hist_add(struct hist *h, uint64_t value);
void hist_merge(struct hist *into, const struct hist *from);
/* Takes out what was in it at an earlier time. Its maximum is known to a bucket's precision afterwards. */
void hist_subtract(struct hist *h, const struct hist *earlier);
uint64_t hist_count(const struct hist *h);
uint64_t hist_max(const struct hist *h);                        /* exact; 0 if empty */
uint64_t hist_percentile(const struct hist *h, double percent); /* upper edge of the bucket, at most max; 0 if empty */
/* {"count":..,"max":..,"buckets":[[index,count],..]}; and back, -1 if malformed (h is then unchanged). */
struct json_object *hist_to_json(const struct hist *h);
int hist_from_json(struct hist *h, struct json_object *j);

#endif
