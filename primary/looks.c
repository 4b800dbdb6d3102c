#include "primary/looks.h"

#include <pthread.h>
#include <stdlib.h>

struct noted {
    struct noted *next;
    uint64_t number;
    uint8_t *notes;
};

struct looks {
    struct look *first;
    uint64_t seed;
    struct page_set *populated; /* NULL: no look at memory was taken */
    pthread_mutex_t lock;       /* guards: */
    struct noted *noted;        /* told and not asked for: as many as may be unanswered */
};

struct looks *looks_new(void)
{
    struct looks *s = calloc(1, sizeof *s);
    if (s)
        pthread_mutex_init(&s->lock, NULL);
    return s;
}

static void noted_free(struct noted *n)
{
    free(n->notes);
    free(n);
}

void looks_free(struct looks *s)
{
    if (!s)
        return;
    for (struct look *l = s->first, *next; l; l = next) {
        next = l->next;
        look_free(l);
    }
    for (struct noted *n = s->noted, *next; n; n = next) {
        next = n->next;
        noted_free(n);
    }
    page_set_free(s->populated);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

int looks_take_memory(struct looks *s, struct look *l, const uint8_t *memory, struct page_set **populated)
{
    if (*populated) {
        page_set_free(s->populated);
        s->populated = *populated;
        *populated = NULL;
    }
    return look_at_memory(l, memory, s->populated);
}

void looks_add(struct looks *s, struct look *l, uint64_t seed)
{
    struct look **tail = &s->first;
    s->seed = seed;
    while (*tail)
        tail = &(*tail)->next;
    *tail = l;
}

int looks_write(struct looks *s, const struct disk_write *w)
{
    int result = 0;
    for (struct look *l = s->first; l && !result; l = l->next)
        result = look_write(l, w);
    return result;
}

int looks_page(struct looks *s, uint64_t gfn, const uint8_t *page)
{
    int result = 0;
    if (s->populated)
        page_set_add(s->populated, gfn);
    for (struct look *l = s->first; l && !result; l = l->next)
        result = look_page(l, gfn, page);
    return result;
}

/* Is it what there is at the end of that epoch? */
static bool is_settled(const struct look *l, const struct capture *c)
{
    return l && l->read_at < c->times.paused_at;
}

/* ---- repair ---- */

static int zeroes(struct encoder *e, uint64_t epoch, const struct look *l, uint64_t from, uint64_t end)
{
    static const uint8_t page[PROTO_PAGE_SIZE];
    if (l->disk != CHECK_MEMORY)
        return encoder_disk_zeroes(e, epoch, l->disk, from * DISK_BLOCK_SIZE, (end - from) * DISK_BLOCK_SIZE);
    int result = 0;
    for (; from < end && !result; from++)
        result = encoder_page_anew(e, epoch, from, page);
    return result;
}

static int blocks(struct encoder *e, uint64_t epoch, const struct look *l, uint64_t from, uint64_t count,
                  const uint8_t *data)
{
    if (l->disk != CHECK_MEMORY)
        return encoder_disk(e, epoch, l->disk, from * DISK_BLOCK_SIZE, data, count * DISK_BLOCK_SIZE);
    int result = 0;
    for (uint64_t i = 0; i < count && !result; i++)
        result = encoder_page_anew(e, epoch, from + i, data + i * PROTO_PAGE_SIZE);
    return result;
}

static int repair(struct encoder *e, uint64_t epoch, const struct look *l)
{
    uint64_t at = l->first, from = at, count;
    const uint8_t *data;
    int result = 0;
    for (; !result && look_run(l, &from, &count, &data); at = from += count) {
        result = zeroes(e, epoch, l, at, from);
        if (!result)
            result = blocks(e, epoch, l, from, count, data);
    }
    return result ? result : zeroes(e, epoch, l, at, l->end);
}

int looks_repair(struct looks *s, struct encoder *e, const struct capture *c)
{
    int result = 0;
    for (const struct look *l = s->first; !result && is_settled(l, c); l = l->next)
        if (l->repair)
            result = repair(e, c->epoch, l);
    return result;
}

/* ---- telling ---- */

/* Before its CHECK leaves, since the answer may be quick. */
static int note(struct looks *s, const struct encoder *e, struct look *l)
{
    struct noted *n = calloc(1, sizeof *n);
    if (!n)
        return -1;
    for (uint64_t gfn = l->first; gfn < l->end; gfn++)
        look_note_sent(l, gfn, encoder_last_sent(e, gfn));
    n->number = l->number;
    n->notes = l->notes;
    l->notes = NULL;
    pthread_mutex_lock(&s->lock);
    n->next = s->noted;
    s->noted = n;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

int looks_check(struct looks *s, struct encoder *e, const struct capture *c)
{
    int result = 0;
    while (!result && is_settled(s->first, c)) {
        struct look *l = s->first;
        size_t n;
        uint8_t *payload = look_payload(l, s->seed, &n);
        if (!payload || (l->disk == CHECK_MEMORY && note(s, e, l)))
            result = -1;
        else
            result = encoder_check(e, c->epoch, payload, n);
        free(payload);
        s->first = l->next;
        look_free(l);
    }
    return result;
}

uint8_t *looks_notes(struct looks *s, uint64_t number)
{
    uint8_t *notes = NULL;
    pthread_mutex_lock(&s->lock);
    for (struct noted **at = &s->noted; *at; at = &(*at)->next) {
        struct noted *n = *at;
        if (n->number != number)
            continue;
        *at = n->next;
        notes = n->notes;
        free(n);
        break;
    }
    pthread_mutex_unlock(&s->lock);
    return notes;
}
