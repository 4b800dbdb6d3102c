/* etcd: see etcd.h. */
#include "tools/demo/etcd.h"

#include "tools/demo/run.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEALTH_MS = 1000 };
static pid_t pids[ETCD_MEMBERS];

static void become_member(int i, const char *dir)
{
    char name[16], data[192], log[192], client[40], peer[40];
    snprintf(name, sizeof name, "m%d", i + 1);
    snprintf(data, sizeof data, "%s/etcd-%s", dir, name);
    snprintf(log, sizeof log, "%s/etcd-%s.log", dir, name);
    snprintf(client, sizeof client, "http://10.78.0.%d:2379", 101 + i);
    snprintf(peer, sizeof peer, "http://10.78.0.%d:2380", 101 + i);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644), null = open("/dev/null", O_RDWR | O_CLOEXEC);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid(); /* Ctrl-C is the demo's business */
    dup2(null, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    execlp("etcd", "etcd", "--name", name, "--data-dir", data, "--listen-client-urls", client,
           "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
           "--initial-cluster", "m1=http://10.78.0.101:2380,m2=http://10.78.0.102:2380,m3=http://10.78.0.103:2380",
           "--logger", "zap", "--log-level", "warn", (char *)NULL);
    _exit(127);
}

static int start_member(int i, const char *dir, struct errmsg *e)
{
    pids[i] = fork();
    if (pids[i] == 0)
        become_member(i, dir);
    return pids[i] < 0 ? errmsg_set(e, "fork: %s", strerror(errno)) : 0;
}

int etcd_start(const char *dir, struct errmsg *e)
{
    static const char *const version[] = {"etcd", "--version", NULL};
    static const char *const clean[] = {"sh", "-c", "rm -rf \"$0\"/etcd-m?", NULL, NULL};
    const char *argv[5];
    memcpy(argv, clean, sizeof clean);
    argv[3] = dir;
    if (run_program(version, NULL, 10000, e))
        return errmsg_set(e, "--arbiter etcd: no etcd can be run: install the package etcd-server");
    /* Terms of an earlier run in this folder would be those of other hosts. */
    if (run_program(argv, NULL, 10000, e) || run_ip(e, "addr add 10.78.0.101/24 dev sw1\n"
                                                       "addr add 10.78.0.102/24 dev sw1\n"
                                                       "addr add 10.78.0.103/24 dev sw1\n"))
        return -1;
    for (int i = 0; i < ETCD_MEMBERS; i++)
        if (start_member(i, dir, e))
            return -1;
    return 0;
}

void etcd_member_signal(int i, int signum)
{
    if (pids[i] <= 0 || kill(pids[i], signum) || signum != SIGKILL)
        return;
    waitpid(pids[i], NULL, 0);
    pids[i] = 0;
}

int etcd_member_restart(int i, const char *dir, struct errmsg *e)
{
    return pids[i] ? 0 : start_member(i, dir, e);
}

static bool member_is_healthy(int i)
{
    static const char request[] = "GET /health HTTP/1.0\r\n\r\n";
    const struct timeval patience = {.tv_sec = HEALTH_MS / 1000};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(2379)};
    char address[24], answer[1024];
    size_t used = 0;
    snprintf(address, sizeof address, "10.78.0.%d", 101 + i);
    a.sin_addr.s_addr = inet_addr(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0 && send(fd, request, sizeof request - 1, MSG_NOSIGNAL) > 0)
        for (ssize_t n; used < sizeof answer - 1; used += (size_t)n)
            if ((n = recv(fd, answer + used, sizeof answer - 1 - used, 0)) <= 0)
                break;
    answer[used] = '\0';
    close(fd);
    return strstr(answer, "\"health\":\"true\"") != NULL;
}

bool etcd_is_healthy(void)
{
    for (int i = 0; i < ETCD_MEMBERS; i++)
        if (!member_is_healthy(i))
            return false;
    return true;
}

void etcd_end(void)
{
    for (int i = 0; i < ETCD_MEMBERS; i++)
        if (pids[i] > 0) {
            kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
            pids[i] = 0;
        }
}
