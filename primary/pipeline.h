/*
 * pipeline: turns captures into records on a thread of its own, while the guest runs. Jobs go in in stream order, whole
 * records come out in the same order, an epoch's digest is made on the way.
 *
 *   loop thread                     encoder thread
 *   pipeline_epoch(capture) --->    page by page: delta cache, page_encode, PAGES records
 *   pipeline_round(ranges)  --->    the same from the running guest's memory (first sync)
 *   pipeline_resync(span)   --->    the same of the pages that the replica does not hold already
 *   pipeline_resync_disk(..) --->    the same of a disk
 *   pipeline_send_disk(..)  --->    DISK records of blocks of which it is known that they have to be sent
 *   pipeline_disks(mark)    --->    DISK records of what was written to the disks before
 *   pipeline_look(look)     --->    a look at a piece of a disk or of memory: a CHECK behind the next epoch begun later
 *   output handler          <---    chunks of whole records; at most PIPELINE_OUTPUT_MAX bytes wait for it, then the
 *                                   encoder waits
 */
#ifndef HIKAE_PRIMARY_PIPELINE_H
#define HIKAE_PRIMARY_PIPELINE_H

#include "primary/capture.h"
#include "primary/look.h"
#include "primary/resync.h"
#include "proto/record.h"

enum { PIPELINE_OUTPUT_MAX = 4 << 20, PIPELINE_CHUNK = 256 << 10 };

struct ev_loop;
struct pipeline;

struct pipeline_config {
    uint64_t pages;        /* of the guest */
    const uint8_t *memory; /* its memory, for rounds */
    uint64_t delta_cache_bytes;
    struct disk_client *disks;         /* the pipeline's thread is the reader of its log; NULL: none */
    unsigned first_shared, disk_count; /* numbers of shared disks: first_shared to disk_count - 1 */
    int disk_fds[VM_MAX_DISKS];        /* their stores; borrowed */
    bool refers;                       /* the replica's host knows DISK_AS_PAGES */
    uint64_t seed;                     /* of digests, by chance */
    uint64_t disk_sync_rate;           /* octets per second that are read of disks for resync spans; 0: no limit */
    unsigned drop_page;                /* fault: one page in so many is not sent; 0: none */
};

struct pipeline_chunk {
    struct pipeline_chunk *next;
    uint64_t committed; /* this chunk ends with the COMMIT of that epoch; 0: it does not */
    uint8_t digest[PROTO_DIGEST_SIZE];
    size_t n;
    uint8_t data[];
};

struct looked {
    uint64_t number, first, end; /* blocks, as look_at has cut them */
    unsigned disk;
    bool repair, is_hole;
    int error; /* the store can't be read there: nothing more comes of it */
};

struct pipeline_handlers {                             /* called on the loop's thread */
    void (*output)(void *arg);                         /* chunks are there: pipeline_take */
    void (*captured)(struct capture *done, void *arg); /* that epoch is encoded, the capture is yours again */
    void (*round_done)(void *arg);
    void (*looked)(const struct looked *at, void *arg); /* that look was taken; its CHECK is yet to come */
    /* A disk can't be read, or its log is not whole: no epoch is closed any more. Once; may free the pipeline. */
    void (*failed)(const char *what, void *arg);
};

struct pipeline *pipeline_new(struct ev_loop *loop, const struct pipeline_config *c, const struct pipeline_handlers *h,
                              void *arg, struct errmsg *e);
void pipeline_free(struct pipeline *p); /* ends the thread; captures still inside are freed */

/* Encodes the pages of `ranges` (taken over; *ranges is empty afterwards) into the epoch under way, from the guest's
 * memory. once: they are not remembered as what later ones may differ from. */
void pipeline_round(struct pipeline *p, uint64_t epoch, struct page_ranges *ranges, bool once);
/* The same of what the replica does not hold, by what its host told (taken over). round_done is called after each. */
void pipeline_resync(struct pipeline *p, uint64_t epoch, struct resync_span *span);
/* The same of a disk, whose store is read through fd (borrowed until round_done). */
void pipeline_resync_disk(struct pipeline *p, uint64_t epoch, unsigned disk, int fd, struct resync_span *span);
/* Sends those blocks of a disk (taken over), whatever the replica holds. */
void pipeline_send_disk(struct pipeline *p, uint64_t epoch, unsigned disk, int fd, struct page_ranges *blocks);
/* Encodes what the log of the disks has before `mark`. Without a round_done. */
void pipeline_disks(struct pipeline *p, uint64_t epoch, uint64_t mark);
/* Has a look (taken over) at a disk, whose store is read through fd (borrowed until `looked`). What it says is settled
 * by the epoch after, and told by a CHECK with that seed; one that repairs is also sent, as DISK, in that epoch. */
void pipeline_look(struct pipeline *p, int fd, uint64_t seed, struct look *look);
/* The same of the guest's memory (look->disk is CHECK_MEMORY); one that repairs is sent as PAGES. `populated`: what may
 * hold something other than zeroes at this moment, taken over; NULL: what the last one said and what was captured
 * since. */
void pipeline_look_memory(struct pipeline *p, uint64_t seed, struct look *look, struct page_set *populated);
/* What can be said of each page of that look: an enum look_note each, the caller's to free. Once, when its CHECK is
 * out; NULL: nothing is known. */
uint8_t *pipeline_notes(struct pipeline *p, uint64_t number);
/* Encodes and closes an epoch; first what was written to the disks in it. `initial`: only with the first one, else
 * NULL; copied. */
void pipeline_epoch(struct pipeline *p, struct capture *c, const struct vm_blob *initial);
/* The oldest chunk, to be freed by the caller; NULL: none. */
struct pipeline_chunk *pipeline_take(struct pipeline *p);
void pipeline_set_disk_sync_rate(struct pipeline *p, uint64_t rate);
uint64_t pipeline_pages_done(struct pipeline *p);       /* of all rounds, ever: progress of the first sync */
uint64_t pipeline_pages_sent(struct pipeline *p);       /* of all resync spans: those that differed */
uint64_t pipeline_disk_blocks_done(struct pipeline *p); /* of all resync spans of disks: part of pages_done */

#endif
