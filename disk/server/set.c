#include "disk/server/set.h"

#include "disk/medium.h"
#include "disk/server/gate.h"
#include "disk/server/noter.h"
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
    unsigned count, shared; /* the last ones are shared */
    struct disk disks[DISK_MAX];
    struct owed *owed;
    _Atomic uint32_t *owing; /* NULL: nobody wants to know when we are dead */
    struct gate *gate;       /* NULL: no disk is shared */
    struct noter *noter;
    pthread_rwlock_t log_lock; /* which log: held for reading while it is used */
    struct write_log *log;     /* NULL: nobody tracks */
    uint64_t base;             /* positions of shared disks' writes go on from log to log: where this one's begin */
    _Atomic uint32_t still;    /* the pause in which the VM was seen to stand still; another log's numbers begin anew */
};

/* ---- making ---- */

struct disk_set *disk_set_open(const char *const *paths, const uint64_t *bytes, unsigned n, unsigned shared,
                               struct errmsg *e)
{
    struct disk_set *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->shared = shared;
    pthread_rwlockattr_t fair; /* a busy guest must not keep its tracker waiting */
    pthread_rwlockattr_init(&fair);
    pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&s->log_lock, &fair);
    pthread_rwlockattr_destroy(&fair);
    for (unsigned i = 0; i < n; i++) {
        struct disk *d = &s->disks[i];
        if (backing_open_part(&d->backing, paths[i], i >= n - shared, bytes ? bytes[i] : 0, e) < 0) {
            disk_set_close(s);
            return NULL;
        }
        for (unsigned k = 0; k < STRIPES; k++)
            pthread_mutex_init(&d->stripes[k], NULL);
        s->count++;
    }
    return s;
}

static bool is_shared(const struct disk_set *s, unsigned disk)
{
    return disk >= s->count - s->shared;
}

static void append(struct disk_set *s, const struct disk_write *w)
{
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_append(s->log, w); /* if it is closed or broken the reader knows */
    pthread_rwlock_unlock(&s->log_lock);
}

/* A shared disk's write is on the disk that the other host sees: it need not be told. */
static void wrote(struct disk_set *s, const struct disk_write *w)
{
    if (!is_shared(s, w->disk))
        append(s, w);
}

/* What the store failed: the guest hears it, and the log, so that no epoch commits with it (promise 2). */
static int failed(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, int error)
{
    if (is_shared(s, disk))
        return error;
    append(s, &(struct disk_write){.disk = disk, .kind = DISK_ERROR, .error = error, .offset = offset, .length = n});
    return error;
}

static int flush_now(unsigned disk, void *arg)
{
    struct disk_set *s = arg;
    return fdatasync(s->disks[disk].backing.fd) < 0 ? failed(s, disk, 0, 0, errno) : 0;
}

static void owed_changed(unsigned owed, void *arg)
{
    struct disk_set *s = arg;
    if (s->owing)
        atomic_store(s->owing, owed);
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_set_owed(s->log, owed);
    pthread_rwlock_unlock(&s->log_lock);
}

/* A flush takes as long as the disk does, and the VM's pause would wait for it. */
static bool is_urgent(uint32_t *stopped, void *arg)
{
    struct disk_set *s = arg;
    *stopped = 0;
    pthread_rwlock_rdlock(&s->log_lock);
    bool urgent = s->log && write_log_is_urgent(s->log, stopped);
    pthread_rwlock_unlock(&s->log_lock);
    return urgent;
}

static const struct gate_handlers gate_handlers;

int disk_set_start(struct disk_set *s, bool holding, struct errmsg *e)
{
    static const struct owed_handlers handlers = {.flush = flush_now, .hurried = is_urgent, .changed = owed_changed};
    uint32_t owing = s->owing ? atomic_load(s->owing) : 0;
    s->owed = owed_new(s->count, &handlers, s, e);
    if (s->owed && owing)
        owed_begin(s->owed, s->count - s->shared);
    if (s->owed)
        owed_tell(s->owed);
    if (s->owed && s->shared)
        s->gate = gate_new(&gate_handlers, s, holding, GATE_ROOM, e);
    return s->owed && (s->gate || !s->shared) ? 0 : -1;
}

void disk_set_close(struct disk_set *s)
{
    if (!s)
        return;
    disk_set_track(s, NULL);
    owed_free(s->owed);
    gate_free(s->gate);
    for (unsigned i = 0; i < s->count; i++)
        backing_close(&s->disks[i].backing);
    free(s);
}

void disk_set_note_owing(struct disk_set *s, _Atomic uint32_t *owing)
{
    s->owing = owing;
}

void disk_set_note_in(struct disk_set *s, struct noter *n)
{
    s->noter = n;
}

unsigned disk_set_count(const struct disk_set *s)
{
    return s->count;
}

unsigned disk_set_shared(const struct disk_set *s)
{
    return s->shared;
}

const struct backing *disk_set_backing(const struct disk_set *s, unsigned disk)
{
    return &s->disks[disk].backing;
}

void disk_set_track(struct disk_set *s, struct write_log *log)
{
    if (s->log)
        write_log_close(s->log); /* first: who waits in it holds the lock */
    if (s->gate)
        gate_latch(s->gate);
    pthread_rwlock_wrlock(&s->log_lock);
    struct write_log *former = s->log;
    s->log = log;
    s->base += (former ? write_log_head(former) : 0) + 2;
    atomic_store(&s->still, 0);
    pthread_rwlock_unlock(&s->log_lock);
    write_log_free(former);
    if (log)
        owed_tell(s->owed);
}

/* ---- the store ---- */

static int read_all(int fd, uint8_t *at, size_t n, uint64_t offset)
{
    while (n > 0) {
        ssize_t got = pread(fd, at, n, (off_t)offset);
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

/* Is it only that this kind of store, or this alignment, can't be zeroed that way? */
static bool is_unable(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == ENODEV;
}

/* ---- shared disks ---- */

static uint32_t ask_log(struct disk_set *s, uint32_t (*question)(const struct write_log *))
{
    pthread_rwlock_rdlock(&s->log_lock);
    uint32_t answer = s->log ? question(s->log) : 0;
    pthread_rwlock_unlock(&s->log_lock);
    return answer;
}

static uint32_t holding(const struct write_log *l)
{
    return write_log_is_holding(l);
}

static bool log_is_holding(void *arg)
{
    return ask_log(arg, holding);
}

static bool log_is_pausing(void *arg)
{
    return ask_log(arg, write_log_pause);
}

static uint64_t log_barrier(void *arg)
{
    struct disk_set *s = arg;
    pthread_rwlock_rdlock(&s->log_lock);
    uint64_t position = s->base + (s->log ? write_log_barrier(s->log) : 0);
    pthread_rwlock_unlock(&s->log_lock);
    return position;
}

static void log_durable(uint64_t position, void *arg)
{
    struct disk_set *s = arg;
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log && position >= s->base)
        write_log_set_durable(s->log, position - s->base);
    pthread_rwlock_unlock(&s->log_lock);
}

static void log_stuck(int error, void *arg)
{
    struct disk_set *s = arg;
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_set_stuck(s->log, error);
    pthread_rwlock_unlock(&s->log_lock);
}

static void log_crowded(void *arg)
{
    struct disk_set *s = arg;
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_tell_crowded(s->log);
    pthread_rwlock_unlock(&s->log_lock);
}

/* What the gate lets out. A disk that can't free room keeps what was trimmed. */
static int write_out(const struct held_write *w, void *arg)
{
    struct disk_set *s = arg;
    int fd = s->disks[w->disk].backing.fd, result;
    if (w->kind == HELD_DATA)
        return write_all(fd, w->data, w->length, w->offset);
    if (w->kind == HELD_ZERO)
        result = medium_kernel.zero(&medium_kernel, fd, w->offset, w->length);
    else
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)w->offset, (off_t)w->length);
    return result == 0 || (w->kind == HELD_TRIM && is_unable(errno)) ? 0 : errno;
}

static int sync_out(unsigned disk, void *arg)
{
    struct disk_set *s = arg;
    return fdatasync(s->disks[disk].backing.fd) < 0 ? errno : 0;
}

static const struct gate_handlers gate_handlers = {
    .is_holding = log_is_holding,
    .is_pausing = log_is_pausing,
    .barrier = log_barrier,
    .write = write_out,
    .sync = sync_out,
    .durable = log_durable,
    .stuck = log_stuck,
    .crowded = log_crowded,
};

static bool is_held(struct disk_set *s, unsigned disk)
{
    return is_shared(s, disk) && gate_enter(s->gate);
}

/* With its stripes locked: gate and log have overlapping writes in one order. What a log did not take (the protection
 * has ended) is later than all that it has. */
static void hold(struct disk_set *s, const struct disk_write *w, enum held_kind kind)
{
    uint64_t end = 0;
    pthread_rwlock_rdlock(&s->log_lock);
    bool logged = s->log && write_log_append_at(s->log, w, &end) == 0;
    uint64_t position = s->base + end + !logged;
    pthread_rwlock_unlock(&s->log_lock);
    gate_add(s->gate, &(struct held_write){.disk = w->disk,
                                           .kind = kind,
                                           .offset = w->offset,
                                           .length = w->length,
                                           .position = position,
                                           .data = w->data});
}

struct gaps {
    struct gap {
        uint64_t offset, n;
    } * at;
    size_t n, room;
};

static void add_gap(uint64_t offset, uint64_t n, void *arg)
{
    struct gaps *g = arg;
    if (g->n == g->room) {
        g->room = 2 * g->room + 4;
        g->at = reallocarray(g->at, g->room, sizeof *g->at);
        if (!g->at)
            abort();
    }
    g->at[g->n++] = (struct gap){offset, n};
}

/* First what is held, then the disk: what is let out in between is there. */
static int read_shared(struct disk_set *s, unsigned disk, uint8_t *out, size_t n, uint64_t offset)
{
    struct gaps gaps = {.n = 0};
    int error = 0;
    gate_read(s->gate, disk, out, n, offset, add_gap, &gaps);
    for (size_t i = 0; i < gaps.n && !error; i++)
        error = read_all(s->disks[disk].backing.fd, out + (gaps.at[i].offset - offset), (size_t)gaps.at[i].n,
                         gaps.at[i].offset);
    free(gaps.at);
    return error;
}

void disk_set_release(struct disk_set *s, uint64_t position)
{
    pthread_rwlock_rdlock(&s->log_lock);
    position += s->base;
    bool known = s->log;
    pthread_rwlock_unlock(&s->log_lock);
    if (s->gate && known)
        gate_release(s->gate, position);
}

bool disk_set_let_out(struct disk_set *s)
{
    pthread_rwlock_rdlock(&s->log_lock);
    if (s->log)
        write_log_set_holding(s->log, false);
    pthread_rwlock_unlock(&s->log_lock);
    return !s->gate || gate_open(s->gate);
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
    int fd = s->disks[disk].backing.fd;
    return is_shared(s, disk) ? read_shared(s, disk, out, n, offset) : read_all(fd, out, n, offset);
}

int disk_set_write(struct disk_set *s, unsigned disk, const void *data, size_t n, uint64_t offset, bool fua)
{
    struct disk *d = &s->disks[disk];
    const struct disk_write w = {.disk = disk, .kind = DISK_DATA, .offset = offset, .length = n, .data = data};
    uint64_t stripes = stripes_of(n, offset);
    int error = 0;
    owed_wait(s->owed);
    noter_note(s->noter, disk, n, offset);
    bool held = is_held(s, disk);
    lock_stripes(d, stripes);
    if (held)
        hold(s, &w, HELD_DATA);
    else if ((error = write_all(d->backing.fd, data, n, offset)))
        failed(s, disk, n, offset, error);
    else
        wrote(s, &w);
    unlock_stripes(d, stripes);
    return error == 0 && fua ? disk_set_flush(s, disk) : error;
}

static int zero(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool punch, enum held_kind kind)
{
    struct disk *d = &s->disks[disk];
    const struct disk_write w = {.disk = disk, .kind = DISK_ZERO, .offset = offset, .length = n};
    uint64_t stripes = stripes_of(n, offset);
    int mode = (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE, error = 0;
    owed_wait(s->owed);
    noter_note(s->noter, disk, n, offset);
    bool held = is_held(s, disk);
    lock_stripes(d, stripes);
    if (held)
        hold(s, &w, kind);
    else if (fallocate(d->backing.fd, mode, (off_t)offset, (off_t)n) == 0)
        wrote(s, &w);
    else
        error = is_unable(errno) ? EOPNOTSUPP : failed(s, disk, n, offset, errno);
    unlock_stripes(d, stripes);
    return error;
}

int disk_set_zero(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool punch, bool fua)
{
    int error = n ? zero(s, disk, n, offset, punch, HELD_ZERO) : 0;
    return error == 0 && fua ? disk_set_flush(s, disk) : error;
}

int disk_set_trim(struct disk_set *s, unsigned disk, uint64_t n, uint64_t offset, bool fua)
{
    int error = n ? zero(s, disk, n, offset, true, HELD_TRIM) : 0;
    error = error == EOPNOTSUPP ? 0 : error;
    return error == 0 && fua ? disk_set_flush(s, disk) : error;
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
    if (is_shared(s, disk) && gate_flush(s->gate, disk))
        return 0;
    if (!pause)
        owed_wait(s->owed);
    int error = owed_take_error(s->owed, disk); /* the kernel tells an error once, and told it to the owed flush */
    if (error)
        return error;
    return is_shared(s, disk) ? flush_now(disk, s) : owed_flush(s->owed, disk);
}
