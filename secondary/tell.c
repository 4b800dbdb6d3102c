/*
 * tell: says to the primary what a replica holds that began with what was kept of an older one. The memory is hashed in
 * slices between the loop's other work, so that heartbeats go on, and no faster than the connection takes it.
 */
#include "common/log.h"
#include "secondary/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

enum { QUEUED_MAX = 256 << 10 };

static void on_idle(struct ev_loop *loop, ev_idle *idle, int events)
{
    (void)events;
    struct worker *w = idle->data;
    const uint8_t *payload;
    if (w->state != STANDBY_SYNCING) { /* a primary that did not wait for it */
        tell_end(w);
        return;
    }
    if (!w->link || link_queued(w->link) > QUEUED_MAX) {
        ev_idle_stop(loop, idle);
        return;
    }
    size_t n = teller_next(w->teller, &payload);
    if (n) {
        session_send(w, RECORD_REGIONS, payload, n);
        return;
    }
    log_info("told what the replica began with: %" PRIu64 " of %" PRIu64 " pages", teller_pages(w->teller),
             w->info.pages);
    tell_end(w);
}

int tell_init(struct worker *w, struct errmsg *e)
{
    struct page_ranges populated = {0};
    uint64_t seed;
    if (!w->info.from_remains)
        return 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        return errmsg_set(e, "getrandom: %s", strerror(errno));
    if (w->ops->populated(w->vm, &populated, e)) {
        page_ranges_free(&populated);
        return -1;
    }
    w->teller = teller_new(w->ops->memory(w->vm), w->info.pages, &populated, seed);
    page_ranges_free(&populated);
    if (!w->teller)
        return errmsg_set(e, "no memory to look through the replica's memory");
    log_info("the replica begins with what was kept of this VM's memory");
    ev_idle_init(&w->telling, on_idle);
    /* What comes in must not hold it up: the primary waits for it. */
    ev_set_priority(&w->telling, EV_MAXPRI);
    w->telling.data = w;
    return 0;
}

void tell_begin(struct worker *w)
{
    if (w->teller)
        ev_idle_start(w->loop, &w->telling);
}

void tell_on(struct worker *w)
{
    if (w->teller && w->state == STANDBY_SYNCING)
        ev_idle_start(w->loop, &w->telling);
}

void tell_end(struct worker *w)
{
    if (w->teller)
        ev_idle_stop(w->loop, &w->telling);
    teller_free(w->teller);
    w->teller = NULL;
}
