/*
 * shared: the worker's part in disks that another host sees as well. What the VM writes to them is output: their server
 * holds it from the first checkpoint on (disk/server/gate.h) and lets it out epoch by epoch, when each is acknowledged.
 *
 *      captured(e)   mark(e): where the log ended; flushed(e): what the guest was told to be durable by then
 *      acked(e)      the server may write all before mark(e)
 *      durable       >= flushed(e): the epoch's other output goes, since who hears of a flush may rely on it
 *                    >= mark(e): the secondary may forget what it kept of it (NOTE), the VM may be handed over
 */
#include "common/log.h"
#include "disk/client.h"
#include "disk/server.h"
#include "primary/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SETTLE_MS = 4000, SETTLE_STEP_US = 2000 };

bool shared_are_lost(const struct worker *w)
{
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    return disk_server_has_lost_writes(dir);
}

/* ---- output is free ---- */

static void note_holding(struct worker *w, bool holding)
{
    char dir[DISKS_DIR_MAX];
    struct errmsg e;
    disks_dir(w, dir);
    if (disk_server_note_holding(dir, holding, &e))
        log_warn("%s", e.text);
}

/* 1: all is out. */
static int let_out(struct worker *w)
{
    struct errmsg e;
    int out = w->disks.client ? disk_let_out(w->disks.client, &e) : 0;
    if (out < 0)
        log_warn("the VM's shared disks: %s", e.text);
    if (out == 1)
        note_holding(w, false);
    return out;
}

bool shared_are_out(struct worker *w)
{
    return !w->disks.shared.disks || let_out(w) == 1;
}

/* ---- the stream ---- */

void shared_begin_sync(struct worker *w)
{
    struct shared *s = &w->disks.shared;
    s->n = 0;
    s->acked = s->released = 0;
}

int shared_begin_holding(struct worker *w, struct errmsg *e)
{
    char dir[DISKS_DIR_MAX];
    disks_dir(w, dir);
    if (!w->disks.shared.disks)
        return 0;
    if (disk_server_note_holding(dir, true, e))
        return -1;
    if (w->disks.client && disk_is_whole(w->disks.client))
        return 0;
    note_holding(w, false); /* it held nothing yet: another one may take its place */
    return errmsg_set(e, "the VM's disk server has ended");
}

bool shared_hold_checkpoints(const struct worker *w)
{
    return w->disks.shared.n == SHARED_EPOCHS;
}

void shared_captured(struct worker *w, uint64_t epoch, uint64_t mark)
{
    struct shared *s = &w->disks.shared;
    if (!s->disks || !w->disks.client || s->n == SHARED_EPOCHS)
        return;
    uint64_t flushed = disk_flushed(w->disks.client); /* perhaps by now one of the next epoch */
    s->at[s->n++] = (struct shared_epoch){.epoch = epoch, .mark = mark, .flushed = flushed < mark ? flushed : mark};
}

/* Up to which acknowledged epoch may output go? */
static uint64_t releasable(const struct shared *s, uint64_t durable)
{
    uint64_t epoch = s->released;
    for (unsigned i = 0; i < s->n && s->at[i].epoch <= s->acked && s->at[i].flushed <= durable; i++)
        epoch = s->at[i].epoch > epoch ? s->at[i].epoch : epoch;
    return epoch;
}

/* Something was acknowledged, or became durable. */
static void go_on(struct worker *w)
{
    struct shared *s = &w->disks.shared;
    uint64_t durable = disk_durable(w->disks.client), epoch = releasable(s, durable);
    unsigned done = 0;
    if (epoch > s->released) {
        s->released = epoch;
        disks_release(w, epoch);
    }
    while (done < s->n && s->at[done].epoch <= s->acked && s->at[done].mark <= durable)
        done++;
    if (!done)
        return;
    epoch = s->at[done - 1].epoch;
    s->n -= done;
    memmove(s->at, s->at + done, s->n * sizeof *s->at);
    session_note_durable(w, epoch);
    move_acked(w, epoch);
    checkpoint_arm(w);
}

void shared_acked(struct worker *w, uint64_t epoch)
{
    struct shared *s = &w->disks.shared;
    if (!w->disks.client)
        return; /* its server is gone: the stream is about to end */
    s->acked = epoch;
    for (unsigned i = 0; i < s->n; i++)
        if (s->at[i].epoch == epoch)
            disk_let_out_to(w->disks.client, s->at[i].mark);
    go_on(w);
}

static void tell_stuck(struct worker *w)
{
    int error = disk_stuck(w->disks.client);
    w->reason[0] = 0;
    if (error) {
        snprintf(w->reason, sizeof w->reason,
                 "a shared disk does not take what was written to it: %s; it is tried again, and output waits for it",
                 strerror(error));
        log_error("%s", w->reason);
    } else {
        log_info("the VM's shared disk takes what is written to it again");
    }
    report_now(w);
}

void shared_on_events(struct worker *w, unsigned events)
{
    bool by_ack = w->state == PROTECTION_SEALED || w->state == PROTECTION_PROTECTED || w->state == PROTECTION_HANDING;
    if (events & DISK_EVENT_STUCK)
        tell_stuck(w);
    if (events & DISK_EVENT_CROWDED && by_ack) {
        w->checkpoint.trigger.full = true;
        checkpoint_arm(w);
    }
    if (events & DISK_EVENT_DURABLE && by_ack)
        go_on(w);
}

void shared_stop(struct worker *w)
{
    w->disks.shared.n = 0;
}

/* ---- the end ---- */

void shared_settle(struct worker *w)
{
    int out = 1;
    if (!w->disks.shared.disks)
        return;
    for (int waited = 0; (out = let_out(w)) == 0 && waited < SETTLE_MS * 1000; waited += SETTLE_STEP_US)
        usleep(SETTLE_STEP_US);
    if (out != 1)
        log_error("the last of what the VM wrote is not on its shared disk: it does not take it");
}

void shared_cut(struct worker *w)
{
    if (w->disks.shared.disks)
        disks_end(w);
}
