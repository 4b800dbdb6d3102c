/*
 * evil: see evil.h.
 */
#include "tests/integration/evil.h"
#include "common/link.h"
#include "common/tcp.h"

#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { CONNECT_MS = 10000, FLUSH_MS = 1000 };

static void on_up(struct link *l, void *arg)
{
    (void)l;
    struct evil *e = arg;
    e->up = true;
}

static void note(struct evil *e, const struct record *r)
{
    struct proto_error why;
    enum bye_reason reason;
    e->got[r->type % RECORD_TYPES] = true;
    if (r->type == RECORD_ACK) {
        e->acked = r->epoch;
    } else if (r->type == RECORD_COMMIT) {
        e->committed = r->epoch;
        memcpy(e->digest, r->payload, sizeof e->digest);
    } else if (r->type == RECORD_BYE) {
        assert_int_equal(bye_read(r, &reason, e->bye_text, &why), 0);
        e->bye = reason;
    }
    if (e->on_record)
        e->on_record(e, r);
}

static void on_input(struct link *l, const uint8_t *data, size_t n, void *arg)
{
    struct evil *e = arg;
    struct proto_error why;
    struct record r;
    assert_int_equal(framer_feed(e->framer, data, n, &why), 0);
    while (e->link == l && framer_next(e->framer, &r, &why) > 0)
        note(e, &r);
}

static void on_drained(struct link *l, void *arg)
{
    (void)l, (void)arg;
}

static void on_closed(struct link *l, bool reset, const char *reason, void *arg)
{
    (void)l, (void)reset, (void)reason;
    struct evil *e = arg;
    e->closed = true;
}

static bool trusts(const char *fingerprint, void *arg)
{
    (void)fingerprint, (void)arg;
    return true;
}

static const struct link_handlers handlers = {
    .up = on_up, .input = on_input, .drained = on_drained, .closed = on_closed, .trusted = trusts};

struct evil *evil_new(const struct host *who)
{
    char key[128], certificate[128];
    struct errmsg why;
    struct evil *e = calloc(1, sizeof *e);
    assert_non_null(e);
    signal(SIGPIPE, SIG_IGN); /* peers hang up on us */
    e->loop = ev_loop_new(EVFLAG_AUTO);
    e->listener = -1;
    snprintf(key, sizeof key, "%s/key.pem", who->dir);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", who->dir);
    e->identity = tls_identity_load(key, certificate, &why);
    assert_non_null(e->identity);
    return e;
}

void evil_hang_up(struct evil *e)
{
    if (e->link)
        link_free(e->link, FLUSH_MS);
    e->link = NULL;
    framer_free(e->framer);
    e->framer = NULL;
}

void evil_free(struct evil *e)
{
    evil_hang_up(e);
    if (e->listener >= 0)
        close(e->listener);
    tls_identity_free(e->identity);
    ev_loop_destroy(e->loop);
    free(e);
}

/* A new connection, nothing has come over it. */
static void forget(struct evil *e)
{
    evil_hang_up(e);
    e->framer = framer_new();
    e->up = e->closed = false;
    memset(e->got, 0, sizeof e->got);
    e->committed = e->acked = e->bye = 0;
    e->bye_text[0] = 0;
}

void evil_connect(struct evil *e, const struct host *to)
{
    char port[16];
    struct errmsg why;
    snprintf(port, sizeof port, "%u", to->port);
    forget(e);
    e->link = link_connect(e->loop, e->identity, "127.0.0.1", port, to->fingerprint, CONNECT_MS, &handlers, e, &why);
    assert_non_null(e->link);
    EVIL_WAIT(e, e->up || e->closed);
    assert_true(e->up);
}

void evil_listen(struct evil *e, const struct host *as)
{
    char port[16];
    struct errmsg why;
    snprintf(port, sizeof port, "%u", as->port);
    if (tcp_listen("127.0.0.1", port, &e->listener, 1, &why) < 1)
        fail_msg("%s", why.text);
}

static void accept_one(struct evil *e)
{
    struct errmsg why;
    int fd = accept4(e->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    forget(e);
    e->link = link_accept(e->loop, e->identity, fd, CONNECT_MS, &handlers, e, &why);
    assert_non_null(e->link);
}

static void on_time(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)t, (void)events;
    ev_break(loop, EVBREAK_ALL);
}

void evil_serve(struct evil *e, unsigned ms)
{
    ev_timer limit;
    if (e->listener >= 0)
        accept_one(e);
    ev_now_update(e->loop);
    ev_timer_init(&limit, on_time, ms / 1000., 0.);
    ev_timer_start(e->loop, &limit);
    ev_run(e->loop, 0);
    ev_timer_stop(e->loop, &limit);
}

void evil_send(struct evil *e, const void *data, size_t n)
{
    if (e->link && !e->closed)
        link_send(e->link, data, n);
}

void evil_record(struct evil *e, uint16_t type, uint16_t flags, uint64_t epoch, const void *payload, size_t n)
{
    uint8_t header[RECORD_HEADER_SIZE];
    record_header_write(header, type, flags, (uint32_t)n, epoch);
    evil_send(e, header, sizeof header);
    if (n)
        evil_send(e, payload, n);
}

void evil_json(struct evil *e, uint16_t type, const char *json)
{
    evil_record(e, type, 0, 0, json, strlen(json));
}

void evil_ack(struct evil *e, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE])
{
    uint8_t payload[COMMIT_SIZE];
    commit_write(payload, digest, 0);
    evil_record(e, RECORD_ACK, 0, epoch, payload, sizeof payload);
}

void evil_bye(struct evil *e, enum bye_reason reason, const char *text)
{
    uint8_t payload[4 + PROTO_REASON_MAX];
    evil_record(e, RECORD_BYE, 0, 0, payload, bye_write(payload, reason, text));
}

void evil_heartbeat(struct evil *e)
{
    static uint64_t sequence;
    uint8_t payload[HEARTBEAT_SIZE];
    heartbeat_write(payload, ++sequence, 0);
    evil_record(e, RECORD_HEARTBEAT, 0, 0, payload, sizeof payload);
}
