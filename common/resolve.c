#include "common/resolve.h"

#include <ev.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A resolver that hangs leaves a thread behind for each attempt, until it gives up by itself. */
enum { THREADS_MAX = 8, STACK_BYTES = 256 << 10 };

/* Its thread's until `done`, then the loop's; if it was cancelled before, the thread frees it. */
struct resolve {
    pthread_mutex_t lock;
    bool done, cancelled;
    struct ev_loop *loop;
    ev_async wake;
    char *host, *port;
    struct addrinfo *found;
    int error;
    resolve_callback *callback;
    void *arg;
};

static atomic_uint threads;

static void release(struct resolve *r)
{
    if (r->found)
        freeaddrinfo(r->found);
    pthread_mutex_destroy(&r->lock);
    free(r->host);
    free(r->port);
    free(r);
}

static void *work(void *arg)
{
    struct resolve *r = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    r->error = getaddrinfo(r->host, r->port, &hints, &r->found);
    if (r->error)
        r->found = NULL;
    atomic_fetch_sub(&threads, 1);
    pthread_mutex_lock(&r->lock);
    bool cancelled = r->cancelled;
    r->done = true;
    if (!cancelled)
        ev_async_send(r->loop, &r->wake); /* within the lock: until it is cancelled the loop lives */
    pthread_mutex_unlock(&r->lock);
    if (cancelled)
        release(r);
    return NULL;
}

static void on_wake(struct ev_loop *loop, ev_async *w, int events)
{
    (void)events;
    struct resolve *r = w->data;
    pthread_mutex_lock(&r->lock); /* the thread is done with it then */
    pthread_mutex_unlock(&r->lock);
    ev_async_stop(loop, &r->wake);
    struct addrinfo *found = r->found;
    const char *why = r->error ? gai_strerror(r->error) : "";
    resolve_callback *callback = r->callback;
    void *callback_arg = r->arg;
    r->found = NULL;
    release(r);
    callback(found, why, callback_arg);
}

static int start_thread(struct resolve *r)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
    int error = pthread_create(&thread, &attr, work, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

struct resolve *resolve_begin(struct ev_loop *loop, const char *host, const char *port, resolve_callback *done,
                              void *arg, struct errmsg *e)
{
    if (atomic_load(&threads) >= THREADS_MAX) {
        errmsg_set(e, "%s: not looked up: %d look-ups have no answer yet: does the name server work?", host,
                   THREADS_MAX);
        return NULL;
    }
    struct resolve *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    *r = (struct resolve){.loop = loop, .host = strdup(host), .port = strdup(port), .callback = done, .arg = arg};
    if (!r->host || !r->port)
        abort();
    pthread_mutex_init(&r->lock, NULL);
    ev_async_init(&r->wake, on_wake);
    r->wake.data = r;
    ev_async_start(loop, &r->wake);
    atomic_fetch_add(&threads, 1);
    int error = start_thread(r);
    if (!error)
        return r;
    atomic_fetch_sub(&threads, 1);
    ev_async_stop(loop, &r->wake);
    release(r);
    errmsg_set(e, "%s: not looked up: no thread: %s", host, strerror(error));
    return NULL;
}

void resolve_cancel(struct resolve *r)
{
    if (!r)
        return;
    ev_async_stop(r->loop, &r->wake);
    pthread_mutex_lock(&r->lock);
    r->cancelled = true;
    bool done = r->done;
    pthread_mutex_unlock(&r->lock);
    if (done)
        release(r);
}

struct addrinfo *resolve_numeric(const char *address, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    return getaddrinfo(address, port, &hints, &found) ? NULL : found;
}
