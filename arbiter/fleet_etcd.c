/* fleet_etcd: a round is a lease, a put under it, and a read of all hosts; a member that fails leaves it to the next.
 */
#include "arbiter/etcd_http.h"
#include "arbiter/etcd_json.h"
#include "arbiter/fleet.h"
#include "common/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_MS = 2000 };

struct etcd_fleet {
    struct http *http;
    char *endpoints[ETCD_ENDPOINTS_MAX];
    size_t count, endpoint, tried;
    struct fleet_handlers handlers;
    void *arg;
    enum { IDLE, LEASE, PUT, LIST } step;
    char name[64];
    char *text;
};

static void on_reply(const struct http_reply *reply, void *arg);

static void end_round(struct etcd_fleet *f, const char *why)
{
    f->step = IDLE;
    free(f->text);
    f->text = NULL;
    f->handlers.done(why, f->arg);
}

/* Takes `body`. */
static int ask(struct etcd_fleet *f, const char *path, char *body)
{
    char url[512];
    snprintf(url, sizeof url, "%s%s", f->endpoints[f->endpoint], path);
    struct http_post *post = http_post(f->http, url, body, ASK_MS, on_reply, f);
    free(body);
    return post ? 0 : -1;
}

static int next_step(struct etcd_fleet *f, uint64_t lease)
{
    switch (++f->step) {
    case LEASE:
        return ask(f, "/v3/lease/grant", etcd_lease_body(FLEET_LEASE_S));
    case PUT:
        return ask(f, "/v3/kv/put", etcd_host_body(f->name, f->text, lease));
    default:
        return ask(f, "/v3/kv/range", etcd_hosts_body());
    }
}

static void on_failure(struct etcd_fleet *f, const char *why)
{
    f->endpoint = (f->endpoint + 1) % f->count;
    f->step = IDLE;
    if (++f->tried >= f->count || next_step(f, 0))
        end_round(f, why);
}

static void on_host(const char *name, const char *text, size_t n, void *arg)
{
    struct etcd_fleet *f = arg;
    f->handlers.host(name, text, n, f->arg);
}

static void on_reply(const struct http_reply *reply, void *arg)
{
    struct etcd_fleet *f = arg;
    struct errmsg why;
    uint64_t lease = 0;
    int r = reply->status ? 0 : errmsg_set(&why, "%s", reply->why);
    if (!r && f->step == LEASE)
        r = etcd_lease_reply(reply->status, reply->body, reply->n, &lease, &why);
    else if (!r && f->step == PUT)
        r = etcd_put_reply(reply->status, reply->body, reply->n, &why);
    else if (!r)
        r = etcd_hosts_reply(reply->status, reply->body, reply->n, on_host, f, &why);
    if (r)
        on_failure(f, why.text);
    else if (f->step == LIST)
        end_round(f, NULL);
    else if (next_step(f, lease))
        end_round(f, "out of memory");
}

static void etcd_close(void *backend)
{
    struct etcd_fleet *f = backend;
    if (f->http)
        http_close(f->http);
    for (size_t i = 0; i < f->count; i++)
        free(f->endpoints[i]);
    free(f->text);
    free(f);
}

static void *etcd_open(struct ev_loop *loop, const struct config *c, const struct fleet_handlers *h, void *arg,
                       struct errmsg *e)
{
    struct etcd_fleet *f = calloc(1, sizeof *f);
    if (!f)
        abort();
    f->handlers = *h;
    f->arg = arg;
    struct http_tls tls = {.ca = c->etcd_ca, .cert = c->etcd_cert, .key = c->etcd_key};
    if (!etcd_endpoints(c->arbiter + strlen("etcd:"), f->endpoints, &f->count, e) &&
        (f->http = http_open(loop, &tls, e)))
        return f;
    etcd_close(f);
    return NULL;
}

static void etcd_round(void *backend, const char *name, const char *text)
{
    struct etcd_fleet *f = backend;
    if (f->step != IDLE)
        return;
    snprintf(f->name, sizeof f->name, "%s", name);
    f->text = strdup(text);
    if (!f->text)
        abort();
    f->tried = 0;
    if (next_step(f, 0))
        end_round(f, "out of memory");
}

const struct fleet_ops fleet_etcd_ops = {.kind = "etcd:", .open = etcd_open, .close = etcd_close, .round = etcd_round};
