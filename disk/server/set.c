#include "disk/server/set.h"

#include "disk/server/owed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* Ranges are locked by stripes: octets that are 64 KiB * 64 apart share one. */
enum { STRIPE_SHIFT = 16, STRIPES = 64 };

struct disk {
    struct backing backing;
    pthread_mutex_t stripes[STRIPES];
};

struct disk_set {
    unsigned count;
    struct disk disks[DISK_MAX];
    struct owed *owed;
    pthread_rwlock_t log_lock; /* which log: held for reading while it is used */
    struct write_log *log;     /* NULL: nobody tracks */
    _Atomic uint32_t still;    /* the pause in which the VM was seen to stand still; another log's numbers begin anew */
};

/* ---- making ---- */

struct disk_set *disk_set_open(const char *const *paths, unsigned n, struct errmsg *e)
{
    struct disk_set *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    pthread_rwlockattr_t fair; /* a busy guest must not keep its tracker waiting */
    pthread_rwlockattr_init(&fair);
    pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&s->log_lock, &fair);
    pthread_rwlockattr_destroy(&fair);
    for (unsigned i = 0; i < n; i++) {
        struct disk *d = &s->disks[i];
        if (backing_open(&d->backing, paths[i], e) < 0) {
            disk_set_close(s);
            return NULL;
        }
        for (unsigned k = 0; k < STRIPES; k++)
            pthread_mutex_init(&d->stripes[k], NULL);
        s->count++;
    }
    return s;
}

static void append(struct disk_set *s, const struct disk_write *w)
{
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_append(s->log, w); /* if it is closed or broken the reader knows */
    pthread_rwlock_unlock(&s->log_lock);
}

/* What the store failed: the guest hears it, and the log, so that no epoch commits with it (promise 2). */
static int failed(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, int error)
{
    append(s, &(struct disk_write){.disk = disk, .kind = DISK_ERROR, .error = error, .offset = offset, .length = n});
    return error;
}

/* On the thread of the owed flushes. */
static int flush_owed(unsigned disk, void *arg)
{
    struct disk_set *s = arg;
    return fdatasync(s->disks[disk].backing.fd) < 0 ? failed(s, disk, 0, 0, errno) : 0;
}

static void owed_changed(unsigned owed, void *arg)
{
    struct disk_set *s = arg;
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_set_owed(s->log, owed);
    pthread_rwlock_unlock(&s->log_lock);
}

int disk_set_start(struct disk_set *s, struct errmsg *e)
{
    s->owed = owed_new(flush_owed, owed_changed, s, e);
    return s->owed ? 0 : -1;
}

void disk_set_close(struct disk_set *s)
{
    if (!s)
        return;
    disk_set_track(s, NULL);
    owed_free(s->owed);
    for (unsigned i = 0; i < s->count; i++)
        backing_close(&s->disks[i].backing);
    free(s);
}

unsigned disk_set_count(const struct disk_set *s)
{
    return s->count;
}

const struct backing *disk_set_backing(const struct disk_set *s, unsigned disk)
{
    return &s->disks[disk].backing;
}

void disk_set_track(struct disk_set *s, struct write_log *log)
{
    if (s->log)
        write_log_close(s->log); /* first: who waits in it holds the lock */
    pthread_rwlock_wrlock(&s->log_lock);
    struct write_log *former = s->log;
    s->log = log;
    atomic_store(&s->still, 0);
    pthread_rwlock_unlock(&s->log_lock);
    write_log_free(former);
    if (log)
        owed_tell(s->owed);
}

/* ---- requests ---- */

/* The stripes of a range, as bits. */
static uint64_t stripes_of(uint64_t n, uint64_t offset)
{
    uint64_t first = offset >> STRIPE_SHIFT, last = (offset + n - 1) >> STRIPE_SHIFT, stripes = 0;
    if (n == 0)
        return 0;
    if (last - first >= STRIPES - 1)
        return UINT64_MAX;
    for (uint64_t i = first; i <= last; i++)
        stripes |= UINT64_C(1) << i % STRIPES;
    return stripes;
}

/* Always in the order of their numbers: no two can wait for each other. */
static void lock_stripes(struct disk *d, uint64_t stripes)
{
    for (unsigned i = 0; i < STRIPES; i++)
        if (stripes >> i & 1)
            pthread_mutex_lock(&d->stripes[i]);
}

static void unlock_stripes(struct disk *d, uint64_t stripes)
{
    for (unsigned i = 0; i < STRIPES; i++)
        if (stripes >> i & 1)
            pthread_mutex_unlock(&d->stripes[i]);
}

int disk_set_read(struct disk_set *s, unsigned disk, void *out, size_t n, uint64_t offset)
{
    for (uint8_t *at = out; n > 0;) {
        ssize_t got = pread(s->disks[disk].backing.fd, at, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EIO; /* EIO: the store became shorter */
        at += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int write_all(int fd, const uint8_t *at, size_t n, uint64_t offset)
{
    while (n > 0) {
        ssize_t done = pwrite(fd, at, n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno;
        at += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}

int disk_set_write(struct disk_set *s, unsigned disk, const void *data, size_t n, uint64_t offset, bool fua)
{
    struct disk *d = &s->disks[disk];
    uint64_t stripes = stripes_of(n, offset);
    owed_wait(s->owed);
    lock_stripes(d, stripes);
    int error = write_all(d->backing.fd, data, n, offset);
    if (error)
        failed(s, disk, n, offset, error);
    else
        append(s, &(struct disk_write){.disk = disk, .kind = DISK_DATA, .offset = offset, .length = n, .data = data});
    unlock_stripes(d, stripes);
    return error == 0 && fua ? disk_set_flush(s, disk) : error;
}

/* Is it only that this kind of store, or this alignment, can't be zeroed that way? */
static bool is_unable(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == ENODEV;
}

int disk_set_zero(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool punch, bool fua)
{
    struct disk *d = &s->disks[disk];
    uint64_t stripes = stripes_of(n, offset);
    int mode = (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
    owed_wait(s->owed);
    lock_stripes(d, stripes);
    int error = fallocate(d->backing.fd, mode, (off_t)offset, (off_t)n) < 0 ? errno : 0;
    if (is_unable(error))
        error = EOPNOTSUPP;
    else if (error)
        failed(s, disk, n, offset, error);
    else
        append(s, &(struct disk_write){.disk = disk, .kind = DISK_ZERO, .offset = offset, .length = n});
    unlock_stripes(d, stripes);
    return error == 0 && fua ? disk_set_flush(s, disk) : error;
}

int disk_set_trim(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool fua)
{
    int error = disk_set_zero(s, disk, n, offset, true, fua);
    return error == EOPNOTSUPP ? 0 : error;
}

static uint32_t pause_number(struct disk_set *s)
{
    pthread_rwlock_rdlock(&s->log_lock);
    uint32_t pause = s->log ? write_log_pause(s->log) : 0;
    pthread_rwlock_unlock(&s->log_lock);
    return pause;
}

void disk_set_stands_still(struct disk_set *s)
{
    atomic_store(&s->still, pause_number(s));
}

int disk_set_flush(struct disk_set *s, unsigned disk)
{
    uint32_t pause = pause_number(s);
    if (pause && pause == atomic_load(&s->still))
        return 0; /* QEMU's own */
    if (pause) {
        owed_add(s->owed, disk);
        return 0;
    }
    owed_wait(s->owed);
    int error = owed_take_error(s->owed, disk); /* the kernel tells an error once, and told it to the owed flush */
    if (error)
        return error;
    return fdatasync(s->disks[disk].backing.fd) < 0 ? failed(s, disk, 0, 0, errno) : 0;
}
