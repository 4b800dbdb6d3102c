/*
 * fleet: what the hosts say of themselves, carried by whatever carries the registers. A round publishes this host's
 * text and reads those of all hosts. Nothing here decides anything: a host that says nonsense is shown with it.
 *
 * etcd: the key /hikae/hosts/NAME under a lease of FLEET_LEASE_S, made anew each round: who is silent for so long
 * disappears. file: DIR/hosts/NAME.json, replaced by rename; it stays. none: as file, of this host alone.
 */
#ifndef HIKAE_ARBITER_FLEET_H
#define HIKAE_ARBITER_FLEET_H

#include "common/errmsg.h"

#include <stddef.h>

struct config;
struct ev_loop;
struct fleet;

enum { FLEET_LEASE_S = 15, FLEET_TEXT_MAX = 64 << 10 };

struct fleet_handlers {
    void (*host)(const char *name, const char *text, size_t n, void *arg); /* one of those that were read */
    /* The end of a round; why: NULL if it went well. fleet_free() is allowed in it, in no other. */
    void (*done)(const char *why, void *arg);
};

/* NULL with `e`. Asks nothing yet; `c` is not needed afterwards. */
struct fleet *fleet_open(struct ev_loop *loop, const struct config *c, const struct fleet_handlers *h, void *arg,
                         struct errmsg *e);
void fleet_free(struct fleet *f); /* no handler is called any more */
/* Begins a round; nothing if one is under way. Returns at once, the handlers come from a later turn of the loop. */
void fleet_round(struct fleet *f, const char *name, const char *text);

/* For fleet.c. A kind of carrier; the same rules as arbiter/backend.h. */
struct fleet_ops {
    const char *kind;
    void *(*open)(struct ev_loop *loop, const struct config *c, const struct fleet_handlers *h, void *arg,
                  struct errmsg *e);
    void (*close)(void *backend);
    void (*round)(void *backend, const char *name, const char *text);
};
extern const struct fleet_ops fleet_etcd_ops, fleet_file_ops, fleet_none_ops;

#endif
