#include "disk/server/gate.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOK_AGAIN_MS = 1, TRY_AGAIN_MS = 200 };

struct gate {
    struct gate_handlers handlers;
    void *arg;
    uint64_t room;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t change;
    struct held *held;
    bool latched; /* holding, though no tracker says so */
    bool ending;
    uint64_t reported; /* durable up to here was said */
};

/* ---- waiting ---- */

static void wait_ms(struct gate *g, unsigned ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&g->change, &g->lock, &t);
}

static bool is_holding(struct gate *g)
{
    return g->latched || g->handlers.is_holding(g->arg);
}

/* ---- the thread ---- */

struct batch {
    bool dirty[DISK_MAX]; /* written to since its last flush */
    unsigned writes;
};

static int flush_dirty(struct gate *g, struct batch *b, unsigned disk)
{
    int error = b->dirty[disk] ? g->handlers.sync(disk, g->arg) : 0;
    if (!error)
        b->dirty[disk] = false;
    return error;
}

static int carry_out(struct gate *g, struct batch *b, const struct held_write *w)
{
    if (w->kind == HELD_BARRIER)
        return flush_dirty(g, b, w->disk);
    b->dirty[w->disk] = true;
    b->writes++;
    return g->handlers.write(w, g->arg);
}

static int flush_all(struct gate *g, struct batch *b)
{
    int error = 0;
    for (unsigned i = 0; i < DISK_MAX && !error; i++)
        error = flush_dirty(g, b, i);
    return error;
}

/* What was released when it began, and all of that. With the lock held, but for the disk's time. */
static int write_released(struct gate *g)
{
    struct batch batch = {.writes = 0};
    uint64_t upto = held_released(g->held);
    int error = 0;
    while (!error && !g->ending) {
        const struct held_write *w = held_next(g->held, upto);
        if (!w)
            break;
        pthread_mutex_unlock(&g->lock);
        error = carry_out(g, &batch, w);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    if (!error)
        error = flush_all(g, &batch);
    if (error || batch.writes)
        g->handlers.stuck(error, g->arg);
    pthread_mutex_lock(&g->lock);
    if (error || g->ending) {
        held_rewind(g->held);
        return error;
    }
    held_done(g->held);
    g->reported = upto;
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
    g->handlers.durable(upto, g->arg);
    pthread_mutex_lock(&g->lock);
    return 0;
}

static bool has_work(struct gate *g)
{
    return held_released(g->held) > g->reported || held_next(g->held, UINT64_MAX);
}

static void *run(void *arg)
{
    struct gate *g = arg;
    pthread_mutex_lock(&g->lock);
    while (!g->ending) {
        if (!has_work(g)) {
            pthread_cond_wait(&g->change, &g->lock);
            continue;
        }
        held_rewind(g->held);
        if (write_released(g))
            wait_ms(g, TRY_AGAIN_MS);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* ---- making ---- */

struct gate *gate_new(const struct gate_handlers *h, void *arg, bool holding, uint64_t room, struct errmsg *e)
{
    struct gate *g = calloc(1, sizeof *g);
    pthread_condattr_t monotonic;
    if (!g)
        abort();
    g->handlers = *h;
    g->arg = arg;
    g->room = room;
    g->latched = holding;
    g->held = held_new();
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->change, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int error = pthread_create(&g->thread, NULL, run, g);
    if (!error)
        return g;
    errmsg_set(e, "starting a thread: %s", strerror(error));
    held_free(g->held);
    free(g);
    return NULL;
}

void gate_free(struct gate *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->ending = true;
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    held_free(g->held);
    pthread_cond_destroy(&g->change);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

/* ---- requests ---- */

bool gate_enter(struct gate *g)
{
    bool told = false, holding;
    pthread_mutex_lock(&g->lock);
    for (;;) {
        holding = is_holding(g);
        if (holding ? held_bytes(g->held) < g->room : held_is_empty(g->held))
            break;
        if (holding && g->handlers.is_pausing(g->arg))
            break;
        if (holding && !told)
            g->handlers.crowded(g->arg);
        told = holding;
        wait_ms(g, LOOK_AGAIN_MS);
    }
    pthread_mutex_unlock(&g->lock);
    return holding;
}

void gate_add(struct gate *g, const struct held_write *w)
{
    pthread_mutex_lock(&g->lock);
    held_add(g->held, w);
    if (!is_holding(g)) { /* it was opened meanwhile */
        held_release_all(g->held);
        pthread_cond_broadcast(&g->change);
    }
    pthread_mutex_unlock(&g->lock);
}

void gate_read(struct gate *g, unsigned disk, void *out, size_t n, uint64_t offset,
               void (*gap)(uint64_t offset, uint64_t n, void *arg), void *arg)
{
    pthread_mutex_lock(&g->lock);
    held_read(g->held, disk, out, n, offset, gap, arg);
    pthread_mutex_unlock(&g->lock);
}

bool gate_flush(struct gate *g, unsigned disk)
{
    pthread_mutex_lock(&g->lock);
    bool holding = is_holding(g);
    if (holding && held_has(g->held, disk))
        held_add(g->held,
                 &(struct held_write){.disk = disk, .kind = HELD_BARRIER, .position = g->handlers.barrier(g->arg)});
    while (!holding && !held_is_empty(g->held))
        wait_ms(g, LOOK_AGAIN_MS);
    pthread_mutex_unlock(&g->lock);
    return holding;
}

/* ---- orders ---- */

void gate_release(struct gate *g, uint64_t position)
{
    pthread_mutex_lock(&g->lock);
    held_release(g->held, position);
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
}

void gate_latch(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->latched = is_holding(g);
    pthread_mutex_unlock(&g->lock);
}

bool gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->latched = false;
    held_release_all(g->held);
    pthread_cond_broadcast(&g->change);
    bool out = held_is_empty(g->held);
    pthread_mutex_unlock(&g->lock);
    return out;
}
