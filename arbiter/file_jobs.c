/*
 * file_jobs: the file arbiter's requests as threads. Theory of operation:
 *
 * A file server that hangs must not hang the loop, so that each request is a job on a detached thread of its own. A
 * finished job goes into the mailbox, which the threads and the backend own together, and is taken out on the loop. A
 * hung thread outlives the backend; then it finds the mailbox closed.
 */
#include "arbiter/backend.h"
#include "arbiter/file.h"
#include "common/config.h"
#include "common/file.h"

#include <ev.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* While so many jobs hang, new requests just wait for their time limit: a server that is away for a day must not cost
 * threads. */
enum { JOBS_MAX = 16, STACK_BYTES = 256 << 10 };

struct mailbox {
    pthread_mutex_t lock;
    unsigned refs, jobs;
    bool closed;
    struct ev_loop *loop;
    ev_async wake;
    struct job *done;
};

struct job {
    struct job *next;
    struct mailbox *box;
    struct arbiter_request *request; /* the loop's; NULL: nobody waits any more */
    char *dir;
    char vm[64];
    bool claim, local;
    struct arbiter_register want, now;
    enum arbiter_answer answer;
    struct errmsg why;
};

struct shared_dir {
    struct ev_loop *loop;
    char *path;
    bool local;
    struct mailbox *box;
};

static void box_unref(struct mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    bool last = --box->refs == 0;
    pthread_mutex_unlock(&box->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&box->lock);
    free(box);
}

static void job_free(struct job *job)
{
    box_unref(job->box);
    free(job->dir);
    free(job);
}

static void *work(void *arg)
{
    struct job *job = arg;
    struct mailbox *box = job->box;
    if (job->claim)
        job->answer = file_register_claim(job->dir, job->vm, &job->want, job->local, &job->now, &job->why);
    else
        job->answer = file_register_read(job->dir, job->vm, &job->now, &job->why);
    pthread_mutex_lock(&box->lock);
    box->jobs--;
    bool closed = box->closed;
    if (!closed) {
        job->next = box->done;
        box->done = job;
        ev_async_send(box->loop, &box->wake); /* within the lock: the loop lives while the box is open */
    }
    pthread_mutex_unlock(&box->lock);
    if (closed)
        job_free(job);
    return NULL;
}

static struct job *take_done(struct mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    struct job *job = box->closed ? NULL : box->done;
    if (job)
        box->done = job->next;
    pthread_mutex_unlock(&box->lock);
    return job;
}

static void on_wake(struct ev_loop *loop, ev_async *w, int events)
{
    (void)loop;
    (void)events;
    struct mailbox *box = w->data;
    struct job *job;
    pthread_mutex_lock(&box->lock);
    box->refs++; /* a callback may free the arbiter */
    pthread_mutex_unlock(&box->lock);
    while ((job = take_done(box))) {
        if (job->request)
            arbiter_answered(job->request, job->answer, &job->now, job->why.text);
        job_free(job);
    }
    box_unref(box);
}

static void *open_dir(struct ev_loop *loop, const char *path, bool local, struct errmsg *e)
{
    if (file_register_check(path, e))
        return NULL;
    struct shared_dir *d = calloc(1, sizeof(*d));
    struct mailbox *box = calloc(1, sizeof(*box));
    char *copy = strdup(path);
    if (!d || !box || !copy)
        abort();
    pthread_mutex_init(&box->lock, NULL);
    box->refs = 1;
    box->loop = loop;
    ev_async_init(&box->wake, on_wake);
    box->wake.data = box;
    ev_async_start(loop, &box->wake);
    ev_unref(loop); /* an idle arbiter keeps no loop alive */
    d->loop = loop;
    d->path = copy;
    d->local = local;
    d->box = box;
    return d;
}

static void *shared_open(struct ev_loop *loop, const struct config *c, struct errmsg *e)
{
    const char *path = c->arbiter + strlen("file:");
    if (*path == '/')
        return open_dir(loop, path, false, e);
    errmsg_set(e, "arbiter = %s: write file:DIR with an absolute path", c->arbiter);
    return NULL;
}

/* arbiter = none: what this host knows, for itself. */
static void *local_open(struct ev_loop *loop, const struct config *c, struct errmsg *e)
{
    char path[PATH_MAX];
    if (strcmp(c->arbiter, "none")) {
        errmsg_set(e, "arbiter = %s: write none, or etcd:https://HOST:2379,.. or file:DIR", c->arbiter);
        return NULL;
    }
    snprintf(path, sizeof(path), "%s/register", c->state_dir);
    return dir_make(path, 0700, e) ? NULL : open_dir(loop, path, true, e);
}

static void dir_close(void *backend)
{
    struct shared_dir *d = backend;
    struct mailbox *box = d->box;
    pthread_mutex_lock(&box->lock);
    box->closed = true;
    struct job *done = box->done;
    box->done = NULL;
    pthread_mutex_unlock(&box->lock);
    ev_ref(d->loop);
    ev_async_stop(d->loop, &box->wake);
    while (done) {
        struct job *next = done->next;
        job_free(done);
        done = next;
    }
    box_unref(box);
    free(d->path);
    free(d);
}

static int start_thread(struct job *job)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
    int r = pthread_create(&thread, &attr, work, job);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r;
}

/* NULL when too many hang or there is no memory. */
static struct job *job_new(struct shared_dir *d, const char *vm, const struct arbiter_register *want)
{
    struct job *job = calloc(1, sizeof(*job));
    char *dir = strdup(d->path);
    struct mailbox *box = d->box;
    pthread_mutex_lock(&box->lock);
    bool room = job && dir && box->jobs < JOBS_MAX;
    if (room) {
        box->jobs++;
        box->refs++;
    }
    pthread_mutex_unlock(&box->lock);
    if (!room) {
        free(job);
        free(dir);
        return NULL;
    }
    job->box = box;
    job->dir = dir;
    snprintf(job->vm, sizeof(job->vm), "%s", vm);
    job->claim = want != NULL;
    job->local = d->local;
    if (want)
        job->want = *want;
    return job;
}

static void *job_start(void *backend, struct arbiter_request *r, const char *vm, const struct arbiter_register *want,
                       unsigned timeout_ms)
{
    (void)timeout_ms; /* a hung system call cannot be given one */
    struct shared_dir *d = backend;
    struct job *job = job_new(d, vm, want);
    if (!job)
        return NULL;
    job->request = r;
    if (!start_thread(job))
        return job;
    pthread_mutex_lock(&d->box->lock);
    d->box->jobs--;
    pthread_mutex_unlock(&d->box->lock);
    job_free(job);
    return NULL;
}

static void job_drop(void *job)
{
    ((struct job *)job)->request = NULL;
}

static void job_late(const void *backend, const void *job, unsigned timeout_ms, struct errmsg *why)
{
    (void)job;
    const struct shared_dir *d = backend;
    errmsg_set(why, "arbiter file:%s gave no answer within %u ms: is the shared path mounted and its server up?",
               d->path, timeout_ms);
}

const struct arbiter_ops arbiter_file_ops = {
    .kind = "file:", .open = shared_open, .close = dir_close, .start = job_start, .drop = job_drop, .late = job_late};
const struct arbiter_ops arbiter_none_ops = {
    .kind = "none", .open = local_open, .close = dir_close, .start = job_start, .drop = job_drop, .late = job_late};
