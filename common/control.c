#include "common/control.h"
#include "common/control_path.h"
#include "common/jsonget.h"
#include "common/log.h"

#include <errno.h>
#include <ev.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUT_MAX = 8 << 20, READ_PIECE = 64 << 10, READS_PER_TURN = 8 };

struct buffer {
    char *data;
    size_t used, room;
};

struct control_conn {
    struct ev_loop *loop;
    struct control_server *server; /* NULL: made by control_connect */
    struct control_conn *next, **link;
    struct control_handlers h;
    void *arg, *data;
    int fd;
    ev_io in, out;
    struct buffer input, output;
    bool broken;   /* the peer is lost; `closed` comes from the loop */
    bool finished; /* closed by its owner */
    bool busy;     /* a handler is under way: free it later */
};

struct control_server {
    struct ev_loop *loop;
    struct control_handlers h;
    void *arg;
    int fd;
    ev_io accept;
    ev_timer rest; /* out of descriptors: try again later */
    struct control_conn *conns;
    struct sockaddr_un at;
    dev_t dev; /* of the socket that we made, and of no later one */
    ino_t ino;
};

static int reserve(struct buffer *b, size_t more)
{
    if (b->room - b->used >= more)
        return 0;
    size_t room = b->room ? b->room : 4096;
    while (room - b->used < more)
        room *= 2;
    char *data = realloc(b->data, room);
    if (!data)
        return -1;
    b->data = data;
    b->room = room;
    return 0;
}

static void conn_free(struct control_conn *c)
{
    free(c->input.data);
    free(c->output.data);
    free(c);
}

void control_close(struct control_conn *c)
{
    if (c->finished)
        return;
    c->finished = true;
    ev_io_stop(c->loop, &c->in);
    ev_io_stop(c->loop, &c->out);
    close(c->fd);
    if (c->link) {
        *c->link = c->next;
        if (c->next)
            c->next->link = c->link;
    }
    if (!c->busy)
        conn_free(c);
}

/* From the loop only: tells the owner and frees. */
static void lost(struct control_conn *c)
{
    c->busy = true;
    if (c->h.closed)
        c->h.closed(c, c->arg);
    control_close(c); /* the owner may have done it already */
    conn_free(c);
}

/* Not from the loop: whoever calls control_send must not find its connection freed. */
static void break_later(struct control_conn *c)
{
    c->broken = true;
    c->output.used = 0;
    ev_feed_event(c->loop, &c->in, EV_READ);
}

static void flush(struct control_conn *c)
{
    size_t sent = 0;
    while (sent < c->output.used) {
        ssize_t n = send(c->fd, c->output.data + sent, c->output.used - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            /* What it has sent before it went is still to be read: the end is seen there. */
            c->output.used = 0;
            ev_io_stop(c->loop, &c->out);
            return;
        }
        if (n < 0)
            break;
        sent += (size_t)n;
    }
    c->output.used -= sent;
    memmove(c->output.data, c->output.data + sent, c->output.used);
    if (c->output.used)
        ev_io_start(c->loop, &c->out);
    else
        ev_io_stop(c->loop, &c->out);
}

void control_send(struct control_conn *c, struct json_object *message)
{
    if (c->finished || c->broken)
        return;
    size_t n;
    const char *text = json_object_to_json_string_length(message, JSON_C_TO_STRING_PLAIN, &n);
    if (!text || c->output.used + n + 1 > OUT_MAX || reserve(&c->output, n + 1)) {
        log_warn("a control connection is closed: its reader does not read");
        break_later(c);
        return;
    }
    bool idle = c->output.used == 0;
    memcpy(c->output.data + c->output.used, text, n);
    c->output.data[c->output.used + n] = '\n';
    c->output.used += n + 1;
    if (idle)
        flush(c);
}

static void refuse_line(struct control_conn *c, const char *why)
{
    struct json_object *reply = json_object_new_object();
    json_object_object_add(reply, "ok", json_object_new_boolean(false));
    json_object_object_add(reply, "error", json_object_new_string(why));
    control_send(c, reply);
    json_object_put(reply);
    c->broken = true;
}

static void take_lines(struct control_conn *c)
{
    size_t at = 0;
    while (!c->finished && !c->broken) {
        const char *line = c->input.data + at, *end = memchr(line, '\n', c->input.used - at);
        if (!end)
            break;
        struct json_object *message = json_parse_object(line, (unsigned long)(end - line));
        at += (size_t)(end - line) + 1;
        if (!message) {
            refuse_line(c, "a message must be one JSON object on one line");
            break;
        }
        c->h.message(c, message, c->arg);
        json_object_put(message);
    }
    c->input.used -= at;
    memmove(c->input.data, c->input.data + at, c->input.used);
    if (!c->finished && !c->broken && c->input.used >= CONTROL_LINE_MAX)
        refuse_line(c, "the line is longer than 1 MiB");
}

/* 1: got some, 0: nothing there, -1: the end. */
static int receive(struct control_conn *c)
{
    if (reserve(&c->input, READ_PIECE))
        return -1;
    ssize_t n = recv(c->fd, c->input.data + c->input.used, READ_PIECE, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -1;
    c->input.used += (size_t)n;
    return 1;
}

static void on_readable(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop;
    (void)events;
    struct control_conn *c = w->data;
    c->busy = true;
    for (int i = 0; i < READS_PER_TURN && !c->finished && !c->broken; i++) {
        int r = receive(c);
        if (r < 0)
            c->broken = true;
        if (r <= 0)
            break;
        take_lines(c);
    }
    c->busy = false;
    if (c->finished)
        conn_free(c);
    else if (c->broken)
        lost(c);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop;
    (void)events;
    flush(w->data);
}

static struct control_conn *conn_new(struct ev_loop *loop, int fd, const struct control_handlers *h, void *arg)
{
    struct control_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->loop = loop;
    c->fd = fd;
    c->h = *h;
    c->arg = arg;
    ev_io_init(&c->in, on_readable, fd, EV_READ);
    ev_io_init(&c->out, on_writable, fd, EV_WRITE);
    c->in.data = c->out.data = c;
    ev_io_start(loop, &c->in);
    return c;
}

static void on_rested(struct ev_loop *loop, ev_timer *w, int events)
{
    (void)events;
    struct control_server *s = w->data;
    ev_io_start(loop, &s->accept);
}

static void on_accept(struct ev_loop *loop, ev_io *w, int events)
{
    (void)events;
    struct control_server *s = w->data;
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return;
        log_warn("%s: cannot accept: %s", s->at.sun_path, strerror(errno));
        ev_io_stop(loop, &s->accept);
        ev_timer_set(&s->rest, 1, 0);
        ev_timer_start(loop, &s->rest);
        return;
    }
    struct control_conn *c = conn_new(loop, fd, &s->h, s->arg);
    if (!c) {
        close(fd);
        return;
    }
    c->server = s;
    c->next = s->conns;
    c->link = &s->conns;
    if (c->next)
        c->next->link = &c->next;
    s->conns = c;
}

/* Takes away a socket that nobody listens at. */
static int clear_stale(const struct sockaddr_un *at, struct errmsg *e)
{
    struct stat st;
    if (lstat(at->sun_path, &st) < 0)
        return 0; /* bind will say what is wrong */
    if (!S_ISSOCK(st.st_mode))
        return errmsg_set(e, "%s: is there and no socket: remove it or choose another run_dir", at->sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errmsg_set(e, "socket: %s", strerror(errno));
    int r = connect(fd, (const struct sockaddr *)at, sizeof(*at));
    int why = r < 0 ? errno : 0;
    close(fd);
    if (why != ECONNREFUSED && why != ENOENT)
        return errmsg_set(e, "%s: another process listens there: stop it first, or give this one another run_dir",
                          at->sun_path);
    if (why == ECONNREFUSED && unlink(at->sun_path) < 0 && errno != ENOENT)
        return errmsg_set(e, "%s: a stale socket that cannot be removed: %s", at->sun_path, strerror(errno));
    return 0;
}

static int bind_private(int fd, const struct sockaddr_un *at, struct errmsg *e)
{
    mode_t before = umask(0177);
    int r = bind(fd, (const struct sockaddr *)at, sizeof(*at));
    int why = errno;
    umask(before);
    if (r < 0)
        return errmsg_set(e, "%s: cannot be made: %s%s", at->sun_path, strerror(why),
                          why == ENOENT ? ": make its directory" : "");
    if (listen(fd, 64) < 0)
        return errmsg_set(e, "%s: cannot listen: %s", at->sun_path, strerror(errno));
    return 0;
}

struct control_server *control_listen(struct ev_loop *loop, const char *path, const struct control_handlers *h,
                                      void *arg, struct errmsg *e)
{
    struct sockaddr_un at;
    if (control_path(&at, path, e) || clear_stale(&at, e))
        return NULL;
    struct control_server *s = calloc(1, sizeof(*s));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!s || fd < 0) {
        errmsg_set(e, "socket: %s", strerror(errno));
        goto fail;
    }
    if (bind_private(fd, &at, e))
        goto fail;
    struct stat st;
    if (lstat(path, &st) == 0) {
        s->dev = st.st_dev;
        s->ino = st.st_ino;
    }
    s->loop = loop;
    s->fd = fd;
    s->at = at;
    s->h = *h;
    s->arg = arg;
    ev_io_init(&s->accept, on_accept, fd, EV_READ);
    ev_timer_init(&s->rest, on_rested, 1, 0);
    s->accept.data = s->rest.data = s;
    ev_io_start(loop, &s->accept);
    return s;
fail:
    if (fd >= 0)
        close(fd);
    free(s);
    return NULL;
}

void control_server_free(struct control_server *s)
{
    if (!s)
        return;
    while (s->conns)
        control_close(s->conns);
    ev_io_stop(s->loop, &s->accept);
    ev_timer_stop(s->loop, &s->rest);
    struct stat st;
    if (lstat(s->at.sun_path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
        unlink(s->at.sun_path);
    close(s->fd);
    free(s);
}

struct control_conn *control_connect(struct ev_loop *loop, const char *path, const struct control_handlers *h,
                                     void *arg, struct errmsg *e)
{
    int fd = control_dial(path, SOCK_NONBLOCK, e);
    if (fd < 0)
        return NULL;
    struct control_conn *c = conn_new(loop, fd, h, arg);
    if (!c) {
        close(fd);
        errmsg_set(e, "out of memory");
    }
    return c;
}

void control_set_data(struct control_conn *c, void *data)
{
    c->data = data;
}

void *control_data(const struct control_conn *c)
{
    return c->data;
}
