/*
 * link: see link.h. Theory of operation:
 *
 * CONNECTING (client only, address by address) -> HANDSHAKE -> UP -> CLOSED. One ev_io for reading, one for writing,
 * one timer for the time limit until UP, and one timer of length zero, `again`, for what has to happen from the loop
 * and not inside the caller's call: `closed`, `drained`, and going on with bytes that OpenSSL has already taken out of
 * the socket.
 *
 * Every handler may free the link: `busy` marks that one is running, link_free then leaves the memory to `leave`.
 *
 * A failed write does not end the link: what the peer said before it went (its BYE, its alert) is still to be read. The
 * end is seen by reading.
 */
#include "common/link.h"
#include "common/link_queue.h"
#include "common/link_tls.h"

#include <errno.h>
#include <ev.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_BYTES = 64 << 10, INPUTS_PER_TURN = 4, WRITE_PER_TURN = 2 << 20, WRITE_MOST = 1 << 20 };
/* AES-GCM's keys are good for 2^24.5 records (RFC 8446, 5.5): change them long before. */
enum { RECORDS_PER_KEY = 1 << 22 };

enum link_state { LINK_CONNECTING, LINK_HANDSHAKE, LINK_UP, LINK_CLOSED };

struct link {
    struct ev_loop *loop;
    const struct tls_identity *id;
    struct link_handlers h;
    void *arg;
    enum link_state state;
    bool server, paused, write_failed, was_up;
    bool busy, freed;
    bool read_again, drained_due, closed_due, closed_told;
    bool reset; /* with `reason`: for `closed` */
    struct errmsg reason;
    int fd;
    SSL *ssl;
    struct tls_judge judge;
    char expected[65]; /* client: whom we want */
    char address[80];
    struct addrinfo *found, *next; /* client: where else to try */
    ev_io in, out;
    ev_timer limit, again;
    unsigned timeout_ms;
    struct link_queue queue;
    unsigned records; /* written with the present key */
    uint64_t sent;    /* by an SSL that is gone */
    uint8_t input[INPUT_BYTES];
};

static void turn_later(struct link *l)
{
    if (!ev_is_active(&l->again)) {
        ev_timer_set(&l->again, 0, 0);
        ev_timer_start(l->loop, &l->again);
    }
}

static void close_socket(struct link *l)
{
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
static void fail(struct link *l, bool reset)
{
    if (l->state == LINK_CLOSED)
        return;
    l->state = LINK_CLOSED;
    l->reset = reset;
    close_socket(l);
    link_queue_clear(&l->queue);
    ev_timer_stop(l->loop, &l->limit);
    l->closed_due = true;
    turn_later(l);
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

static void refuse_certificate(struct link *l)
{
    if (l->server)
        errmsg_set(&l->reason, "peer %s presented certificate %s which is no [peer] of this host", l->address,
                   l->judge.fingerprint);
    else
        errmsg_set(&l->reason, "%s presented certificate %s, expected was %s: is the [peer] section right?", l->address,
                   l->judge.fingerprint, l->expected);
}

enum wish { WISH_DONE, WISH_WAIT, WISH_FAILED };

/* What to do after SSL call result `r`; sets up the watchers for "try again". */
static enum wish outcome(struct link *l, int r, int error, bool *reset)
{
    if (r > 0)
        return WISH_DONE;
    switch (SSL_get_error(l->ssl, r)) {
    case SSL_ERROR_WANT_READ:
        return WISH_WAIT;
    case SSL_ERROR_WANT_WRITE:
        ev_io_start(l->loop, &l->out);
        return WISH_WAIT;
    default:
        link_tls_failure(l->ssl, r, error, l->server, l->address, reset, &l->reason);
        return WISH_FAILED;
    }
}

static void change_key_in_time(struct link *l)
{
    if (l->records < RECORDS_PER_KEY)
        return;
    if (SSL_key_update(l->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
        l->records = 0;
    else
        ERR_clear_error(); /* a record is half written: next time */
}

/* Writes up to `most` bytes; true if the queue is empty or writing is over. */
static bool write_some(struct link *l, size_t most)
{
    size_t n, done = 0;
    const uint8_t *data;
    while (done < most && (data = link_queue_front(&l->queue, &n))) {
        bool reset;
        ERR_clear_error();
        change_key_in_time(l);
        errno = 0;
        int r = SSL_write(l->ssl, data, n > WRITE_MOST ? WRITE_MOST : (int)n);
        enum wish wish = outcome(l, r, errno, &reset);
        if (wish == WISH_WAIT)
            return false;
        if (wish == WISH_FAILED) {
            l->write_failed = true;
            link_queue_clear(&l->queue);
            ev_io_stop(l->loop, &l->out);
            l->read_again = true;
            if (l->paused) /* nobody would read the end */
                fail(l, reset);
            turn_later(l);
            return true;
        }
        l->records++;
        done += (size_t)r;
        link_queue_remove(&l->queue, (size_t)r);
    }
    return l->queue.bytes == 0;
}

static void write_queue(struct link *l, size_t most)
{
    if (l->state != LINK_UP || l->write_failed)
        return;
    bool had = l->queue.bytes > 0;
    if (!write_some(l, most)) {
        ev_io_start(l->loop, &l->out);
        return;
    }
    if (l->state == LINK_UP)
        ev_io_stop(l->loop, &l->out);
    if (had && !l->write_failed) {
        l->drained_due = true;
        turn_later(l);
    }
}

/* Fills the input buffer; returns what is there. *more: OpenSSL or the socket may have more. */
static size_t fill_input(struct link *l, bool *more)
{
    size_t used = 0;
    *more = false;
    while (used < INPUT_BYTES) {
        bool reset;
        ERR_clear_error();
        errno = 0;
        int r = SSL_read(l->ssl, l->input + used, (int)(INPUT_BYTES - used));
        enum wish wish = outcome(l, r, errno, &reset);
        if (wish == WISH_WAIT)
            return used;
        if (wish == WISH_FAILED) {
            fail(l, reset); /* told after what came before it */
            return used;
        }
        used += (size_t)r;
    }
    *more = true;
    return used;
}

static void read_input(struct link *l)
{
    bool more = true;
    for (int i = 0; i < INPUTS_PER_TURN && more && !l->paused && !l->freed && l->state == LINK_UP; i++) {
        size_t n = fill_input(l, &more);
        if (n && l->h.input)
            l->h.input(l, l->input, n, l->arg);
    }
    /* What OpenSSL holds does not make the socket readable. */
    if (more && !l->freed && l->state == LINK_UP) {
        l->read_again = true;
        turn_later(l);
    }
}

static void shake_hands(struct link *l)
{
    bool reset;
    ERR_clear_error();
    errno = 0;
    int r = SSL_do_handshake(l->ssl);
    if (r <= 0)
        ev_io_stop(l->loop, &l->out);
    enum wish wish = outcome(l, r, errno, &reset);
    if (wish == WISH_WAIT)
        return;
    if (wish == WISH_FAILED && l->judge.refused)
        refuse_certificate(l);
    if (wish == WISH_FAILED) {
        fail(l, reset);
        return;
    }
    if (!link_tls_protocol_agreed(l->ssl)) {
        errmsg_set(&l->reason, "%s does not speak the protocol hikae/1: is it another version?", l->address);
        fail(l, false);
        return;
    }
    l->state = LINK_UP;
    l->was_up = true;
    ev_timer_stop(l->loop, &l->limit);
    ev_io_stop(l->loop, &l->out);
    if (l->paused)
        ev_io_stop(l->loop, &l->in);
    if (l->h.up)
        l->h.up(l, l->arg);
    if (l->freed)
        return;
    write_queue(l, WRITE_PER_TURN);
    l->read_again = true; /* the first records may have come with the handshake */
    turn_later(l);
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
    fail(l, false);
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
        fail(l, false);
    } else {
        shake_hands(l);
    }
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
        shake_hands(l);
    else if (l->state == LINK_UP)
        read_input(l);
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
        shake_hands(l);
    else if (l->state == LINK_UP)
        write_queue(l, WRITE_PER_TURN);
    leave(l);
}

static void on_limit(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct link *l = w->data;
    errmsg_set(&l->reason, "%s: %s within %u ms", l->address,
               l->state == LINK_CONNECTING ? "no answer" : "connected, but no TLS handshake", l->timeout_ms);
    fail(l, false);
}

static void on_again(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)loop;
    (void)events;
    struct link *l = w->data;
    enter(l);
    if (l->read_again) {
        l->read_again = false;
        read_input(l);
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

struct link *link_connect(struct ev_loop *loop, struct tls_identity *id, const char *address, const char *port,
                          const char *fingerprint, unsigned timeout_ms, const struct link_handlers *h, void *arg,
                          struct errmsg *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int r = getaddrinfo(address, port, &hints, &found);
    if (r) {
        errmsg_set(e, "%s port %s: %s: is the address in its [peer] section right?", address, port, gai_strerror(r));
        return NULL;
    }
    struct link *l = link_new(loop, id, timeout_ms, h, arg, e);
    if (!l) {
        freeaddrinfo(found);
        return NULL;
    }
    snprintf(l->expected, sizeof(l->expected), "%s", fingerprint);
    l->found = l->next = found;
    connect_next(l); /* a failure is told by `closed` */
    return l;
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
    bool idle = l->queue.bytes == 0;
    if (link_queue_add(&l->queue, data, n)) {
        errmsg_set(&l->reason, "out of memory: %zu bytes wait for %s", l->queue.bytes, l->address);
        fail(l, false);
        return -1;
    }
    if (idle && n)
        write_queue(l, SIZE_MAX);
    return l->state == LINK_CLOSED || l->write_failed ? -1 : 0;
}

size_t link_queued(const struct link *l)
{
    return l->queue.bytes;
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
        turn_later(l);
    }
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until everything is in the kernel, and then until the peer's kernel has it: closing a socket with unread input sends
 * a reset, which could overtake our last words. */
static void flush_blocking(struct link *l, unsigned flush_ms)
{
    long long until = now_ms() + flush_ms;
    struct pollfd p = {.fd = l->fd, .events = POLLOUT};
    while (!write_some(l, SIZE_MAX)) {
        long long left = until - now_ms();
        if (left <= 0 || (poll(&p, 1, (int)left) < 0 && errno != EINTR))
            return;
    }
    if (l->write_failed)
        return;
    ERR_clear_error();
    SSL_shutdown(l->ssl);
    shutdown(l->fd, SHUT_WR);
    int unacknowledged = 0;
    while (ioctl(l->fd, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0 && now_ms() < until)
        poll(NULL, 0, 1);
}

void link_free(struct link *l, unsigned flush_ms)
{
    if (!l || l->freed)
        return;
    if (l->state == LINK_UP && !l->write_failed)
        flush_blocking(l, flush_ms);
    l->freed = true;
    if (!l->busy)
        destroy(l);
    else {
        close_socket(l);
        ev_timer_stop(l->loop, &l->limit);
        ev_timer_stop(l->loop, &l->again);
    }
}
