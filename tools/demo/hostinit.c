/* hostinit: see hostinit.h. */
#include "tools/demo/hostinit.h"

#include "tools/demo/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const agents[] = {"primary", "secondary"};
static pid_t agent_pids[2]; /* 0: ended */

enum { RESTART_MS = 100 }; /* systemd's default */

/* A machine that is started again has another boot id: the agents tell a reboot by it. */
static int mount_boot_id(const struct host *h, struct errmsg *e)
{
    char path[192], id[40] = "";
    FILE *f = fopen("/proc/sys/kernel/random/uuid", "re"); /* a new one at each reading */
    bool got = f && fscanf(f, "%39s", id) == 1;
    if (f)
        fclose(f);
    snprintf(path, sizeof path, "%s/boot_id", h->run_dir);
    if (!got || write_file(e, path, "%s\n", id) || mount(path, "/proc/sys/kernel/random/boot_id", NULL, MS_BIND, NULL))
        return errmsg_set(e, "mount boot_id: %s", strerror(errno));
    return 0;
}

static int mount_own(const struct host *h, const struct options *o, struct errmsg *e)
{
    char size[64];
    /* Room for a replica beside a VM that is just being ended. */
    snprintf(size, sizeof size, "mode=1777,size=%uM", 2 * o->memory_mb + 256);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("proc", "/proc", "proc", 0, NULL))
        return errmsg_set(e, "mount /proc: %s", strerror(errno));
    if (mount("tmpfs", "/dev/shm", "tmpfs", 0, size))
        return errmsg_set(e, "mount /dev/shm: %s", strerror(errno));
    if (mount_boot_id(h, e))
        return -1;
    if (mount(h->dir, HOST_DISK, NULL, MS_BIND, NULL))
        return errmsg_set(e, "mount " HOST_DISK ": %s", strerror(errno));
    /* Shows this host's network; some containers do not allow it, and nothing depends on it. */
    (void)!mount("sysfs", "/sys", "sysfs", 0, NULL);
    return 0;
}

/* A machine keeps its addresses when it is switched off and on: others still have them in their caches. */
static int set_up_network(const struct host *h, struct errmsg *e)
{
    return run_ip(
        e,
        "link set dev lo up\n"
        "link add name br0 address 02:48:4b:00:77:%02x type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n"
        "link set dev lan0 address 02:48:4b:00:79:%02x master br0 up\n"
        "link set dev br0 up\n"
        "addr add 10.77.0.%d/24 dev br0\n"
        "link set dev link0 address 02:48:4b:00:78:%02x up\n"
        "addr add 10.78.0.%d/24 dev link0\n",
        h->number, h->number, 10 + h->number, h->number, h->number);
}

static int start_agent(int i, const struct host *h, const struct options *o, struct errmsg *e)
{
    char program[192], log[192];
    snprintf(program, sizeof program, "%s/hikae-%s", o->bin, agents[i]);
    snprintf(log, sizeof log, "%s/%s.log", h->dir, agents[i]);
    if (access(program, X_OK))
        return errmsg_set(e, "%s: %s", program, strerror(errno));
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return errmsg_set(e, "%s: %s", log, strerror(errno));
    agent_pids[i] = fork();
    if (agent_pids[i] == 0) {
        dup2(fd, 1);
        dup2(fd, 2);
        execl(program, program, "--config", h->config, (char *)NULL);
        _exit(127);
    }
    close(fd);
    return agent_pids[i] < 0 ? errmsg_set(e, "fork: %s", strerror(errno)) : 0;
}

static int set_up(const struct host *h, const struct options *o, int go_fd, struct errmsg *e)
{
    char byte;
    if (read(go_fd, &byte, 1) != 1)
        _exit(1); /* the demo is gone */
    close(go_fd);
    if (sethostname(h->name, strlen(h->name)))
        return errmsg_set(e, "sethostname: %s", strerror(errno));
    if (mount_own(h, o, e) || set_up_network(h, e))
        return -1;
    for (int i = 0; i < 2; i++)
        if (start_agent(i, h, o, e))
            return -1;
    return 0;
}

static void note_end(int log, pid_t pid, int status)
{
    for (int i = 0; i < 2; i++) {
        if (agent_pids[i] != pid)
            continue;
        agent_pids[i] = 0;
        if (WIFSIGNALED(status))
            dprintf(log, "hikae-%s: killed by signal %d (%s)\n", agents[i], WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
        else
            dprintf(log, "hikae-%s: ended with status %d\n", agents[i], WEXITSTATUS(status));
    }
}

static void start_again(const struct host *h, const struct options *o, int log)
{
    struct errmsg e;
    for (int i = 0; i < 2; i++)
        if (!agent_pids[i] && access(HOST_DISK "/" HOST_HOLD, F_OK) && start_agent(i, h, o, &e))
            dprintf(log, "%s\n", e.text);
}

/* Process 1's duty, and with options.restart a service manager's. */
static _Noreturn void reap_for_ever(const struct host *h, const struct options *o, int log)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, o->restart ? WNOHANG : 0);
        if (pid > 0) {
            note_end(log, pid, status);
        } else if (o->restart) {
            sleep_ms(RESTART_MS);
            start_again(h, o, log);
        } else if (errno == ECHILD) {
            sleep(1);
        }
    }
}

void hostinit(const struct host *h, const struct options *o, int go_fd, int up_fd)
{
    struct hostinit_report report = {0};
    char path[192];

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a demo that died meanwhile is noticed by go_fd's end */
    prctl(PR_SET_NAME, h->name);
    setsid(); /* Ctrl-C is the demo's business */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 0);
    report.failed = set_up(h, o, go_fd, &report.error);
    (void)!write(up_fd, &report, sizeof report);
    close(up_fd);
    if (report.failed)
        _exit(1);
    snprintf(path, sizeof path, "%s/init.log", h->dir);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    reap_for_ever(h, o, log);
}
