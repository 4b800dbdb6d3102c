/*
 * capture: what one checkpoint takes from the paused guest: copies of its dirty pages, and its devices' state. Owned by
 * one side at a time: the worker fills it, the pipeline reads it and gives it back.
 */
#ifndef HIKAE_PRIMARY_CAPTURE_H
#define HIKAE_PRIMARY_CAPTURE_H

#include "vm/vm.h"

#include <stdbool.h>

struct disk_client;
struct outlet;

struct capture_times { /* ns each; total is the guest's pause, as seen from here */
    int64_t paused_at; /* CLOCK_MONOTONIC, when the pause was asked for */
    int64_t stop, net, scan, copy, state, resume, total;
};

struct capture {
    uint64_t epoch;
    uint64_t disk_mark; /* position in the write log at which the epoch ends; 0: no disks */
    uint64_t *gfns;
    uint8_t *pages; /* VM_PAGE_SIZE each, prefaulted */
    size_t n, capacity;
    bool stuck; /* the VM could not be resumed either */
    struct vm_blob state;
    struct capture_times times;
};

struct capture *capture_new(size_t pages, struct errmsg *e);
void capture_free(struct capture *c);
/* Room for so many pages, touched beforehand: for one that is not in use, while the guest runs. */
void capture_make_room(struct capture *c, size_t pages);

/* What it is taken from; borrowed. */
struct capture_source {
    const struct vm_ops *ops;
    struct vm *vm;
    struct outlet *const *outlets;
    unsigned outlet_count;
    struct disk_client *disks; /* NULL: none */
};

/* Pauses the guest, takes the epoch into `c`, resumes it. The outlets get their barrier(epoch) while the guest is
 * paused: promise 1. last: unless it fails the guest is left paused, and its pages where they are: `scratch` names
 * them. With a failure the guest has been resumed, or c->stuck is true, and what was scanned is lost: the stream can't
 * go on. */
int capture_checkpoint(const struct capture_source *from, uint64_t epoch, bool last, struct page_ranges *scratch,
                       struct capture *c, struct errmsg *e);

int64_t clock_now(void); /* CLOCK_MONOTONIC in ns */

#endif
