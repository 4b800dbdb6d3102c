#include "disk/server/held.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

/* A part of a write that no newer one has covered. Those of a disk are disjoint. */
struct segment {
    uint64_t start, end;
    struct kept *of;
    struct segment *next, **link; /* of the same entry */
};

struct kept {
    struct held_write w;
    struct kept *next;
    struct segment *visible;
    uint8_t data[];
};

struct held {
    struct kept *first, **last; /* in the order in which they were added */
    struct kept *given;         /* the newest that was given to be written; NULL: none */
    void *visible[DISK_MAX];    /* search trees of segments */
    uint64_t count[DISK_MAX];   /* writes, without barriers */
    uint64_t bytes, released, highest;
};

static void *need(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- segments ---- */

/* Those that overlap are equal; so looking for a range finds any segment that overlaps it. */
static int compare(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->end <= y->start ? -1 : x->start >= y->end;
}

static struct segment *find(const struct held *h, unsigned disk, uint64_t start, uint64_t end)
{
    const struct segment range = {.start = start, .end = end};
    struct segment *const *at = tfind(&range, &h->visible[disk], compare);
    return at ? *at : NULL;
}

static void show(struct held *h, struct kept *entry, uint64_t start, uint64_t end)
{
    struct segment *s = need(malloc(sizeof *s));
    *s = (struct segment){.start = start, .end = end, .of = entry, .next = entry->visible, .link = &entry->visible};
    if (s->next)
        s->next->link = &s->next;
    entry->visible = s;
    need(tsearch(s, &h->visible[entry->w.disk], compare));
}

static void hide(struct held *h, struct segment *s)
{
    tdelete(s, &h->visible[s->of->w.disk], compare);
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    free(s);
}

/* A newer write covers this range. */
static void cover(struct held *h, unsigned disk, uint64_t start, uint64_t end)
{
    for (struct segment *s; (s = find(h, disk, start, end));) {
        uint64_t s_end = s->end;
        if (s->start >= start && s_end <= end) {
            hide(h, s);
        } else if (s->start < start) {
            s->end = start; /* stays where it is in the tree */
            if (s_end > end)
                show(h, s->of, end, s_end);
        } else {
            s->start = end;
        }
    }
}

static void read_segment(const struct segment *s, uint8_t *out, uint64_t start, uint64_t end)
{
    const struct held_write *w = &s->of->w;
    if (w->kind == HELD_DATA)
        memcpy(out, w->data + (start - w->offset), end - start);
    else
        memset(out, 0, end - start);
}

struct reading {
    const struct held *h;
    unsigned disk;
    uint8_t *out;
    uint64_t offset;
    void (*gap)(uint64_t offset, uint64_t n, void *arg);
    void *arg;
};

/* What is found is the one highest in the tree, so this goes no deeper than the tree does. */
static void read_range(const struct reading *r, uint64_t start, uint64_t end) /* NOLINT(misc-no-recursion) */
{
    while (start < end) {
        const struct segment *s = find(r->h, r->disk, start, end);
        if (!s) {
            r->gap(start, end - start, r->arg);
            return;
        }
        if (s->start > start)
            read_range(r, start, s->start);
        uint64_t from = s->start > start ? s->start : start, to = s->end < end ? s->end : end;
        read_segment(s, r->out + (from - r->offset), from, to);
        start = to;
    }
}

void held_read(const struct held *h, unsigned disk, void *out, size_t n, uint64_t offset,
               void (*gap)(uint64_t offset, uint64_t n, void *arg), void *arg)
{
    struct reading r = {.h = h, .disk = disk, .out = out, .offset = offset, .gap = gap, .arg = arg};
    read_range(&r, offset, offset + n);
}

/* ---- entries ---- */

struct held *held_new(void)
{
    struct held *h = need(calloc(1, sizeof *h));
    h->last = &h->first;
    return h;
}

static uint64_t weight(const struct held_write *w)
{
    return HELD_ENTRY_BYTES + (w->kind == HELD_DATA ? w->length : 0);
}

void held_add(struct held *h, const struct held_write *w)
{
    size_t n = w->kind == HELD_DATA ? w->length : 0;
    struct kept *entry = need(malloc(sizeof *entry + n));
    *entry = (struct kept){.w = *w};
    entry->w.data = NULL;
    if (n) {
        memcpy(entry->data, w->data, n);
        entry->w.data = entry->data;
    }
    *h->last = entry;
    h->last = &entry->next;
    h->bytes += weight(w);
    h->highest = w->position > h->highest ? w->position : h->highest;
    if (w->kind == HELD_BARRIER)
        return;
    h->count[w->disk]++;
    cover(h, w->disk, w->offset, w->offset + w->length);
    show(h, entry, w->offset, w->offset + w->length);
}

static void forget_first(struct held *h)
{
    struct kept *entry = h->first;
    while (entry->visible)
        hide(h, entry->visible);
    h->first = entry->next;
    if (!h->first)
        h->last = &h->first;
    h->bytes -= weight(&entry->w);
    if (entry->w.kind != HELD_BARRIER)
        h->count[entry->w.disk]--;
    free(entry);
}

void held_free(struct held *h)
{
    if (!h)
        return;
    while (h->first)
        forget_first(h);
    free(h);
}

uint64_t held_bytes(const struct held *h)
{
    return h->bytes;
}

bool held_is_empty(const struct held *h)
{
    return !h->first;
}

bool held_has(const struct held *h, unsigned disk)
{
    return h->count[disk] > 0;
}

void held_release(struct held *h, uint64_t position)
{
    h->released = position > h->released ? position : h->released;
}

void held_release_all(struct held *h)
{
    held_release(h, h->highest);
}

uint64_t held_released(const struct held *h)
{
    return h->released;
}

const struct held_write *held_next(struct held *h, uint64_t upto)
{
    struct kept *entry = h->given ? h->given->next : h->first;
    if (!entry || entry->w.position > h->released || entry->w.position > upto)
        return NULL;
    h->given = entry;
    return &entry->w;
}

void held_rewind(struct held *h)
{
    h->given = NULL;
}

void held_done(struct held *h)
{
    for (bool more = h->given; more;) {
        more = h->first != h->given;
        forget_first(h);
    }
    h->given = NULL;
}
