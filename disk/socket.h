/*
 * socket: what is spoken over a disk server's control.sock, a SOCK_SEQPACKET socket between two programs of this host.
 * The server says hello at once, then answers each request with one message. Internal to disk/.
 */
#ifndef HIKAE_DISK_SOCKET_H
#define HIKAE_DISK_SOCKET_H

#include "common/errmsg.h"
#include "disk/log.h"

#include <sys/types.h>

enum { DISK_SOCKET_VERSION = 1, DISK_SOCKET_FDS = 2 };

struct disk_hello {
    uint32_t version;
    uint16_t count, shared; /* so many, the last ones, are shared with another host */
    struct {
        uint64_t bytes;
        uint64_t device,
            inode; /* which store this is, by whatever path: st_dev and st_ino; a block device's st_rdev and 0 */
    } disk[DISK_MAX];
};

enum disk_request_what {
    DISK_REQUEST_TRACK, /* answered with the log's two descriptors */
    DISK_REQUEST_UNTRACK,
    DISK_REQUEST_STORE,   /* answered with one descriptor */
    DISK_REQUEST_RELEASE, /* lets out what is before a position in the log: disk + 2^32 writable; not answered */
    DISK_REQUEST_OPEN,    /* lets everything out; status 1: what was held is not durable yet, ask again */
};

struct disk_request {
    uint32_t what, disk, writable;
};

struct disk_answer {
    int32_t status; /* 0 or more, or -1 with a text */
    char text[500];
};

/* Connects to the server of `dir` and hears its hello, within 5 s. The connection, or -1 with `e`, errno ENOENT or
 * ECONNREFUSED if none runs there. */
int disk_socket_connect(const char *dir, struct disk_hello *hello, struct errmsg *e);
/* The same without the hello: whatever version it is. */
int disk_socket_open(const char *dir, struct errmsg *e);
/* The same at once or not at all (EAGAIN: its queue is full), and what is read from it never waits. */
int disk_socket_try(const char *dir, struct errmsg *e);
/* Asks and waits for the answer, 5 s at most. `fds` gets the `n` descriptors that belong to it. Its status. */
int disk_socket_call(int fd, const struct disk_request *r, int *fds, unsigned n, struct errmsg *e);

/* One message with up to DISK_SOCKET_FDS descriptors. -1 with errno. */
int disk_socket_send(int fd, const void *message, size_t n, const int *fds, unsigned fd_count);
/* One whole message of exactly `n` octets; descriptors that came with it are put into `fds` (room for DISK_SOCKET_FDS),
 * *fd_count says how many. 0; -1 with errno (EPROTO: another length, ECONNRESET: the other side is gone). */
int disk_socket_receive(int fd, void *message, size_t n, int *fds, unsigned *fd_count);
/* DIR/NAME as a socket's address. */
struct sockaddr_un;
int disk_socket_address(const char *dir, const char *name, struct sockaddr_un *out, struct errmsg *e);

#endif
