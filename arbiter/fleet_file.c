/*
 * fleet_file: DIR/hosts/NAME.json. A round is a thread, as in file_jobs.c: a file server that hangs must not hang the
 * loop. While one hangs there is no other.
 */
#include "arbiter/fleet.h"
#include "common/config.h"
#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct found {
    struct found *next;
    char name[64];
    size_t n;
    char *text;
};

/* Owned by the loop and, while a round is under way, by its thread. */
struct box {
    pthread_mutex_t lock;
    bool closed, running; /* running: from the order until the loop has seen the end */
    bool ended;           /* the thread is done with it, the loop does not know yet */
    struct ev_loop *loop;
    ev_async wake;
    struct fleet_handlers handlers;
    void *arg;
    char dir[PATH_MAX], name[64];
    char *text;
    struct found *found;
    bool failed;
    struct errmsg why;
};

static void forget(struct box *b)
{
    while (b->found) {
        struct found *next = b->found->next;
        free(b->found->text);
        free(b->found);
        b->found = next;
    }
    free(b->text);
    b->text = NULL;
}

static void box_free(struct box *b)
{
    forget(b);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static void read_host(struct box *b, const char *file)
{
    char path[PATH_MAX + 300];
    struct errmsg e;
    size_t length = strlen(file);
    if (length <= 5 || length > 5 + 63 || strcmp(file + length - 5, ".json"))
        return;
    struct found *f = calloc(1, sizeof *f);
    if (!f)
        abort();
    *(char *)mempcpy(f->name, file, length - 5) = 0;
    snprintf(path, sizeof path, "%s/%s", b->dir, file);
    f->text = config_name_is_valid(f->name) ? file_read_all(path, FLEET_TEXT_MAX, &f->n, &e) : NULL;
    if (!f->text) {
        free(f);
        return;
    }
    f->next = b->found;
    b->found = f;
}

/* Not the folder above, which is the arbiter's: one that is not mounted must be missed, not made anew and empty. */
static int make_dir(struct box *b)
{
    if (!mkdir(b->dir, 0755) || errno == EEXIST)
        return 0;
    return errmsg_set(&b->why, "%s: %s: is the shared path mounted?", b->dir, strerror(errno));
}

static int do_round(struct box *b)
{
    char path[PATH_MAX + 80];
    snprintf(path, sizeof path, "%s/%s.json", b->dir, b->name);
    if (make_dir(b) || file_write_atomic(path, b->text, strlen(b->text), 0644, &b->why))
        return -1;
    DIR *d = opendir(b->dir);
    if (!d)
        return errmsg_set(&b->why, "%s: %s", b->dir, strerror(errno));
    const struct dirent *entry;
    while ((entry = readdir(d)))
        read_host(b, entry->d_name);
    closedir(d);
    return 0;
}

static void *work(void *arg)
{
    struct box *b = arg;
    bool failed = do_round(b);
    pthread_mutex_lock(&b->lock);
    b->failed = failed;
    bool closed = b->closed;
    b->ended = !closed;
    if (!closed)
        ev_async_send(b->loop, &b->wake); /* within the lock: the loop lives while the box is open */
    pthread_mutex_unlock(&b->lock);
    if (closed)
        box_free(b);
    return NULL;
}

static void on_wake(struct ev_loop *loop, ev_async *w, int events)
{
    (void)loop, (void)events;
    struct box *b = w->data;
    pthread_mutex_lock(&b->lock); /* the thread is done with it then */
    b->running = b->ended = false;
    pthread_mutex_unlock(&b->lock);
    for (struct found *f = b->found; f && !b->failed; f = f->next)
        b->handlers.host(f->name, f->text, f->n, b->arg);
    forget(b);
    b->handlers.done(b->failed ? b->why.text : NULL, b->arg);
}

static void *box_open(struct ev_loop *loop, const char *dir, const struct fleet_handlers *h, void *arg)
{
    struct box *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    pthread_mutex_init(&b->lock, NULL);
    b->loop = loop;
    b->handlers = *h;
    b->arg = arg;
    snprintf(b->dir, sizeof b->dir, "%s/hosts", dir);
    ev_async_init(&b->wake, on_wake);
    b->wake.data = b;
    ev_async_start(loop, &b->wake);
    ev_unref(loop);
    return b;
}

static void *file_open(struct ev_loop *loop, const struct config *c, const struct fleet_handlers *h, void *arg,
                       struct errmsg *e)
{
    (void)e;
    return box_open(loop, c->arbiter + strlen("file:"), h, arg);
}

static void *none_open(struct ev_loop *loop, const struct config *c, const struct fleet_handlers *h, void *arg,
                       struct errmsg *e)
{
    (void)e;
    return box_open(loop, c->state_dir, h, arg);
}

static void box_close(void *backend)
{
    struct box *b = backend;
    ev_ref(b->loop);
    ev_async_stop(b->loop, &b->wake);
    pthread_mutex_lock(&b->lock);
    b->closed = true;
    bool running = b->running && !b->ended;
    pthread_mutex_unlock(&b->lock);
    if (!running)
        box_free(b);
}

static int start_thread(struct box *b)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
    int r = pthread_create(&thread, &attr, work, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r;
}

static void box_round(void *backend, const char *name, const char *text)
{
    struct box *b = backend;
    if (b->running)
        return;
    snprintf(b->name, sizeof b->name, "%s", name);
    b->text = strdup(text);
    if (!b->text)
        abort();
    b->running = true;
    if (start_thread(b)) {
        b->running = false;
        forget(b);
    }
}

const struct fleet_ops fleet_file_ops = {.kind = "file:", .open = file_open, .close = box_close, .round = box_round};
const struct fleet_ops fleet_none_ops = {.kind = "none", .open = none_open, .close = box_close, .round = box_round};
