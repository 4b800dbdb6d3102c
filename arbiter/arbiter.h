/*
 * arbiter: who owns a VM. One register per VM, {term, owner, mode}, changed only by compare-and-set. No lease, no
 * clock. Serves promise 3 (never two). Kinds: "file:DIR" and "etcd:https://HOST:PORT,..".
 *
 * "none" is no arbiter: a register of this host alone, below STATE_DIR, that only keeps what this host knows. Any claim
 * of a higher term is granted there. What may be done on such a word is the caller's to decide.
 *
 * All calls return at once; the answer comes through the callback on the loop, from a later turn, exactly once, unless
 * the request is cancelled. Retrying is the caller's business.
 */
#ifndef HIKAE_ARBITER_ARBITER_H
#define HIKAE_ARBITER_ARBITER_H

#include "common/errmsg.h"

#include <stdint.h>

struct config;
struct ev_loop;
struct arbiter;
struct arbiter_request;

struct arbiter_register {
    uint64_t term; /* 0: nobody ever owned it */
    char owner[64];
    char mode[16]; /* "protected", "alone", "stopped" */
};

/* Kind none: what an order by force adds to the term. The other host, if it is still there against what its admin said,
 * takes the next few terms for itself: the one that was forced stays the higher one. */
enum { ARBITER_FORCED_LEAP = 1000 };

enum arbiter_answer {
    ARBITER_GRANTED,  /* claim: the register is now what was asked for. read: here it is */
    ARBITER_REFUSED,  /* claim: somebody else was first; the register as it is now is given */
    ARBITER_NO_ANSWER /* nothing is known: a claim may or may not have been carried out. Read before the next claim: a
                         register that holds exactly what was claimed is ours. */
};

typedef void arbiter_callback(enum arbiter_answer answer, const struct arbiter_register *now, const char *why,
                              void *arg);

/* By [host] arbiter, and for etcd etcd_ca, etcd_cert and etcd_key. NULL with `e`, which names the remedy. Nothing is
 * asked yet: an etcd that is down opens. `c` is not needed afterwards. */
struct arbiter *arbiter_open_config(struct ev_loop *loop, const struct config *c, struct errmsg *e);
/* The same with nothing but the URL. */
struct arbiter *arbiter_open(struct ev_loop *loop, const char *url, struct errmsg *e);
void arbiter_free(struct arbiter *a); /* cancels what is under way */
struct arbiter_request *arbiter_read(struct arbiter *a, const char *vm, unsigned timeout_ms, arbiter_callback *done,
                                     void *arg);
/* If the register's term is want->term - 1 (kind none: any lower one), makes it `want`. Else refused. Asking again for
 * what the register already is (same term, owner and mode) is granted. */
struct arbiter_request *arbiter_claim(struct arbiter *a, const char *vm, const struct arbiter_register *want,
                                      unsigned timeout_ms, arbiter_callback *done, void *arg);
void arbiter_cancel(struct arbiter_request *r); /* the callback will not come */

#endif
