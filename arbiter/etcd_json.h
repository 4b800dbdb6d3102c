/*
 * etcd_json: what is said to etcd's JSON gateway and what it says back. Pure.
 *
 * The register of VM NAME is the JSON text of register.h under the key /hikae/vms/NAME/register.
 */
#ifndef HIKAE_ARBITER_ETCD_JSON_H
#define HIKAE_ARBITER_ETCD_JSON_H

#include "arbiter/arbiter.h"

#include <stdbool.h>
#include <stddef.h>

enum { ETCD_KEY_BYTES = 96, ETCD_ENDPOINTS_MAX = 16 };

/* The register, and the revision that a compare must name; term 0 and revision 0: the key is not there. */
struct etcd_found {
    struct arbiter_register now;
    uint64_t revision;
    uint64_t cluster; /* its id; only after a read */
};

/* "https://h1:2379,https://h2" to an array of malloc'd "https://h2:2379" and their number, 1 to ETCD_ENDPOINTS_MAX; the
 * port's default is 2379. -1 with `e`. */
int etcd_endpoints(const char *list, char *out[ETCD_ENDPOINTS_MAX], size_t *n, struct errmsg *e);
void etcd_key(const char *vm, char out[ETCD_KEY_BYTES]);

/* Bodies for /v3/kv/range and /v3/kv/txn, malloc'd. The transaction puts `want` if the key is still at `revision` (0:
 * still not there), else reads it. */
char *etcd_range_body(const char *key);
char *etcd_txn_body(const char *key, uint64_t revision, const struct arbiter_register *want);

/* A reply with its HTTP status. -1 with `why`, which names the remedy where there is one; whatever is not exactly what
 * etcd says is an error, so that no other server's answer looks like a VM that nobody owns. */
int etcd_range_reply(const char *key, long status, const char *body, size_t n, struct etcd_found *found,
                     struct errmsg *why);
/* *put: it was carried out; else `found` is what is there instead. */
int etcd_txn_reply(const char *key, long status, const char *body, size_t n, bool *put, struct etcd_found *found,
                   struct errmsg *why);

/* ---- the fleet ---- the key /hikae/hosts/NAME. Bodies for /v3/lease/grant, /v3/kv/put and /v3/kv/range. */
char *etcd_lease_body(unsigned seconds);
char *etcd_host_body(const char *name, const char *text, uint64_t lease);
char *etcd_hosts_body(void);
int etcd_lease_reply(long status, const char *body, size_t n, uint64_t *lease, struct errmsg *why);
int etcd_put_reply(long status, const char *body, size_t n, struct errmsg *why);
/* Calls `host` for each that has a valid name; `text` has a NUL behind it. */
int etcd_hosts_reply(long status, const char *body, size_t n,
                     void (*host)(const char *name, const char *text, size_t n, void *arg), void *arg,
                     struct errmsg *why);

#endif
