#include "secondary/fence.h"
#include "common/log.h"

#include <errno.h>
#include <ev.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { WORDS_MAX = 64 };
static const double PAUSE_S = 0.5, PAUSE_MAX_S = 30.;

struct fence {
    struct ev_loop *loop;
    struct fence_handlers handlers;
    void *arg;
    char *command; /* split in place */
    char *argv[WORDS_MAX + 1];
    char vm[64], lost[64], host[64];
    uint64_t term;
    double timeout, pause;
    pid_t pid; /* 0: between attempts */
    int pidfd;
    bool killed;
    ev_io end;
    ev_timer limit, again;
};

const char *fence_command(const struct config *c, const char *vm)
{
    const struct config_vm *v = config_vm(c, vm);
    return v->fence ? v->fence : c->fence;
}

int fence_check(const struct config *c, const char *vm, struct errmsg *e)
{
    const char *command = fence_command(c, vm);
    if (!command)
        return 0;
    char *copy = strdup(command), *rest = NULL;
    if (!copy)
        abort();
    const char *program = strtok_r(copy, " \t", &rest);
    int r = 0;
    if (!program || *program != '/')
        r = errmsg_set(e, "fence = %s: host %s can't run it: write the program with its whole path", command, c->name);
    else if (access(program, X_OK))
        r = errmsg_set(e, "fence = %s: host %s can't run it: %s: %s", command, c->name, program, strerror(errno));
    free(copy);
    return r;
}

static void attempt(struct fence *f);

static void failed(struct fence *f, const char *why)
{
    char text[256];
    snprintf(text, sizeof text, "fencing %s: %s; again in %.1f s", f->lost, why, f->pause);
    log_error("%s", text);
    ev_timer_set(&f->again, f->pause, 0.);
    ev_timer_start(f->loop, &f->again);
    f->pause = f->pause * 2 < PAUSE_MAX_S ? f->pause * 2 : PAUSE_MAX_S;
    f->handlers.failed(text, f->arg);
}

static void stop_watching(struct fence *f)
{
    ev_io_stop(f->loop, &f->end);
    ev_timer_stop(f->loop, &f->limit);
    close(f->pidfd);
    f->pid = 0;
}

static void on_end(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct fence *f = io->data;
    char why[64] = "it is gone";
    siginfo_t info = {0};
    if (!waitid(P_PIDFD, (id_t)f->pidfd, &info, WEXITED | WNOHANG) && !info.si_pid)
        return;
    stop_watching(f);
    if (f->killed)
        snprintf(why, sizeof why, "the command took longer than %.1f s", f->timeout);
    else if (info.si_code == CLD_EXITED)
        snprintf(why, sizeof why, "the command ended with status %d", info.si_status);
    else if (info.si_code)
        snprintf(why, sizeof why, "the command was killed by signal %d", info.si_status);
    if (f->killed || info.si_code != CLD_EXITED || info.si_status) {
        failed(f, why);
        return;
    }
    log_info("%s is fenced", f->lost);
    f->handlers.done(f->arg);
}

static void on_limit(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct fence *f = t->data;
    f->killed = true;
    kill(-f->pid, SIGKILL); /* its group; that it has ended is noticed by its pidfd */
}

static void on_again(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    attempt(t->data);
}

static void set_environment(const struct fence *f)
{
    char term[32];
    snprintf(term, sizeof term, "%" PRIu64, f->term);
    setenv("HIKAE_VM", f->vm, 1);
    setenv("HIKAE_TERM", term, 1);
    setenv("HIKAE_HOST", f->host, 1);
    setenv("HIKAE_LOST_HOST", f->lost, 1);
}

static int spawn(struct fence *f)
{
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t files;
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", 0, 0);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    set_environment(f);
    int error = posix_spawn(&f->pid, f->argv[0], &files, &attr, f->argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    if (error) {
        f->pid = 0;
        return error;
    }
    f->pidfd = (int)syscall(SYS_pidfd_open, f->pid, 0);
    if (f->pidfd >= 0)
        return 0;
    error = errno;
    kill(-f->pid, SIGKILL);
    waitpid(f->pid, NULL, 0);
    f->pid = 0;
    return error;
}

static void attempt(struct fence *f)
{
    f->killed = false;
    int error = spawn(f);
    if (error) {
        char why[160];
        snprintf(why, sizeof why, "%.100s: %s", f->argv[0], strerror(error));
        failed(f, why);
        return;
    }
    ev_io_init(&f->end, on_end, f->pidfd, EV_READ);
    f->end.data = f;
    ev_io_start(f->loop, &f->end);
    ev_now_update(f->loop);
    ev_timer_set(&f->limit, f->timeout, 0.);
    ev_timer_start(f->loop, &f->limit);
}

struct fence *fence_begin(struct ev_loop *loop, const struct config *c, const char *vm, uint64_t term,
                          const char *lost_host, const struct fence_handlers *h, void *arg)
{
    struct fence *f = calloc(1, sizeof *f);
    if (!f || !(f->command = strdup(fence_command(c, vm))))
        abort();
    f->loop = loop;
    f->handlers = *h;
    f->arg = arg;
    f->term = term;
    f->timeout = c->fence_timeout_ms / 1000.;
    f->pause = PAUSE_S;
    snprintf(f->vm, sizeof f->vm, "%s", vm);
    snprintf(f->lost, sizeof f->lost, "%s", lost_host);
    snprintf(f->host, sizeof f->host, "%s", c->name);
    char *rest = NULL;
    size_t n = 0;
    for (char *word = strtok_r(f->command, " \t", &rest); word && n < WORDS_MAX; word = strtok_r(NULL, " \t", &rest))
        f->argv[n++] = word;
    ev_timer_init(&f->limit, on_limit, f->timeout, 0.);
    ev_timer_init(&f->again, on_again, f->pause, 0.);
    f->limit.data = f->again.data = f;
    log_info("fencing %s: %s", f->lost, fence_command(c, vm));
    attempt(f);
    return f;
}

void fence_free(struct fence *f)
{
    if (!f)
        return;
    if (f->pid) {
        kill(-f->pid, SIGKILL);
        stop_watching(f);
    }
    ev_timer_stop(f->loop, &f->again);
    free(f->command);
    free(f);
}
