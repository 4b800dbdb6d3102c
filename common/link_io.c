#include "common/link_io.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

enum { INPUTS_PER_TURN = 4, WRITE_MOST = 1 << 20 };
/* AES-GCM's keys are good for 2^24.5 records (RFC 8446, 5.5): change them long before. */
enum { RECORDS_PER_KEY = 1 << 22 };

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

static void give_up_writing(struct link *l, bool reset)
{
    l->write_failed = true;
    link_queue_clear(&l->queue);
    ev_io_stop(l->loop, &l->out);
    l->read_again = true;
    if (l->paused) /* nobody would read the end */
        link_fail(l, reset);
    link_turn_later(l);
}

/* Writes a TLS record's worth of `data`: *done octets. What was to be written and was not must be tried next. */
static enum wish write_record(struct link *l, const uint8_t *data, size_t n, size_t *done)
{
    bool reset;
    ERR_clear_error();
    change_key_in_time(l);
    errno = 0;
    int r = SSL_write(l->ssl, data, n > WRITE_MOST ? WRITE_MOST : (int)n);
    enum wish wish = outcome(l, r, errno, &reset);
    *done = wish == WISH_DONE ? (size_t)r : 0;
    l->records += wish == WISH_DONE;
    if (wish == WISH_FAILED)
        give_up_writing(l, reset);
    return wish;
}

/* Writes up to `most` bytes; true if the queue is empty or writing is over. */
static bool write_some(struct link *l, size_t most)
{
    size_t n, written, done = 0;
    const uint8_t *data;
    while (done < most && (data = link_queue_front(&l->queue, &n))) {
        enum wish wish = write_record(l, data, n, &written);
        if (wish != WISH_DONE)
            return wish == WISH_FAILED;
        done += written;
        link_queue_remove(&l->queue, written);
    }
    return l->queue.bytes == 0;
}

/* After something was written, and all of it. */
static void tell_drained(struct link *l)
{
    l->drained_due = true;
    link_turn_later(l);
}

size_t link_io_write_through(struct link *l, const uint8_t *data, size_t n)
{
    size_t done = 0, written;
    if (l->state != LINK_UP || l->write_failed)
        return 0;
    while (done < n && write_record(l, data + done, n - done, &written) == WISH_DONE)
        done += written;
    if (done == n)
        tell_drained(l);
    return done;
}

void link_io_write(struct link *l, size_t most)
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
    if (had && !l->write_failed)
        tell_drained(l);
}

/* Fills `to`, of INPUT_BYTES; returns what is there. *more: OpenSSL or the socket may have more. */
static size_t fill_input(struct link *l, uint8_t *to, bool *more)
{
    size_t used = 0;
    *more = false;
    while (used < INPUT_BYTES) {
        bool reset;
        ERR_clear_error();
        errno = 0;
        int r = SSL_read(l->ssl, to + used, (int)(INPUT_BYTES - used));
        enum wish wish = outcome(l, r, errno, &reset);
        if (wish == WISH_WAIT)
            return used;
        if (wish == WISH_FAILED) {
            link_fail(l, reset); /* told after what came before it */
            return used;
        }
        used += (size_t)r;
    }
    *more = true;
    return used;
}

void link_io_read(struct link *l)
{
    bool more = true;
    for (int i = 0; i < INPUTS_PER_TURN && more && !l->paused && !l->freed && l->state == LINK_UP; i++) {
        uint8_t *room = l->h.room ? l->h.room(l, INPUT_BYTES, l->arg) : NULL, *to = room ? room : l->input;
        size_t n = fill_input(l, to, &more);
        if (n && l->h.input)
            l->h.input(l, to, n, l->arg);
    }
    /* What OpenSSL holds does not make the socket readable. While reading is paused it waits: link_pause_reading. */
    if (more && !l->paused && !l->freed && l->state == LINK_UP) {
        l->read_again = true;
        link_turn_later(l);
    }
}

void link_io_handshake(struct link *l)
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
        link_fail(l, reset);
        return;
    }
    if (!link_tls_protocol_agreed(l->ssl)) {
        errmsg_set(&l->reason, "%s does not speak the protocol hikae/1: is it another version?", l->address);
        link_fail(l, false);
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
    link_io_write(l, WRITE_PER_TURN);
    l->read_again = true; /* the first records may have come with the handshake */
    link_turn_later(l);
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* After a reset: what is still in the queue goes nowhere, though it is counted for ever. */
static bool is_dead(int fd)
{
    struct tcp_info info = {0};
    socklen_t n = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 && info.tcpi_state == TCP_CLOSE;
}

/* Until everything is in the kernel, and then until the peer's kernel has it: closing a socket with unread input sends
 * a reset, which could overtake our last words. */
void link_io_flush(struct link *l, unsigned flush_ms)
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
    while (ioctl(l->fd, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0 && !is_dead(l->fd) && now_ms() < until)
        poll(NULL, 0, 1);
}
