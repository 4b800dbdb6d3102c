#include "crash_medium.h"

#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512 };

struct crash_op {
    unsigned file;
    uint64_t offset;
    size_t n;
    uint8_t *data;
};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static unsigned file_of(const struct crash_medium *m, int fd)
{
    struct stat here, there;
    if (fstat(fd, &here))
        abort();
    for (unsigned i = 0; i < m->files; i++)
        if (!stat(m->path[i], &there) && there.st_ino == here.st_ino && there.st_dev == here.st_dev)
            return i;
    return CRASH_FILES; /* not watched: it loses nothing */
}

/* With the lock. */
static bool stops(struct crash_medium *m)
{
    if (m->steps++ < m->stop_after)
        return false;
    errno = m->error;
    return true;
}

/* With the lock. */
static void note(struct crash_medium *m, unsigned file, const void *data, size_t n, uint64_t offset)
{
    if (file == CRASH_FILES)
        return;
    if (offset + n > CRASH_FILE_MAX)
        abort();
    if (m->op_count == m->op_capacity) {
        m->op_capacity = 2 * m->op_capacity + 64;
        m->ops = must(realloc(m->ops, m->op_capacity * sizeof *m->ops));
    }
    uint8_t *copy = must(calloc(1, n));
    if (data)
        memcpy(copy, data, n);
    m->ops[m->op_count++] = (struct crash_op){file, offset, n, copy};
}

static int crash_write(const struct medium *medium, int fd, const void *data, size_t n, uint64_t offset)
{
    struct crash_medium *m = (struct crash_medium *)(uintptr_t)medium;
    pthread_mutex_lock(&m->lock);
    int result = stops(m) ? -1 : medium_kernel.write(&medium_kernel, fd, data, n, offset);
    if (!result)
        note(m, file_of(m, fd), data, n, offset);
    pthread_mutex_unlock(&m->lock);
    return result;
}

static int crash_zero(const struct medium *medium, int fd, uint64_t offset, uint64_t n)
{
    struct crash_medium *m = (struct crash_medium *)(uintptr_t)medium;
    pthread_mutex_lock(&m->lock);
    int result = stops(m) ? -1 : medium_kernel.zero(&medium_kernel, fd, offset, n);
    if (!result)
        note(m, file_of(m, fd), NULL, (size_t)n, offset);
    pthread_mutex_unlock(&m->lock);
    return result;
}

/* What was written to the file is durable. */
static int crash_sync(const struct medium *medium, int fd)
{
    struct crash_medium *m = (struct crash_medium *)(uintptr_t)medium;
    pthread_mutex_lock(&m->lock);
    bool stopped = stops(m);
    unsigned file = file_of(m, fd);
    size_t kept = 0;
    for (size_t i = 0; i < m->op_count && !stopped; i++) {
        struct crash_op op = m->ops[i];
        if (op.file != file) {
            m->ops[kept++] = op;
            continue;
        }
        memcpy(m->durable[file] + op.offset, op.data, op.n);
        free(op.data);
    }
    m->op_count = stopped ? m->op_count : kept;
    pthread_mutex_unlock(&m->lock);
    return stopped ? -1 : 0;
}

void crash_medium_init(struct crash_medium *m, unsigned stop_after, int error)
{
    *m = (struct crash_medium){
        .medium = {crash_write, crash_zero, crash_sync}, .stop_after = stop_after, .error = error};
    pthread_mutex_init(&m->lock, NULL);
}

void crash_medium_watch(struct crash_medium *m, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || m->files == CRASH_FILES)
        abort();
    m->durable[m->files] = must(calloc(1, CRASH_FILE_MAX));
    if (pread(fd, m->durable[m->files], CRASH_FILE_MAX, 0) < 0)
        abort();
    close(fd);
    snprintf(m->path[m->files++], sizeof m->path[0], "%s", path);
}

void crash_medium_free(struct crash_medium *m)
{
    for (unsigned i = 0; i < m->files; i++)
        free(m->durable[i]);
    for (size_t i = 0; i < m->op_count; i++)
        free(m->ops[i].data);
    free(m->ops);
    pthread_mutex_destroy(&m->lock);
}

/* A third of the writes has come to the disk, a third has not, of the rest some sectors have. */
static void lose_some(struct crash_medium *m, const struct crash_op *op, uint64_t *random)
{
    unsigned fate = (unsigned)(sample_random(random) % 3);
    for (uint64_t at = op->offset, end = op->offset + op->n, next; at < end; at = next) {
        next = (at / SECTOR + 1) * SECTOR;
        next = next < end ? next : end;
        if (fate == 0 || (fate == 1 && sample_random(random) % 2))
            memcpy(m->durable[op->file] + at, op->data + (at - op->offset), (size_t)(next - at));
    }
}

void crash_medium_lose_power(struct crash_medium *m, uint64_t *random)
{
    for (size_t i = 0; i < m->op_count; i++)
        lose_some(m, &m->ops[i], random);
    for (unsigned i = 0; i < m->files; i++) {
        struct stat st;
        int fd = open(m->path[i], O_RDWR | O_CLOEXEC);
        if (fd < 0) /* removed: that is durable */
            continue;
        if (fstat(fd, &st))
            abort();
        size_t n = st.st_size < CRASH_FILE_MAX ? (size_t)st.st_size : CRASH_FILE_MAX;
        if (medium_kernel.write(&medium_kernel, fd, m->durable[i], n, 0))
            abort();
        close(fd);
    }
}
