#include "common/watchdog.h"

#include <ev.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct dog { /* one watched worker */
    struct dog *next;
    int pid;
    bool here, ended; /* still in the roster; told to end */
    struct watch watch;
};

struct watchdog {
    struct roster *roster;
    struct watch_bounds bounds;
    struct watchdog_handlers handlers;
    void *arg;
    struct ev_loop *loop;
    struct dog *dogs;
    ev_timer timer;
};

static int64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
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

static void look_at(const char *vm, int pid, int pidfd, void *arg)
{
    struct watchdog *d = arg;
    struct dog *g = dog_of(d, pid);
    struct watch_sample s = {0};
    g->here = true;
    if (g->ended || pidfd < 0 || !*vm || !d->handlers.sample(vm, pid, g->watch.still_ns > 0, &s, d->arg))
        return;
    enum watch_verdict verdict = watch_look(&g->watch, &s, &d->bounds, monotonic_ns());
    if (verdict == WATCH_WELL)
        return;
    d->handlers.stuck(vm, pid, verdict, g->watch.still_ns / 1000000, d->arg);
    syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    g->ended = true;
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

struct watchdog *watchdog_new(struct ev_loop *loop, struct roster *roster, const struct watch_bounds *bounds,
                              const struct watchdog_handlers *h, void *arg)
{
    struct watchdog *d = calloc(1, sizeof *d);
    if (!d)
        abort();
    *d = (struct watchdog){.loop = loop, .roster = roster, .bounds = *bounds, .handlers = *h, .arg = arg};
    ev_timer_init(&d->timer, on_look, WATCH_LOOK_MS / 1000., WATCH_LOOK_MS / 1000.);
    d->timer.data = d;
    ev_timer_start(loop, &d->timer);
    return d;
}

void watchdog_free(struct watchdog *d)
{
    if (!d)
        return;
    ev_timer_stop(d->loop, &d->timer);
    for (struct dog *g = d->dogs, *next; g; g = next) {
        next = g->next;
        free(g);
    }
    free(d);
}
