#include "disk/server/noter.h"

#include "disk/account_file.h"
#include "disk/marker.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long an extent is listed at least: a guest waits for a medium once for each. */
enum { TIDY_S = 10 };

struct noter {
    const struct disk_set *set;
    struct account_file *file;
    struct marker *marker;
    unsigned disks; /* that are in it: the first ones; what is shared is the other host's as well */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t end;
    bool ending;
};

static void *run(void *arg)
{
    struct noter *n = arg;
    struct timespec due;
    pthread_mutex_lock(&n->lock);
    while (!n->ending) {
        clock_gettime(CLOCK_REALTIME, &due);
        due.tv_sec += TIDY_S;
        if (pthread_cond_timedwait(&n->end, &n->lock, &due) == ETIMEDOUT)
            marker_tidy(n->marker);
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

static struct account_disks disks_of(const struct disk_set *set)
{
    struct account_disks d = {.count = disk_set_count(set) - disk_set_shared(set)};
    for (unsigned i = 0; i < d.count; i++) {
        const struct backing *b = disk_set_backing(set, i);
        d.at[i].bytes = b->bytes;
        d.at[i].device = b->device;
        d.at[i].inode = b->inode;
    }
    return d;
}

/* Who starts the VM again looks whether they have been changed since. */
static void let_go(struct noter *n)
{
    int64_t modified[DISK_MAX] = {0};
    for (unsigned i = 0; i < n->disks; i++) {
        const struct backing *b = disk_set_backing(n->set, i);
        struct stat s;
        if (fstat(b->fd, &s))
            return;
        modified[i] = b->is_device ? 0 : (int64_t)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec;
    }
    (void)account_close_stores(account_of(n->file), modified); /* not durable: then nobody relies on it */
}

static int start(struct noter *n, const char *path, const struct account_disks *d, struct errmsg *e)
{
    n->file = account_file_open(path, d, e);
    if (n->file && account_open_stores(account_of(n->file)))
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    n->marker = n->file ? marker_new(account_of(n->file), (int)getpid()) : NULL;
    if (!n->file)
        return -1;
    int error = n->marker ? pthread_create(&n->thread, NULL, run, n) : ENOMEM;
    return error ? errmsg_set(e, "the account of what is written: %s", strerror(error)) : 0;
}

static void free_noter(struct noter *n)
{
    marker_free(n->marker);
    account_file_close(n->file);
    free(n);
}

int noter_start(struct noter **out, const char *dir, const struct disk_set *set, struct errmsg *e)
{
    char link[PATH_MAX], path[PATH_MAX];
    struct account_disks d = disks_of(set);
    snprintf(link, sizeof link, "%s/account", dir);
    *out = NULL;
    if (!d.count)
        return 0;
    if (!realpath(link, path))
        return errno == ENOENT ? 0 : errmsg_set(e, "%s: %s", link, strerror(errno));
    struct noter *n = calloc(1, sizeof *n);
    if (!n)
        abort();
    n->set = set;
    n->disks = d.count;
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->end, NULL);
    if (!start(n, path, &d, e)) {
        *out = n;
        return 0;
    }
    free_noter(n);
    return unlink(path) && errno != ENOENT ? -1 : 0;
}

void noter_stop(struct noter *n)
{
    if (!n)
        return;
    pthread_mutex_lock(&n->lock);
    n->ending = true;
    pthread_cond_signal(&n->end);
    pthread_mutex_unlock(&n->lock);
    pthread_join(n->thread, NULL);
    let_go(n);
    free_noter(n);
}

void noter_note(struct noter *n, unsigned disk, uint64_t count, uint64_t offset)
{
    if (n && disk < n->disks)
        marker_mark(n->marker, disk, count, offset);
}
