#include "disk/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 4096, MAGIC = 0x68576c31, LATE_NS = 20000000 };

/* The first page of the shared memory. head is the writers', tail the reader's: each on a cache line of its own. */
struct shared { /* NOLINT(clang-analyzer-optin.performance.Padding) */
    uint64_t magic, soft, hard;
    alignas(64) _Atomic uint64_t head;
    alignas(64) _Atomic uint64_t tail;
    alignas(64) _Atomic uint32_t room; /* futex: counted up when a writer that waits has to look again */
    _Atomic uint32_t waiting;          /* a writer waits, or is about to */
    _Atomic uint32_t pause;            /* odd: the VM is paused, or about to be */
    _Atomic uint32_t owed;
    _Atomic uint32_t events;
    _Atomic uint32_t broken;
    _Atomic uint32_t holding; /* of shared disks, as what follows: 0 with a server that knows of none */
    _Atomic int32_t stuck;
    _Atomic uint64_t flushed;
    _Atomic uint64_t durable;
    _Atomic uint64_t announced; /* when the pause was, CLOCK_MONOTONIC in ns; 0 with a reader that does not say it */
    _Atomic uint32_t urgent;    /* the last pause that was said to be */
    _Atomic uint32_t stopped;   /* the last one in which the VM's processors stand still */
};

struct entry { /* its data follows, rounded up to a multiple of the head */
    uint32_t kind, disk;
    int32_t error;
    uint32_t unused;
    uint64_t offset, length;
};
_Static_assert(sizeof(struct entry) == WRITE_LOG_ENTRY_HEAD, "entries stay aligned");
_Static_assert(sizeof(struct shared) <= HEAD_BYTES, "the head fits its page");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics work between processes");

struct write_log {
    struct shared *shared;
    uint8_t *ring; /* mapped twice in a row, so that no entry is ever cut at its end */
    uint64_t hard, soft;
    int memory_fd, bell_fd;
    pthread_mutex_t append; /* writers: entries are made one after the other */
    atomic_bool closed;     /* writers */
    uint64_t cursor;        /* reader: what it has read */
};

static int futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    return (int)syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

/* ---- making ---- */

static int map_ring(struct write_log *l, struct errmsg *e)
{
    size_t n = (size_t)l->hard;
    uint8_t *at = mmap(NULL, 2 * n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return errmsg_set(e, "the write log's memory: %s", strerror(errno));
    l->ring = at;
    for (int i = 0; i < 2; i++)
        if (mmap(at + (size_t)i * n, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, l->memory_fd, HEAD_BYTES) ==
            MAP_FAILED)
            return errmsg_set(e, "the write log's memory: %s", strerror(errno));
    return 0;
}

static int map_head(struct write_log *l, struct errmsg *e)
{
    void *head = mmap(NULL, HEAD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, l->memory_fd, 0);
    if (head == MAP_FAILED)
        return errmsg_set(e, "the write log's memory: %s", strerror(errno));
    l->shared = head;
    return 0;
}

static struct write_log *new_log(int memory_fd, int bell_fd)
{
    struct write_log *l = calloc(1, sizeof *l);
    if (!l)
        abort();
    l->memory_fd = memory_fd;
    l->bell_fd = bell_fd;
    pthread_mutex_init(&l->append, NULL);
    return l;
}

struct write_log *write_log_create(uint64_t soft, uint64_t hard, struct errmsg *e)
{
    struct write_log *l = new_log(memfd_create("hikae-write-log", MFD_CLOEXEC), eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    l->soft = soft;
    l->hard = hard;
    if (l->memory_fd < 0 || l->bell_fd < 0 || ftruncate(l->memory_fd, (off_t)(HEAD_BYTES + hard)) < 0)
        errmsg_set(e, "the write log's memory: %s", strerror(errno));
    else if (map_head(l, e) == 0 && map_ring(l, e) == 0) {
        l->shared->magic = MAGIC;
        l->shared->soft = soft;
        l->shared->hard = hard;
        return l;
    }
    write_log_free(l);
    return NULL;
}

struct write_log *write_log_map(int memory_fd, int bell_fd, struct errmsg *e)
{
    struct write_log *l = new_log(memory_fd, bell_fd);
    struct stat s;
    if (fstat(memory_fd, &s) < 0 || s.st_size < HEAD_BYTES)
        errmsg_set(e, "the disk server's write log is no write log");
    else if (map_head(l, e) == 0) {
        l->soft = l->shared->soft;
        l->hard = l->shared->hard;
        if (l->shared->magic != MAGIC || l->soft > l->hard || l->hard != (uint64_t)s.st_size - HEAD_BYTES)
            errmsg_set(e, "the disk server's write log is of another version: stop the VM and start it again");
        else if (map_ring(l, e) == 0)
            return l;
    }
    write_log_free(l);
    return NULL;
}

void write_log_free(struct write_log *l)
{
    if (!l)
        return;
    if (l->ring)
        munmap(l->ring, (size_t)(2 * l->hard));
    if (l->shared)
        munmap(l->shared, HEAD_BYTES);
    if (l->memory_fd >= 0)
        close(l->memory_fd);
    if (l->bell_fd >= 0)
        close(l->bell_fd);
    pthread_mutex_destroy(&l->append);
    free(l);
}

int write_log_memory_fd(const struct write_log *l)
{
    return l->memory_fd;
}

int write_log_bell_fd(const struct write_log *l)
{
    return l->bell_fd;
}

/* ---- writers ---- */

static void raise_event(struct write_log *l, uint32_t event)
{
    atomic_fetch_or(&l->shared->events, event);
    uint64_t one = 1;
    (void)!write(l->bell_fd, &one, sizeof one); /* fails only when it rings already */
}

static void look_again(struct write_log *l)
{
    atomic_store(&l->shared->waiting, 0);
    atomic_fetch_add(&l->shared->room, 1);
    futex(&l->shared->room, FUTEX_WAKE, INT_MAX);
}

static uint64_t entry_size(const struct entry *entry)
{
    if (entry->kind != DISK_DATA)
        return sizeof *entry;
    return sizeof *entry + ((entry->length + sizeof *entry - 1) & ~(uint64_t)(sizeof *entry - 1));
}

/* Room for `need` octets after position `head`. Either side of the wait looks again after it has said what it did, so
 * neither misses the other. */
static bool get_room(struct write_log *l, uint64_t head, uint64_t need)
{
    struct shared *s = l->shared;
    for (;;) {
        uint32_t seen = atomic_load(&s->room);
        atomic_store(&s->waiting, 1);
        bool pausing = atomic_load(&s->pause) & 1;
        if (atomic_load(&l->closed) || atomic_load(&s->broken))
            return false;
        if (head + need - atomic_load(&s->tail) <= (pausing ? l->hard : l->soft))
            return true;
        if (pausing) { /* promise 4: what pauses the VM waits for us, so we can't wait for it */
            atomic_store(&s->broken, 1);
            raise_event(l, DISK_EVENT_BROKEN);
            return false;
        }
        futex(&s->room, FUTEX_WAIT, seen);
    }
}

static int append_one(struct write_log *l, const struct disk_write *w, uint64_t offset, uint64_t length,
                      const uint8_t *data)
{
    struct shared *s = l->shared;
    struct entry entry = {
        .kind = w->kind, .disk = w->disk, .error = (int32_t)w->error, .offset = offset, .length = length};
    uint64_t head = atomic_load_explicit(&s->head, memory_order_relaxed), need = entry_size(&entry);
    bool fits = head + need - atomic_load(&s->tail) <= l->soft && !atomic_load(&l->closed) && !atomic_load(&s->broken);
    if (!fits && !get_room(l, head, need))
        return -1;
    uint8_t *at = l->ring + head % l->hard;
    memcpy(at, &entry, sizeof entry);
    if (data)
        memcpy(at + sizeof entry, data, (size_t)length);
    atomic_store(&s->head, head + need);
    uint64_t tail = atomic_load(&s->tail), half = l->soft / 2;
    if (head - tail <= half && head + need - tail > half)
        raise_event(l, DISK_EVENT_FILLING);
    if (w->kind == DISK_ERROR)
        raise_event(l, DISK_EVENT_ERROR);
    return 0;
}

int write_log_append_at(struct write_log *l, const struct disk_write *w, uint64_t *end)
{
    int status = 0;
    pthread_mutex_lock(&l->append);
    if (w->kind != DISK_DATA)
        status = append_one(l, w, w->offset, w->length, NULL);
    else
        for (uint64_t done = 0, n; status == 0 && done < w->length; done += n) {
            n = w->length - done < WRITE_LOG_DATA_MAX ? w->length - done : WRITE_LOG_DATA_MAX;
            status = append_one(l, w, w->offset + done, n, w->data + done);
        }
    *end = atomic_load_explicit(&l->shared->head, memory_order_relaxed);
    pthread_mutex_unlock(&l->append);
    return status;
}

int write_log_append(struct write_log *l, const struct disk_write *w)
{
    uint64_t end;
    return write_log_append_at(l, w, &end);
}

void write_log_close(struct write_log *l)
{
    atomic_store(&l->closed, true);
    look_again(l);
}

uint32_t write_log_pause(const struct write_log *l)
{
    uint32_t pause = atomic_load(&l->shared->pause);
    return pause & 1 ? pause : 0;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool write_log_is_urgent(const struct write_log *l, uint32_t *stopped)
{
    uint32_t pause = write_log_pause(l);
    bool urgent =
        pause && (atomic_load(&l->shared->urgent) == pause || now_ns() - atomic_load(&l->shared->announced) > LATE_NS);
    *stopped = urgent && atomic_load(&l->shared->stopped) == pause ? pause : 0; /* it is set first */
    return urgent;
}

void write_log_set_owed(struct write_log *l, unsigned owed)
{
    if (atomic_exchange(&l->shared->owed, owed) > 0 && owed == 0)
        raise_event(l, DISK_EVENT_FLUSHED);
}

uint64_t write_log_barrier(struct write_log *l)
{
    uint64_t head = atomic_load(&l->shared->head);
    atomic_store(&l->shared->flushed, head);
    return head;
}

void write_log_set_durable(struct write_log *l, uint64_t position)
{
    atomic_store(&l->shared->durable, position);
    raise_event(l, DISK_EVENT_DURABLE);
}

void write_log_set_stuck(struct write_log *l, int error)
{
    if (atomic_exchange(&l->shared->stuck, error) != error)
        raise_event(l, DISK_EVENT_STUCK);
}

void write_log_tell_crowded(struct write_log *l)
{
    raise_event(l, DISK_EVENT_CROWDED);
}

/* ---- the reader ---- */

void write_log_set_holding(struct write_log *l, bool holding)
{
    atomic_store(&l->shared->holding, holding);
}

bool write_log_is_holding(const struct write_log *l)
{
    return atomic_load(&l->shared->holding);
}

uint64_t write_log_flushed(const struct write_log *l)
{
    return atomic_load(&l->shared->flushed);
}

uint64_t write_log_durable(const struct write_log *l)
{
    return atomic_load(&l->shared->durable);
}

int write_log_stuck(const struct write_log *l)
{
    return atomic_load(&l->shared->stuck);
}

void write_log_set_pausing(struct write_log *l, bool pausing)
{
    uint32_t pause = atomic_load(&l->shared->pause);
    if (pausing)
        atomic_store(&l->shared->announced, now_ns());
    atomic_store(&l->shared->pause, pause + ((pause & 1) != pausing));
    if (pausing && atomic_load(&l->shared->waiting))
        look_again(l);
}

void write_log_set_urgent(struct write_log *l)
{
    atomic_store(&l->shared->urgent, write_log_pause(l));
}

void write_log_set_stopped(struct write_log *l)
{
    atomic_store(&l->shared->stopped, write_log_pause(l));
    write_log_set_urgent(l);
}

bool write_log_owes(const struct write_log *l)
{
    return atomic_load(&l->shared->owed) > 0;
}

uint64_t write_log_head(const struct write_log *l)
{
    return atomic_load(&l->shared->head);
}

uint64_t write_log_used(const struct write_log *l)
{
    uint64_t tail = atomic_load(&l->shared->tail); /* first: it never overtakes the head */
    return atomic_load(&l->shared->head) - tail;
}

unsigned write_log_events(struct write_log *l)
{
    uint64_t rung;
    (void)!read(l->bell_fd, &rung, sizeof rung); /* before the events: what comes later rings anew */
    return atomic_exchange(&l->shared->events, 0);
}

static bool is_valid(const struct write_log *l, const struct entry *entry, uint64_t rest)
{
    if (entry->disk >= DISK_MAX || entry->kind > DISK_ERROR || rest > l->hard)
        return false;
    if (entry->kind == DISK_DATA && (entry->length == 0 || entry->length > WRITE_LOG_DATA_MAX))
        return false;
    return entry_size(entry) <= rest;
}

int write_log_next(struct write_log *l, uint64_t upto, struct disk_write *out)
{
    struct entry entry;
    uint64_t head = atomic_load(&l->shared->head);
    if (atomic_load(&l->shared->broken))
        return -1;
    if (l->cursor >= upto || l->cursor == head)
        return 0;
    const uint8_t *at = l->ring + l->cursor % l->hard;
    memcpy(&entry, at, sizeof entry);
    if (!is_valid(l, &entry, head - l->cursor))
        return -1;
    *out = (struct disk_write){.disk = entry.disk,
                               .kind = (enum disk_kind)entry.kind,
                               .error = entry.error,
                               .offset = entry.offset,
                               .length = entry.length,
                               .data = entry.kind == DISK_DATA ? at + sizeof entry : NULL};
    l->cursor += entry_size(&entry);
    return 1;
}

void write_log_release(struct write_log *l)
{
    atomic_store(&l->shared->tail, l->cursor);
    if (atomic_load(&l->shared->waiting))
        look_again(l);
}
