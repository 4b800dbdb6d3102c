/*
 * link_queue: the bytes that a link has still to send, in chunks. Pure but for malloc.
 */
#ifndef HIKAE_COMMON_LINK_QUEUE_H
#define HIKAE_COMMON_LINK_QUEUE_H

#include <stddef.h>
#include <stdint.h>

struct link_chunk;
struct link_queue {
    struct link_chunk *head, *tail;
    struct link_chunk *spare; /* one chunk kept for the next */
    size_t bytes;
};

int link_queue_add(struct link_queue *q, const void *data, size_t n); /* copies; -1: no memory, nothing was added */
/* The longest run at the front; *n = 0 when empty. Stays the same or grows until link_queue_remove. */
const uint8_t *link_queue_front(const struct link_queue *q, size_t *n);
void link_queue_remove(struct link_queue *q, size_t n); /* n at most what front gave */
void link_queue_clear(struct link_queue *q);            /* frees everything */

#endif
