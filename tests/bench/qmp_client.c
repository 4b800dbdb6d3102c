/* qmp_client: see qmp_client.h. Lines of JSON both ways; events are kept until somebody asks for them. */
#include "tests/bench/qmp_client.h"

#include "common/jsonget.h"
#include "tools/demo/run.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINE_BYTES = 1 << 16, ANSWER_MS = 30000, RETRY_MS = 5 };

struct qmp_client {
    int fd;
    size_t used;
    char line[LINE_BYTES];
    struct json_object *events;
};

/* The next line, NULL with `e` if none comes in time. */
static struct json_object *next_line(struct qmp_client *c, int64_t deadline, struct errmsg *e)
{
    for (;;) {
        char *end = memchr(c->line, '\n', c->used);
        if (end) {
            *end = '\0';
            struct json_object *j = json_tokener_parse(c->line);
            c->used -= (size_t)(end + 1 - c->line);
            memmove(c->line, end + 1, c->used);
            if (!j)
                errmsg_set(e, "QEMU's QMP says no JSON");
            return j;
        }
        int64_t left = deadline - now_ms();
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) {
            errmsg_set(e, "QEMU says nothing more");
            return NULL;
        }
        ssize_t n = read(c->fd, c->line + c->used, LINE_BYTES - c->used);
        if (n <= 0) {
            errmsg_set(e, "QEMU has ended, or said too long a line");
            return NULL;
        }
        c->used += (size_t)n;
    }
}

/* Keeps events; the next line that is none. */
static struct json_object *next_answer(struct qmp_client *c, int64_t deadline, struct errmsg *e)
{
    struct json_object *j;
    while ((j = next_line(c, deadline, e)) && json_get(j, "event"))
        json_object_array_add(c->events, j);
    return j;
}

struct json_object *qmp_client_call(struct qmp_client *c, const char *command, const char *arguments, struct errmsg *e)
{
    int sent = arguments ? dprintf(c->fd, "{\"execute\":\"%s\",\"arguments\":%s}\n", command, arguments)
                         : dprintf(c->fd, "{\"execute\":\"%s\"}\n", command);
    struct json_object *answer = sent > 0 ? next_answer(c, now_ms() + ANSWER_MS, e) : NULL, *result = NULL;
    if (answer && !(result = json_object_get(json_get(answer, "return"))))
        errmsg_set(e, "%s: %s", command, json_get_text(json_get(answer, "error"), "desc", "no result"));
    if (sent <= 0)
        errmsg_set(e, "%s: QEMU has ended", command);
    json_object_put(answer);
    return result;
}

static double event_time(struct json_object *events, const char *name)
{
    for (size_t i = 0; i < json_object_array_length(events); i++) {
        struct json_object *event = json_object_array_get_idx(events, i), *at = json_get(event, "timestamp");
        if (!strcmp(json_get_text(event, "event", ""), name))
            return json_get_double(at, "seconds", 0) * 1e3 + json_get_double(at, "microseconds", 0) / 1e3;
    }
    return -1;
}

double qmp_client_event(struct qmp_client *c, const char *name, int timeout_ms, struct errmsg *e)
{
    int64_t deadline = now_ms() + timeout_ms;
    double at;
    while ((at = event_time(c->events, name)) < 0) {
        struct json_object *j = next_line(c, deadline, e);
        if (!j) {
            struct errmsg why = *e;
            errmsg_set(e, "waiting for %s: %s", name, why.text);
            return -1;
        }
        json_object_array_add(c->events, j);
    }
    return at;
}

static int dial(const char *path, int timeout_ms, struct errmsg *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int64_t deadline = now_ms() + timeout_ms;
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a)) {
        if (now_ms() > deadline) {
            close(fd);
            return errmsg_set(e, "%s: %s", path, strerror(errno));
        }
        sleep_ms(RETRY_MS);
    }
    return fd;
}

struct qmp_client *qmp_client_open(const char *path, int timeout_ms, struct errmsg *e)
{
    struct qmp_client *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->events = json_object_new_array();
    c->fd = dial(path, timeout_ms, e);
    struct json_object *greeting = c->fd < 0 ? NULL : next_answer(c, now_ms() + ANSWER_MS, e);
    struct json_object *ready = greeting ? qmp_client_call(c, "qmp_capabilities", NULL, e) : NULL;
    bool bad = !ready;
    json_object_put(greeting);
    json_object_put(ready);
    if (!bad)
        return c;
    qmp_client_close(c);
    return NULL;
}

void qmp_client_close(struct qmp_client *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    json_object_put(c->events);
    free(c);
}
