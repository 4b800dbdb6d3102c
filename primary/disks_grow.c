/*
 * disks_grow: a VM's disks become as large as their stores, which somebody has extended (see disk/guard.h for who
 * notices that). The disk server is ended, and serves more when it is there again; then the guest is told.
 */
#include "common/log.h"
#include "disk/client.h"
#include "disk/server.h"
#include "primary/worker.h"

enum { GROW_TRIES = 50 };
static const double GROW_S = 0.2;

/* The hypervisor has the new size when it has connected to the new server; that it does when it next has something to
 * say to it, as when the VM is paused and everything flushed. */
static int tell_growth(struct worker *w, struct errmsg *e)
{
    struct disks *d = &w->disks;
    struct errmsg second;
    if (!d->client)
        return errmsg_set(e, "the VM's disk server is being started again");
    bool is_free = !protection_gate_is_closed(w->state);
    if (is_free)
        disks_begin_pause(w);
    disk_set_pausing(d->client, true); /* as in a checkpoint: nobody may wait for us */
    int result = w->ops->pause(w->vm, e);
    if (w->ops->resume(w->vm, result ? &second : e))
        result = -1;
    disk_set_pausing(d->client, false); /* also if there was no pause */
    if (is_free)
        disks_end_pause(w);
    for (unsigned i = 0; !result && i < d->n; i++)
        result = w->ops->disk_grown(w->vm, i, d->at[i].bytes, e);
    return result;
}

static void on_grow(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    struct worker *w = t->data;
    struct disks *d = &w->disks;
    struct errmsg e;
    if (!w->vm || w->state == PROTECTION_HANDING) /* it stands still, and has to */
        return;
    bool told = !tell_growth(w, &e);
    if (!told && --d->growing)
        return; /* again, in a while */
    ev_timer_stop(loop, t);
    if (told)
        log_info("the VM was told how large its disks are now");
    else
        log_error("the VM could not be told that its disks have grown: %s; it will know when it is started again",
                  e.text);
}

const char *disks_grow(struct worker *w)
{
    static struct errmsg e;
    struct disks *d = &w->disks;
    char dir[DISKS_DIR_MAX];
    if (!d->n)
        return "the VM has no disks of Hikae's";
    if (w->ops->is_foreign(w->record.settings))
        return "the disks of a VM that somebody else has started grow when it is started again";
    if (!w->vm || !d->client)
        return "the VM's disk server is just being started again: try again";
    if (move_forbids(w))
        return move_forbids(w);
    disks_dir(w, dir);
    if (disk_server_grow(dir, &e))
        return e.text;
    log_info("the VM's disks become as large as their stores: their server is started again");
    d->growing = GROW_TRIES;
    ev_timer_again(w->loop, &d->grow);
    return NULL;
}

/* Whoever made them grow may have died before it was said. */
void disks_tell_sizes(struct worker *w)
{
    struct disks *d = &w->disks;
    struct errmsg e;
    for (unsigned i = 0; d->client && i < d->n; i++)
        if (w->ops->disk_grown(w->vm, i, d->at[i].bytes, &e))
            log_debug("the size of disk %u: %s", i, e.text);
}

void disks_init_growing(struct worker *w)
{
    ev_timer_init(&w->disks.grow, on_grow, 0., GROW_S);
    w->disks.grow.data = w;
}
