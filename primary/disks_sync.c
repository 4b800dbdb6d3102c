/*
 * disks_sync: the disks' part in a first sync. Logging begins, then what the secondary's blocks are is compared with
 * the stores on the pipeline's thread. A write reaches store and log before it is answered, store first; the thread
 * that reads the store is the one that drains the log. So whatever it reads too early comes again from the log, later
 * in the stream.
 */
#include "common/log.h"
#include "disk/client.h"
#include "primary/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

void disks_end_sync(struct worker *w)
{
    struct disks *d = &w->disks;
    for (unsigned i = 0; i < VM_MAX_DISKS; i++) {
        struct disk_sync *s = &d->sync[i];
        if (s->open)
            close(s->fd);
        page_ranges_free(&s->populated);
        *s = (struct disk_sync){0};
    }
}

/* What of a store is no hole. One without such a notion is all of it. */
static int find_populated(int fd, uint64_t bytes, struct page_ranges *out)
{
    for (off_t at = 0; (uint64_t)at < bytes;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0;
        off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            data = at, hole = (off_t)bytes;
        uint64_t first = (uint64_t)data / VM_PAGE_SIZE, end = ((uint64_t)hole + VM_PAGE_SIZE - 1) / VM_PAGE_SIZE;
        uint64_t most = bytes / VM_PAGE_SIZE;
        end = end < most ? end : most;
        uint64_t told = out->n ? out->at[out->n - 1].first + out->at[out->n - 1].count : 0;
        first = first > told ? first : told; /* ranges that end within one page */
        if (first < end && page_ranges_add(out, first, end - first))
            return -1;
        at = hole;
    }
    return 0;
}

int disks_begin_sync(struct worker *w, struct errmsg *e)
{
    struct disks *d = &w->disks;
    struct disk_sizes sizes = {.count = d->n}; /* a shared one is not told: as if it had no blocks */
    unsigned own = d->n - d->shared.disks;
    disks_stop(w);
    if (!d->n)
        return 0;
    if (!d->client)
        return errmsg_set(e, "the VM's disk server is being started again");
    if (disks_output_waits(w))
        return errmsg_set(e, "what the VM wrote is still on its way to its disks");
    disks_note_owner(w);
    shared_begin_sync(w);
    if (disk_track(d->client, true, e))
        return -1;
    d->tracking = true;
    d->pushed = disk_mark(d->client);
    for (unsigned i = 0; i < own; i++)
        sizes.bytes[i] = d->at[i].bytes;
    if (written_begin_sync(&d->written, w->session.knows_generations, &sizes, e))
        return -1;
    for (unsigned i = 0; i < d->n; i++) {
        struct disk_sync *s = &d->sync[i];
        bool shared = i >= own;
        s->fd = disk_store_open(d->client, i, false, e);
        s->open = s->fd >= 0;
        if (!s->open)
            return -1;
        if (!shared && !d->written.told_changes && find_populated(s->fd, d->at[i].bytes, &s->populated))
            return errmsg_set(e, "no memory for the list of disk %u's blocks", i);
        d->populated += s->populated.pages;
    }
    if (d->written.told_changes)
        d->populated = account_blocks(account_of(d->written.file));
    blocks_told_init(&d->told, &sizes);
    ev_timer_again(w->loop, &d->push);
    return 0;
}

int disks_blocks(struct worker *w, const struct record *r, struct proto_error *e)
{
    struct disks *d = &w->disks;
    struct blocks_told before = d->told;
    unsigned disk;
    if (w->state != PROTECTION_SYNCING)
        return 0; /* this sync was given up meanwhile */
    if (blocks_check(&d->told, r->payload, r->length, &disk, e))
        return -1;
    struct disk_sync *s = &d->sync[disk];
    struct resync_span *span =
        resync_span_new(&d->told.disks[disk], before.disks[disk].head.end, r->payload + BLOCKS_HEAD_SIZE,
                        r->length - BLOCKS_HEAD_SIZE, &s->populated, &s->cursor);
    if (!span) {
        worker_event(w, EVENT_LINK_DOWN, "%s", "no memory to compare with what the secondary's disks hold");
        return 0;
    }
    w->checkpoint.sync.spans++;
    pipeline_resync_disk(w->checkpoint.pipeline, 1, disk, s->fd, span);
    return 0;
}

/* The other host's stores differ in the blocks that it or this one has noted, and no others. */
int disks_changed(struct worker *w, const struct record *r, struct proto_error *e)
{
    struct disks *d = &w->disks;
    struct page_ranges blocks = {0};
    unsigned disk;
    bool done;
    if (w->state != PROTECTION_SYNCING)
        return 0; /* this sync was given up meanwhile */
    if (written_changed(&d->written, r->payload, r->length, &disk, &done, &blocks, e)) {
        page_ranges_free(&blocks);
        if (e->text[0])
            return -1;
        worker_event(w, EVENT_LINK_DOWN, "%s", "no memory for the list of what the VM has written to its disks");
        return 0;
    }
    if (!done)
        return 0;
    log_info("disk %u: %" PRIu64 " of %" PRIu64 " blocks were written since it was equal at %s, and are sent", disk,
             blocks.pages, d->at[disk].bytes / DISK_BLOCK_SIZE, w->peer);
    w->checkpoint.sync.spans++;
    pipeline_send_disk(w->checkpoint.pipeline, 1, disk, d->sync[disk].fd, &blocks);
    return 0;
}

bool disks_are_told(const struct worker *w)
{
    const struct disks *d = &w->disks;
    return !d->n || (d->written.told_changes ? changed_all_told(&d->written.told) : blocks_all_told(&d->told));
}

uint64_t disks_sync_rate(const struct worker *w)
{
    return w->record.disk_sync_rate == UINT64_MAX ? w->settings->disk_sync_rate : w->record.disk_sync_rate;
}

void disks_set_sync_rate(struct worker *w, uint64_t rate)
{
    w->record.disk_sync_rate = rate;
    if (w->checkpoint.pipeline)
        pipeline_set_disk_sync_rate(w->checkpoint.pipeline, rate);
    session_note_disk_sync_rate(w);
}
