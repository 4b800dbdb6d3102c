/* run: see run.h. */
#include "tools/demo/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

double wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

void sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

/* The child of run_program: stdin and the two outputs are pipes' ends. Does not return. */
static void become(const char *const argv[], int in, int out)
{
    union {
        const char *const *shared;
        char *const *exec;
    } words = {.shared = argv};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    execvp(argv[0], words.exec);
    dprintf(2, "cannot run %s: %s", argv[0], strerror(errno));
    _exit(127);
}

/* Reads to the end or the deadline; what does not fit is dropped. */
static int drain(int fd, char *text, size_t size, int64_t deadline)
{
    size_t used = 0;
    for (;;) {
        char chunk[1024];
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            return -1;
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n <= 0)
            break;
        size_t keep = (size_t)n < size - 1 - used ? (size_t)n : size - 1 - used;
        memcpy(text + used, chunk, keep);
        used += keep;
        text[used] = '\0';
    }
    while (used && text[used - 1] == '\n')
        text[--used] = '\0';
    return 0;
}

/* Waits for the child to end, at most until the deadline; then it is killed. Returns its status, or -1. */
static int reap(pid_t pid, int64_t deadline)
{
    int status;
    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return status;
        if (got < 0 && errno != EINTR)
            return -1;
        if (now_ms() >= deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
        sleep_ms(1);
    }
}

int run_program(const char *const argv[], const char *input, int timeout_ms, struct errmsg *e)
{
    int in[2], out[2];
    char text[400] = "";
    int64_t deadline = now_ms() + timeout_ms;

    if (pipe2(in, O_CLOEXEC))
        return errmsg_set(e, "pipe: %s", strerror(errno));
    if (pipe2(out, O_CLOEXEC)) {
        close(in[0]);
        close(in[1]);
        return errmsg_set(e, "pipe: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0)
        become(argv, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    if (input)
        (void)!write(in[1], input, strlen(input)); /* scripts are shorter than a pipe */
    close(in[1]);
    int late = pid > 0 ? drain(out[0], text, sizeof text, deadline) : 0;
    close(out[0]);
    if (pid < 0)
        return errmsg_set(e, "fork: %s", strerror(errno));
    int status = reap(pid, late ? now_ms() : deadline);
    if (status == 0)
        return 0;
    if (late || status == -1)
        return errmsg_set(e, "%s %s: no end after %d ms: %s", argv[0], argv[1], timeout_ms, text);
    return errmsg_set(e, "%s %s: %s", argv[0], argv[1], *text ? text : "failed");
}

int run_ip(struct errmsg *e, const char *format, ...)
{
    char script[2048];
    va_list ap;
    va_start(ap, format);
    vsnprintf(script, sizeof script, format, ap);
    va_end(ap);
    return run_program((const char *const[]){"ip", "-batch", "-", NULL}, script, 10000, e);
}

int write_file(struct errmsg *e, const char *path, const char *format, ...)
{
    va_list ap;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    va_start(ap, format);
    int n = vdprintf(fd, format, ap);
    va_end(ap);
    int saved = errno;
    if (close(fd) || n < 0)
        return errmsg_set(e, "%s: %s", path, strerror(n < 0 ? saved : errno));
    return 0;
}
