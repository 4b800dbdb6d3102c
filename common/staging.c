#include "common/staging.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct piece {
    struct piece *next;
    size_t n;
    off_t spilt; /* where in the file; -1: in `data` */
    uint8_t data[];
};

struct staging {
    struct piece *head, **tail;
    uint64_t limit, in_memory, bytes;
    char *spool_dir;
    int file; /* -1: not needed yet */
    off_t file_end;
};

struct staging *staging_new(uint64_t limit_bytes, const char *spool_dir)
{
    struct staging *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->tail = &s->head;
    s->limit = limit_bytes;
    s->file = -1;
    s->spool_dir = strdup(spool_dir);
    if (s->spool_dir)
        return s;
    free(s);
    return NULL;
}

void staging_free(struct staging *s)
{
    if (!s)
        return;
    staging_clear(s);
    if (s->file >= 0)
        close(s->file);
    free(s->spool_dir);
    free(s);
}

static int open_file(struct staging *s, struct errmsg *e)
{
    if (s->file >= 0)
        return 0;
    s->file = open(s->spool_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (s->file < 0)
        return errmsg_set(e, "an epoch is larger than `staging` and can't be kept in %s: %s (set spool_dir or staging)",
                          s->spool_dir, strerror(errno));
    return 0;
}

static int spill(struct staging *s, const uint8_t *data, size_t n, struct errmsg *e)
{
    if (open_file(s, e))
        return -1;
    for (size_t at = 0; at < n;) {
        ssize_t w = pwrite(s->file, data + at, n - at, s->file_end + (off_t)at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return errmsg_set(e, "an epoch is larger than `staging` and %s takes no more: %s", s->spool_dir,
                              strerror(errno));
        at += (size_t)w;
    }
    return 0;
}

int staging_add(struct staging *s, const uint8_t *data, size_t n, struct errmsg *e)
{
    bool spills = s->in_memory + n > s->limit;
    if (spills && spill(s, data, n, e))
        return -1;
    struct piece *p = malloc(sizeof *p + (spills ? 0 : n));
    if (!p)
        return errmsg_set(e, "no memory to stage an epoch");
    p->next = NULL;
    p->n = n;
    p->spilt = spills ? s->file_end : -1;
    if (spills) {
        s->file_end += (off_t)n;
    } else {
        memcpy(p->data, data, n);
        s->in_memory += n;
    }
    *s->tail = p;
    s->tail = &p->next;
    s->bytes += n;
    return 0;
}

static int read_back(struct staging *s, const struct piece *p, uint8_t *out, struct errmsg *e)
{
    for (size_t at = 0; at < p->n;) {
        ssize_t r = pread(s->file, out + at, p->n - at, p->spilt + (off_t)at);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return errmsg_set(e, "a staged epoch can't be read back from %s: %s", s->spool_dir, strerror(errno));
        at += (size_t)r;
    }
    return 0;
}

static int hand_out(struct staging *s, const struct piece *p, int (*each)(const uint8_t *, size_t, void *), void *arg,
                    struct errmsg *e)
{
    if (p->spilt < 0)
        return each(p->data, p->n, arg);
    uint8_t *buffer = malloc(p->n);
    if (!buffer)
        return errmsg_set(e, "no memory to read back a staged epoch");
    int result = read_back(s, p, buffer, e);
    if (!result)
        result = each(buffer, p->n, arg);
    free(buffer);
    return result;
}

int staging_each(struct staging *s, int (*each)(const uint8_t *data, size_t n, void *arg), void *arg, struct errmsg *e)
{
    int result = 0;
    for (struct piece *p = s->head; p && !result; p = p->next)
        result = hand_out(s, p, each, arg, e);
    return result;
}

struct draining {
    void (*each)(const uint8_t *data, size_t n, void *arg);
    void *arg;
};

static int drain_one(const uint8_t *data, size_t n, void *arg)
{
    const struct draining *d = arg;
    d->each(data, n, d->arg);
    return 0;
}

int staging_drain(struct staging *s, void (*each)(const uint8_t *data, size_t n, void *arg), void *arg,
                  struct errmsg *e)
{
    struct draining d = {each, arg};
    int result = staging_each(s, drain_one, &d, e);
    staging_clear(s);
    return result;
}

void staging_clear(struct staging *s)
{
    for (struct piece *p = s->head, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    s->head = NULL;
    s->tail = &s->head;
    s->in_memory = s->bytes = 0;
    if (s->file_end && !ftruncate(s->file, 0))
        s->file_end = 0;
}

uint64_t staging_bytes(const struct staging *s)
{
    return s->bytes;
}
