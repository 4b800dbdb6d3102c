/*
 * disks_changed: the account of a replica's disks (disk/account.h): is a comparison needed, or does it do to tell which
 * blocks may be other (CHANGED)? And from time to time the primary is told what it may forget.
 */
#ifndef HIKAE_SECONDARY_DISKS_CHANGED_H
#define HIKAE_SECONDARY_DISKS_CHANGED_H

#include "disk/account_place.h"
#include "proto/changed.h"

#include <stdbool.h>

struct json_object;
struct worker;

struct disks_changed {
    struct account_file *file; /* NULL: no account can be kept */
    bool tells;                /* CHANGED, in place of BLOCKS */
    unsigned disk;             /* that is told next, from `block` on */
    uint64_t block;
    uint64_t durable; /* epoch that the primary was told */
};

/* Before the server of `dir` is started, then after. What can't be kept is given up; -1: not even that. */
int disks_changed_prepare(const struct worker *w, const char *dir, const struct stores *s, struct errmsg *e);
int disks_changed_open(struct disks_changed *d, const struct worker *w, const char *dir, struct stores *s,
                       struct json_object *config, struct errmsg *e);
void disks_changed_close(struct disks_changed *d);
/* Sends CHANGED while the connection takes it. */
void disks_changed_tell(struct disks_changed *d, struct worker *w, const struct stores *s);
/* All that epochs up to this one wrote is durable: says so, if it is news. */
void disks_changed_note(struct disks_changed *d, struct worker *w, uint64_t durable);

#endif
