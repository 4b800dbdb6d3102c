/* control_call: the blocking side of the control socket, for the command line. */
#include "common/control.h"
#include "common/control_path.h"
#include "common/jsonget.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int control_path(struct sockaddr_un *out, const char *path, struct errmsg *e)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (n >= sizeof(out->sun_path))
        return errmsg_set(e, "%s: too long for a unix socket (at most %zu bytes): choose a shorter run_dir", path,
                          sizeof(out->sun_path) - 1);
    memcpy(out->sun_path, path, n);
    return 0;
}

int control_dial(const char *path, int flags, struct errmsg *e)
{
    struct sockaddr_un at;
    if (control_path(&at, path, e))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        return errmsg_set(e, "socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&at, sizeof(at)) == 0)
        return fd;
    int why = errno;
    close(fd);
    if (why == ENOENT || why == ECONNREFUSED) {
        const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
        const char *agent = !strcmp(name, "primary.sock")     ? ": is hikae-primary running?"
                            : !strcmp(name, "secondary.sock") ? ": is hikae-secondary running?"
                                                              : "";
        return errmsg_set(e, "no agent listens at %s%s", path, agent);
    }
    return errmsg_set(e, "%s: %s%s", path, strerror(why), why == EACCES ? ": try it as root" : "");
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* 0 when fd is ready before `deadline` (< 0: none). */
static int wait_ready(int fd, short events, long long deadline, const char *path, struct errmsg *e)
{
    for (;;) {
        long long left = deadline < 0 ? -1 : deadline - now_ms();
        if (deadline >= 0 && left <= 0)
            return errmsg_set(e, "the agent at %s gave no answer in time: its log says what it does", path);
        struct pollfd p = {.fd = fd, .events = events};
        int r = poll(&p, 1, (int)left);
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return errmsg_set(e, "poll: %s", strerror(errno));
    }
}

static int send_line(int fd, struct json_object *request, long long deadline, const char *path, struct errmsg *e)
{
    size_t n;
    const char *text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &n);
    for (size_t sent = 0; sent <= n;) {
        if (wait_ready(fd, POLLOUT, deadline, path, e))
            return -1;
        const char *from = sent < n ? text + sent : "\n";
        ssize_t w = send(fd, from, sent < n ? n - sent : 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (w < 0 && errno != EAGAIN && errno != EINTR)
            return errmsg_set(e, "the agent at %s went away: %s", path, strerror(errno));
        if (w > 0)
            sent += (size_t)w;
    }
    return 0;
}

/* Whatever an agent answers with is at most what it may queue. */
enum { REPLY_MAX = 8 << 20, PIECE = 64 << 10 };

static struct json_object *read_reply(int fd, long long deadline, const char *path, struct errmsg *e)
{
    char *data = NULL, *end = NULL;
    size_t used = 0;
    struct json_object *reply = NULL;
    while (!end && used < REPLY_MAX) {
        char *more = realloc(data, used + PIECE);
        if (!more)
            abort();
        data = more;
        if (wait_ready(fd, POLLIN, deadline, path, e))
            goto out;
        ssize_t n = recv(fd, data + used, PIECE, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0) {
            errmsg_set(e, "the agent at %s closed the connection without an answer: see its log", path);
            goto out;
        }
        end = memchr(data + used, '\n', (size_t)n);
        used += (size_t)n;
    }
    if (end)
        reply = json_parse_object(data, (unsigned long)(end - data));
    if (!reply)
        errmsg_set(e, "the agent at %s answered with no JSON object: is it another version?", path);
out:
    free(data);
    return reply;
}

struct json_object *control_call(const char *path, struct json_object *request, int timeout_ms, struct errmsg *e)
{
    int fd = control_dial(path, 0, e);
    if (fd < 0)
        return NULL;
    long long deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
    struct json_object *reply = NULL;
    if (send_line(fd, request, deadline, path, e) == 0)
        reply = read_reply(fd, deadline, path, e);
    close(fd);
    return reply;
}
