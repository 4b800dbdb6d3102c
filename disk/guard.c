#include "disk/guard.h"

#include "common/log.h"
#include "disk/kernel.h"
#include "disk/server.h"
#include "disk/server/backing.h"
#include "disk/server_notes.h"
#include "disk/server_process.h"
#include "disk/socket.h"
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* On a busy machine a server that is well may answer late; one that was stopped by a signal won't. */
enum { PATIENCE_MS = 2000, RETRY_MS = 500 };
static const int64_t MS = 1000000;

struct disk_guard {
    char dir[PATH_MAX];
    struct watch_bounds bounds;
    bool (*paused)(void);
    pthread_t thread;
    int stop, bell;

    /* the thread's */
    pid_t pid;
    int pidfd;    /* of the server; -1: none is known */
    int listener; /* its nbd.sock: kept for the next one, as nobody who connects meanwhile may be turned away; -1: none
                   */
    int asked;    /* a connection whose hello has not come yet; -1: none */
    uint64_t beat;
    struct watch watch;
    bool killed; /* and still there */
    int64_t started_at;

    struct { /* of a disk; -1: its store is not looked at */
        int fd;
        uint64_t bytes;
    } store[DISK_MAX];

    pthread_mutex_t lock; /* of what follows */
    struct {
        uint64_t disk, store;
    } grown[DISK_MAX]; /* 0: not */
    bool serves;
    struct errmsg why; /* not */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void ring(struct disk_guard *g)
{
    uint64_t one = 1;
    (void)!write(g->bell, &one, sizeof one); /* fails only when it rings already */
}

static void tell(struct disk_guard *g, const struct errmsg *why /* NULL: it serves */)
{
    pthread_mutex_lock(&g->lock);
    g->serves = !why;
    if (why)
        g->why = *why;
    pthread_mutex_unlock(&g->lock);
    ring(g);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Waits, for so long at most. True: the guard is to end. */
static bool is_stopped_within(struct disk_guard *g, int ms)
{
    struct pollfd p = {.fd = g->stop, .events = POLLIN};
    return poll(&p, 1, ms) > 0;
}

/* ---- the stores ---- */

static void leave_stores(struct disk_guard *g)
{
    for (unsigned i = 0; i < DISK_MAX; i++)
        close_fd(&g->store[i].fd);
    pthread_mutex_lock(&g->lock);
    memset(g->grown, 0, sizeof g->grown);
    pthread_mutex_unlock(&g->lock);
}

/* Kept open: to ask an open file for its size never waits for a store that does not answer. */
static void open_stores(struct disk_guard *g)
{
    struct server_notes notes = {.n = 0};
    struct errmsg ignored;
    leave_stores(g);
    if (server_notes_read(g->dir, &notes, &ignored) == 0)
        for (unsigned i = 0; i < notes.n; i++) {
            g->store[i].fd = notes.bytes[i] ? open(notes.path[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
            g->store[i].bytes = notes.bytes[i];
        }
    server_notes_clear(&notes);
}

static void look_at_stores(struct disk_guard *g)
{
    bool news = false;
    for (unsigned i = 0; i < DISK_MAX; i++) {
        uint64_t now;
        if (g->store[i].fd < 0 || backing_size(g->store[i].fd, &now) < 0)
            continue;
        now = now > g->store[i].bytes ? now : 0;
        pthread_mutex_lock(&g->lock);
        news |= now != g->grown[i].store;
        g->grown[i].disk = g->store[i].bytes;
        g->grown[i].store = now;
        pthread_mutex_unlock(&g->lock);
    }
    if (news)
        ring(g);
}

/* ---- looking ---- */

static void forget(struct disk_guard *g)
{
    close_fd(&g->pidfd);
    close_fd(&g->asked);
    g->watch = (struct watch){0};
    g->killed = false;
}

static void know(struct disk_guard *g)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/nbd.sock", g->dir);
    g->pidfd = server_process_open(g->asked, &g->pid);
    close_fd(&g->listener);
    g->listener = g->pidfd < 0 ? -1 : server_process_listener(g->pidfd, path);
}

/* A full queue of connections, or a server of other times, gives no sign of life, and that is what is counted. */
static void ask(struct disk_guard *g)
{
    struct errmsg ignored;
    g->asked = disk_socket_try(g->dir, &ignored);
    if (g->asked >= 0 && g->pidfd < 0)
        know(g);
}

static void listen_for_hello(struct disk_guard *g)
{
    struct pollfd p = {.fd = g->asked, .events = POLLIN};
    if (g->asked < 0 || poll(&p, 1, 0) <= 0)
        return;
    if (!(p.revents & (POLLHUP | POLLERR)) || p.revents & POLLIN)
        g->beat++;
    close_fd(&g->asked);
}

static void look(struct disk_guard *g)
{
    look_at_stores(g);
    listen_for_hello(g);
    if (g->asked < 0)
        ask(g);
    if (g->killed)
        return;
    /* What it holds is lost with it, and the VM with that (disk/server.h): it is given more time. */
    bool paused = g->paused() && !disk_server_is_holding(g->dir);
    struct watch_sample s = {.beat = g->beat, .paused = paused, .patience_ms = PATIENCE_MS};
    s.stopped = g->watch.still_ns > 0 && process_is_stopped(g->pid);
    if (watch_look(&g->watch, &s, &g->bounds, now_ns()) == WATCH_WELL)
        return;
    log_error("the disk server of the VM (process %d) has said nothing for %" PRId64 " ms%s: it is ended, another one "
              "takes its place",
              (int)g->pid, g->watch.still_ns / MS, s.paused ? " with the VM paused" : "");
    syscall(SYS_pidfd_send_signal, g->pidfd, SIGKILL, NULL, 0);
    g->killed = true;
}

/* ---- starting again ---- */

/* One that ends as soon as it serves is not started again all the time. True: the guard is to end. */
static bool start_again(struct disk_guard *g)
{
    struct errmsg e;
    int64_t wait = g->started_at + RETRY_MS * MS - now_ns(), since = now_ns();
    log_error("the disk server of the VM has ended%s", disk_server_is_holding(g->dir) ? "" : ": starting it again");
    forget(g);
    if (wait > 0 && is_stopped_within(g, (int)(wait / MS)))
        return true;
    /* A hypervisor that has its disks from the kernel does not connect anew by itself. */
    while (disk_server_restart(g->dir, g->listener, &e) || kernel_disks_reconnect(g->dir, &e)) {
        tell(g, &e);
        if (is_stopped_within(g, RETRY_MS))
            return true;
    }
    g->started_at = now_ns();
    log_info("the disk server of the VM serves again after %" PRId64 " ms", (g->started_at - since) / MS);
    ask(g);
    open_stores(g);
    tell(g, NULL);
    return false;
}

static void *run(void *arg)
{
    struct disk_guard *g = arg;
    bool stop = false;
    for (int64_t due = 0; !stop;) {
        struct pollfd p[] = {{.fd = g->stop, .events = POLLIN}, {.fd = g->pidfd, .events = POLLIN}};
        int64_t left = g->pidfd < 0 ? 0 : due - now_ns();
        (void)poll(p, 2, left > 0 ? (int)(left / MS) + 1 : 0);
        if (p[0].revents) {
            stop = true;
        } else if (g->pidfd < 0 || p[1].revents) {
            stop = start_again(g);
        } else if (now_ns() >= due) {
            look(g);
            due = now_ns() + WATCH_LOOK_MS * MS;
        }
    }
    forget(g);
    return NULL;
}

/* ---- life ---- */

/* Signals are the other threads' business. */
static int start_thread(struct disk_guard *g)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&g->thread, NULL, run, g);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static void free_guard(struct disk_guard *g)
{
    forget(g);
    leave_stores(g);
    close_fd(&g->listener);
    close_fd(&g->stop);
    close_fd(&g->bell);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

struct disk_guard *disk_guard_start(const char *dir, const struct watch_bounds *bounds, bool (*paused)(void),
                                    struct errmsg *e)
{
    struct disk_guard *g = calloc(1, sizeof *g);
    if (!g)
        abort();
    g->bounds = *bounds;
    g->paused = paused;
    g->pidfd = g->listener = g->asked = -1;
    g->serves = true;
    pthread_mutex_init(&g->lock, NULL);
    for (unsigned i = 0; i < DISK_MAX; i++)
        g->store[i].fd = -1;
    g->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = snprintf(g->dir, sizeof g->dir, "%s", dir) >= (int)sizeof g->dir ? ENAMETOOLONG : 0;
    if (g->stop < 0 || g->bell < 0)
        error = errno;
    open_stores(g);
    ask(g); /* before any time has passed: the process that is guarded is the one that was started */
    if (!error)
        error = start_thread(g);
    if (!error)
        return g;
    errmsg_set(e, "guarding the VM's disk server in %s: %s", dir, strerror(error));
    free_guard(g);
    return NULL;
}

void disk_guard_stop(struct disk_guard *g)
{
    if (!g)
        return;
    uint64_t one = 1;
    (void)!write(g->stop, &one, sizeof one);
    pthread_join(g->thread, NULL);
    free_guard(g);
}

int disk_guard_fd(const struct disk_guard *g)
{
    return g->bell;
}

bool disk_guard_news(struct disk_guard *g, struct errmsg *e)
{
    uint64_t rung;
    (void)!read(g->bell, &rung, sizeof rung); /* before the news: what comes later rings anew */
    pthread_mutex_lock(&g->lock);
    bool serves = g->serves;
    if (!serves)
        *e = g->why;
    pthread_mutex_unlock(&g->lock);
    return serves;
}

bool disk_guard_has_grown(struct disk_guard *g, unsigned disk, uint64_t *disk_bytes, uint64_t *store_bytes)
{
    pthread_mutex_lock(&g->lock);
    *disk_bytes = g->grown[disk].disk;
    *store_bytes = g->grown[disk].store;
    pthread_mutex_unlock(&g->lock);
    return *store_bytes;
}
