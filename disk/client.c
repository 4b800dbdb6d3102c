#include "disk/client.h"

#include "disk/socket.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct disk_client {
    int socket, poll; /* poll: readable when the socket or the log's bell is */
    struct disk_hello hello;
    struct write_log *log; /* NULL: not tracking */
};

static int watch(struct disk_client *c, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
    return epoll_ctl(c->poll, EPOLL_CTL_ADD, fd, &event);
}

struct disk_client *disk_connect(const char *dir, struct errmsg *e)
{
    struct disk_client *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->poll = -1;
    c->socket = disk_socket_connect(dir, &c->hello, e);
    if (c->socket >= 0) {
        c->poll = epoll_create1(EPOLL_CLOEXEC);
        if (c->poll >= 0 && watch(c, c->socket) == 0)
            return c;
        errmsg_set(e, "watching the disk server in %s: %s", dir, strerror(errno));
    }
    disk_disconnect(c);
    return NULL;
}

void disk_disconnect(struct disk_client *c)
{
    if (!c)
        return;
    if (c->socket >= 0)
        close(c->socket);
    if (c->poll >= 0)
        close(c->poll);
    write_log_free(c->log);
    free(c);
}

int disk_fd(const struct disk_client *c)
{
    return c->poll;
}

bool disk_is_whole(const struct disk_client *c)
{
    struct pollfd hangup = {.fd = c->socket, .events = POLLRDHUP};
    return poll(&hangup, 1, 0) == 0;
}

unsigned disk_events(struct disk_client *c)
{
    unsigned events = c->log ? write_log_events(c->log) : 0;
    return disk_is_whole(c) ? events : events | DISK_EVENT_GONE;
}

unsigned disk_count(const struct disk_client *c)
{
    return c->hello.count;
}

unsigned disk_shared(const struct disk_client *c)
{
    return c->hello.shared;
}

uint64_t disk_bytes(const struct disk_client *c, unsigned disk)
{
    return disk < c->hello.count ? c->hello.disk[disk].bytes : 0;
}

static int untrack(struct disk_client *c, struct errmsg *e)
{
    if (!c->log)
        return 0;
    epoll_ctl(c->poll, EPOLL_CTL_DEL, write_log_bell_fd(c->log),
              NULL); /* the server has it too: closing is not enough */
    write_log_free(c->log);
    c->log = NULL;
    return disk_socket_call(c->socket, &(struct disk_request){.what = DISK_REQUEST_UNTRACK}, NULL, 0, e);
}

int disk_track(struct disk_client *c, bool on, struct errmsg *e)
{
    int fds[2];
    if (untrack(c, e) < 0)
        return -1;
    if (!on)
        return 0;
    if (disk_socket_call(c->socket, &(struct disk_request){.what = DISK_REQUEST_TRACK}, fds, 2, e) < 0)
        return -1;
    c->log = write_log_map(fds[0], fds[1], e);
    if (!c->log)
        return -1;
    return watch(c, write_log_bell_fd(c->log)) < 0 ? errmsg_set(e, "watching the write log: %s", strerror(errno)) : 0;
}

void disk_set_pausing(struct disk_client *c, bool pausing)
{
    if (c->log)
        write_log_set_pausing(c->log, pausing);
}

void disk_set_urgent(struct disk_client *c)
{
    if (c->log)
        write_log_set_urgent(c->log);
}

void disk_set_stopped(struct disk_client *c)
{
    if (c->log)
        write_log_set_stopped(c->log);
}

uint64_t disk_mark(const struct disk_client *c)
{
    return c && c->log ? write_log_head(c->log) : 0;
}

uint64_t disk_used(const struct disk_client *c)
{
    return c->log ? write_log_used(c->log) : 0;
}

bool disk_owes_flush(const struct disk_client *c)
{
    return c->log && write_log_owes(c->log);
}

void disk_store_identity(const struct disk_client *c, unsigned disk, char out[DISK_IDENTITY_MAX])
{
    disk_identity(c->hello.disk[disk].device, c->hello.disk[disk].inode, out);
}

int disk_let_out(struct disk_client *c, struct errmsg *e)
{
    int waits = c->hello.shared
                    ? disk_socket_call(c->socket, &(struct disk_request){.what = DISK_REQUEST_OPEN}, NULL, 0, e)
                    : 0;
    return waits < 0 ? -1 : !waits;
}

void disk_hold(struct disk_client *c)
{
    if (c->log && c->hello.shared)
        write_log_set_holding(c->log, true);
}

void disk_let_out_to(struct disk_client *c, uint64_t mark)
{
    struct disk_request request = {
        .what = DISK_REQUEST_RELEASE, .disk = (uint32_t)mark, .writable = (uint32_t)(mark >> 32)};
    if (c->log && c->hello.shared)
        (void)disk_socket_send(c->socket, &request, sizeof request, NULL, 0); /* a server that is gone is noticed */
}

uint64_t disk_durable(const struct disk_client *c)
{
    return c->log ? write_log_durable(c->log) : 0;
}

uint64_t disk_flushed(const struct disk_client *c)
{
    return c->log ? write_log_flushed(c->log) : 0;
}

int disk_stuck(const struct disk_client *c)
{
    return c->log ? write_log_stuck(c->log) : 0;
}

int disk_store_open(struct disk_client *c, unsigned disk, bool writable, struct errmsg *e)
{
    int fd;
    struct disk_request request = {.what = DISK_REQUEST_STORE, .disk = disk, .writable = writable};
    return disk_socket_call(c->socket, &request, &fd, 1, e) < 0 ? -1 : fd;
}

int disk_next(struct disk_client *c, uint64_t upto, struct disk_write *out)
{
    return c->log ? write_log_next(c->log, upto, out) : 0;
}

void disk_release(struct disk_client *c)
{
    if (c->log)
        write_log_release(c->log);
}
