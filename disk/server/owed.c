#include "disk/server/owed.h"

#include "disk/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How often who waits looks whether it is hurried: what a flush under way may add to a pause. */
enum { LOOK_NS = 200000 };

struct disk {
    struct owed *owed;
    pthread_t thread;
    unsigned wanted, done; /* flushes, counted */
    unsigned answered;     /* the last one that was answered before it was done, */
    uint32_t stopped;      /* all that are owed in this pause, when the VM's processors stood still; 0: not all */
    unsigned failed;       /* the last one that failed, */
    int failure;           /* and how; 0: none has */
    int error;             /* of one that was owed, and that nobody was told of */
};

struct owed {
    struct owed_handlers handlers;
    void *arg;
    struct disk disks[DISK_MAX];
    unsigned disk_count; /* whose threads run */
    pthread_mutex_t lock;
    pthread_cond_t change;
    atomic_uint count; /* disks that owe one; changed under the lock, read without */
    bool ending;
};

/* Of counters that may have run over. */
static bool is_before(unsigned a, unsigned b)
{
    return (int)(a - b) < 0;
}

static bool owes(const struct disk *d)
{
    return is_before(d->done, d->answered);
}

static void recount(struct owed *o)
{
    unsigned n = 0;
    for (unsigned i = 0; i < o->disk_count; i++)
        n += owes(&o->disks[i]);
    if (atomic_exchange(&o->count, n) != n)
        o->handlers.changed(n, o->arg);
    pthread_cond_broadcast(&o->change);
}

static void flush_once(struct owed *o, struct disk *d)
{
    unsigned wanted = d->wanted; /* what is wanted from here on may be of writes that this one does not see */
    pthread_mutex_unlock(&o->lock);
    int error = o->handlers.flush((unsigned)(d - o->disks), o->arg);
    pthread_mutex_lock(&o->lock);
    if (error) {
        d->failed = wanted;
        d->failure = error;
        d->error = owes(d) ? error : d->error;
    }
    d->done = wanted;
    recount(o);
}

static void *run(void *arg)
{
    struct disk *d = arg;
    struct owed *o = d->owed;
    pthread_mutex_lock(&o->lock);
    while (!o->ending || d->wanted != d->done) {
        if (d->wanted != d->done)
            flush_once(o, d);
        else
            pthread_cond_wait(&o->change, &o->lock);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

static void init_locks(struct owed *o)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&o->change, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&o->lock, NULL);
}

struct owed *owed_new(unsigned disks, const struct owed_handlers *h, void *arg, struct errmsg *e)
{
    struct owed *o = calloc(1, sizeof *o);
    int error = 0;
    if (!o)
        abort();
    o->handlers = *h;
    o->arg = arg;
    init_locks(o);
    while (o->disk_count < disks && !error) {
        struct disk *d = &o->disks[o->disk_count];
        d->owed = o;
        error = pthread_create(&d->thread, NULL, run, d);
        pthread_mutex_lock(&o->lock);
        o->disk_count += !error;
        pthread_mutex_unlock(&o->lock);
    }
    if (!error)
        return o;
    errmsg_set(e, "starting a thread: %s", strerror(error));
    owed_free(o);
    return NULL;
}

void owed_free(struct owed *o)
{
    if (!o)
        return;
    pthread_mutex_lock(&o->lock);
    o->ending = true;
    pthread_cond_broadcast(&o->change);
    pthread_mutex_unlock(&o->lock);
    for (unsigned i = 0; i < o->disk_count; i++)
        pthread_join(o->disks[i].thread, NULL);
    pthread_cond_destroy(&o->change);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

static void wait_a_moment(struct owed *o)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&o->change, &o->lock, &until);
}

/* With the lock; hurried is asked without it. */
static bool is_hurried(struct owed *o, uint32_t *stopped)
{
    pthread_mutex_unlock(&o->lock);
    bool hurried = o->handlers.hurried(stopped, o->arg);
    pthread_mutex_lock(&o->lock);
    return hurried;
}

static void answer_first(struct owed *o, struct disk *d, unsigned flush, uint32_t stopped)
{
    d->stopped = owes(d) && d->stopped != stopped ? 0 : stopped;
    if (!owes(d) || is_before(d->answered, flush)) /* who waits looks in no order */
        d->answered = flush;
    recount(o);
}

int owed_flush(struct owed *o, unsigned disk)
{
    struct disk *d = &o->disks[disk];
    uint32_t stopped = 0;
    int error = 0;
    pthread_mutex_lock(&o->lock);
    unsigned mine = ++d->wanted;
    pthread_cond_broadcast(&o->change);
    bool hurried = is_hurried(o, &stopped);
    while (!hurried && is_before(d->done, mine)) {
        wait_a_moment(o);
        hurried = is_before(d->done, mine) && is_hurried(o, &stopped);
    }
    if (is_before(d->done, mine))
        answer_first(o, d, mine, stopped);
    else if (d->failure && !is_before(d->failed, mine))
        error = d->failure;
    pthread_mutex_unlock(&o->lock);
    return error;
}

void owed_begin(struct owed *o, unsigned disks)
{
    pthread_mutex_lock(&o->lock);
    for (unsigned i = 0; i < disks; i++)
        answer_first(o, &o->disks[i], ++o->disks[i].wanted, 0);
    pthread_mutex_unlock(&o->lock);
}

/* Those that are owed as it comes, and no later ones: it was there before they were answered. */
void owed_wait(struct owed *o)
{
    unsigned last[DISK_MAX];
    uint32_t stopped;
    if (atomic_load(&o->count) == 0)
        return;
    (void)o->handlers.hurried(&stopped, o->arg);
    pthread_mutex_lock(&o->lock);
    for (unsigned i = 0; i < o->disk_count; i++) {
        const struct disk *d = &o->disks[i];
        last[i] = stopped && d->stopped == stopped ? d->done : d->answered;
    }
    for (unsigned i = 0; i < o->disk_count; i++)
        while (is_before(o->disks[i].done, last[i]))
            pthread_cond_wait(&o->change, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

void owed_tell(struct owed *o)
{
    pthread_mutex_lock(&o->lock);
    for (unsigned i = 0; i < o->disk_count; i++)
        o->disks[i].stopped = 0;
    o->handlers.changed(atomic_load(&o->count), o->arg);
    pthread_mutex_unlock(&o->lock);
}

int owed_take_error(struct owed *o, unsigned disk)
{
    pthread_mutex_lock(&o->lock);
    int error = o->disks[disk].error;
    o->disks[disk].error = 0;
    pthread_mutex_unlock(&o->lock);
    return error;
}
