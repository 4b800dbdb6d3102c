/* client: the handle of the client's process, see client.h. What the process does is in prober.c. */
#include "tools/demo/client.h"

#include "common/hist.h"
#include "tools/demo/prober.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct client {
    pid_t pid;
    int fd;
};

enum { ANSWER_MS = 5000, ANSWER_BYTES = 1 << 20 };

struct client *client_start(const struct options *o, struct errmsg *e)
{
    int pair[2];
    struct client *c = calloc(1, sizeof *c);
    if (!c || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
        errmsg_set(e, "client: %s", strerror(errno));
        free(c);
        return NULL;
    }
    c->pid = fork();
    if (c->pid == 0) {
        close(pair[0]);
        prober_run(pair[1], o);
    }
    close(pair[1]);
    c->fd = pair[0];
    if (c->pid < 0) {
        errmsg_set(e, "fork: %s", strerror(errno));
        close(c->fd);
        free(c);
        return NULL;
    }
    return c;
}

void client_stop(struct client *c)
{
    if (!c)
        return;
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    close(c->fd);
    free(c);
}

/* One byte as request, one JSON line as answer. */
static struct json_object *ask(struct client *c, char request)
{
    char *line = malloc(ANSWER_BYTES);
    struct json_object *answer = NULL;
    size_t used = 0;
    if (line && send(c->fd, &request, 1, MSG_NOSIGNAL) == 1) {
        while (used < ANSWER_BYTES - 1 && (!used || line[used - 1] != '\n')) {
            struct pollfd p = {.fd = c->fd, .events = POLLIN};
            ssize_t n = poll(&p, 1, ANSWER_MS) == 1 ? read(c->fd, line + used, ANSWER_BYTES - 1 - used) : -1;
            if (n <= 0)
                break;
            used += (size_t)n;
        }
        line[used] = '\0';
        if (used && line[used - 1] == '\n')
            answer = json_tokener_parse(line);
    }
    free(line);
    return answer;
}

void client_phase(struct client *c, enum client_phase phase)
{
    json_object_put(ask(c, (char)('0' + (int)phase)));
}

void client_mark(struct client *c)
{
    json_object_put(ask(c, 'm'));
}

void client_verify_disks(struct client *c)
{
    json_object_put(ask(c, 'v'));
}

static uint64_t number(struct json_object *j, const char *key)
{
    return json_object_get_uint64(json_object_object_get(j, key));
}

int client_report(struct client *c, struct client_report *out)
{
    struct json_object *j = ask(c, 'r');
    if (!j)
        return -1;
    *out = (struct client_report){
        .connected = json_object_get_boolean(json_object_object_get(j, "connected")),
        .replies = number(j, "replies"),
        .beacons = number(j, "beacons"),
        .lost = number(j, "lost"),
        .doubled = number(j, "doubled"),
        .back = number(j, "back"),
        .disconnects = number(j, "disconnects"),
        .violations = number(j, "violations"),
        .beacons_lost = number(j, "beacons_lost"),
        .memory_errors = number(j, "memory_errors"),
        .counter = number(j, "counter"),
        .dirtied = number(j, "dirtied"),
        .disk_flushed = number(j, "disk_flushed"),
        .disk_verified = number(j, "disk_verified"),
        .disk_errors = number(j, "disk_errors"),
        .database_rows = number(j, "database_rows"),
        .database_checked = number(j, "database_checked"),
        .database_errors = number(j, "database_errors"),
        .gap_ms = json_object_get_double(json_object_object_get(j, "gap_ms")),
        .after_gap_ms = json_object_get_double(json_object_object_get(j, "after_gap_ms")),
    };
    json_object_put(j);
    return 0;
}

int client_latency(struct client *c, enum client_phase phase, struct hist *h)
{
    struct json_object *j = ask(c, (char)('a' + (int)phase));
    struct hist *got = hist_new();
    int bad = j ? hist_from_json(got, j) : -1;
    if (!bad)
        hist_merge(h, got);
    hist_free(got);
    json_object_put(j);
    return bad;
}

uint64_t client_errors(const struct client_report *r)
{
    return r->lost + r->doubled + r->back + r->disconnects;
}
