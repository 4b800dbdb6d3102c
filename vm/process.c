/*
 * process: see process.h. A program that outlives us has its own session, no terminal, no descriptor of ours, and is
 * reparented to init.
 */
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct report {
    pid_t pid;
    int error; /* of execve; 0: none so far */
};

static int find_program(const char *name, char *out, size_t size, struct errmsg *e)
{
    const char *path = getenv("PATH");
    if (strchr(name, '/')) {
        snprintf(out, size, "%s", name);
        return access(out, X_OK) == 0 ? 0 : errmsg_set(e, "%s: %s", name, strerror(errno));
    }
    for (path = path && *path ? path : "/usr/local/bin:/usr/bin:/bin"; *path;) {
        size_t n = strcspn(path, ":");
        if (n > 0 && snprintf(out, size, "%.*s/%s", (int)n, path, name) < (int)size && access(out, X_OK) == 0)
            return 0;
        path += n + (path[n] == ':');
    }
    return errmsg_set(e, "%s is not installed (Debian: apt install %s)", name,
                      strncmp(name, "qemu", 4) == 0 ? "qemu-system-x86" : name);
}

/* What the program is given besides its command. */
struct gifts {
    char preload[PATH_MAX + 16]; /* a variable; "": none */
    char listen_pid[32];         /* likewise; filled in by the process that it names */
    const int *fds;              /* from descriptor 3 on */
    size_t fd_count;
    bool listening; /* the one descriptor is a socket, and it is told so */
};

static bool is_replaced(const char *variable)
{
    static const char *const names[] = {"LD_PRELOAD=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* Our environment and the gifts. The array is the caller's to free, its strings are borrowed. */
static char **make_environment(struct gifts *g)
{
    size_t n = 0, k = 0;
    while (environ[n])
        n++;
    char **list = calloc(n + 4, sizeof *list);
    if (!list)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (!is_replaced(environ[i]))
            list[k++] = environ[i];
    if (*g->preload)
        list[k++] = g->preload;
    if (g->listening) {
        list[k++] = (char *)"LISTEN_FDS=1";
        list[k++] = g->listen_pid;
    }
    return list;
}

/* snprintf is not safe after fork. */
static void write_listen_pid(struct gifts *g)
{
    char digits[12];
    size_t n = 0, at = sizeof "LISTEN_PID=" - 1;
    memcpy(g->listen_pid, "LISTEN_PID=", at);
    for (unsigned pid = (unsigned)getpid(); pid || n == 0; pid /= 10)
        digits[n++] = (char)('0' + pid % 10);
    while (n > 0)
        g->listen_pid[at++] = digits[--n];
    g->listen_pid[at] = '\0';
}

/* In the grandchild: from here to execve only calls that are safe after fork. Descriptors: from 3 on the
 * gifts, then the report. */
static void run_program(const char *program, char *const *command, char **environment, int log, int report, int go,
                        struct gifts *g)
{
    sigset_t none;
    char ignored;
    (void)!read(go, &ignored, 1);
    sigemptyset(&none);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR), at = 3 + (int)g->fd_count, above = -1, given[PROCESS_FDS_MAX];
    const int far = 3 + PROCESS_FDS_MAX + 1;
    struct report r = {.pid = getpid()};
    write_listen_pid(g);
    /* Out of the way first: any of them may be where another belongs. */
    for (size_t i = 0; i < g->fd_count; i++)
        given[i] = fcntl(g->fds[i], F_DUPFD, far);
    above = fcntl(report, F_DUPFD, far);
    log = fcntl(log, F_DUPFD, far);
    bool well = dup2(null, 0) == 0;
    for (int i = 0; i < (int)g->fd_count; i++)
        well &= dup2(given[i], 3 + i) == 3 + i;
    if (well && dup2(log, 1) == 1 && dup2(log, 2) == 2 && dup2(above, at) == at &&
        fcntl(at, F_SETFD, FD_CLOEXEC) == 0 && chdir("/") == 0) {
        close_range((unsigned)at + 1, ~0U, 0);
        if (write(at, &r, sizeof r) == (ssize_t)sizeof r)
            execve(program, command, environment);
        above = at;
    }
    r.error = errno;
    (void)!write(above, &r, sizeof r);
    _exit(127);
}

static pid_t read_report(int fd, const char *program, struct errmsg *e)
{
    struct report r;
    pid_t pid = -1;
    while (read(fd, &r, sizeof r) == (ssize_t)sizeof r) {
        if (r.error)
            return errmsg_set(e, "executing %s: %s", program, strerror(r.error));
        pid = r.pid;
    }
    return pid > 0 ? pid : errmsg_set(e, "starting %s: its process ended before it ran", program);
}

/* So that it is nobody's child but init's: no zombie, no death with us. The program begins when its parent, who is only
 * there for that, is gone: nbdkit asks the kernel to be ended with its parent, whoever that is (go[1] is closed by us
 * when he is; if we die first it is as well). */
static int fork_twice(const char *program, char *const *command, char **environment, int log, int report, int go[2],
                      struct gifts *g)
{
    pid_t child = fork();
    if (child == 0) {
        if (setsid() < 0 || fork() != 0)
            _exit(0);
        close(go[1]);
        run_program(program, command, environment, log, report, go[0], g);
    }
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    close(go[1]);
    go[1] = -1;
    return child < 0 ? -1 : 0;
}

static pid_t spawn(char *const *command, struct gifts *g, const char *log_path, struct errmsg *e)
{
    char program[PATH_MAX];
    int report[2] = {-1, -1}, go[2] = {-1, -1};
    if (find_program(command[0], program, sizeof program, e) < 0)
        return -1;
    char **environment = make_environment(g);
    int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    pid_t pid = -1;
    if (!environment || log < 0 || pipe2(report, O_CLOEXEC) < 0 || pipe2(go, O_CLOEXEC) < 0) {
        errmsg_set(e, "%s: %s", log_path, strerror(errno));
    } else if (fork_twice(program, command, environment, log, report[1], go, g) < 0) {
        errmsg_set(e, "fork: %s", strerror(errno));
    } else {
        close(report[1]);
        report[1] = -1;
        pid = read_report(report[0], program, e);
    }
    int fds[] = {log, report[0], report[1], go[0], go[1]};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(environment);
    return pid;
}

pid_t process_spawn(char *const *command, const char *preload, const char *log_path, struct errmsg *e)
{
    return process_spawn_with(command, preload, NULL, 0, log_path, e);
}

pid_t process_spawn_with(char *const *command, const char *preload, const int *fds, size_t n, const char *log_path,
                         struct errmsg *e)
{
    struct gifts g = {.fds = fds, .fd_count = n};
    if (preload)
        snprintf(g.preload, sizeof g.preload, "LD_PRELOAD=%s", preload);
    return spawn(command, &g, log_path, e);
}

pid_t process_spawn_listening(char *const *command, int socket, const char *log_path, struct errmsg *e)
{
    struct gifts g = {.fds = &socket, .fd_count = 1, .listening = true};
    return spawn(command, &g, log_path, e);
}

void process_explain(const char *log_path, struct errmsg *e)
{
    FILE *f = fopen(log_path, "re");
    char line[400], last[400] = "";
    while (f && fgets(line, sizeof line, f))
        if (line[0] != '\n' && !strstr(line, "warning:"))
            memcpy(last, line, sizeof last);
    if (f)
        fclose(f);
    last[strcspn(last, "\n")] = '\0';
    if (*last) {
        char said[sizeof e->text];
        memcpy(said, e->text, sizeof said);
        errmsg_set(e, "%.200s: QEMU says: %.250s", said, last);
    }
}

/* Its state (a letter, 0: no such process) and, if wanted, field 22 of its stat line. */
static char read_stat(pid_t pid, unsigned long long *start)
{
    char path[32], line[1024], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    if (!f)
        return 0;
    /* The 2nd field, the name, may hold blanks and parentheses itself. */
    char *after_name = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    if (!after_name ||
        sscanf(after_name + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
               &state, start) != 2)
        state = 0;
    fclose(f);
    return state;
}

unsigned long long process_start_time(pid_t pid)
{
    unsigned long long start = 0;
    char state = read_stat(pid, &start);
    return !state || state == 'Z' || state == 'X' ? 0 : start;
}

bool process_is_stopped(pid_t pid)
{
    unsigned long long start;
    char state = read_stat(pid, &start);
    return state == 'T' || state == 't';
}
