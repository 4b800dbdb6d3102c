/*
 * disks_out: the VM's output is free from here on, by no epoch's leave: no replica can start. What the guest was told
 * to be on its disks must be there before anybody hears of it, and what was held of shared disks must be out. So the
 * network waits for both.
 */
#include "disk/client.h"
#include "disk/owing.h"
#include "primary/worker.h"

static const double LOOK_S = 0.01;

/* Also if the server that owes a flush has died: the next one does it first of all. */
static bool are_settled(struct worker *w)
{
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    return shared_are_out(w) && !(w->disks.n && owing_is_noted(dir));
}

static void on_look(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    struct worker *w = t->data;
    if (!are_settled(w))
        return;
    ev_timer_stop(loop, t);
    if (w->disks.frees_network && !protection_gate_is_closed(w->state))
        network_let_go(w);
    w->disks.frees_network = false;
}

void disks_free_output(struct worker *w)
{
    if (are_settled(w)) {
        network_let_go(w);
        return;
    }
    w->disks.frees_network = true;
    ev_timer_again(w->loop, &w->disks.out);
}

/* A flush that is under way is answered as in a checkpoint, or the VM would stand still for as long as it takes, and
 * this host be taken for lost. So until it is done nobody may hear of it. */
void disks_begin_pause(struct worker *w)
{
    if (!w->disks.client || !w->ops->drains_disks)
        return;
    network_hold(w);
    disk_set_pausing(w->disks.client, true);
}

void disks_end_pause(struct worker *w)
{
    if (!w->disks.client || !w->ops->drains_disks)
        return;
    disk_set_pausing(w->disks.client, false);
    disks_free_output(w);
}

bool disks_output_waits(const struct worker *w)
{
    return ev_is_active(&w->disks.out);
}

void disks_stop_freeing(struct worker *w)
{
    ev_timer_stop(w->loop, &w->disks.out);
}

void disks_init_out(struct worker *w)
{
    ev_timer_init(&w->disks.out, on_look, 0., LOOK_S);
    w->disks.out.data = w;
}
