/*
 * link: see link.h. Theory of operation:
 *
 * CONNECTING (client only: a name is looked up, then address by address) -> HANDSHAKE -> UP -> CLOSED. One ev_io for
 * reading, one for writing, one timer for the time limit until UP, and one timer of length zero, `again`, for what has
 * to happen from the loop and not inside the caller's call: `closed`, `drained`, and going on with bytes that OpenSSL
 * has already taken out of the socket.
 *
 * Every handler may free the link: `busy` marks that one is running, link_free then leaves the memory to `leave`.
 *
 * A failed write does not end the link: what the peer said before it went (its BYE, its alert) is still to be read. The
 * end is seen by reading.
 */
#include "common/link.h"
#include "common/link_io.h"

#include <errno.h>
#include <ev.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

void link_turn_later(struct link *l)
{
    if (!ev_is_active(&l->again)) {
        ev_timer_set(&l->again, 0, 0);
        ev_timer_start(l->loop, &l->again);
    }
}

static void close_socket(struct link *l)
{
    resolve_cancel(l->resolve);
    l->resolve = NULL;
    ev_io_stop(l->loop, &l->in);
    ev_io_stop(l->loop, &l->out);
    if (l->ssl) {
        l->sent += BIO_number_written(SSL_get_wbio(l->ssl));
        SSL_free(l->ssl);
        l->ssl = NULL;
    }
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

/* Ends the link with l->reason; `closed` comes from the loop. */
void link_fail(struct link *l, bool reset)
{
    if (l->state == LINK_CLOSED)
        return;
    l->state = LINK_CLOSED;
    l->reset = reset;
    close_socket(l);
    link_queue_clear(&l->queue);
    ev_timer_stop(l->loop, &l->limit);
    l->closed_due = true;
    link_turn_later(l);
}

static void name_address(struct link *l, const struct sockaddr *at, socklen_t n)
{
    char host[INET6_ADDRSTRLEN + 20], port[8];
    if (getnameinfo(at, n, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
        snprintf(l->address, sizeof(l->address), "unknown");
    else
        snprintf(l->address, sizeof(l->address), strchr(host, ':') ? "[%.60s]:%s" : "%.60s:%s", host, port);
}

static bool is_expected(const char *fingerprint, void *arg)
{
    const struct link *l = arg;
    return strcasecmp(fingerprint, l->expected) == 0;
}

static bool is_trusted(const char *fingerprint, void *arg)
{
    struct link *l = arg;
    return l->h.trusted && l->h.trusted(fingerprint, l->arg);
}

static int start_tls(struct link *l)
{
    l->judge.accepts = l->server ? is_trusted : is_expected;
    l->judge.arg = l;
    l->ssl = link_tls_new(l->id, l->fd, l->server, &l->judge);
    if (!l->ssl)
        return errmsg_set(&l->reason, "out of memory");
    l->state = LINK_HANDSHAKE;
    ev_io_start(l->loop, &l->in);
    return 0;
}

static int open_socket(struct link *l, const struct addrinfo *to)
{
    name_address(l, to->ai_addr, to->ai_addrlen);
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        return errmsg_set(&l->reason, "%s: %s", l->address, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, to->ai_addr, to->ai_addrlen) < 0 && errno != EINPROGRESS) {
        errmsg_set(&l->reason, "%s: %s", l->address, strerror(errno));
        close(fd);
        return -1;
    }
    l->fd = fd;
    ev_io_set(&l->in, fd, EV_READ);
    ev_io_set(&l->out, fd, EV_WRITE);
    ev_io_start(l->loop, &l->out);
    return 0;
}

/* Tries the addresses that are left, until one can be waited for. */
static void connect_next(struct link *l)
{
    close_socket(l);
    while (l->next) {
        const struct addrinfo *to = l->next;
        l->next = to->ai_next;
        if (open_socket(l, to) == 0)
            return;
    }
    link_fail(l, false);
}

static void on_connected(struct link *l)
{
    int error = 0;
    socklen_t n = sizeof(error);
    if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
        error = errno;
    ev_io_stop(l->loop, &l->out);
    if (error) {
        errmsg_set(&l->reason, "%s: %s%s", l->address, strerror(error),
                   error == ECONNREFUSED ? ": is hikae-secondary running there?" : "");
        connect_next(l);
    } else if (start_tls(l)) {
        link_fail(l, false);
    } else {
        link_io_handshake(l);
    }
}

/*
 * Why a 22nd of the silence T. TCP sends again after r, and then after 2r, 4r, 8r more: at r, 3r, 7r, 15r after the
 * first loss, which is at most T/5 (a heartbeat) after the last byte that came through.
 *
 *     heard     first loss     r  3r   7r        15r      T
 *       |------------|--------|---|----|----------|-------|
 *       0          <= T/5                      <= 15/22 T + T/5 = 0.88 T
 *
 * The one at 15r comes through if the network is back by then, 15/22 T = 0.68 T after it went, and still 0.12 T before
 * the silence is called a loss: room for the kernel's ticks (4 ms each at 250 Hz) and for the round trip, which is
 * added to every r. The kernel's own minimum of 200 ms would try at 200 and 600 ms: too late for the default T of 500.
 */
unsigned link_retransmit_ms(unsigned silence_ms)
{
    return silence_ms / 22;
}

unsigned link_survives_ms(unsigned silence_ms)
{
    return 15 * link_retransmit_ms(silence_ms);
}

void link_expect_within(struct link *l, unsigned silence_ms)
{
    enum { RTO_MIN_US = 45, LEAST_MS = 10, MOST_MS = 200 }; /* TCP_RTO_MIN_US, which older headers lack */
    unsigned ms = link_retransmit_ms(silence_ms);
    int us = 1000 * (int)(ms < LEAST_MS ? LEAST_MS : ms > MOST_MS ? MOST_MS : ms);
    if (l->fd >= 0)
        (void)setsockopt(l->fd, IPPROTO_TCP, RTO_MIN_US, &us, sizeof(us));
}

static void destroy(struct link *l)
{
    close_socket(l);
    ev_timer_stop(l->loop, &l->limit);
    ev_timer_stop(l->loop, &l->again);
    if (l->found)
        freeaddrinfo(l->found);
    link_queue_clear(&l->queue);
    free(l);
}

static void enter(struct link *l)
{
    l->busy = true;
}

static void leave(struct link *l)
{
    l->busy = false;
    if (l->freed)
        destroy(l);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop;
    (void)events;
    struct link *l = w->data;
    enter(l);
    if (l->state == LINK_HANDSHAKE)
        link_io_handshake(l);
    else if (l->state == LINK_UP)
        link_io_read(l);
    leave(l);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop;
    (void)events;
    struct link *l = w->data;
    enter(l);
    if (l->state == LINK_CONNECTING)
        on_connected(l);
    else if (l->state == LINK_HANDSHAKE)
        link_io_handshake(l);
    else if (l->state == LINK_UP)
        link_io_write(l, WRITE_PER_TURN);
    leave(l);
}

static void on_limit(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct link *l = w->data;
    const char *missing = l->resolve                    ? "the name server has no answer"
                          : l->state == LINK_CONNECTING ? "no answer"
                                                        : "connected, but no TLS handshake";
    errmsg_set(&l->reason, "%s: %s within %u ms", l->address, missing, l->timeout_ms);
    link_fail(l, false);
}

static void on_again(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct link *l = w->data;
    enter(l);
    if (l->read_again) {
        l->read_again = false;
        link_io_read(l);
    }
    if (l->drained_due && !l->freed && l->state == LINK_UP) {
        l->drained_due = false;
        if (l->queue.bytes == 0 && l->h.drained)
            l->h.drained(l, l->arg);
    }
    if (l->closed_due && !l->freed && !l->closed_told) {
        l->closed_told = true;
        if (l->h.closed)
            l->h.closed(l, l->reset, l->reason.text, l->arg);
    }
    leave(l);
}

static struct link *link_new(struct ev_loop *loop, const struct tls_identity *id, unsigned timeout_ms,
                             const struct link_handlers *h, void *arg, struct errmsg *e)
{
    struct link *l = calloc(1, sizeof(*l));
    if (!l) {
        errmsg_set(e, "out of memory");
        return NULL;
    }
    l->loop = loop;
    l->id = id;
    l->h = *h;
    l->arg = arg;
    l->fd = -1;
    l->timeout_ms = timeout_ms;
    ev_io_init(&l->in, on_readable, -1, EV_READ);
    ev_io_init(&l->out, on_writable, -1, EV_WRITE);
    ev_timer_init(&l->limit, on_limit, timeout_ms / 1000.0, 0);
    ev_timer_init(&l->again, on_again, 0, 0);
    l->in.data = l->out.data = l->limit.data = l->again.data = l;
    ev_now_update(loop); /* the caller may have worked for long */
    ev_timer_start(loop, &l->limit);
    return l;
}

static void on_resolved(struct addrinfo *found, const char *why, void *arg)
{
    struct link *l = arg;
    l->resolve = NULL; /* it has ended by itself */
    l->found = l->next = found;
    if (!found)
        errmsg_set(&l->reason, "%s: %s: is the address in its [peer] section right?", l->address, why);
    connect_next(l);
}

struct link *link_connect(struct ev_loop *loop, struct tls_identity *id, const char *address, const char *port,
                          const char *fingerprint, unsigned timeout_ms, const struct link_handlers *h, void *arg,
                          struct errmsg *e)
{
    struct link *l = link_new(loop, id, timeout_ms, h, arg, e);
    if (!l)
        return NULL;
    snprintf(l->expected, sizeof(l->expected), "%s", fingerprint);
    snprintf(l->address, sizeof(l->address), "%.60s port %.10s", address, port);
    l->found = l->next = resolve_numeric(address, port);
    if (l->found) {
        connect_next(l); /* a failure is told by `closed` */
        return l;
    }
    l->resolve = resolve_begin(loop, address, port, on_resolved, l, e);
    if (l->resolve)
        return l;
    destroy(l);
    return NULL;
}

struct link *link_accept(struct ev_loop *loop, struct tls_identity *id, int fd, unsigned timeout_ms,
                         const struct link_handlers *h, void *arg, struct errmsg *e)
{
    struct link *l = link_new(loop, id, timeout_ms, h, arg, e);
    if (!l) {
        close(fd);
        return NULL;
    }
    int on = 1;
    ioctl(fd, FIONBIO, &on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct sockaddr_storage at;
    socklen_t n = sizeof(at);
    if (getpeername(fd, (struct sockaddr *)&at, &n) == 0)
        name_address(l, (struct sockaddr *)&at, n);
    else
        snprintf(l->address, sizeof(l->address), "unknown");
    l->server = true;
    l->fd = fd;
    ev_io_set(&l->in, fd, EV_READ);
    ev_io_set(&l->out, fd, EV_WRITE);
    if (start_tls(l)) {
        errmsg_set(e, "%s", l->reason.text);
        destroy(l);
        return NULL;
    }
    return l;
}

int link_send(struct link *l, const void *data, size_t n)
{
    if (l->state == LINK_CLOSED || l->write_failed || l->freed)
        return -1;
    const uint8_t *rest = data;
    size_t written = n && !l->queue.bytes ? link_io_write_through(l, rest, n) : 0;
    if (written == n)
        return 0;
    if (l->state == LINK_CLOSED || l->write_failed)
        return -1;
    if (link_queue_add(&l->queue, rest + written, n - written)) {
        errmsg_set(&l->reason, "out of memory: %zu bytes wait for %s", l->queue.bytes, l->address);
        link_fail(l, false);
        return -1;
    }
    if (l->state == LINK_UP)
        ev_io_start(l->loop, &l->out);
    return 0;
}

size_t link_queued(const struct link *l)
{
    return l->queue.bytes;
}

size_t link_unread(const struct link *l)
{
    int unread = 0;
    return l->fd < 0 || ioctl(l->fd, FIONREAD, &unread) ? 0 : (size_t)unread;
}

size_t link_backlog(const struct link *l)
{
    int unacknowledged = 0;
    if (l->fd < 0 || ioctl(l->fd, SIOCOUTQ, &unacknowledged))
        unacknowledged = 0;
    return l->queue.bytes + (size_t)unacknowledged;
}

uint64_t link_bytes_sent(const struct link *l)
{
    return l->sent + (l->ssl ? BIO_number_written(SSL_get_wbio(l->ssl)) : 0);
}

const char *link_peer_fingerprint(const struct link *l)
{
    return l->was_up ? l->judge.fingerprint : "";
}

const char *link_peer_address(const struct link *l)
{
    return l->address;
}

void link_pause_reading(struct link *l, bool pause)
{
    if (l->paused == pause)
        return;
    l->paused = pause;
    if (l->state != LINK_UP)
        return;
    if (pause) {
        ev_io_stop(l->loop, &l->in);
    } else {
        ev_io_start(l->loop, &l->in);
        l->read_again = true;
        link_turn_later(l);
    }
}

void link_free(struct link *l, unsigned flush_ms)
{
    if (!l || l->freed)
        return;
    if (l->state == LINK_UP && !l->write_failed)
        link_io_flush(l, flush_ms);
    l->freed = true;
    if (!l->busy)
        destroy(l);
    else {
        close_socket(l);
        ev_timer_stop(l->loop, &l->limit);
        ev_timer_stop(l->loop, &l->again);
    }
}
