/*
 * arbiter: requests, threads, time limits. Theory of operation:
 *
 * A file server that hangs must not hang the loop, so that each request is a job on a detached thread of its own. A
 * finished job goes into the mailbox, which the threads and the arbiter own together, and is taken out on the loop. The
 * request itself belongs to the loop alone: when its time is up or it is cancelled, the job loses it and its late
 * result is dropped. A hung thread outlives the arbiter; then it finds the mailbox closed.
 */
#include "arbiter/arbiter.h"
#include "arbiter/file.h"
#include "common/config.h"

#include <errno.h>
#include <ev.h>
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
    bool claim;
    struct arbiter_register want, now;
    enum arbiter_answer answer;
    struct errmsg why;
};

struct arbiter {
    struct ev_loop *loop;
    char *dir;
    struct mailbox *box;
    struct arbiter_request *requests;
};

struct arbiter_request {
    struct arbiter *arbiter;
    struct arbiter_request *next, **link;
    struct job *job;
    ev_timer limit;
    unsigned timeout_ms;
    arbiter_callback *done;
    void *arg;
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
        job->answer = file_register_claim(job->dir, job->vm, &job->want, &job->now, &job->why);
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

static void forget(struct arbiter_request *r)
{
    if (r->job)
        r->job->request = NULL;
    ev_timer_stop(r->arbiter->loop, &r->limit);
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    free(r);
}

void arbiter_cancel(struct arbiter_request *r)
{
    if (r)
        forget(r);
}

/* The last thing that is done with `r`; the callback may free the arbiter. */
static void answer(struct arbiter_request *r, enum arbiter_answer a, const struct arbiter_register *now,
                   const char *why)
{
    arbiter_callback *done = r->done;
    void *arg = r->arg;
    forget(r);
    done(a, now, why, arg);
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
        struct arbiter_request *r = job->request;
        if (r) {
            r->job = NULL;
            answer(r, job->answer, &job->now, job->why.text);
        }
        job_free(job);
    }
    box_unref(box);
}

static void on_limit(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct arbiter_request *r = w->data;
    struct errmsg why;
    errmsg_set(&why, "arbiter file:%s gave no answer within %u ms: is the shared path mounted and its server up?",
               r->arbiter->dir, r->timeout_ms);
    struct arbiter_register nothing = {0};
    answer(r, ARBITER_NO_ANSWER, &nothing, why.text);
}

struct arbiter *arbiter_open(struct ev_loop *loop, const char *url, struct errmsg *e)
{
    if (!url || !*url) {
        errmsg_set(e,
                   "no arbiter is configured: add `arbiter = file:DIR` to [host], DIR on a path that both hosts share");
        return NULL;
    }
    if (strncmp(url, "file:/", 6)) {
        errmsg_set(e, "arbiter = %s: unknown kind, write file:DIR with an absolute path", url);
        return NULL;
    }
    if (file_register_check(url + 5, e))
        return NULL;
    struct arbiter *a = calloc(1, sizeof(*a));
    struct mailbox *box = calloc(1, sizeof(*box));
    char *dir = strdup(url + 5);
    if (!a || !box || !dir) {
        free(a);
        free(box);
        free(dir);
        errmsg_set(e, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&box->lock, NULL);
    box->refs = 1;
    box->loop = loop;
    ev_async_init(&box->wake, on_wake);
    box->wake.data = box;
    ev_async_start(loop, &box->wake);
    ev_unref(loop); /* an idle arbiter keeps no loop alive */
    a->loop = loop;
    a->dir = dir;
    a->box = box;
    return a;
}

void arbiter_free(struct arbiter *a)
{
    if (!a)
        return;
    while (a->requests)
        forget(a->requests);
    struct mailbox *box = a->box;
    pthread_mutex_lock(&box->lock);
    box->closed = true;
    struct job *done = box->done;
    box->done = NULL;
    pthread_mutex_unlock(&box->lock);
    ev_ref(a->loop);
    ev_async_stop(a->loop, &box->wake);
    while (done) {
        struct job *next = done->next;
        job_free(done);
        done = next;
    }
    box_unref(box);
    free(a->dir);
    free(a);
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

/* NULL when too many hang or there is no memory or thread: then the time limit is the answer. */
static struct job *start_job(struct arbiter *a, const char *vm, const struct arbiter_register *want)
{
    struct job *job = calloc(1, sizeof(*job));
    char *dir = strdup(a->dir);
    struct mailbox *box = a->box;
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
    if (want)
        job->want = *want;
    return job;
}

static struct arbiter_request *request(struct arbiter *a, const char *vm, const struct arbiter_register *want,
                                       unsigned timeout_ms, arbiter_callback *done, void *arg)
{
    struct arbiter_request *r = calloc(1, sizeof(*r));
    if (!r)
        abort(); /* without an answer its caller would wait for ever */
    r->arbiter = a;
    r->timeout_ms = timeout_ms;
    r->done = done;
    r->arg = arg;
    r->next = a->requests;
    r->link = &a->requests;
    if (r->next)
        r->next->link = &r->next;
    a->requests = r;
    ev_timer_init(&r->limit, on_limit, timeout_ms / 1000.0, 0);
    r->limit.data = r;
    ev_now_update(a->loop);
    ev_timer_start(a->loop, &r->limit);
    /* The name becomes a path. */
    struct job *job = config_name_is_valid(vm) ? start_job(a, vm, want) : NULL;
    if (!job)
        return r;
    job->request = r;
    r->job = job;
    if (start_thread(job)) {
        r->job = NULL;
        pthread_mutex_lock(&a->box->lock);
        a->box->jobs--;
        pthread_mutex_unlock(&a->box->lock);
        job_free(job);
    }
    return r;
}

struct arbiter_request *arbiter_read(struct arbiter *a, const char *vm, unsigned timeout_ms, arbiter_callback *done,
                                     void *arg)
{
    return request(a, vm, NULL, timeout_ms, done, arg);
}

struct arbiter_request *arbiter_claim(struct arbiter *a, const char *vm, const struct arbiter_register *want,
                                      unsigned timeout_ms, arbiter_callback *done, void *arg)
{
    return request(a, vm, want, timeout_ms, done, arg);
}
