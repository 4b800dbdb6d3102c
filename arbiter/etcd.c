/*
 * etcd: the register of a VM in an etcd cluster. Theory of operation:
 *
 * A claim is a linearizable read, then a transaction: if the key is still at the revision that was read, put. etcd
 * orders all transactions, so that of all who read term N exactly one puts N+1. A member that cannot reach a majority
 * answers neither, so that a minority grants nothing.
 *
 * A visit is what is asked of one member: read, perhaps transaction. It gets its share of the request's time; then, or
 * when it fails, comes the next member, first of all the one that answered last. After a round without success there is
 * a pause, which doubles. Each visit begins with the read, and that settles what became of a transaction whose answer
 * was lost: if the register holds exactly what we want, the claim is granted; if its term moved on, it is refused; else
 * it is tried again. A lost transaction that arrives later finds another revision, or it is what we want.
 *
 * A claim's first visit has no answer to settle. If the last read found the term before the one that is wanted, its
 * transaction names the revision of that read, however long ago it was: a round trip less for a guest that stands
 * still.
 */
#include "arbiter/backend.h"
#include "arbiter/etcd_http.h"
#include "arbiter/etcd_json.h"
#include "arbiter/register.h"
#include "common/config.h"

#include <errno.h>
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WHY_BYTES = 256, PAUSE_MAX_MS = 400 };
static const double PAUSE_S = 0.05;

struct etcd {
    struct ev_loop *loop;
    struct http *http;
    char *endpoints[ETCD_ENDPOINTS_MAX];
    size_t count, good;           /* good: answered last */
    uint64_t cluster;             /* whose answers were heeded; 0: none yet */
    struct {                      /* the last read */
        char key[ETCD_KEY_BYTES]; /* "": none */
        struct etcd_found found;
    } seen;
};

struct etcd_job {
    struct etcd *etcd;
    struct arbiter_request *request;
    char key[ETCD_KEY_BYTES];
    bool claim;
    struct arbiter_register want;
    size_t endpoint, failed; /* failed: in this round */
    double slice, visit_end; /* seconds, on the loop's clock */
    double pause;
    ev_timer again;
    struct http_post *post; /* NULL: between visits */
    bool putting;
    char (*why)[WHY_BYTES]; /* each endpoint's last reason */
};

static void visit(struct etcd_job *j);

static void job_drop(void *job)
{
    struct etcd_job *j = job;
    ev_timer_stop(j->etcd->loop, &j->again);
    if (j->post)
        http_cancel(j->post);
    free(j->why);
    free(j);
}

/* Frees `j`, and perhaps the arbiter. */
static void answer(struct etcd_job *j, enum arbiter_answer a, const struct arbiter_register *now, const char *why)
{
    struct arbiter_request *r = j->request;
    struct arbiter_register copy = *now;
    j->etcd->good = j->endpoint;
    job_drop(j);
    arbiter_answered(r, a, &copy, why);
}

static void next_visit(struct etcd_job *j, const char *why)
{
    const struct etcd *etcd = j->etcd;
    snprintf(j->why[j->endpoint], WHY_BYTES, "%s", why);
    j->endpoint = (j->endpoint + 1) % etcd->count;
    if (++j->failed < etcd->count) {
        visit(j);
        return;
    }
    j->failed = 0;
    ev_timer_set(&j->again, j->pause, 0.);
    ev_timer_start(etcd->loop, &j->again);
    j->pause = j->pause * 2 < PAUSE_MAX_MS / 1e3 ? j->pause * 2 : PAUSE_MAX_MS / 1e3;
}

static void on_reply(const struct http_reply *reply, void *arg);

/* What the visit still has of its time is the limit. */
static void ask(struct etcd_job *j, const char *path, char *body)
{
    char url[512];
    double left = j->visit_end - ev_now(j->etcd->loop);
    snprintf(url, sizeof(url), "%s%s", j->etcd->endpoints[j->endpoint], path);
    j->post = http_post(j->etcd->http, url, body, left > 0.001 ? (unsigned)(left * 1e3) : 1, on_reply, j);
    free(body);
    if (!j->post) {
        j->failed = j->etcd->count; /* no endpoint's fault: pause */
        next_visit(j, "out of memory");
    }
}

static void visit(struct etcd_job *j)
{
    ev_now_update(j->etcd->loop);
    j->visit_end = ev_now(j->etcd->loop) + j->slice;
    j->putting = false;
    ask(j, "/v3/kv/range", etcd_range_body(j->key));
}

static void on_again(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    visit(w->data);
}

static void put(struct etcd_job *j, uint64_t revision)
{
    j->putting = true;
    ev_now_update(j->etcd->loop);
    ask(j, "/v3/kv/txn", etcd_txn_body(j->key, revision, &j->want));
}

static void first_visit(struct etcd_job *j)
{
    struct etcd *etcd = j->etcd;
    if (!j->claim || strcmp(etcd->seen.key, j->key) != 0 || etcd->seen.found.now.term != j->want.term - 1) {
        visit(j);
        return;
    }
    *etcd->seen.key = '\0'; /* good for one attempt */
    ev_now_update(etcd->loop);
    j->visit_end = ev_now(etcd->loop) + j->slice;
    put(j, etcd->seen.found.revision);
}

/* `found` is fresh from a read, or from a transaction that was not carried out. */
static void decide(struct etcd_job *j, const struct etcd_found *found)
{
    struct errmsg why;
    if (!j->claim || register_same(&found->now, &j->want)) {
        answer(j, ARBITER_GRANTED, &found->now, "");
    } else if (found->now.term != j->want.term - 1) {
        answer(j, register_refuse(&found->now, &why), &found->now, why.text);
    } else if (j->putting) {
        next_visit(j, "somebody writes the register without taking a term");
    } else {
        put(j, found->revision);
    }
}

static void remember(struct etcd_job *j, const struct etcd_found *found)
{
    memcpy(j->etcd->seen.key, j->key, sizeof j->key);
    j->etcd->seen.found = *found;
}

/* Two clusters would be two registers, and grant a term twice. */
static int same_cluster(struct etcd *etcd, uint64_t cluster, struct errmsg *why)
{
    if (etcd->cluster && etcd->cluster != cluster)
        return errmsg_set(why, "it is of another cluster than the one that answered before: name the members of one; "
                               "restart the agents if etcd was restored from a backup");
    etcd->cluster = cluster;
    return 0;
}

static void on_reply(const struct http_reply *reply, void *arg)
{
    struct etcd_job *j = arg;
    struct etcd_found found = {0};
    struct errmsg why;
    bool done = false;
    int r;
    j->post = NULL;
    if (!reply->status)
        r = errmsg_set(&why, "%s", reply->why);
    else if (j->putting)
        r = etcd_txn_reply(j->key, reply->status, reply->body, reply->n, &done, &found, &why);
    else
        r = etcd_range_reply(j->key, reply->status, reply->body, reply->n, &found, &why);
    if (!r && !j->putting && same_cluster(j->etcd, found.cluster, &why))
        r = -1;
    if (!r && !j->putting)
        remember(j, &found);
    if (r)
        next_visit(j, why.text);
    else if (done)
        answer(j, ARBITER_GRANTED, &j->want, "");
    else
        decide(j, &found);
}

static void *job_start(void *backend, struct arbiter_request *r, const char *vm, const struct arbiter_register *want,
                       unsigned timeout_ms)
{
    struct etcd *etcd = backend;
    struct etcd_job *j = calloc(1, sizeof(*j));
    if (!j || !(j->why = calloc(etcd->count, WHY_BYTES))) {
        free(j);
        return NULL;
    }
    j->etcd = etcd;
    j->request = r;
    j->endpoint = etcd->good;
    j->slice = timeout_ms / 1e3 / (double)etcd->count;
    j->pause = PAUSE_S;
    etcd_key(vm, j->key);
    j->claim = want != NULL;
    if (want)
        j->want = *want;
    ev_init(&j->again, on_again);
    j->again.data = j;
    first_visit(j);
    return j;
}

static void job_late(const void *backend, const void *job, unsigned timeout_ms, struct errmsg *why)
{
    const struct etcd *etcd = backend;
    const struct etcd_job *j = job;
    size_t n = 0, share = (sizeof(why->text) - 64) / etcd->count;
    char text[sizeof(why->text)] = "";
    for (size_t i = 0; i < etcd->count && n < sizeof(text); i++) {
        int room = (int)share - (int)strlen(etcd->endpoints[i]) - 4; /* what it may say */
        n += (size_t)snprintf(text + n, sizeof(text) - n, "; %s: %.*s", etcd->endpoints[i], room > 8 ? room : 8,
                              j && *j->why[i] ? j->why[i] : "silence");
    }
    errmsg_set(why, "etcd gave no answer within %u ms%s", timeout_ms, text);
}

static int check_file(const char *key, const char *path, struct errmsg *e)
{
    if (!path || access(path, R_OK) == 0)
        return 0;
    return errmsg_set(e, "%s = %s: %s: it must be a PEM file that this user may read", key, path, strerror(errno));
}

static int check_tls(const struct config *c, const struct etcd *etcd, struct errmsg *e)
{
    if (!c->etcd_cert != !c->etcd_key)
        return errmsg_set(e, "etcd_cert and etcd_key belong together: set both or none");
    for (size_t i = 0; i < etcd->count; i++)
        if ((c->etcd_cert || c->etcd_ca) && !strncmp(etcd->endpoints[i], "http:", 5))
            return errmsg_set(e, "arbiter: %s is without TLS, but etcd_ca or etcd_cert is set: write https://",
                              etcd->endpoints[i]);
    return check_file("etcd_ca", c->etcd_ca, e) || check_file("etcd_cert", c->etcd_cert, e) ||
                   check_file("etcd_key", c->etcd_key, e)
               ? -1
               : 0;
}

static void free_etcd(struct etcd *etcd)
{
    for (size_t i = 0; i < etcd->count; i++)
        free(etcd->endpoints[i]);
    free(etcd);
}

static void *cluster_open(struct ev_loop *loop, const struct config *c, struct errmsg *e)
{
    struct etcd *etcd = calloc(1, sizeof(*etcd));
    if (!etcd)
        abort();
    etcd->loop = loop;
    struct http_tls tls = {.ca = c->etcd_ca, .cert = c->etcd_cert, .key = c->etcd_key};
    if (etcd_endpoints(c->arbiter + strlen("etcd:"), etcd->endpoints, &etcd->count, e) || check_tls(c, etcd, e) ||
        !(etcd->http = http_open(loop, &tls, e))) {
        free_etcd(etcd);
        return NULL;
    }
    return etcd;
}

static void cluster_close(void *backend)
{
    struct etcd *etcd = backend;
    http_close(etcd->http);
    free_etcd(etcd);
}

const struct arbiter_ops arbiter_etcd_ops = {.kind = "etcd:",
                                             .open = cluster_open,
                                             .close = cluster_close,
                                             .start = job_start,
                                             .drop = job_drop,
                                             .late = job_late};
