#include "disk/socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

int disk_socket_send(int fd, const void *message, size_t n, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(DISK_SOCKET_FDS * sizeof(int))];
    } control = {0};
    struct iovec data = {.iov_base = (void *)(uintptr_t)message, .iov_len = n};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd_count > 0) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -1;
}

static void take_fds(struct msghdr *m, int *fds, unsigned *count)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        *count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), *count * sizeof(int));
    }
}

int disk_socket_receive(int fd, void *message, size_t n, int *fds, unsigned *fd_count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(DISK_SOCKET_FDS * sizeof(int))];
    } control;
    struct iovec data = {.iov_base = message, .iov_len = n};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    *fd_count = 0;
    ssize_t got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    if (got < 0)
        return -1;
    take_fds(&m, fds, fd_count);
    if ((size_t)got == n && !(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return 0;
    for (unsigned i = 0; i < *fd_count; i++)
        close(fds[i]);
    *fd_count = 0;
    errno = got == 0 ? ECONNRESET : EPROTO;
    return -1;
}

int disk_socket_address(const char *dir, const char *name, struct sockaddr_un *out, struct errmsg *e)
{
    out->sun_family = AF_UNIX;
    if (snprintf(out->sun_path, sizeof out->sun_path, "%s/%s", dir, name) >= (int)sizeof out->sun_path)
        return errmsg_set(e, "%s: too long a name for the folder of unix sockets: choose a shorter run_dir", dir);
    return 0;
}

static int bound_waits(int fd)
{
    struct timeval bound = {.tv_sec = 5};
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound) < 0 ||
                   setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound) < 0
               ? -1
               : 0;
}

static int open_socket(const char *dir, bool wait, struct errmsg *e)
{
    struct sockaddr_un address;
    if (disk_socket_address(dir, "control.sock", &address, e) < 0) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (wait ? 0 : SOCK_NONBLOCK), 0);
    if (fd >= 0 && bound_waits(fd) == 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int error = errno;
    if (error == ENOENT || error == ECONNREFUSED)
        errmsg_set(e, "no disk server runs in %s", dir);
    else
        errmsg_set(e, "the disk server in %s: %s", dir, strerror(error));
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

int disk_socket_open(const char *dir, struct errmsg *e)
{
    return open_socket(dir, true, e);
}

int disk_socket_try(const char *dir, struct errmsg *e)
{
    return open_socket(dir, false, e);
}

int disk_socket_connect(const char *dir, struct disk_hello *hello, struct errmsg *e)
{
    int fds[DISK_SOCKET_FDS], fd = disk_socket_open(dir, e);
    unsigned n;
    if (fd < 0)
        return -1;
    if (disk_socket_receive(fd, hello, sizeof *hello, fds, &n) < 0) {
        int error = errno;
        bool dying = error == ECONNRESET || error == EPIPE; /* it was killed, and its sockets close one by one */
        if (dying)
            errmsg_set(e, "no disk server runs in %s", dir);
        else
            errmsg_set(e, "the disk server in %s: %s", dir, error == EAGAIN ? "no answer within 5 s" : strerror(error));
        close(fd);
        errno = dying ? ECONNREFUSED : error;
        return -1;
    }
    if (hello->version == DISK_SOCKET_VERSION && hello->count >= 1 && hello->count <= DISK_MAX)
        return fd;
    close(fd);
    errno = EPROTO;
    return errmsg_set(e, "the disk server in %s is of another version: stop the VM and start it again", dir);
}

int disk_socket_call(int fd, const struct disk_request *r, int *fds, unsigned n, struct errmsg *e)
{
    struct disk_answer answer;
    int got[DISK_SOCKET_FDS];
    unsigned count;
    if (disk_socket_send(fd, r, sizeof *r, NULL, 0) < 0 ||
        disk_socket_receive(fd, &answer, sizeof answer, got, &count) < 0) {
        errmsg_set(e, "the disk server: %s", errno == EAGAIN ? "no answer within 5 s" : strerror(errno));
        shutdown(fd, SHUT_RDWR); /* an answer that comes late belongs to nothing */
        return -1;
    }
    answer.text[sizeof answer.text - 1] = '\0';
    if (answer.status >= 0 && count == n) {
        for (unsigned i = 0; i < n; i++)
            fds[i] = got[i];
        return answer.status;
    }
    for (unsigned i = 0; i < count; i++)
        close(got[i]);
    return errmsg_set(e, "%s",
                      answer.status < 0 ? answer.text : "the disk server sent something else than was asked for");
}
