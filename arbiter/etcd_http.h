/*
 * etcd_http: POST of small JSON bodies over kept connections, on the loop. Knows nothing of etcd's answers.
 */
#ifndef HIKAE_ARBITER_ETCD_HTTP_H
#define HIKAE_ARBITER_ETCD_HTTP_H

#include "common/errmsg.h"

#include <stddef.h>

struct ev_loop;
struct http;
struct http_post;

struct http_tls {
    const char *ca;         /* PEM file of who may sign the server's certificate; NULL: the system's */
    const char *cert, *key; /* PEM files, ours; NULL: none. Both or neither */
};

struct http_reply {
    long status; /* 0: there is none, `why` says why */
    const char *body;
    size_t n;
    const char *why;
};
/* Never from inside http_post(). It may call anything of this header, also http_close(). */
typedef void http_done(const struct http_reply *reply, void *arg);

/* Keeps copies of the names. NULL with `e`. */
struct http *http_open(struct ev_loop *loop, const struct http_tls *tls, struct errmsg *e);
void http_close(struct http *h); /* cancels what is under way */
/* NULL: out of memory. `body` is copied. A reply of more than 1 MiB is an error. */
struct http_post *http_post(struct http *h, const char *url, const char *body, unsigned timeout_ms, http_done *done,
                            void *arg);
void http_cancel(struct http_post *p);

#endif
