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

extern char **environ;

/* Our environment with LD_PRELOAD replaced. The array is the caller's to free, its strings are borrowed; `variable`
 * must outlive it. */
static char **make_environment(char *variable)
{
    size_t n = 0, k = 0;
    while (environ[n])
        n++;
    char **list = calloc(n + 2, sizeof *list);
    if (!list)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0)
            list[k++] = environ[i];
    list[k] = variable;
    return list;
}

/* In the grandchild: from here to execve only calls that are safe after fork. */
static void run_program(const char *program, char *const *command, char **environment, int log, int report)
{
    sigset_t none;
    sigemptyset(&none);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR);
    struct report r = {.pid = getpid()};
    if (dup2(null, 0) == 0 && dup2(log, 1) == 1 && dup2(log, 2) == 2 && dup2(report, 3) == 3 &&
        fcntl(3, F_SETFD, FD_CLOEXEC) == 0 && chdir("/") == 0) {
        close_range(4, ~0U, 0);
        if (write(3, &r, sizeof r) == (ssize_t)sizeof r)
            execve(program, command, environment);
        report = 3;
    }
    r.error = errno;
    (void)!write(report, &r, sizeof r);
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

pid_t process_spawn(char *const *command, const char *preload, const char *log_path, struct errmsg *e)
{
    char program[PATH_MAX], variable[PATH_MAX + 16];
    int report[2];
    if (find_program(command[0], program, sizeof program, e) < 0)
        return -1;
    snprintf(variable, sizeof variable, "LD_PRELOAD=%s", preload ? preload : "");
    char **environment = make_environment(preload ? variable : NULL);
    int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!environment || log < 0 || pipe2(report, O_CLOEXEC) < 0) {
        int status = errmsg_set(e, "%s: %s", log_path, strerror(errno));
        free(environment);
        if (log >= 0)
            close(log);
        return status;
    }
    pid_t child = fork();
    if (child == 0) {
        /* Twice, so that it is nobody's child but init's: no zombie, no death with us. */
        if (setsid() < 0 || fork() != 0)
            _exit(0);
        run_program(program, command, environment, log, report[1]);
    }
    close(report[1]);
    close(log);
    free(environment);
    pid_t pid = -1;
    if (child < 0)
        errmsg_set(e, "fork: %s", strerror(errno));
    else
        pid = read_report(report[0], program, e);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    close(report[0]);
    return pid;
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
