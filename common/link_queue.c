#include "common/link_queue.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 128 << 10 };

struct link_chunk {
    struct link_chunk *next;
    size_t start, end;
    uint8_t data[CHUNK];
};

static struct link_chunk *take_chunk(struct link_queue *q)
{
    struct link_chunk *c = q->spare ? q->spare : malloc(sizeof(*c));
    q->spare = NULL;
    if (c) {
        c->next = NULL;
        c->start = c->end = 0;
    }
    return c;
}

static void free_list(struct link_chunk *c)
{
    while (c) {
        struct link_chunk *next = c->next;
        free(c);
        c = next;
    }
}

/* Chunks for n bytes beyond what the tail takes, as a list; NULL with *failed. */
static struct link_chunk *more_chunks(struct link_queue *q, size_t n, int *failed)
{
    struct link_chunk *first = NULL, **end = &first;
    for (size_t have = 0; have < n; have += CHUNK) {
        *end = take_chunk(q);
        if (!*end) {
            free_list(first);
            *failed = 1;
            return NULL;
        }
        end = &(*end)->next;
    }
    return first;
}

int link_queue_add(struct link_queue *q, const void *data, size_t n)
{
    const uint8_t *from = data;
    size_t room = q->tail ? CHUNK - q->tail->end : 0;
    int failed = 0;
    struct link_chunk *more = n > room ? more_chunks(q, n - room, &failed) : NULL;
    if (failed)
        return -1;
    struct link_chunk *c = q->tail ? q->tail : more;
    if (q->tail)
        q->tail->next = more;
    else
        q->head = more;
    q->bytes += n;
    for (; c && n; c = c->next) {
        size_t part = CHUNK - c->end < n ? CHUNK - c->end : n; /* nothing, if the old tail was full */
        memcpy(c->data + c->end, from, part);
        c->end += part;
        from += part;
        n -= part;
        q->tail = c;
    }
    return 0;
}

const uint8_t *link_queue_front(const struct link_queue *q, size_t *n)
{
    *n = q->head ? q->head->end - q->head->start : 0;
    return *n ? q->head->data + q->head->start : NULL;
}

void link_queue_remove(struct link_queue *q, size_t n)
{
    struct link_chunk *c = q->head;
    c->start += n;
    q->bytes -= n;
    if (c->start < c->end)
        return;
    if (c == q->tail) {
        c->start = c->end = 0;
        return;
    }
    q->head = c->next;
    if (q->spare)
        free(c);
    else
        q->spare = c;
}

void link_queue_clear(struct link_queue *q)
{
    free_list(q->head);
    free(q->spare);
    *q = (struct link_queue){0};
}
