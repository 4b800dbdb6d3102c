/* round_trip: see round_trip.h. A socket belongs to the network namespace it was made in, whoever uses it later. */
#include "tests/bench/round_trip.h"

#include "tools/demo/report.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 501, PORT = 4447 };

/* A TCP socket on that host. */
static int socket_on(const struct host *h)
{
    char path[64];
    int on = 1, fd = -1;
    snprintf(path, sizeof path, "/proc/%d/ns/net", h->pid);
    int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), there = open(path, O_RDONLY | O_CLOEXEC);
    if (here >= 0 && there >= 0 && !setns(there, CLONE_NEWNET)) {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (setns(here, CLONE_NEWNET))
            _exit(1); /* lost in another host */
    }
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    close(here);
    close(there);
    return fd;
}

static _Noreturn void echo(int listener)
{
    char byte;
    int on = 1, fd = accept(listener, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
        ;
    _exit(0);
}

static double wall(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int ping(int fd, double times[ROUNDS])
{
    char byte = 'h';
    for (int i = 0; i < ROUNDS; i++) {
        double start = wall();
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
            return -1;
        times[i] = wall() - start;
    }
    return 0;
}

double round_trip_ms(const struct host hosts[2], struct errmsg *e)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    double times[ROUNDS];
    char text[32];
    snprintf(text, sizeof text, "10.78.0.%d", hosts[1].number);
    a.sin_addr.s_addr = inet_addr(text);
    int listener = socket_on(&hosts[1]), fd = socket_on(&hosts[0]);
    pid_t child = -1;
    int bad = listener < 0 || fd < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 1);
    if (!bad && (child = fork()) == 0)
        echo(listener);
    bad = bad || child < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) || ping(fd, times);
    if (bad)
        errmsg_set(e, "a round trip between the hosts: %s", strerror(errno));
    close(fd);
    close(listener);
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return bad ? -1 : report_percentile(times, ROUNDS, 50);
}
