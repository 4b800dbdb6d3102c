#include "netbuf/netbuf.h"

#include <stdlib.h>
#include <string.h>

struct frame {
    struct frame *next;
    size_t n;
    uint8_t data[];
};

struct barrier {
    uint64_t epoch;
    uint64_t end; /* number of the first frame behind it */
};

struct netbuf {
    struct frame *head, **tail;
    uint64_t first, next; /* numbers of the oldest held frame and of the one to come */
    struct barrier barriers[NETBUF_BARRIERS_MAX];
    size_t barrier_count;
    uint64_t limit, memory; /* bytes, each frame's own overhead included */
    struct netbuf_counts counts;
};

struct netbuf *netbuf_new(uint64_t limit_bytes)
{
    struct netbuf *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->tail = &b->head;
    b->limit = limit_bytes;
    return b;
}

void netbuf_free(struct netbuf *b)
{
    if (!b)
        return;
    netbuf_drop_all(b);
    free(b);
}

bool netbuf_full(const struct netbuf *b)
{
    return b->memory >= b->limit;
}

int netbuf_hold(struct netbuf *b, const uint8_t *frame, size_t n)
{
    struct frame *f = malloc(sizeof *f + n);
    if (!f)
        return -1;
    f->next = NULL;
    f->n = n;
    memcpy(f->data, frame, n);
    *b->tail = f;
    b->tail = &f->next;
    b->next++;
    b->counts.frames++;
    b->counts.bytes += n;
    b->memory += sizeof *f + n;
    return 0;
}

void netbuf_barrier(struct netbuf *b, uint64_t epoch)
{
    if (b->barrier_count < NETBUF_BARRIERS_MAX)
        b->barrier_count++;
    b->barriers[b->barrier_count - 1] = (struct barrier){.epoch = epoch, .end = b->next};
}

uint64_t netbuf_running_frames(const struct netbuf *b)
{
    return b->next - (b->barrier_count ? b->barriers[b->barrier_count - 1].end : b->first);
}

static struct frame *pop(struct netbuf *b)
{
    struct frame *f = b->head;
    b->head = f->next;
    if (!b->head)
        b->tail = &b->head;
    b->first++;
    b->counts.frames--;
    b->counts.bytes -= f->n;
    b->memory -= sizeof *f + f->n;
    return f;
}

static void release_until(struct netbuf *b, uint64_t end, netbuf_emit *emit, void *arg)
{
    while (b->first < end) {
        struct frame *f = pop(b);
        b->counts.released++;
        emit(f->data, f->n, arg);
        free(f);
    }
}

void netbuf_release(struct netbuf *b, uint64_t epoch, netbuf_emit *emit, void *arg)
{
    size_t passed = 0;
    while (passed < b->barrier_count && b->barriers[passed].epoch <= epoch)
        passed++;
    if (!passed)
        return;
    uint64_t end = b->barriers[passed - 1].end;
    b->barrier_count -= passed;
    memmove(b->barriers, b->barriers + passed, b->barrier_count * sizeof *b->barriers);
    release_until(b, end, emit, arg);
}

void netbuf_release_all(struct netbuf *b, netbuf_emit *emit, void *arg)
{
    b->barrier_count = 0;
    release_until(b, b->next, emit, arg);
}

void netbuf_drop_all(struct netbuf *b)
{
    b->barrier_count = 0;
    while (b->head) {
        b->counts.dropped++;
        free(pop(b));
    }
}

struct netbuf_counts netbuf_counts(const struct netbuf *b)
{
    return b->counts;
}
