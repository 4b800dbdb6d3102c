/*
 * etcd_http: libcurl's multi interface on libev. curl says which sockets to watch and when to be called next; we tell
 * it what happened, then take out what is finished. A name in a URL is resolved by a thread of curl's own, for which
 * nobody waits (QUICK_EXIT): but with addresses there is nothing to wait for at all.
 */
#include "arbiter/etcd_http.h"

#include <curl/curl.h>
#include <ev.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { REPLY_MAX = 1 << 20, CONNECTIONS_MAX = 16 };

struct watch { /* of one of curl's sockets */
    ev_io io;
    struct http *http;
    struct watch *next, **link;
};

struct http {
    struct ev_loop *loop;
    CURLM *multi;
    ev_timer timer;
    struct watch *watches;
    struct http_post *posts;
    char *ca, *cert, *key;
    bool draining, closed; /* closed while draining: drain() frees it */
};

struct http_post {
    struct http *http;
    struct http_post *next, **link;
    CURL *easy;
    struct curl_slist *headers;
    bool finished;
    CURLcode result;
    bool too_long;
    char *body;
    size_t n;
    char error[CURL_ERROR_SIZE];
    http_done *done;
    void *arg;
};

/* Takes it off curl and the list; what was received stays. */
static void detach(struct http_post *p)
{
    curl_multi_remove_handle(p->http->multi, p->easy);
    curl_easy_cleanup(p->easy);
    curl_slist_free_all(p->headers);
    *p->link = p->next;
    if (p->next)
        p->next->link = p->link;
}

void http_cancel(struct http_post *p)
{
    detach(p);
    free(p->body);
    free(p);
}

/* "" if there is none. */
static const char *remedy(CURLcode result, const char *error)
{
    if (strcasestr(error, "alert") && (strcasestr(error, "certificate") || strcasestr(error, "unknown ca")))
        return "it does not take our certificate: set etcd_cert and etcd_key, signed by its trusted-ca-file's CA";
    switch (result) {
    case CURLE_PEER_FAILED_VERIFICATION:
        return "its certificate is not trusted: set etcd_ca to its CA's file; it must name the URL's host or address";
    case CURLE_SSL_CACERT_BADFILE:
        return "etcd_ca is no PEM file of certificates";
    case CURLE_SSL_CERTPROBLEM:
        return "etcd_cert and etcd_key must be PEM files that fit each other";
    case CURLE_SSL_CONNECT_ERROR:
        return "does it speak TLS? if not, write http://";
    case CURLE_GOT_NOTHING:
        return "does it want TLS? then write https://";
    case CURLE_COULDNT_CONNECT:
        return "is etcd up there, and the port reachable?";
    case CURLE_OPERATION_TIMEDOUT:
        return "it hangs, or sees no majority";
    default:
        return "";
    }
}

static void explain(const struct http_post *p, struct errmsg *why)
{
    const char *error = *p->error ? p->error : curl_easy_strerror(p->result), *first = remedy(p->result, error);
    if (*first)
        errmsg_set(why, "%s (%s)", first, error);
    else
        errmsg_set(why, "%s", error);
}

static void finish(struct http_post *p)
{
    struct http_reply reply = {.body = p->body ? p->body : "", .n = p->n, .why = ""};
    struct errmsg why;
    if (p->result == CURLE_OK)
        curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &reply.status);
    detach(p);
    if (!reply.status) {
        if (p->too_long)
            errmsg_set(&why, "a reply of more than %d KiB: is this etcd's client port?", REPLY_MAX >> 10);
        else
            explain(p, &why);
        reply.why = why.text;
    }
    p->done(&reply, p->arg);
    free(p->body);
    free(p);
}

static struct http_post *first_finished(const struct http *h)
{
    struct http_post *p = h->posts;
    while (p && !p->finished)
        p = p->next;
    return p;
}

static void http_free(struct http *h)
{
    free(h->ca);
    free(h->cert);
    free(h->key);
    free(h);
}

static void drain(struct http *h)
{
    const CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(h->multi, &left)))
        if (m->msg == CURLMSG_DONE) {
            struct http_post *p;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&p);
            p->finished = true;
            p->result = m->data.result;
        }
    struct http_post *p;
    h->draining = true;
    while (!h->closed && (p = first_finished(h)))
        finish(p);
    h->draining = false;
    if (h->closed)
        http_free(h);
}

static void on_socket(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop;
    struct http *h = ((struct watch *)w->data)->http;
    int running, bits = (events & EV_READ ? CURL_CSELECT_IN : 0) | (events & EV_WRITE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(h->multi, w->fd, bits, &running); /* may free w */
    drain(h);
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct http *h = w->data;
    int running;
    curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    drain(h);
}

static void unwatch(struct watch *w)
{
    ev_io_stop(w->http->loop, &w->io);
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    free(w);
}

static int curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_socket)
{
    (void)easy;
    struct http *h = arg;
    struct watch *w = of_socket;
    if (what == CURL_POLL_REMOVE) {
        if (w)
            unwatch(w);
        return 0;
    }
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w)
            return -1;
        ev_init(&w->io, on_socket);
        w->io.data = w;
        w->http = h;
        w->next = h->watches;
        w->link = &h->watches;
        if (w->next)
            w->next->link = &w->next;
        h->watches = w;
        curl_multi_assign(h->multi, fd, w);
    }
    ev_io_stop(h->loop, &w->io);
    ev_io_set(&w->io, fd, (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
    ev_io_start(h->loop, &w->io);
    return 0;
}

static int curl_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct http *h = arg;
    ev_timer_stop(h->loop, &h->timer);
    if (ms < 0)
        return 0;
    /* Never early: curl would find nothing due and not ask again. */
    ev_now_update(h->loop);
    ev_timer_set(&h->timer, ms ? (double)(ms + 1) / 1e3 : 0., 0.);
    ev_timer_start(h->loop, &h->timer);
    return 0;
}

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
    struct http_post *p = arg;
    size_t n = size * count;
    if (n > REPLY_MAX - p->n) {
        p->too_long = true;
        return 0;
    }
    char *body = realloc(p->body, p->n + n + 1);
    if (!body)
        return 0;
    memcpy(body + p->n, data, n);
    p->body = body;
    p->n += n;
    body[p->n] = 0;
    return n;
}

/* curl's own has no close-on-exec. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *at)
{
    (void)arg;
    (void)purpose;
    return socket(at->family, at->socktype | SOCK_CLOEXEC, at->protocol);
}

static char *copy_of(const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        abort();
    return copy;
}

struct http *http_open(struct ev_loop *loop, const struct http_tls *tls, struct errmsg *e)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT)) {
        errmsg_set(e, "libcurl does not start");
        return NULL;
    }
    struct http *h = calloc(1, sizeof(*h));
    CURLM *multi = curl_multi_init();
    if (!h || !multi)
        abort();
    h->loop = loop;
    h->multi = multi;
    h->ca = copy_of(tls->ca);
    h->cert = copy_of(tls->cert);
    h->key = copy_of(tls->key);
    ev_init(&h->timer, on_timer);
    h->timer.data = h;
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, curl_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, curl_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, h);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_MAX);
    return h;
}

void http_close(struct http *h)
{
    while (h->posts)
        http_cancel(h->posts);
    curl_multi_cleanup(h->multi);
    while (h->watches)
        unwatch(h->watches);
    ev_timer_stop(h->loop, &h->timer);
    h->closed = true;
    if (!h->draining)
        http_free(h);
    curl_global_cleanup();
}

static void set_options(struct http_post *p, const struct http *h, const char *url, const char *body,
                        unsigned timeout_ms)
{
    CURL *c = p->easy;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_PROXY, ""); /* whatever the environment says */
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (h->ca)
        curl_easy_setopt(c, CURLOPT_CAINFO, h->ca);
    if (h->cert) {
        curl_easy_setopt(c, CURLOPT_SSLCERT, h->cert);
        curl_easy_setopt(c, CURLOPT_SSLKEY, h->key);
    }
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, p->headers);
    curl_easy_setopt(c, CURLOPT_COPYPOSTFIELDS, body);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, p);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, p->error);
    curl_easy_setopt(c, CURLOPT_PRIVATE, p);
}

struct http_post *http_post(struct http *h, const char *url, const char *body, unsigned timeout_ms, http_done *done,
                            void *arg)
{
    struct http_post *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->http = h;
    p->done = done;
    p->arg = arg;
    p->easy = curl_easy_init();
    p->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (p->easy)
        set_options(p, h, url, body, timeout_ms);
    if (!p->easy || !p->headers || curl_multi_add_handle(h->multi, p->easy)) {
        curl_easy_cleanup(p->easy);
        curl_slist_free_all(p->headers);
        free(p);
        return NULL;
    }
    p->next = h->posts;
    p->link = &h->posts;
    if (p->next)
        p->next->link = &p->next;
    h->posts = p;
    return p;
}
