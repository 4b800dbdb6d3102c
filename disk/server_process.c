#include "disk/server_process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* LISTENER: where a program has the socket that it was started with (process_spawn_listening). */
enum { TERM_MS = 1000, KILL_MS = 30000, LISTENER = 3 };

/* The connection still stands after the pidfd was made, so the number was not reused. */
int server_process_open(int socket, pid_t *pid)
{
    struct ucred peer;
    socklen_t n = sizeof peer;
    struct pollfd hangup = {.fd = socket, .events = POLLRDHUP};
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
        return -1;
    *pid = peer.pid;
    int pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    if (pidfd >= 0 && poll(&hangup, 1, 0) > 0 && hangup.revents & (POLLRDHUP | POLLHUP)) {
        close(pidfd);
        errno = ESRCH;
        return -1;
    }
    return pidfd;
}

bool server_process_has_ended(int pidfd, int wait_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, wait_ms) > 0;
}

int server_process_listener(int pidfd, const char *path)
{
    struct sockaddr_un at = {0};
    socklen_t n = sizeof at;
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, LISTENER, 0);
    if (fd >= 0 && getsockname(fd, (struct sockaddr *)&at, &n) == 0 && at.sun_family == AF_UNIX &&
        strcmp(at.sun_path, path) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* nbdkit answers what it has been asked and waits for its clients to hang up. A VM that doesn't is no longer anybody's:
 * nothing is lost with the process, what it has written is the kernel's. */
int server_process_end(int pidfd, pid_t pid, bool politely, struct errmsg *e)
{
    if (politely)
        syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0);
    if (politely && server_process_has_ended(pidfd, TERM_MS))
        return 0;
    syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    if (server_process_has_ended(pidfd, KILL_MS))
        return 0;
    return errmsg_set(e, "the disk server (process %d) does not end: its store does not answer", (int)pid);
}
