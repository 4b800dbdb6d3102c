#include "secondary/shared.h"

#include "common/log.h"
#include "common/staging.h"
#include "disk/client.h"
#include "disk/journal.h"
#include "disk/server.h"
#include "secondary/disks.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LET_OUT_STEP_US = 2000 };
static const double RETRY_S = 0.5;

struct kept { /* an epoch's writes */
    struct kept *next;
    uint64_t epoch;
    struct staging *writes;
};

enum work { WORK_NONE, WORK_SEALING, WORK_BRINGING };

struct shared {
    struct ev_loop *loop;
    const struct config *config;
    char vm[64];
    struct shared_handlers handlers;
    void *arg;
    struct journal *journal; /* NULL: sealed, or given up */
    struct staging *coming;
    struct kept *first, **last;
    uint64_t bytes, committed, durable;
    bool sealed;
    /* the thread's turn: it has the journal and what is kept for itself */
    enum work work;
    pthread_t thread;
    ev_async done;
    ev_timer again;
    uint64_t term;
    int result;
    struct errmsg why;
};

/* ---- what is kept ---- */

static void forget_first(struct shared *s)
{
    struct kept *k = s->first;
    s->first = k->next;
    if (!s->first)
        s->last = &s->first;
    s->bytes -= staging_bytes(k->writes);
    staging_free(k->writes);
    free(k);
}

int shared_take(struct shared *s, const uint8_t *payload, size_t n, struct errmsg *e)
{
    uint64_t limit = s->config->staging_bytes;
    if (!s->coming)
        s->coming = staging_new(s->bytes < limit ? limit - s->bytes : 0, s->config->spool_dir);
    return s->coming ? staging_add(s->coming, payload, n, e) : errmsg_set(e, "no memory to stage an epoch");
}

void shared_commit(struct shared *s, uint64_t epoch)
{
    if (!s)
        return;
    s->committed = epoch;
    if (!s->coming)
        return;
    struct kept *k = malloc(sizeof *k);
    if (!k)
        abort();
    *k = (struct kept){.epoch = epoch, .writes = s->coming};
    *s->last = k;
    s->last = &k->next;
    s->bytes += staging_bytes(k->writes);
    s->coming = NULL;
}

void shared_abort(struct shared *s)
{
    if (!s || !s->coming)
        return;
    staging_free(s->coming);
    s->coming = NULL;
}

int shared_durable(struct shared *s, uint64_t epoch, struct errmsg *e)
{
    if (!s)
        return errmsg_set(e, "NOTE: \"durable\" of a VM without a shared disk");
    if (epoch < s->durable || epoch > s->committed)
        return errmsg_set(e, "NOTE: epoch %" PRIu64 " is durable, after %" PRIu64 ", and %" PRIu64 " was the last one",
                          epoch, s->durable, s->committed);
    s->durable = epoch;
    while (s->work == WORK_NONE && s->first && s->first->epoch <= epoch)
        forget_first(s);
    return 0;
}

bool shared_is_durable(const struct shared *s, uint64_t epoch)
{
    return !s || s->durable >= epoch;
}

uint64_t shared_bytes(const struct shared *s)
{
    return s ? s->bytes : 0;
}

/* ---- on the thread ---- */

struct adding {
    struct journal *journal;
    struct errmsg *e;
};

static int add(const uint8_t *data, size_t n, void *arg)
{
    struct adding *a = arg;
    return journal_add(a->journal, data, n, a->e);
}

static int seal(struct shared *s, struct errmsg *e)
{
    struct adding a = {.journal = s->journal, .e = e};
    for (struct kept *k = s->first; k; k = k->next) {
        journal_begin(s->journal, k->epoch);
        if (staging_each(k->writes, add, &a, e) || journal_end(s->journal, e))
            return -1;
    }
    return s->first ? journal_sync(s->journal, e) : 0;
}

/* The replica's server has held whatever came since it was started. */
static int open_gate(const char *dir, struct errmsg *e)
{
    struct disk_client *c = disk_connect(dir, e);
    if (!c && (disk_server_start(dir, NULL, 0, e) || !(c = disk_connect(dir, e))))
        return -1;
    int out;
    while ((out = disk_let_out(c, e)) == 0)
        usleep(LET_OUT_STEP_US);
    disk_disconnect(c);
    return out < 0 ? -1 : 0;
}

int shared_bring_now(const struct config *c, const char *vm, uint64_t term, struct errmsg *e)
{
    char dir[DISKS_DIR_MAX];
    if (!config_vm(c, vm)->shared_count)
        return 0;
    disks_dir(dir, c, vm);
    return shared_granted(c, vm, term, e) || shared_apply(c, vm, term, &medium_kernel, e) || open_gate(dir, e) ? -1 : 0;
}

static void *run(void *arg)
{
    struct shared *s = arg;
    s->result = s->work == WORK_SEALING ? seal(s, &s->why) : shared_bring_now(s->config, s->vm, s->term, &s->why);
    ev_async_send(s->loop, &s->done);
    return NULL;
}

/* ---- on the loop ---- */

static void begin(struct shared *s, enum work work)
{
    s->work = work;
    if (pthread_create(&s->thread, NULL, run, s))
        abort();
}

static enum work end(struct shared *s)
{
    enum work work = s->work;
    if (work != WORK_NONE)
        pthread_join(s->thread, NULL);
    s->work = WORK_NONE;
    return work;
}

static void on_done(struct ev_loop *loop, ev_async *async, int events)
{
    (void)events;
    struct shared *s = async->data;
    enum work work = end(s);
    if (work == WORK_NONE)
        return;
    if (s->result) {
        if (work == WORK_BRINGING)
            ev_timer_start(loop, &s->again);
        s->handlers.failed(s->why.text, s->arg);
    } else if (work == WORK_SEALING) {
        journal_close(s->journal);
        s->journal = NULL;
        s->sealed = true;
        s->handlers.sealed(s->arg);
    } else {
        s->handlers.brought(s->arg);
    }
}

bool shared_is_sealed(struct shared *s)
{
    if (!s || s->sealed)
        return true;
    if (s->work == WORK_NONE) {
        shared_abort(s);
        begin(s, WORK_SEALING);
    }
    return false;
}

static void on_again(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    begin(t->data, WORK_BRINGING);
}

void shared_bring(struct shared *s, uint64_t term)
{
    s->term = term;
    begin(s, WORK_BRINGING);
}

struct shared *shared_open(struct ev_loop *loop, const struct config *c, const char *vm, const struct shared_wanted *w,
                           const struct shared_handlers *h, void *arg, struct errmsg *e)
{
    if (shared_check(c, vm, w, e))
        return NULL;
    struct shared *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->journal = shared_journal(c, vm, &medium_kernel, e);
    if (!s->journal) {
        free(s);
        return NULL;
    }
    s->loop = loop;
    s->config = c;
    snprintf(s->vm, sizeof s->vm, "%s", vm);
    s->handlers = *h;
    s->arg = arg;
    s->last = &s->first;
    ev_async_init(&s->done, on_done);
    ev_timer_init(&s->again, on_again, RETRY_S, 0.);
    s->done.data = s->again.data = s;
    ev_async_start(loop, &s->done);
    return s;
}

void shared_close(struct shared *s)
{
    if (!s)
        return;
    end(s);
    ev_async_stop(s->loop, &s->done);
    ev_timer_stop(s->loop, &s->again);
    shared_abort(s);
    while (s->first)
        forget_first(s);
    journal_close(s->journal);
    free(s);
}
