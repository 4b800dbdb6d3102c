/*
 * replay: receives a stream as a secondary has to, with all of proto/'s checks and into plain memory. Serves tests and
 * fuzzers as the reference for what proto/ accepts.
 */
#ifndef HIKAE_TESTS_UNIT_REPLAY_H
#define HIKAE_TESTS_UNIT_REPLAY_H

#include "proto/disk.h"
#include "proto/epoch.h"
#include "proto/page.h"

struct replay;
/* A replica of `pages` pages, with the sample's disks, for what the primary sends. Aborts when out of memory, as all of
 * it does. */
struct replay *replay_new(uint64_t pages);
void replay_free(struct replay *r);
/* 0, or -1 with the first violation. */
int replay_feed(struct replay *r, const uint8_t *data, size_t n, struct proto_error *e);
const uint8_t *replay_memory(const struct replay *r); /* as of the last committed epoch */
const uint8_t *replay_disk(const struct replay *r, unsigned disk);
uint64_t replay_committed(const struct replay *r);
bool replay_is_complete(const struct replay *r); /* no record and no epoch is half there */

#endif
