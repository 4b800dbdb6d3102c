#include "secondary/disks_tell.h"

#include "common/log.h"
#include "common/token_bucket.h"
#include "secondary/block_teller.h"
#include "secondary/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { QUEUED_MAX = 256 << 10, MOMENT_NS = 20000000 };

/* The thread makes a payload and lends it to the loop, which sends it and gives the turn back. */
struct disks_telling {
    struct worker *w;
    const struct stores *stores;
    uint64_t seed;
    struct token_bucket bucket; /* the thread's */
    pthread_t thread;
    ev_async ready;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t turn;
    const uint8_t *payload; /* NULL: it is the thread's turn */
    size_t n;
    uint64_t told, rate; /* octets; per second */
    bool stop, done, failed;
    struct errmsg why; /* of `failed` */
};

/* ---- the thread ---- */

/* false: nobody wants it any more. */
static bool lend(struct disks_telling *t, const uint8_t *payload, size_t n, uint64_t told)
{
    pthread_mutex_lock(&t->lock);
    t->payload = payload;
    t->n = n;
    ev_async_send(t->w->loop, &t->ready);
    while (t->payload && !t->stop)
        pthread_cond_wait(&t->turn, &t->lock);
    t->told = told;
    bool go_on = !t->stop;
    pthread_mutex_unlock(&t->lock);
    return go_on;
}

static int64_t wait_ns(struct disks_telling *t)
{
    int64_t wait = token_bucket_wait(&t->bucket, t->rate, worker_now());
    return wait < MOMENT_NS ? wait : MOMENT_NS;
}

/* What was read counts; how much may be read is asked again and again, as it may change meanwhile. */
static void hold_back(struct disks_telling *t, uint64_t read)
{
    int64_t wait;
    token_bucket_take(&t->bucket, read);
    pthread_mutex_lock(&t->lock);
    while (!t->stop && (wait = wait_ns(t)) > 0) {
        pthread_mutex_unlock(&t->lock);
        nanosleep(&(struct timespec){.tv_nsec = wait}, NULL);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
}

static int tell_disk(struct disks_telling *t, unsigned disk, uint64_t before, struct errmsg *e)
{
    struct block_teller *b =
        block_teller_new(disk, stores_fd(t->stores, disk), stores_sizes(t->stores)->bytes[disk], t->seed);
    if (!b)
        return errmsg_set(e, "no memory to look through the replica's disks");
    const uint8_t *payload;
    ssize_t n;
    bool go_on = true;
    for (uint64_t read = 0; go_on && (n = block_teller_next(b, &payload, e)) > 0; read = block_teller_read(b)) {
        go_on = lend(t, payload, (size_t)n, before + block_teller_at(b));
        hold_back(t, block_teller_read(b) - read);
    }
    block_teller_free(b);
    return go_on && n < 0 ? -1 : 0;
}

static void *run(void *arg)
{
    struct disks_telling *t = arg;
    const struct disk_sizes *sizes = stores_sizes(t->stores);
    struct errmsg e;
    uint64_t before = 0;
    int result = 0;
    for (unsigned i = 0; i < sizes->count && !result; before += sizes->bytes[i++])
        result = tell_disk(t, i, before, &e);
    pthread_mutex_lock(&t->lock);
    t->done = true;
    if (result) {
        t->failed = true;
        t->why = e;
    }
    ev_async_send(t->w->loop, &t->ready);
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- the loop ---- */

/* With the lock. */
static void send_payload(struct disks_telling *t)
{
    struct worker *w = t->w;
    if (!t->payload || !w->link || link_queued(w->link) > QUEUED_MAX)
        return;
    session_send(w, RECORD_BLOCKS, t->payload, t->n);
    t->payload = NULL;
    pthread_cond_signal(&t->turn);
}

void disks_telling_on(struct disks_telling *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    send_payload(t);
    pthread_mutex_unlock(&t->lock);
}

static void on_ready(struct ev_loop *loop, ev_async *async, int events)
{
    (void)loop, (void)events;
    struct disks_telling *t = async->data;
    struct worker *w = t->w;
    pthread_mutex_lock(&t->lock);
    send_payload(t);
    bool done = t->done, failed = t->failed;
    struct errmsg why = t->why;
    pthread_mutex_unlock(&t->lock);
    if (failed)
        session_turn_away(w, BYE_TROUBLE, why.text);
    if (done)
        disks_end_telling(w);
}

struct disks_telling *disks_telling_begin(struct worker *w, const struct stores *s, struct errmsg *e)
{
    struct disks_telling *t = calloc(1, sizeof *t);
    if (!t || getrandom(&t->seed, sizeof t->seed, 0) != (ssize_t)sizeof t->seed) {
        errmsg_set(e, "the replica's disks can't be looked through: %s", strerror(errno));
        free(t);
        return NULL;
    }
    t->w = w;
    t->stores = s;
    t->rate = w->disk_sync_rate;
    token_bucket_wait(&t->bucket, t->rate, worker_now()); /* begun */
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->turn, NULL);
    ev_async_init(&t->ready, on_ready);
    t->ready.data = t;
    ev_async_start(w->loop, &t->ready);
    int why = pthread_create(&t->thread, NULL, run, t);
    if (!why)
        return t;
    errmsg_set(e, "the thread that looks through the replica's disks can't be started: %s", strerror(why));
    ev_async_stop(w->loop, &t->ready);
    free(t);
    return NULL;
}

void disks_telling_end(struct disks_telling *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->turn);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    ev_async_stop(t->w->loop, &t->ready);
    pthread_cond_destroy(&t->turn);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

uint64_t disks_telling_at(struct disks_telling *t)
{
    pthread_mutex_lock(&t->lock);
    uint64_t told = t->told;
    pthread_mutex_unlock(&t->lock);
    return told;
}

void disks_telling_set_rate(struct disks_telling *t, uint64_t rate)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->rate = rate;
    pthread_mutex_unlock(&t->lock);
}
