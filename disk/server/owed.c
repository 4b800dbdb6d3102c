#include "disk/server/owed.h"

#include "disk/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct owed {
    int (*flush)(unsigned disk, void *arg);
    void (*changed)(unsigned owed, void *arg);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t change;
    unsigned wanted[DISK_MAX], done[DISK_MAX]; /* counts of flushes */
    int error[DISK_MAX];
    atomic_uint count; /* disks whose counts differ; changed under the lock, read without */
    bool ending;
};

static void recount(struct owed *o)
{
    unsigned n = 0;
    for (unsigned i = 0; i < DISK_MAX; i++)
        n += o->wanted[i] != o->done[i];
    atomic_store(&o->count, n);
    o->changed(n, o->arg);
    pthread_cond_broadcast(&o->change);
}

static void flush_one(struct owed *o, unsigned disk)
{
    unsigned wanted = o->wanted[disk]; /* what is wanted from here on may be of writes that this one does not see */
    pthread_mutex_unlock(&o->lock);
    int error = o->flush(disk, o->arg);
    pthread_mutex_lock(&o->lock);
    o->done[disk] = wanted;
    if (error)
        o->error[disk] = error;
    recount(o);
}

static void *run(void *arg)
{
    struct owed *o = arg;
    pthread_mutex_lock(&o->lock);
    for (;;) {
        for (unsigned i = 0; i < DISK_MAX; i++)
            if (o->wanted[i] != o->done[i])
                flush_one(o, i);
        if (atomic_load(&o->count) > 0)
            continue;
        if (o->ending)
            break;
        pthread_cond_wait(&o->change, &o->lock);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

struct owed *owed_new(int (*flush)(unsigned disk, void *arg), void (*changed)(unsigned owed, void *arg), void *arg,
                      struct errmsg *e)
{
    struct owed *o = calloc(1, sizeof *o);
    if (!o)
        abort();
    o->flush = flush;
    o->changed = changed;
    o->arg = arg;
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->change, NULL);
    int error = pthread_create(&o->thread, NULL, run, o);
    if (error == 0)
        return o;
    errmsg_set(e, "starting a thread: %s", strerror(error));
    free(o);
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
    pthread_join(o->thread, NULL);
    pthread_cond_destroy(&o->change);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

void owed_add(struct owed *o, unsigned disk)
{
    pthread_mutex_lock(&o->lock);
    o->wanted[disk]++;
    recount(o);
    pthread_mutex_unlock(&o->lock);
}

void owed_wait(struct owed *o)
{
    if (atomic_load(&o->count) == 0)
        return;
    pthread_mutex_lock(&o->lock);
    while (atomic_load(&o->count) > 0)
        pthread_cond_wait(&o->change, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

void owed_tell(struct owed *o)
{
    pthread_mutex_lock(&o->lock);
    o->changed(atomic_load(&o->count), o->arg);
    pthread_mutex_unlock(&o->lock);
}

int owed_take_error(struct owed *o, unsigned disk)
{
    pthread_mutex_lock(&o->lock);
    int error = o->error[disk];
    o->error[disk] = 0;
    pthread_mutex_unlock(&o->lock);
    return error;
}
