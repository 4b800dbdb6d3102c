/* etcd_cluster: see etcd_cluster.h. */
#include "tests/integration/etcd_cluster.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

bool etcd_is_installed(void)
{
    return system("command -v etcd >/dev/null && command -v openssl >/dev/null") == 0; /* NOLINT(cert-env33-c) */
}

static int bound(unsigned port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

unsigned etcd_free_port(void)
{
    struct sockaddr_in at;
    socklen_t n = sizeof at;
    int fd = bound(0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    close(fd);
    return ntohs(at.sin_port);
}

/* 0 in the child, which dies with us. */
static pid_t fork_bound(void)
{
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent))
        _exit(1);
    return pid;
}

void etcd_end_process(pid_t *pid)
{
    if (*pid > 0) {
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
    }
    *pid = 0;
}

/* ---- certificates ---- */

static void run(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    if (system(command)) /* NOLINT(cert-env33-c) */
        fail_msg("failed: %s", command);
}

#define OPENSSL "cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
static void make_certificates(struct etcd_cluster *c)
{
    run(OPENSSL "-subj /CN=test-ca -keyout ca.key -out ca.pem 2>/dev/null", c->dir);
    run(OPENSSL "-subj /CN=another-ca -keyout other.key -out other.pem 2>/dev/null", c->dir);
    run(OPENSSL "-subj /CN=member -addext subjectAltName=IP:127.0.0.1 -CA ca.pem -CAkey ca.key -keyout member.key "
                "-out member.pem 2>/dev/null",
        c->dir);
    run(OPENSSL "-subj /CN=client -CA ca.pem -CAkey ca.key -keyout client.key -out client.pem 2>/dev/null", c->dir);
    snprintf(c->ca, sizeof c->ca, "%s/ca.pem", c->dir);
    snprintf(c->other_ca, sizeof c->other_ca, "%s/other.pem", c->dir);
    snprintf(c->cert, sizeof c->cert, "%s/client.pem", c->dir);
    snprintf(c->key, sizeof c->key, "%s/client.key", c->dir);
}

/* ---- members ---- */

const char *etcd_member_url(const struct etcd_cluster *c, int i)
{
    static char url[64];
    snprintf(url, sizeof url, "http%s://127.0.0.1:%u", c->tls ? "s" : "", c->client_port[i]);
    return url;
}

void etcd_member_start(struct etcd_cluster *c, int i)
{
    char name[8], data[96], log[96], peer[64], all[256], client[64];
    snprintf(name, sizeof name, "m%d", i);
    snprintf(data, sizeof data, "%s/%s", c->dir, name);
    snprintf(log, sizeof log, "%s/%s.log", c->dir, name);
    snprintf(peer, sizeof peer, "http://127.0.0.1:%u", c->peer_port[i]);
    snprintf(client, sizeof client, "%s", etcd_member_url(c, i));
    snprintf(all, sizeof all, "m0=http://127.0.0.1:%u,m1=http://127.0.0.1:%u,m2=http://127.0.0.1:%u", c->peer_port[0],
             c->peer_port[1], c->peer_port[2]);
    char *argv[40] = {"etcd",  "--name",
                      name,    "--data-dir",
                      data,    "--listen-client-urls",
                      client,  "--advertise-client-urls",
                      client,  "--listen-peer-urls",
                      peer,    "--initial-advertise-peer-urls",
                      peer,    "--initial-cluster",
                      all,     "--heartbeat-interval",
                      "50",    "--election-timeout",
                      "500",   "--log-level",
                      "error", "--logger",
                      "zap"};
    if (c->tls) {
        static char *const tls[] = {"--cert-file",        "member.pem",        "--key-file", "member.key",
                                    "--client-cert-auth", "--trusted-ca-file", "ca.pem"};
        memcpy(argv + 23, tls, sizeof tls);
    }
    c->pids[i] = fork_bound();
    if (c->pids[i])
        return;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    setenv("GOMAXPROCS", "1", 1);
    if (chdir(c->dir) == 0)
        execvp("etcd", argv);
    _exit(127);
}

void etcd_member_signal(const struct etcd_cluster *c, int i, int signum)
{
    assert_true(c->pids[i] > 0);
    assert_int_equal(kill(c->pids[i], signum), 0);
}

void etcd_member_kill(struct etcd_cluster *c, int i)
{
    etcd_end_process(&c->pids[i]);
}

void etcd_cluster_start(struct etcd_cluster *c, bool tls)
{
    *c = (struct etcd_cluster){.tls = tls};
    strcpy(c->dir, "/tmp/hikae-int-etcd-XXXXXX");
    assert_non_null(mkdtemp(c->dir));
    if (tls)
        make_certificates(c);
    strcpy(c->url, "etcd:");
    for (int i = 0; i < MEMBERS; i++) {
        c->client_port[i] = etcd_free_port();
        c->peer_port[i] = etcd_free_port();
        strcat(strcat(c->url, i ? "," : ""), etcd_member_url(c, i));
    }
    for (int i = 0; i < MEMBERS; i++)
        etcd_member_start(c, i);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

void etcd_cluster_end(struct etcd_cluster *c)
{
    for (int i = 0; i < MEMBERS; i++)
        etcd_member_kill(c, i);
    nftw(c->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- servers that are none ---- */

pid_t etcd_fake_server(unsigned port, const char *text, size_t n)
{
    int fd = bound(port);
    assert_int_equal(listen(fd, 8), 0);
    pid_t pid = fork_bound();
    if (pid) {
        close(fd);
        return pid;
    }
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        char request[4096];
        int client = accept(fd, NULL, NULL);
        ssize_t got = read(client, request, sizeof request);
        for (size_t at = 0; got > 0 && at < n; at += (size_t)got)
            got = write(client, text + at, n - at);
        shutdown(client, SHUT_WR);
        while (read(client, request, sizeof request) > 0) {
        }
        close(client);
    }
}

/* One HTTP message with its body; its length, 0: the connection is at its end. */
static size_t read_message(int fd, char *out, size_t max)
{
    size_t n = 0, want = 0;
    while (n < max - 1 && (!want || n < want)) {
        ssize_t got = read(fd, out + n, max - 1 - n);
        if (got <= 0)
            return 0;
        n += (size_t)got;
        out[n] = 0;
        const char *body = strstr(out, "\r\n\r\n"), *length = strcasestr(out, "Content-Length:");
        if (body && length)
            want = (size_t)(body + 4 - out) + strtoul(length + 15, NULL, 10);
    }
    return n;
}

static void forward(int client, unsigned member_port)
{
    char request[8192], reply[8192];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)member_port);
    size_t n;
    int member = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(member, (struct sockaddr *)&at, sizeof at) == 0)
        while ((n = read_message(client, request, sizeof request)) && write(member, request, n) == (ssize_t)n &&
               (n = read_message(member, reply, sizeof reply)) && !strstr(request, "/v3/kv/txn") &&
               write(client, reply, n) == (ssize_t)n) {
        }
    close(member);
}

pid_t etcd_losing_proxy(unsigned port, unsigned member_port)
{
    int fd = bound(port);
    assert_int_equal(listen(fd, 8), 0);
    pid_t pid = fork_bound();
    if (pid) {
        close(fd);
        return pid;
    }
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int client = accept(fd, NULL, NULL);
        forward(client, member_port);
        close(client);
    }
}
