/*
 * backend: what arbiter.c needs from a kind of arbiter. One table per kind, each in a file of its own; every function
 * must be there. All of it is called on the loop.
 */
#ifndef HIKAE_ARBITER_BACKEND_H
#define HIKAE_ARBITER_BACKEND_H

#include "arbiter/arbiter.h"

struct config;

struct arbiter_ops {
    const char *kind; /* "file:", how its URLs begin */
    /* NULL with `e`. c->arbiter begins with `kind`. */
    void *(*open)(struct ev_loop *loop, const struct config *c, struct errmsg *e);
    /* No job is attached any more. May come from inside arbiter_answered(). */
    void (*close)(void *backend);
    /* Starts a read (`want` is NULL) or a claim; vm is a valid name, both are copied. The job calls arbiter_answered()
     * once, from a later turn, and is then the backend's alone. NULL: it cannot start, the time limit is the answer. */
    void *(*start)(void *backend, struct arbiter_request *r, const char *vm, const struct arbiter_register *want,
                   unsigned timeout_ms);
    /* Nobody waits for the job any more: it must not call arbiter_answered(). */
    void (*drop)(void *job);
    /* Why was there no answer in time? job: NULL if it could not start. */
    void (*late)(const void *backend, const void *job, unsigned timeout_ms, struct errmsg *why);
};

extern const struct arbiter_ops arbiter_file_ops, arbiter_etcd_ops, arbiter_none_ops;

/* Ends the request. The callback may free the arbiter, and with it the backend. */
void arbiter_answered(struct arbiter_request *r, enum arbiter_answer answer, const struct arbiter_register *now,
                      const char *why);

#endif
