/*
 * written: the account (disk/account.h) of what the VM writes to its disks, as the worker uses it: by what name it goes
 * in CONFIG, what a re-sync has to send, and what may be forgotten when.
 */
#ifndef HIKAE_PRIMARY_WRITTEN_H
#define HIKAE_PRIMARY_WRITTEN_H

#include "disk/account_file.h"
#include "proto/changed.h"
#include "vm/vm.h"

#include <stdbool.h>

struct json_object;

struct written {
    struct account_file *file; /* NULL: none is kept */
    bool named;                /* CONFIG had its generation */
    uint8_t next[ACCOUNT_ID];  /* and this one */
    bool told_changes;         /* READY: CHANGED comes in place of BLOCKS */
    struct changed_told told;
    uint64_t rotated_in; /* the epoch in which it was rotated; 0: it was not, or that is forgotten */
};

/* What CONFIG says of it. */
void written_describe(struct written *w, struct json_object *config);
/* Writes are logged from here on, nothing is read yet. known: the secondary knows generations. */
int written_begin_sync(struct written *w, bool known, const struct disk_sizes *sizes, struct errmsg *e);
/* A CHANGED payload. *done: that disk is told; *blocks (empty before) is what has to be sent of it. -1: a violation,
 * or, with e->text empty, no memory. */
int written_changed(struct written *w, const uint8_t *payload, size_t n, unsigned *disk, bool *done,
                    struct page_ranges *blocks, struct proto_error *e);
/* Epoch 1 is acknowledged. */
void written_synced(struct written *w);
/* The secondary has all epochs up to that durably; `running` is the one under way. */
void written_durable(struct written *w, uint64_t durable, uint64_t running);

#endif
