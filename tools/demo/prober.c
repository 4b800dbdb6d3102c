/*
 * prober: one poll loop over six descriptors: the owner's requests, the counter connection, the control connection
 * (the guest's statistics), those to its disk's keeper and to its database, and the beacons' socket. A connection that
 * ends after it once answered is an error, and is made anew so that the rest can still be watched.
 */
#include "tools/demo/prober.h"

#include "common/hist.h"
#include "tools/demo/client.h"
#include "tools/demo/run.h"
#include "tools/demo/sandbox.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    IN_FLIGHT = 1 << 14,
    LINE_BYTES = 1024,
    RETRY_MS = 250,
    STATS_MS = 500,
    PUT_MS = 20,
    DEAD_MS = 10000,
    READ_MS = 60000
};

struct connection {
    int fd; /* -1: none */
    uint16_t port;
    bool asked;    /* since it was made: a line was sent */
    bool answered; /* since it was made */
    bool verify;   /* the guest is to read what it has there, as soon as it can be asked */
    int64_t tried; /* ms, when it was last made */
    int64_t heard; /* ms, when the last bytes came */
    size_t used;
    char line[LINE_BYTES];
};

struct prober {
    struct connection counter, control, disk, database;
    bool has_disk, has_database;
    bool transaction; /* one is not answered yet */
    uint64_t unheard; /* transactions since the last answer whose connection was lost */
    const char *address;
    int beacon_fd, owner_fd;
    unsigned request_ms;
    int64_t next_request, next_stats, next_put;  /* ms */
    uint64_t sent, answered, sent_at[IN_FLIGHT]; /* lines on this connection; when each was sent, ns */
    uint64_t last_sequence;
    uint64_t disk_failed;        /* operations, by the guest */
    int64_t last_reply, longest; /* ns */
    enum client_phase phase;
    uint64_t phase_begin; /* ns */
    unsigned dead_ms;     /* a connection that is silent for so long will not come back */
    struct hist *latency[CLIENT_PHASES];
    struct client_report report;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* ---- connections ---- */

static void connection_open(struct connection *c, const char *address)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(c->port), .sin_addr.s_addr = inet_addr(address)};
    int on = 1;
    c->tried = now_ms();
    c->asked = c->answered = false;
    c->used = 0;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) {
        close(c->fd);
        c->fd = -1;
    }
}

static void connection_lost(struct prober *p, struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->answered)
        p->report.disconnects++;
    if (c == &p->counter)
        p->sent = p->answered = 0;
    if (c == &p->database) { /* whether that transaction came to be, nobody has heard */
        p->unheard += p->transaction;
        p->transaction = false;
    }
    c->answered = false;
}

/* A connection that never gets an answer (the guest still boots) is soon tried anew, unless it waits for a transaction,
 * which slow disks may take seconds for. One that had answers is given all the time that a failover may take: two ends
 * that no longer agree on what was said do not reset it, they are silent for ever. A guest that reads all of a disk
 * says nothing meanwhile, and on a busy machine that takes its time. */
static void connection_tend(struct prober *p, struct connection *c)
{
    int64_t now = now_ms();
    bool reads = c == &p->disk || c == &p->database, waits = c == &p->database && p->transaction;
    int64_t patience = !c->answered && !waits ? RETRY_MS : reads ? READ_MS : p->dead_ms;
    bool silent = now - (c->answered ? c->heard : c->tried) >= patience;
    if (c->fd >= 0 && silent)
        connection_lost(p, c);
    if (c->fd < 0 && now - c->tried >= RETRY_MS)
        connection_open(c, p->address);
}

static bool send_line(struct prober *p, struct connection *c, const char *line)
{
    size_t n = strlen(line);
    ssize_t sent = send(c->fd, line, n, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS))
        return false;
    if (sent != (ssize_t)n)
        connection_lost(p, c);
    else if (c == &p->counter)
        p->sent_at[p->sent++ % IN_FLIGHT] = now_ns();
    return sent == (ssize_t)n;
}

/* ---- what comes in ---- */

static void note_gap(struct prober *p, int64_t now)
{
    if (p->last_reply && now - p->last_reply > p->longest) {
        p->longest = now - p->last_reply;
        p->report.after_gap_ms = wall_ms();
    }
    p->last_reply = now;
}

static void counter_line(struct prober *p, const char *line)
{
    uint64_t value = strtoull(line, NULL, 10), expected = p->report.counter + 1, now = now_ns();

    note_gap(p, (int64_t)now);
    if (p->counter.answered && value != expected) {
        if (value > expected)
            p->report.lost += value - expected;
        else if (value + 1 == expected)
            p->report.doubled++;
        else
            p->report.back++;
    } else if (!p->counter.answered && value < expected) {
        p->report.back++; /* a new connection, the same guest: it must not have forgotten what it said */
    }
    uint64_t sent_at = p->sent_at[p->answered % IN_FLIGHT];
    if (p->answered >= p->sent)
        p->report.doubled++; /* an answer to nothing */
    else if (p->phase != CLIENT_IDLE && sent_at >= p->phase_begin)
        hist_add(p->latency[p->phase], now - sent_at);
    p->answered++;
    p->report.counter = value;
    p->report.replies++;
    p->counter.answered = true;
}

static void memory_errors(struct prober *p, uint64_t n)
{
    if (n > p->report.memory_errors)
        p->report.memory_errors = n;
}

static void control_line(struct prober *p, const char *line)
{
    struct json_object *j = json_tokener_parse(line);
    memory_errors(p, json_object_get_uint64(json_object_object_get(j, "errors")));
    p->report.dirtied = json_object_get_uint64(json_object_object_get(j, "dirtied"));
    p->control.answered = true;
    json_object_put(j);
}

/* What was flushed once stays so, whatever host the guest is on. */
static void disk_line(struct prober *p, const char *line)
{
    struct client_report *r = &p->report;
    struct json_object *j = json_tokener_parse(line), *wrong = NULL;
    uint64_t flushed = json_object_get_uint64(json_object_object_get(j, "flushed"));
    uint64_t failed = json_object_get_uint64(json_object_object_get(j, "io_errors"));
    if (flushed < r->disk_flushed)
        r->disk_errors++;
    r->disk_flushed = flushed;
    r->disk_errors += failed > p->disk_failed ? failed - p->disk_failed : 0;
    p->disk_failed = failed;
    if (json_object_object_get_ex(j, "wrong", &wrong)) {
        r->disk_errors += json_object_get_uint64(wrong);
        r->disk_verified++;
    }
    p->disk.answered = true;
    json_object_put(j);
}

/* A transaction that was acknowledged is there, and the next one has the next number, but for those that a connection
 * was lost with. */
static void database_line(struct prober *p, const char *line)
{
    struct client_report *r = &p->report;
    p->database.answered = true;
    if (*line != '{') {
        uint64_t row = strtoull(line, NULL, 10);
        r->database_errors += row <= r->database_rows || row > r->database_rows + 1 + p->unheard;
        r->database_rows = row;
        p->unheard = 0;
        p->transaction = false;
        return;
    }
    struct json_object *j = json_tokener_parse(line);
    r->database_errors += json_object_get_uint64(json_object_object_get(j, "wrong"));
    r->database_errors += json_object_get_uint64(json_object_object_get(j, "rows")) < r->database_rows;
    r->database_checked++;
    json_object_put(j);
}

static void connection_input(struct prober *p, struct connection *c)
{
    char in[8192];
    ssize_t n = recv(c->fd, in, sizeof in, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        connection_lost(p, c);
        return;
    }
    c->heard = now_ms();
    for (ssize_t i = 0; i < n; i++) {
        if (in[i] != '\n') {
            if (c->used < sizeof c->line - 1)
                c->line[c->used++] = in[i];
            continue;
        }
        c->line[c->used] = '\0';
        c->used = 0;
        if (c == &p->counter)
            counter_line(p, c->line);
        else if (c == &p->disk)
            disk_line(p, c->line);
        else if (c == &p->database)
            database_line(p, c->line);
        else
            control_line(p, c->line);
    }
}

/* {sequence, nonce, memory errors}: the guest makes each number once. One that comes again, or after a higher one, is
 * output of a run that the survivor does not continue. Nothing on the way reorders. */
static void beacon_input(struct prober *p)
{
    uint64_t b[3];
    while (recv(p->beacon_fd, b, sizeof b, MSG_DONTWAIT) == (ssize_t)sizeof b) {
        p->report.beacons++;
        memory_errors(p, b[2]);
        if (p->last_sequence && b[0] <= p->last_sequence)
            p->report.violations++;
        else if (p->last_sequence)
            p->report.beacons_lost += b[0] - p->last_sequence - 1;
        p->last_sequence = b[0];
    }
}

/* ---- the owner's requests ---- */

static struct json_object *report_to_json(struct prober *p)
{
    const struct client_report *r = &p->report;
    int64_t open_gap = p->last_reply ? (int64_t)now_ns() - p->last_reply : 0;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "connected", json_object_new_boolean(p->counter.answered));
    json_object_object_add(j, "replies", json_object_new_uint64(r->replies));
    json_object_object_add(j, "beacons", json_object_new_uint64(r->beacons));
    json_object_object_add(j, "lost", json_object_new_uint64(r->lost));
    json_object_object_add(j, "doubled", json_object_new_uint64(r->doubled));
    json_object_object_add(j, "back", json_object_new_uint64(r->back));
    json_object_object_add(j, "disconnects", json_object_new_uint64(r->disconnects));
    json_object_object_add(j, "violations", json_object_new_uint64(r->violations));
    json_object_object_add(j, "beacons_lost", json_object_new_uint64(r->beacons_lost));
    json_object_object_add(j, "memory_errors", json_object_new_uint64(r->memory_errors));
    json_object_object_add(j, "counter", json_object_new_uint64(r->counter));
    json_object_object_add(j, "dirtied", json_object_new_uint64(r->dirtied));
    json_object_object_add(j, "disk_flushed", json_object_new_uint64(r->disk_flushed));
    json_object_object_add(j, "disk_verified", json_object_new_uint64(r->disk_verified));
    json_object_object_add(j, "disk_errors", json_object_new_uint64(r->disk_errors));
    json_object_object_add(j, "database_rows", json_object_new_uint64(r->database_rows));
    json_object_object_add(j, "database_checked", json_object_new_uint64(r->database_checked));
    json_object_object_add(j, "database_errors", json_object_new_uint64(r->database_errors));
    json_object_object_add(j, "gap_ms",
                           json_object_new_double((double)(open_gap > p->longest ? open_gap : p->longest) / 1e6));
    json_object_object_add(j, "after_gap_ms", json_object_new_double(open_gap > p->longest ? 0 : r->after_gap_ms));
    return j;
}

static void owner_input(struct prober *p)
{
    char request;
    struct json_object *answer = NULL;
    if (read(p->owner_fd, &request, 1) != 1)
        _exit(0);
    if (request >= '0' && request < '0' + CLIENT_PHASES) {
        p->phase = (enum client_phase)(request - '0');
        p->phase_begin = now_ns();
    } else if (request >= 'a' && request < 'a' + CLIENT_PHASES) {
        answer = hist_to_json(p->latency[request - 'a']);
    } else if (request == 'm') {
        p->longest = 0;
        p->report.after_gap_ms = 0;
    } else if (request == 'v') {
        p->disk.verify = p->has_disk;
        p->database.verify = p->has_database;
    } else if (request == 'r') {
        answer = report_to_json(p);
    }
    dprintf(p->owner_fd, "%s\n", answer ? json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN) : "{}");
    json_object_put(answer);
}

/* ---- the loop ---- */

static int listen_for_beacons(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(BEACON_PORT)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a)) {
        perror("hikae-demo: beacons");
        _exit(1);
    }
    return fd;
}

/* When it is due; a new connection at once, lest it be taken for one that never answers. */
static void ask(struct prober *p, struct connection *c, bool due, const char *line)
{
    if (c->fd >= 0 && (due || !c->asked))
        c->asked = send_line(p, c, line);
}

static void send_what_is_due(struct prober *p)
{
    int64_t now = now_ms();
    if (now >= p->next_request) {
        p->next_request = now - p->next_request > 1000 ? now + p->request_ms : p->next_request + p->request_ms;
        if (p->counter.fd >= 0 && p->sent - p->answered < IN_FLIGHT)
            send_line(p, &p->counter, "next\n");
    }
    if (now >= p->next_put && p->database.fd >= 0 && !p->transaction) {
        p->next_put = now + PUT_MS;
        p->transaction = send_line(p, &p->database, "put\n");
    }
    bool stats = now >= p->next_stats;
    p->next_stats = stats ? now + STATS_MS : p->next_stats;
    ask(p, &p->control, stats, "stats\n");
    ask(p, &p->disk, stats, "stats\n");
    if (p->disk.verify && p->disk.answered)
        p->disk.verify = !send_line(p, &p->disk, "verify\n");
    if (p->database.verify && p->database.answered)
        p->database.verify = !send_line(p, &p->database, "check\n");
}

static void turn(struct prober *p)
{
    struct pollfd fds[] = {{.fd = p->owner_fd, .events = POLLIN},   {.fd = p->counter.fd, .events = POLLIN},
                           {.fd = p->control.fd, .events = POLLIN}, {.fd = p->beacon_fd, .events = POLLIN},
                           {.fd = p->disk.fd, .events = POLLIN},    {.fd = p->database.fd, .events = POLLIN}};
    if (poll(fds, 6, 1) > 0) {
        if (fds[1].revents)
            connection_input(p, &p->counter);
        if (fds[2].revents)
            connection_input(p, &p->control);
        if (fds[3].revents)
            beacon_input(p);
        if (fds[4].revents)
            connection_input(p, &p->disk);
        if (fds[5].revents)
            connection_input(p, &p->database);
        if (fds[0].revents)
            owner_input(p);
    }
    send_what_is_due(p);
    connection_tend(p, &p->counter);
    connection_tend(p, &p->control);
    if (p->has_disk)
        connection_tend(p, &p->disk);
    if (p->has_database)
        connection_tend(p, &p->database);
}

void prober_run(int fd, const struct options *o)
{
    static struct prober p;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid(); /* Ctrl-C is the demo's business */
    p = (struct prober){.counter = {.fd = -1, .port = 7},
                        .control = {.fd = -1, .port = 8},
                        .disk = {.fd = -1, .port = 9},
                        .database = {.fd = -1, .port = 10},
                        .has_disk = o->disk_mb,
                        .has_database = o->database,
                        .address = o->guest_address ? o->guest_address : GUEST_ADDRESS,
                        .owner_fd = fd,
                        .beacon_fd = listen_for_beacons(),
                        .request_ms = o->request_ms,
                        .dead_ms = DEAD_MS + o->detect_ms};
    for (int i = 0; i < CLIENT_PHASES; i++)
        p.latency[i] = hist_new();
    for (;;)
        turn(&p);
}
