/*
 * arbiter: requests and their time limits; which kind of arbiter does the work is the URL's to say. A request belongs
 * to the loop: when its time is up or it is cancelled, the job loses it and a late result is dropped.
 */
#include "arbiter/arbiter.h"
#include "arbiter/backend.h"
#include "common/config.h"

#include <ev.h>
#include <stdlib.h>
#include <string.h>

struct arbiter {
    struct ev_loop *loop;
    const struct arbiter_ops *ops;
    void *backend;
    struct arbiter_request *requests;
};

struct arbiter_request {
    struct arbiter *arbiter;
    struct arbiter_request *next, **link;
    void *job; /* NULL: none could be started */
    ev_timer limit;
    unsigned timeout_ms;
    arbiter_callback *done;
    void *arg;
};

static void forget(struct arbiter_request *r)
{
    if (r->job)
        r->arbiter->ops->drop(r->job);
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

void arbiter_answered(struct arbiter_request *r, enum arbiter_answer answer, const struct arbiter_register *now,
                      const char *why)
{
    arbiter_callback *done = r->done;
    void *arg = r->arg;
    r->job = NULL;
    forget(r);
    done(answer, now, why, arg);
}

static void on_limit(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct arbiter_request *r = w->data;
    struct errmsg why;
    r->arbiter->ops->late(r->arbiter->backend, r->job, r->timeout_ms, &why);
    if (r->job)
        r->arbiter->ops->drop(r->job);
    struct arbiter_register nothing = {0};
    arbiter_answered(r, ARBITER_NO_ANSWER, &nothing, why.text);
}

static const struct arbiter_ops *ops_of(const char *url, struct errmsg *e)
{
    static const struct arbiter_ops *const kinds[] = {&arbiter_file_ops, &arbiter_etcd_ops, &arbiter_none_ops};
    if (!url || !*url) {
        errmsg_set(e, "no arbiter is configured: add `arbiter = etcd:https://HOST:2379,..` to [host], or `arbiter = "
                      "file:DIR`, DIR on a path that both hosts share; or `arbiter = none`: no automatic failover");
        return NULL;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (!strncmp(url, kinds[i]->kind, strlen(kinds[i]->kind)))
            return kinds[i];
    errmsg_set(e, "arbiter = %s: unknown kind, write etcd:https://HOST:2379,.. or file:DIR or none", url);
    return NULL;
}

struct arbiter *arbiter_open_config(struct ev_loop *loop, const struct config *c, struct errmsg *e)
{
    const struct arbiter_ops *ops = ops_of(c->arbiter, e);
    void *backend = ops ? ops->open(loop, c, e) : NULL;
    if (!backend)
        return NULL;
    struct arbiter *a = calloc(1, sizeof(*a));
    if (!a)
        abort();
    a->loop = loop;
    a->ops = ops;
    a->backend = backend;
    return a;
}

struct arbiter *arbiter_open(struct ev_loop *loop, const char *url, struct errmsg *e)
{
    struct config c = {.arbiter = (char *)url};
    return arbiter_open_config(loop, &c, e);
}

void arbiter_free(struct arbiter *a)
{
    if (!a)
        return;
    while (a->requests)
        forget(a->requests);
    a->ops->close(a->backend);
    free(a);
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
    if (config_name_is_valid(vm)) /* it becomes a part of a path */
        r->job = a->ops->start(a->backend, r, vm, want, timeout_ms);
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
