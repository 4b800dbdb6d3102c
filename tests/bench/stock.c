/* stock: see stock.h. */
#include "tests/bench/stock.h"

#include "common/jsonget.h"
#include "tests/bench/qmp_client.h"
#include "tools/demo/run.h"
#include "tools/demo/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAP "stock0"

enum { PORT = 4446, START_MS = 20000, MOVE_MS = 120000, END_MS = 10000, PAGE = 4096, RAM_HEADER = 8, WORDS = 64 };

struct machine {
    pid_t pid; /* of nsenter, which ends when QEMU does; 0: none */
    struct qmp_client *qmp;
};

struct stock {
    unsigned version; /* of QEMU: 7, 10 .. */
    const struct host *hosts;
    const struct options *o;
    char tls[200];
    char disk[300]; /* "": none */
    int active;
    struct machine machines[2]; /* one per host */
};

/* ---- what a move needs ---- */

/* One pair for both hosts and both roles: QEMU's client checks the address, either side that our CA has signed. */
static int make_credentials(const char *dir, struct errmsg *e)
{
    static const char config[] = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = hikae-bench\n"
                                 "[ca]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n"
                                 "[host]\nbasicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\n"
                                 "extendedKeyUsage = serverAuth,clientAuth\n"
                                 "subjectAltName = IP:10.78.0.1,IP:10.78.0.2\n";
    static const char script[] =
        "umask 077 && cd \"$0\" && new='openssl req -x509 -config req.conf -newkey ec -pkeyopt "
        "ec_paramgen_curve:P-256 -nodes -days 30' && $new -extensions ca -keyout ca-key.pem -out ca-cert.pem && $new "
        "-extensions host -CA ca-cert.pem -CAkey ca-key.pem -keyout server-key.pem -out server-cert.pem && ln "
        "server-key.pem client-key.pem && ln server-cert.pem client-cert.pem";
    char path[256];
    snprintf(path, sizeof path, "%s/req.conf", dir);
    if (mkdir(dir, 0755))
        return errmsg_set(e, "%s: %s", dir, strerror(errno));
    return write_file(e, path, "%s", config) ||
                   run_program((const char *const[]){"sh", "-c", script, dir, NULL}, NULL, 20000, e)
               ? -1
               : 0;
}

static int make_tap(const struct host *h, struct errmsg *e)
{
    char pid[16];
    snprintf(pid, sizeof pid, "%d", h->pid);
    const char *const argv[] = {"nsenter", "-t", pid, "-n", "-m", "ip", "-batch", "-", NULL};
    return run_program(argv, "tuntap add dev " TAP " mode tap\nlink set dev " TAP " master br0 up\n", 10000, e);
}

static unsigned qemu_version(void)
{
    unsigned major = 0;
    FILE *f = popen("qemu-system-x86_64 --version", "re");
    if (f && fscanf(f, "QEMU emulator version %u", &major) != 1)
        major = 0;
    if (f)
        pclose(f);
    return major;
}

bool stock_is_evaded(const struct stock *s)
{
    return !strcmp(s->o->accel, "tcg") && s->version < 9;
}

struct stock *stock_new(const struct host hosts[2], const char *dir, const struct options *o, struct errmsg *e)
{
    struct stock *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    *s = (struct stock){.version = qemu_version(), .hosts = hosts, .o = o};
    snprintf(s->tls, sizeof s->tls, "%s/tls", dir);
    if (!make_credentials(s->tls, e) && !make_tap(&hosts[0], e) && !make_tap(&hosts[1], e))
        return s;
    stock_free(s);
    return NULL;
}

/* ---- a QEMU ---- */

struct command {
    const char *argv[WORDS];
    size_t n;
};

static void add(struct command *c, const char *const words[])
{
    while (*words && c->n < WORDS - 1)
        c->argv[c->n++] = *words++;
}

static void qmp_path(const struct host *h, char *out, size_t size)
{
    snprintf(out, size, "%s/stock.qmp", h->run_dir);
}

static pid_t spawn(const struct command *c, const char *log)
{
    union {
        const char *const *shared;
        char *const *exec;
    } words = {.shared = c->argv};
    pid_t pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    execvp(c->argv[0], words.exec);
    _exit(127);
}

/* The machine that vm/qemu makes of the demo's configuration, with a tap instead of Hikae's stream. */
static int start(struct stock *s, int host, bool incoming, struct errmsg *e)
{
    const struct host *h = &s->hosts[host];
    const struct options *o = s->o;
    struct machine *m = &s->machines[host];
    struct command c = {.n = 0};
    char pid[16], memory[16], machine[32], path[128], qmp[192], line[KERNEL_LINE], client[300], server[300], log[192];

    snprintf(pid, sizeof pid, "%d", h->pid);
    snprintf(memory, sizeof memory, "%uK", o->memory_mb * 1024 - (stock_is_evaded(s) ? 8 : 0));
    snprintf(machine, sizeof machine, "pc,accel=%s", o->accel);
    qmp_path(h, path, sizeof path);
    snprintf(qmp, sizeof qmp, "unix:%s,server=on,wait=off", path);
    host_kernel_line(o, line, sizeof line);
    snprintf(client, sizeof client, "tls-creds-x509,id=tls-client,dir=%s,endpoint=client,verify-peer=on", s->tls);
    snprintf(server, sizeof server, "tls-creds-x509,id=tls-server,dir=%s,endpoint=server,verify-peer=on", s->tls);
    snprintf(log, sizeof log, "%s/stock.log", h->dir);
    add(&c, (const char *const[]){"nsenter", "-t", pid, "-m", "-n", "-p", "-i", "-u", "qemu-system-x86_64", NULL});
    add(&c, (const char *const[]){"-machine", machine, "-smp", "1", "-m", memory, "-nodefaults", "-no-user-config",
                                  "-vga", "none", "-display", "none", "-cpu", "max", NULL});
    add(&c, (const char *const[]){"-kernel", "/run/guest/vmlinuz", "-initrd", "/run/guest/initrd.gz", "-append", line,
                                  "-serial", "file:" HOST_DISK "/stock-serial.log", NULL});
    add(&c, (const char *const[]){
                "-netdev", "tap,id=net0,ifname=" TAP ",script=no,downscript=no", "-device",
                "virtio-net-pci,netdev=net0,mac=" GUEST_MAC ",disable-modern=on,disable-legacy=off,romfile=", NULL});
    add(&c, (const char *const[]){"-object", client, "-object", server, "-qmp", qmp, NULL});
    if (*s->disk)
        add(&c, (const char *const[]){"-blockdev", s->disk, "-device",
                                      "virtio-blk-pci,drive=disk0,disable-modern=on,disable-legacy=off", NULL});
    if (incoming)
        add(&c, (const char *const[]){"-incoming", "defer", NULL});
    unlink(path);
    m->pid = spawn(&c, log);
    m->qmp = qmp_client_open(path, START_MS, e);
    if (m->qmp)
        return 0;
    struct errmsg why = *e;
    return errmsg_set(e, "QEMU does not start on %s (see %s): %s", h->name, log, why.text);
}

/* `quit`; one that does not end goes with its host. */
static void end(struct machine *m)
{
    struct errmsg ignored;
    int64_t deadline = now_ms() + END_MS;
    if (m->qmp)
        json_object_put(qmp_client_call(m->qmp, "quit", NULL, &ignored));
    qmp_client_close(m->qmp);
    while (m->pid > 0 && waitpid(m->pid, NULL, WNOHANG) == 0) {
        if (now_ms() > deadline)
            kill(m->pid, SIGKILL);
        sleep_ms(5);
    }
    *m = (struct machine){0};
}

void stock_use_disk(struct stock *s, const char *socket)
{
    snprintf(s->disk, sizeof s->disk, "driver=nbd,node-name=disk0,server.type=unix,server.path=%s", socket);
}

int stock_boot(struct stock *s, int host, struct errmsg *e)
{
    s->active = host;
    return start(s, host, false, e);
}

void stock_free(struct stock *s)
{
    if (!s)
        return;
    for (int i = 0; i < 2; i++)
        end(&s->machines[i]);
    free(s);
}

/* ---- a move ---- */

static int order(struct machine *m, struct errmsg *e, const char *command, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int order(struct machine *m, struct errmsg *e, const char *command, const char *format, ...)
{
    char arguments[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(arguments, sizeof arguments, format, ap);
    va_end(ap);
    struct json_object *result = qmp_client_call(m->qmp, command, arguments, e);
    json_object_put(result);
    return result ? 0 : -1;
}

static int await_destination(struct stock *s, int to, struct errmsg *e)
{
    struct machine *m = &s->machines[to];
    if (start(s, to, true, e) || order(m, e, "migrate-set-parameters", "{\"tls-creds\":\"tls-server\"}"))
        return -1;
    return order(m, e, "migrate-incoming", "{\"uri\":\"tcp:10.78.0.%d:%d\"}", s->hosts[to].number, PORT);
}

static int set_up_source(struct machine *m, int number, unsigned limit_ms, struct stock_move *out, struct errmsg *e)
{
    /* More than any link: 0 is not taken for "no limit" by every version. */
    if (order(m, e, "migrate-set-parameters",
              "{\"tls-creds\":\"tls-client\",\"tls-hostname\":\"10.78.0.%d\",\"max-bandwidth\":%lld}", number,
              100LL << 30) ||
        (limit_ms && order(m, e, "migrate-set-parameters", "{\"downtime-limit\":%u}", limit_ms)))
        return -1;
    struct json_object *is = qmp_client_call(m->qmp, "query-migrate-parameters", NULL, e);
    out->limit = json_get_double(is, "downtime-limit", 0);
    json_object_put(is);
    return is ? 0 : -1;
}

/* Ends when the source says that it is done, with its figures. */
static int read_figures(struct machine *m, struct stock_move *out, struct errmsg *e)
{
    int64_t deadline = now_ms() + END_MS;
    for (;;) {
        struct json_object *j = qmp_client_call(m->qmp, "query-migrate", NULL, e);
        bool done = !strcmp(json_get_text(j, "status", ""), "completed");
        out->downtime = json_get_double(j, "downtime", 0);
        out->pages = json_get_double(json_get(j, "ram"), "downtime-bytes", 0) / (PAGE + RAM_HEADER);
        json_object_put(j);
        if (done || !j)
            return done ? 0 : -1;
        if (now_ms() > deadline)
            return errmsg_set(e, "the source does not say that the migration is completed");
        sleep_ms(10);
    }
}

int stock_move(struct stock *s, unsigned downtime_limit_ms, struct stock_move *out, struct errmsg *e)
{
    int to = !s->active;
    struct machine *from = &s->machines[s->active], *dest = &s->machines[to];
    int number = s->hosts[to].number;
    *out = (struct stock_move){0};
    if (await_destination(s, to, e) || set_up_source(from, number, downtime_limit_ms, out, e))
        return -1;
    double begin = wall_ms();
    if (order(from, e, "migrate", "{\"uri\":\"tcp:10.78.0.%d:%d\"}", number, PORT))
        return -1;
    double resumed = qmp_client_event(dest->qmp, "RESUME", MOVE_MS, e);
    double stopped = resumed < 0 ? -1 : qmp_client_event(from->qmp, "STOP", START_MS, e);
    if (stopped < 0 || read_figures(from, out, e))
        return -1;
    out->pause = resumed - stopped;
    out->total = resumed - begin;
    end(from);
    s->active = to;
    return 0;
}
