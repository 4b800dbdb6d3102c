#include "netbuf/relay.h"
#include "common/log.h"
#include "netbuf/tap.h"

#include <errno.h>
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    ETHERNET_HEAD = 14,
    FRAME_MAX = 80 * 1024 /* more than QEMU ever sends */,
    IN_SIZE = 256 * 1024,
    HEAD = 4,
    TAP_BURST = 64,
    VM_BURST = 16
};

enum gate { GATE_HOLD, GATE_OPEN, GATE_SEALED };

struct relay {
    struct ev_loop *loop;
    struct netbuf_handlers handlers;
    void *arg;
    struct relay_line line;
    char tap_name[16];
    ev_io vm_in, vm_out, tap_in;
    enum gate gate;
    struct netbuf *held;
    struct neighbour_table neighbours;
    bool lost;
    bool waiting;        /* the buffer is full and the VM's socket is not read */
    uint8_t in[IN_SIZE]; /* bytes from the VM, a frame may be cut */
    size_t in_used;
    uint8_t out[HEAD + FRAME_MAX]; /* the rest of a frame that the VM's socket did not take */
    size_t out_at, out_end;
    uint64_t tap_errors;
};

static void lose(struct relay *r, const char *why)
{
    ev_io_stop(r->loop, &r->vm_in);
    ev_io_stop(r->loop, &r->vm_out);
    ev_io_stop(r->loop, &r->tap_in);
    if (!r->lost) {
        r->lost = true;
        r->handlers.lost(why, r->arg);
    }
}

/* ---- guest to LAN ---- */

static void emit(const uint8_t *frame, size_t n, void *arg)
{
    struct relay *r = arg;
    if (write(r->line.tap, frame, n) < 0 && r->tap_errors++ == 0)
        log_warn("%s: a frame of the guest could not be sent: %s (is the interface up?)", r->tap_name, strerror(errno));
}

static void outbound(struct relay *r, const uint8_t *frame, size_t n)
{
    if (neighbour_learn(&r->neighbours, frame, n))
        r->handlers.learnt(r->arg);
    switch (r->gate) {
    case GATE_OPEN:
        emit(frame, n, r);
        break;
    case GATE_HOLD:
        if (netbuf_hold(r->held, frame, n))
            log_error("no memory to hold a frame of the guest: it is lost");
        break;
    case GATE_SEALED:
        break;
    }
}

/* Takes whole frames from `in` while there is room. False: the bytes are no frames. */
static bool take_frames(struct relay *r)
{
    size_t at = 0;
    while (r->in_used - at >= HEAD && !(r->gate == GATE_HOLD && netbuf_full(r->held))) {
        const uint8_t *p = r->in + at;
        size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (n > FRAME_MAX)
            return false;
        if (r->in_used - at < HEAD + n)
            break;
        if (n >= ETHERNET_HEAD) /* what is shorter is no frame */
            outbound(r, p + HEAD, n);
        at += HEAD + n;
    }
    r->in_used -= at;
    memmove(r->in, r->in + at, r->in_used);
    return true;
}

/* True: there may be more to read. */
static bool read_once(struct relay *r)
{
    if (r->lost)
        return false;
    if (!take_frames(r)) {
        lose(r, "the VM's network socket sends no frames");
        return false;
    }
    if (r->gate == GATE_HOLD && netbuf_full(r->held)) {
        if (!r->waiting) {
            r->waiting = true;
            ev_io_stop(r->loop, &r->vm_in);
            r->handlers.full(r->arg);
        }
        return false;
    }
    ssize_t n = recv(r->line.vm, r->in + r->in_used, IN_SIZE - r->in_used, MSG_DONTWAIT);
    if (n > 0) {
        r->in_used += (size_t)n;
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    lose(r, n ? strerror(errno) : "the VM closed its network socket");
    return false;
}

void relay_drain(struct relay *r)
{
    while (read_once(r))
        ;
}

static void on_vm_in(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop, (void)events;
    struct relay *r = w->data;
    bool had = relay_has_output(r);
    for (int i = 0; i < VM_BURST && read_once(r); i++) /* timers and acks must have their turn */
        ;
    if (!had && r->gate == GATE_HOLD && relay_has_output(r))
        r->handlers.held(r->arg);
}

/* After something was released: the guest may send again. */
static void go_on_reading(struct relay *r)
{
    if (r->waiting && !r->lost && !(r->gate == GATE_HOLD && netbuf_full(r->held))) {
        r->waiting = false;
        ev_io_start(r->loop, &r->vm_in);
        ev_feed_event(r->loop, &r->vm_in, EV_READ); /* frames may wait in `in` with nothing left in the socket */
    }
}

/* ---- LAN to guest ---- */

static void flush_out(struct relay *r)
{
    while (r->out_at < r->out_end) {
        ssize_t n = send(r->line.vm, r->out + r->out_at, r->out_end - r->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) {
            lose(r, strerror(errno));
            return;
        }
        r->out_at += (size_t)n;
    }
    r->out_at = r->out_end = 0;
    ev_io_stop(r->loop, &r->vm_out);
    ev_io_start(r->loop, &r->tap_in);
}

static void on_vm_out(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop, (void)events;
    flush_out(w->data);
}

static void on_tap_in(struct ev_loop *loop, ev_io *w, int events)
{
    (void)events;
    struct relay *r = w->data;
    for (int i = 0; i < TAP_BURST && r->out_end == 0 && !r->lost; i++) {
        ssize_t n = read(r->line.tap, r->out + HEAD, FRAME_MAX);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            lose(r, "the tap interface is gone");
            return;
        }
        r->out[0] = (uint8_t)(n >> 24);
        r->out[1] = (uint8_t)(n >> 16);
        r->out[2] = (uint8_t)(n >> 8);
        r->out[3] = (uint8_t)n;
        r->out_end = HEAD + (size_t)n;
        flush_out(r);
    }
    if (r->out_end && !r->lost) { /* the VM's socket is full: what comes waits in the tap's queue */
        ev_io_stop(loop, &r->tap_in);
        ev_io_start(loop, &r->vm_out);
    }
}

void relay_poll(struct relay *r)
{
    on_vm_in(r->loop, &r->vm_in, EV_READ);
    if (!r->lost)
        on_tap_in(r->loop, &r->tap_in, EV_READ);
}

/* ---- the gate ---- */

void relay_barrier(struct relay *r, uint64_t epoch)
{
    netbuf_barrier(r->held, epoch);
}

void relay_release(struct relay *r, uint64_t epoch)
{
    netbuf_release(r->held, epoch, emit, r);
    go_on_reading(r);
}

void relay_hold(struct relay *r)
{
    r->gate = GATE_HOLD;
}

void relay_let_go(struct relay *r)
{
    r->gate = GATE_OPEN;
    netbuf_release_all(r->held, emit, r);
    go_on_reading(r);
}

void relay_seal(struct relay *r)
{
    r->gate = GATE_SEALED;
    netbuf_drop_all(r->held);
    go_on_reading(r);
}

void relay_announce(struct relay *r)
{
    uint8_t frame[NEIGHBOUR_FRAME_MAX];
    for (size_t i = 0; i <= r->neighbours.count; i++)
        emit(frame, neighbour_announce(&r->neighbours, i, frame), r);
}

struct netbuf_counts relay_counts(const struct relay *r)
{
    return netbuf_counts(r->held);
}

bool relay_has_output(const struct relay *r)
{
    return netbuf_running_frames(r->held) > 0;
}

struct neighbour_table *relay_neighbours(struct relay *r)
{
    return &r->neighbours;
}

/* ---- life ---- */

static int connect_vm(const char *path, struct errmsg *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return errmsg_set(e, "%s: the path is too long for a socket", path);
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errmsg_set(e, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
        errmsg_set(e, "%s: %s (the VM's network socket; is something else connected to it?)", path, strerror(errno));
        close(fd);
        return -1;
    }
    int size = 4 << 20; /* so that a burst of the guest fits while we capture */
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

static void watch(struct relay *r)
{
    ev_io_init(&r->vm_in, on_vm_in, r->line.vm, EV_READ);
    ev_io_init(&r->vm_out, on_vm_out, r->line.vm, EV_WRITE);
    ev_io_init(&r->tap_in, on_tap_in, r->line.tap, EV_READ);
    r->vm_in.data = r->vm_out.data = r->tap_in.data = r;
    ev_io_start(r->loop, &r->vm_in);
    ev_io_start(r->loop, &r->tap_in);
}

int relay_line_open(const struct relay_config *c, struct relay_line *out, struct errmsg *e)
{
    char name[16];
    *out = (struct relay_line){.tap = tap_open(c->bridge, name, e), .vm = -1};
    if (out->tap < 0)
        return -1;
    out->vm = connect_vm(c->stream_path, e);
    if (out->vm < 0) {
        relay_line_close(out);
        return -1;
    }
    log_info("the guest's network: %s, %s%s", name, *c->bridge ? "on bridge " : "on no bridge", c->bridge);
    return 0;
}

void relay_line_close(struct relay_line *l)
{
    if (l->tap >= 0)
        close(l->tap);
    if (l->vm >= 0)
        close(l->vm);
    *l = (struct relay_line){.tap = -1, .vm = -1};
}

void relay_line_announce(const struct relay_line *l, const uint8_t mac[6])
{
    struct neighbour_table none = {0};
    uint8_t frame[NEIGHBOUR_FRAME_MAX];
    memcpy(none.mac, mac, 6);
    size_t n = neighbour_announce(&none, 0, frame);
    if (write(l->tap, frame, n) < 0)
        log_warn("the guest's new place could not be announced: %s", strerror(errno));
}

struct relay *relay_open(struct ev_loop *loop, const struct relay_config *c, const struct relay_line *line,
                         const struct netbuf_handlers *h, void *arg, struct errmsg *e)
{
    struct relay_line own = {.tap = -1, .vm = -1};
    if (!line && relay_line_open(c, &own, e))
        return NULL;
    struct relay *r = calloc(1, sizeof *r);
    struct netbuf *held = netbuf_new(c->limit_bytes);
    if (!r || !held) {
        free(r);
        netbuf_free(held);
        relay_line_close(&own);
        errmsg_set(e, "no memory for the output buffer");
        return NULL;
    }
    *r = (struct relay){.loop = loop, .handlers = *h, .arg = arg, .line = line ? *line : own, .held = held};
    memcpy(r->neighbours.mac, c->mac, 6);
    tap_name(r->line.tap, r->tap_name);
    watch(r);
    return r;
}

void relay_close(struct relay *r)
{
    if (!r)
        return;
    ev_io_stop(r->loop, &r->vm_in);
    ev_io_stop(r->loop, &r->vm_out);
    ev_io_stop(r->loop, &r->tap_in);
    relay_line_close(&r->line);
    netbuf_free(r->held);
    free(r);
}
