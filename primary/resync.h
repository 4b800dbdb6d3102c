/*
 * resync: the first round of a sync to a replica that did not begin empty: compares what its host says it holds with
 * the guest's memory, and sends the pages of what differs. Pure; runs on the pipeline's thread.
 *
 * The guest runs meanwhile. Dirty tracking was armed before, so what changes after it was read comes again: a page that
 * was equal when it was looked at is equal to the replica's until it is dirty. `populated` was asked for after arming,
 * so a page that it leaves out was zero then, and is dirty if it is not any more.
 */
#ifndef HIKAE_PRIMARY_RESYNC_H
#define HIKAE_PRIMARY_RESYNC_H

#include "proto/regions.h"
#include "vm/vm.h"

/* What one REGIONS record told, and the guest's populated pages there. */
struct resync_span {
    struct regions_head head;
    uint64_t first; /* region; head.end is the last one + 1 */
    uint64_t pages; /* of the guest */
    struct page_ranges populated;
    size_t n;
    uint8_t *payload;
};
/* Cuts a record that regions_check has accepted (`head` from `told`, `first` what was told before it) together with the
 * populated pages from *cursor on (which moves along): owned by the caller. NULL: no memory. */
struct resync_span *resync_span_new(const struct regions_told *told, uint64_t first, const uint8_t *payload, size_t n,
                                    const struct page_ranges *populated, size_t *cursor);
void resync_span_free(struct resync_span *s);

typedef int resync_send(uint64_t gfn, const uint8_t *page, void *arg); /* not 0: can't */
/* Copies pages [first, first + count) to `out`. Not 0: can't. */
typedef int resync_read(uint64_t first, uint64_t count, uint8_t *out, void *arg);

struct resync_walk {
    const struct resync_span *span;
    resync_read *read_pages;
    void *read_arg;
    bool holes_too;          /* pages that are not populated are read as well */
    uint64_t region;         /* next */
    size_t offset, range;    /* next run, next range */
    struct regions_run run;  /* the one that `region` is in or before */
    bool has_run;            /* there is such a one */
    uint64_t compared, sent; /* pages: populated ones that were looked at; that were sent */
    uint64_t read;           /* pages that were read of a disk */
    uint8_t *buffer;         /* of one region, so that each page is read once */
};
/* holes_too: not of memory, where reading a hole would allocate it, and what is written there after `populated` was
 * asked for comes again. But of a disk: what was written to a hole meanwhile is in the stream already, and must not be
 * followed by the zeroes from before. -1: no memory. */
int resync_walk_begin(struct resync_walk *w, const struct resync_span *span, resync_read *read, void *read_arg,
                      bool holes_too);
/* Deals with the next region. 1: there is more; 0: that was all; -1: `read` or `send` could not. */
int resync_walk_step(struct resync_walk *w, resync_send *send, void *arg);
void resync_walk_end(struct resync_walk *w);

/* A resync_read: `arg` is a pointer to the first octet of the memory. */
int resync_read_memory(uint64_t first, uint64_t count, uint8_t *out, void *arg);

#endif
