/* wire: see wire.h. */
#include "tests/campaign/wire.h"

#include "tools/demo/run.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NFT_MS = 10000, RATE_PORT = 5001, RATE_MS = 500, CHUNK = 1 << 18 };

static int nft(const struct host *h, const char *script, struct errmsg *e)
{
    char net[64];
    snprintf(net, sizeof net, "--net=/proc/%d/ns/net", h->pid);
    return run_program((const char *const[]){"nsenter", net, "nft", "-f", "-", NULL}, script, NFT_MS, e);
}

int wire_set(const struct host *to, const char *rule, struct errmsg *e)
{
    char script[512];
    snprintf(script, sizeof script,
             "table inet campaign { }\n"
             "delete table inet campaign\n"
             "table inet campaign {\n"
             "  chain in { type filter hook input priority 0; ip saddr 10.78.0.%d %s; }\n"
             "}\n",
             3 - to->number, rule);
    return nft(to, script, e);
}

void wire_clear(const struct host hosts[2])
{
    struct errmsg ignored;
    for (int i = 0; i < 2; i++)
        if (hosts[i].pid > 0)
            (void)nft(&hosts[i], "table inet campaign { }\ndelete table inet campaign\n", &ignored);
}

/* ---- its rate ---- */

static int enter(const struct host *h)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", h->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int bad = fd < 0 || setns(fd, CLONE_NEWNET);
    if (fd >= 0)
        close(fd);
    return bad;
}

static struct sockaddr_in address_of(const struct host *h)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons(RATE_PORT),
                                .sin_addr.s_addr = htonl(0x0a4e0000U | (uint32_t)h->number)};
}

/* Says when it listens, then how much it got per second. */
static _Noreturn void receive(const struct host *h, int out)
{
    struct sockaddr_in a = address_of(h);
    static char chunk[CHUNK];
    double got = 0, result = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (enter(h))
        _exit(1);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 1) || write(out, "l", 1) != 1)
        _exit(1);
    int fd = accept(listener, NULL, NULL);
    double begin = wall_ms();
    for (ssize_t n; (n = read(fd, chunk, sizeof chunk)) > 0;)
        got += (double)n;
    result = got / (wall_ms() - begin) * 1e3;
    _exit(write(out, &result, sizeof result) != sizeof result);
}

static _Noreturn void send_for_a_while(const struct host *from, const struct host *to)
{
    struct sockaddr_in a = address_of(to);
    static char chunk[CHUNK];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (enter(from))
        _exit(1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a))
        _exit(1);
    for (int64_t end = now_ms() + RATE_MS; now_ms() < end;)
        if (write(fd, chunk, sizeof chunk) < 0)
            _exit(1);
    _exit(0);
}

double wire_rate(const struct host hosts[2], struct errmsg *e)
{
    int told[2];
    char byte;
    double rate = 0;
    if (pipe2(told, O_CLOEXEC)) {
        errmsg_set(e, "pipe: %s", strerror(errno));
        return 0;
    }
    pid_t receiver = fork();
    if (receiver == 0)
        receive(&hosts[1], told[1]);
    close(told[1]);
    pid_t sender = read(told[0], &byte, 1) == 1 ? fork() : -1;
    if (sender == 0)
        send_for_a_while(&hosts[0], &hosts[1]);
    if (sender < 0 || read(told[0], &rate, sizeof rate) != sizeof rate) {
        errmsg_set(e, "no TCP connection from %s to %s", hosts[0].name, hosts[1].name);
        rate = 0;
    }
    close(told[0]);
    for (int i = 0; i < 2; i++) {
        pid_t pid = i ? sender : receiver;
        if (pid > 0) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
    }
    return rate;
}
