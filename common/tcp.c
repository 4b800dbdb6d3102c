#include "common/tcp.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 64 };

static int listen_on(const struct addrinfo *a)
{
    int on = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on); /* IPv4 has a socket of its own */
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, BACKLOG))
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int tcp_listen(const char *host, const char *port, int *fds, int max, struct errmsg *e)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *all;
    int error = getaddrinfo(strcmp(host, "*") ? host : NULL, port, &hints, &all), n = 0;
    if (error)
        return errmsg_set(e, "listen = %s, port = %s: %s", host, port, gai_strerror(error));
    error = 0;
    for (struct addrinfo *a = all; a && n < max; a = a->ai_next) {
        int fd = listen_on(a);
        if (fd >= 0)
            fds[n++] = fd;
        else if (errno != EAFNOSUPPORT)
            error = errno;
    }
    freeaddrinfo(all);
    if (n)
        return n;
    return errmsg_set(e, "can't listen on %s port %s: %s%s", host, port, strerror(error),
                      error == EADDRINUSE ? " (is another hikae-secondary running? else set port = in [host])" : "");
}
