/*
 * qmp: see qmp.h. QEMU without pretty=on writes one JSON object per line, so a line is the unit of reading.
 */
#include "vm/qmp/qmp.h"

#include "common/jsonget.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { QMP_LINE_MAX = 8 << 20, QMP_READ = 16384, QMP_SENT_MAX = 1024, IDS = 99 };

/* What a line ends with: QEMU does the command at the first octet of it. */
static const char end_of_line[] = "}\n";
/* In the middle of a command: QEMU gives that up, with an error that has no id (qmp-spec, 2.6). */
static const char give_up[] = "\xff\n";

int64_t qmp_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* 1: ready; 0: the deadline has passed; -1: error. */
static int wait_for(int fd, short what, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - qmp_now_ms();
        struct pollfd p = {.fd = fd, .events = what};
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n > 0)
            return 1;
        if (n == 0)
            return 0;
        if (errno != EINTR)
            return -1;
    }
}

/* Appends what the socket has. 1: some; 0: nothing there; -1: end or error (q->eof). */
static int read_some(struct qmp *q)
{
    if (q->eof)
        return -1;
    if (q->capacity - q->used < QMP_READ) {
        size_t capacity = q->capacity + 4 * QMP_READ;
        char *grown = capacity <= QMP_LINE_MAX ? realloc(q->buffer, capacity) : NULL;
        if (!grown) {
            q->eof = true;
            return -1;
        }
        q->buffer = grown;
        q->capacity = capacity;
    }
    ssize_t n = recv(q->fd, q->buffer + q->used, q->capacity - q->used, MSG_DONTWAIT);
    if (n > 0) {
        q->used += (size_t)n;
        return 1;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    q->eof = true;
    return -1;
}

/* The next whole line as JSON, or NULL when there is none yet. Lines that are no JSON object are skipped. */
static struct json_object *next_message(struct qmp *q)
{
    char *end;
    while (q->used > 0 && (end = memchr(q->buffer, '\n', q->used))) {
        size_t length = (size_t)(end - q->buffer) + 1;
        *end = '\0';
        struct json_object *message = json_tokener_parse(q->buffer);
        q->used -= length;
        memmove(q->buffer, end + 1, q->used);
        if (json_object_is_type(message, json_type_object))
            return message;
        json_object_put(message);
    }
    return NULL;
}

static bool take_event(struct qmp *q, struct json_object *message)
{
    struct json_object *event, *data = NULL;
    if (!json_object_object_get_ex(message, "event", &event))
        return false;
    json_object_object_get_ex(message, "data", &data);
    if (q->event)
        q->event(q->arg, json_object_get_string(event), data);
    return true;
}

void qmp_drain(struct qmp *q)
{
    if (q->fd < 0)
        return;
    int more;
    do {
        more = read_some(q);
        struct json_object *message;
        while ((message = next_message(q))) {
            if (take_event(q, message)) {
                json_object_put(message);
            } else {
                json_object_put(q->stash);
                q->stash = message;
            }
        }
    } while (more > 0);
}

/* The next message that is no event, before the deadline. */
static struct json_object *read_reply(struct qmp *q, int64_t deadline, struct errmsg *e)
{
    if (q->stash) {
        struct json_object *reply = q->stash;
        q->stash = NULL;
        return reply;
    }
    for (;;) {
        struct json_object *message;
        while ((message = next_message(q))) {
            if (!take_event(q, message))
                return message;
            json_object_put(message);
        }
        int ready = q->eof ? -1 : wait_for(q->fd, POLLIN, deadline);
        if (ready == 0) {
            errmsg_set(e, "QEMU did not answer in time: it hangs, or another program holds its QMP socket");
            return NULL;
        }
        if (ready < 0 || read_some(q) < 0) {
            errmsg_set(e, "QEMU has closed its QMP socket: it has ended");
            return NULL;
        }
    }
}

int qmp_wait_flag(struct qmp *q, const bool *flag, int64_t deadline, const char *what, struct errmsg *e)
{
    for (;;) {
        qmp_drain(q);
        if (*flag)
            return 0;
        if (q->eof)
            return errmsg_set(e, "QEMU has closed its QMP socket: it has ended while %s", what);
        if (wait_for(q->fd, POLLIN, deadline) == 0)
            return errmsg_set(e, "QEMU did not finish %s in time", what);
    }
}

static unsigned reply_id(struct json_object *reply)
{
    struct json_object *id;
    return json_object_object_get_ex(reply, "id", &id) ? (unsigned)json_object_get_int64(id) : 0;
}

int qmp_wait(struct qmp *q, unsigned id, struct json_object **result, int64_t deadline, struct errmsg *e)
{
    struct json_object *reply;
    for (;;) {
        reply = read_reply(q, deadline, e);
        if (!reply)
            return -1;
        if (reply_id(reply) == id)
            break;
        json_object_put(reply);
    }
    struct json_object *value, *text;
    int status = 0;
    if (json_object_object_get_ex(reply, "error", &value)) {
        const char *why = json_object_object_get_ex(value, "desc", &text) ? json_object_get_string(text) : "no reason";
        status = errmsg_set(e, "QEMU: %s", why);
    } else if (json_object_object_get_ex(reply, "return", &value)) {
        if (result)
            *result = json_object_get(value);
    } else {
        status = errmsg_set(e, "QEMU sent a QMP reply without result");
    }
    json_object_put(reply);
    return status;
}

static int send_all(struct qmp *q, const char *line, size_t n, int fd, int64_t deadline, struct errmsg *e)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    while (n > 0) {
        struct iovec io = {.iov_base = (char *)(uintptr_t)line, .iov_len = n};
        struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
        if (fd >= 0) {
            m.msg_control = control.space;
            m.msg_controllen = sizeof control.space;
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(c), &fd, sizeof fd);
        }
        ssize_t sent = sendmsg(q->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            fd = -1;
            line += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN) {
            if (wait_for(q->fd, POLLOUT, deadline) <= 0)
                return errmsg_set(e, "QEMU does not read its QMP socket: it hangs");
        } else if (errno != EINTR) {
            return errmsg_set(e, "QEMU's QMP socket: %s", strerror(errno));
        }
    }
    return 0;
}

static int send_line(struct qmp *q, const char *line, size_t n, int fd, int64_t deadline, struct errmsg *e)
{
    int result = send_all(q, line, n, fd, deadline, e);
    q->torn = result < 0;
    return result;
}

/* Its length; 0: it does not fit. */
static size_t make_line(char *line, size_t size, const char *command, const char *arguments, unsigned id)
{
    int n = snprintf(line, size, "{\"execute\":\"%s\"%s%s,\"id\":%u%s", command, arguments ? ",\"arguments\":" : "",
                     arguments ? arguments : "", id, end_of_line);
    return n > 0 && (size_t)n < size ? (size_t)n : 0;
}

/* Short, see qmp.h. What was asked so long ago is not answered any more. */
static unsigned next_id(const struct qmp *q)
{
    return q->last_id % IDS + 1;
}

/* How much of that command QEMU has already. What was prepared is used up. */
static size_t take_prepared(struct qmp *q, const char *command, const char *arguments, unsigned *id)
{
    char line[QMP_PREPARED_MAX];
    size_t n = make_line(line, sizeof line, command, arguments, q->prepared_id);
    if (!n || strcmp(line, q->prepared) != 0)
        return 0;
    *id = q->prepared_id;
    q->prepared_id = 0;
    return n - strlen(end_of_line);
}

unsigned qmp_send(struct qmp *q, const char *command, const char *arguments, int fd, int64_t deadline, struct errmsg *e)
{
    char line[QMP_SENT_MAX];
    unsigned id = next_id(q);
    size_t sent = q->prepared_id && fd < 0 ? take_prepared(q, command, arguments, &id) : 0;
    size_t n = make_line(line, sizeof line, command, arguments, id);
    if (q->fd < 0 || !n) {
        errmsg_set(e, q->fd < 0 ? "not connected to QEMU" : "QMP command too long");
        return 0;
    }
    if ((q->prepared_id || q->torn) && send_line(q, give_up, strlen(give_up), -1, deadline, e) < 0)
        return 0;
    q->prepared_id = 0;
    q->last_id = id;
    return send_line(q, line + sent, n - sent, fd, deadline, e) == 0 ? id : 0;
}

void qmp_prepare(struct qmp *q, const char *command, const char *arguments)
{
    struct errmsg ignored;
    unsigned id = next_id(q);
    if (q->fd < 0 || q->prepared_id || q->torn)
        return;
    size_t n = make_line(q->prepared, sizeof q->prepared, command, arguments, id);
    if (n && !send_line(q, q->prepared, n - strlen(end_of_line), -1, qmp_now_ms(), &ignored))
        q->prepared_id = id;
}

int qmp_call(struct qmp *q, const char *command, const char *arguments, struct json_object **result, int64_t deadline,
             struct errmsg *e)
{
    unsigned id = qmp_send(q, command, arguments, -1, deadline, e);
    return id ? qmp_wait(q, id, result, deadline, e) : -1;
}

/* With it QEMU reads the next command, or what is prepared of it, while it does one; else only afterwards. */
static bool offers_oob(const struct qmp *q)
{
    struct json_object *capabilities = json_get(json_get(q->greeting, "QMP"), "capabilities");
    for (size_t i = 0; capabilities && i < json_object_array_length(capabilities); i++)
        if (strcmp(json_object_get_string(json_object_array_get_idx(capabilities, i)), "oob") == 0)
            return true;
    return false;
}

int qmp_open(struct qmp *q, const char *path, int64_t deadline, int *reason, struct errmsg *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    *reason = 0;
    if (strlen(path) >= sizeof address.sun_path)
        return errmsg_set(e, "%s: too long for a unix socket (107 bytes at most)", path);
    strcpy(address.sun_path, path);
    q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (q->fd < 0)
        return errmsg_set(e, "socket: %s", strerror(errno));
    q->eof = false;
    if (connect(q->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        *reason = errno;
        qmp_close(q);
        return errmsg_set(e, "%s: %s: does QEMU listen there (-qmp unix:PATH,server=on,wait=off)?", path,
                          strerror(*reason));
    }
    q->greeting = read_reply(q, deadline, e);
    if (!q->greeting || !json_object_object_get_ex(q->greeting, "QMP", NULL)) {
        if (q->greeting)
            errmsg_set(e, "%s: not a QMP socket", path);
        qmp_close(q);
        return -1;
    }
    if (qmp_call(q, "qmp_capabilities", offers_oob(q) ? "{\"enable\":[\"oob\"]}" : NULL, NULL, deadline, e) < 0) {
        qmp_close(q);
        return -1;
    }
    return 0;
}

void qmp_close(struct qmp *q)
{
    if (q->fd >= 0)
        close(q->fd);
    q->fd = -1;
    q->eof = true;
    free(q->buffer);
    q->buffer = NULL;
    q->used = q->capacity = 0;
    q->prepared_id = 0;
    q->torn = false;
    json_object_put(q->stash);
    json_object_put(q->greeting);
    q->stash = q->greeting = NULL;
}
