#include "primary/watchdog.h"
#include "common/log.h"
#include "common/watch.h"
#include "primary/capture.h"
#include "primary/watched.h"
#include "vm/process.h"

#include <ev.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct dog { /* one watched worker */
    struct dog *next;
    int pid;
    bool here, ended; /* still in the roster; told to end */
    struct watch watch;
};

struct watchdog {
    struct ev_loop *loop;
    const struct config *config;
    struct roster *roster;
    struct dog *dogs;
    ev_timer timer;
};

/* Reads the page of the worker `pid` of `vm` (0: of whichever). Its pid, or 0: there is none, or it is another one's.
 */
static int read_page(const struct config *c, const char *vm, int pid, struct watch_page *p)
{
    char path[400];
    watched_path(path, sizeof path, c->run_dir, vm);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, p, sizeof *p, 0);
    if (fd >= 0)
        close(fd);
    if (n != sizeof *p || p->magic != WATCH_MAGIC || !p->pid || (pid && (int)p->pid != pid))
        return 0;
    return (int)p->pid;
}

static struct dog *dog_of(struct watchdog *d, int pid)
{
    struct dog *g = d->dogs;
    while (g && g->pid != pid)
        g = g->next;
    if (g)
        return g;
    g = calloc(1, sizeof *g);
    if (!g)
        abort();
    *g = (struct dog){.next = d->dogs, .pid = pid};
    return d->dogs = g;
}

static void end_worker(struct watchdog *d, struct dog *g, const char *vm, int pidfd, enum watch_verdict verdict)
{
    bool paused = verdict == WATCH_STUCK_PAUSED;
    log_error("the worker of VM %s (process %d) has not moved for %" PRId64 " ms%s (%s = %u ms): it is ended, another "
              "one takes its place",
              vm, g->pid, g->watch.still_ns / 1000000, paused ? " with the VM paused" : "",
              paused ? "pause_bound" : "worker_bound", paused ? d->config->pause_bound_ms : d->config->worker_bound_ms);
    syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    g->ended = true;
}

static void look_at(const char *vm, int pid, int pidfd, void *arg)
{
    struct watchdog *d = arg;
    struct dog *g = dog_of(d, pid);
    struct watch_page p;
    g->here = true;
    if (g->ended || pidfd < 0 || !*vm || !read_page(d->config, vm, pid, &p))
        return; /* one that has no page (yet) is not judged */
    struct watch_sample s = {.beat = p.beat,
                             .paused = p.paused,
                             .patience_ms = p.patience_ms,
                             .stopped = g->watch.still_ns && process_is_stopped(pid)};
    struct watch_bounds b = {.pause_ms = d->config->pause_bound_ms, .worker_ms = d->config->worker_bound_ms};
    enum watch_verdict verdict = watch_look(&g->watch, &s, &b, clock_now());
    if (verdict != WATCH_WELL)
        end_worker(d, g, vm, pidfd, verdict);
}

static void on_look(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct watchdog *d = t->data;
    for (struct dog *g = d->dogs; g; g = g->next)
        g->here = false;
    roster_each(d->roster, look_at, d);
    for (struct dog **at = &d->dogs; *at;) {
        struct dog *g = *at;
        if (g->here) {
            at = &g->next;
            continue;
        }
        *at = g->next;
        free(g);
    }
}

struct watchdog *watchdog_new(struct ev_loop *loop, const struct config *config, struct roster *roster)
{
    struct watchdog *d = calloc(1, sizeof *d);
    if (!d)
        abort();
    *d = (struct watchdog){.loop = loop, .config = config, .roster = roster};
    ev_timer_init(&d->timer, on_look, WATCH_LOOK_MS / 1000., WATCH_LOOK_MS / 1000.);
    d->timer.data = d;
    ev_timer_start(loop, &d->timer);
    return d;
}

void watchdog_free(struct watchdog *d)
{
    ev_timer_stop(d->loop, &d->timer);
    for (struct dog *g = d->dogs, *next; g; g = next) {
        next = g->next;
        free(g);
    }
    free(d);
}

int watchdog_find(const struct config *config, const char *vm)
{
    struct watch_page p;
    int pid = read_page(config, vm, 0, &p);
    return pid && process_start_time(pid) == p.start_time ? pid : 0;
}
