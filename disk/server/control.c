#include "disk/server/control.h"

#include "disk/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* QUEUE: a server that hangs can still be connected to, and so be found, by many who lose patience. */
enum { CLIENTS_MAX = 16, QUEUE = 128, STOP = CLIENTS_MAX, LISTENER, POLLED };

struct control {
    struct disk_set *set;
    pthread_t thread;
    struct pollfd polled[POLLED]; /* the clients, -1: none; then `stop`, the listener */
    int tracker;                  /* the client whose log it is; -1: none */
};

static void hang_up(struct control *c, int client)
{
    if (client == c->tracker) {
        c->tracker = -1;
        disk_set_track(c->set, NULL);
    }
    close(c->polled[client].fd);
    c->polled[client].fd = -1;
}

static int refuse(struct disk_answer *a, const struct errmsg *e)
{
    a->status = -1;
    snprintf(a->text, sizeof a->text, "%.*s", (int)sizeof a->text - 1, e->text);
    return -1;
}

/* The log's descriptors are sent before the disk set may drop it. */
static void track(struct control *c, int client, struct disk_answer *answer)
{
    struct errmsg e;
    struct write_log *log = NULL;
    if (c->tracker >= 0 && c->tracker != client)
        errmsg_set(&e, "another process tracks this VM's disks");
    else
        log = write_log_create(WRITE_LOG_SOFT, WRITE_LOG_HARD, &e);
    if (!log) {
        refuse(answer, &e);
        disk_socket_send(c->polled[client].fd, answer, sizeof *answer, NULL, 0);
        return;
    }
    int fds[DISK_SOCKET_FDS] = {write_log_memory_fd(log), write_log_bell_fd(log)};
    c->tracker = client;
    disk_set_track(c->set, log);
    if (disk_socket_send(c->polled[client].fd, answer, sizeof *answer, fds, 2) < 0)
        hang_up(c, client);
}

static void untrack(struct control *c, int client, struct disk_answer *answer)
{
    if (c->tracker == client) {
        c->tracker = -1;
        disk_set_track(c->set, NULL);
    }
    disk_socket_send(c->polled[client].fd, answer, sizeof *answer, NULL, 0);
}

static void let_out(struct control *c, int client, struct disk_answer *answer)
{
    answer->status = !disk_set_let_out(c->set);
    disk_socket_send(c->polled[client].fd, answer, sizeof *answer, NULL, 0);
}

/* Opened anew: a file position of its own, and none of our locks, which would otherwise live as long as the client. */
static void give_store(struct control *c, int client, const struct disk_request *r, struct disk_answer *answer)
{
    char path[32];
    struct errmsg e;
    int fd = -1;
    if (r->disk < disk_set_count(c->set)) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", disk_set_backing(c->set, r->disk)->fd);
        fd = open(path, (r->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
        errmsg_set(&e, "the store of disk %u: %s", r->disk, strerror(errno));
    } else {
        errmsg_set(&e, "there is no disk %u", r->disk);
    }
    if (fd < 0)
        refuse(answer, &e);
    disk_socket_send(c->polled[client].fd, answer, sizeof *answer, &fd, fd >= 0);
    if (fd >= 0)
        close(fd);
}

static void serve(struct control *c, int client)
{
    struct disk_request request;
    struct disk_answer answer = {0};
    int fds[DISK_SOCKET_FDS];
    unsigned n;
    if (disk_socket_receive(c->polled[client].fd, &request, sizeof request, fds, &n) < 0 || n > 0) {
        for (unsigned i = 0; i < n; i++)
            close(fds[i]);
        hang_up(c, client);
    } else if (request.what == DISK_REQUEST_TRACK) {
        track(c, client, &answer);
    } else if (request.what == DISK_REQUEST_UNTRACK) {
        untrack(c, client, &answer);
    } else if (request.what == DISK_REQUEST_STORE) {
        give_store(c, client, &request, &answer);
    } else if (request.what == DISK_REQUEST_RELEASE && client == c->tracker) {
        disk_set_release(c->set, request.disk | (uint64_t)request.writable << 32);
    } else if (request.what == DISK_REQUEST_OPEN) {
        let_out(c, client, &answer);
    } else {
        hang_up(c, client);
    }
}

static void welcome(struct control *c)
{
    struct disk_hello hello = {.version = DISK_SOCKET_VERSION,
                               .count = (uint16_t)disk_set_count(c->set),
                               .shared = (uint16_t)disk_set_shared(c->set)};
    int fd = accept4(c->polled[LISTENER].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), slot = 0;
    while (slot < CLIENTS_MAX && c->polled[slot].fd >= 0)
        slot++;
    for (unsigned i = 0; i < hello.count; i++) {
        const struct backing *b = disk_set_backing(c->set, i);
        hello.disk[i].bytes = b->bytes;
        hello.disk[i].device = b->device;
        hello.disk[i].inode = b->inode;
    }
    if (fd < 0)
        return;
    if (slot == CLIENTS_MAX || disk_socket_send(fd, &hello, sizeof hello, NULL, 0) < 0)
        close(fd);
    else
        c->polled[slot].fd = fd;
}

static void *run(void *arg)
{
    struct control *c = arg;
    for (;;) {
        if (poll(c->polled, POLLED, -1) < 0)
            continue; /* EINTR */
        if (c->polled[STOP].revents)
            return NULL;
        for (int i = 0; i < CLIENTS_MAX; i++) /* before new ones: a place, or the tracking, may become free */
            if (c->polled[i].fd >= 0 && c->polled[i].revents)
                serve(c, i);
        if (c->polled[LISTENER].revents)
            welcome(c);
    }
}

static int listen_at(const char *dir, struct errmsg *e)
{
    struct sockaddr_un address;
    if (disk_socket_address(dir, "control.sock", &address, e) < 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(address.sun_path);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, QUEUE) == 0)
        return fd;
    errmsg_set(e, "%s: %s", address.sun_path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static void free_control(struct control *c)
{
    for (int i = 0; i < POLLED; i++)
        if (c->polled[i].fd >= 0)
            close(c->polled[i].fd);
    free(c);
}

struct control *control_start(const char *dir, struct disk_set *set, struct errmsg *e)
{
    struct control *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->set = set;
    c->tracker = -1;
    for (int i = 0; i < POLLED; i++)
        c->polled[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    c->polled[STOP].fd = eventfd(0, EFD_CLOEXEC);
    c->polled[LISTENER].fd = listen_at(dir, e);
    if (c->polled[LISTENER].fd >= 0 && c->polled[STOP].fd >= 0) {
        int error = pthread_create(&c->thread, NULL, run, c);
        if (error == 0)
            return c;
        errmsg_set(e, "starting a thread: %s", strerror(error));
    }
    free_control(c);
    return NULL;
}

void control_stop(struct control *c)
{
    if (!c)
        return;
    uint64_t one = 1;
    (void)!write(c->polled[STOP].fd, &one, sizeof one);
    pthread_join(c->thread, NULL);
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (c->polled[i].fd >= 0)
            hang_up(c, i);
    free_control(c);
}
