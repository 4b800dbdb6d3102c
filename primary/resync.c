#include "primary/resync.h"

#include <stdlib.h>
#include <string.h>

/* ---- spans ---- */

/* Adds what lies below `end`; the range that goes on behind it is looked at again. */
static int cut_ranges(struct page_ranges *out, const struct page_ranges *all, size_t *cursor, uint64_t begin,
                      uint64_t end)
{
    for (; *cursor < all->n && all->at[*cursor].first < end; ++*cursor) {
        const struct page_range *r = &all->at[*cursor];
        uint64_t first = r->first > begin ? r->first : begin, last = r->first + r->count;
        if (first < last && page_ranges_add(out, first, (last < end ? last : end) - first))
            return -1;
        if (last > end)
            break;
    }
    return 0;
}

struct resync_span *resync_span_new(const struct regions_told *told, uint64_t first, const uint8_t *payload, size_t n,
                                    const struct page_ranges *populated, size_t *cursor)
{
    uint32_t size = told->head.region_pages;
    struct resync_span *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (struct resync_span){.head = told->head, .first = first, .pages = told->pages, .n = n};
    s->payload = malloc(n);
    if (s->payload && !cut_ranges(&s->populated, populated, cursor, first * size, told->head.end * size)) {
        memcpy(s->payload, payload, n);
        return s;
    }
    resync_span_free(s);
    return NULL;
}

void resync_span_free(struct resync_span *s)
{
    if (!s)
        return;
    page_ranges_free(&s->populated);
    free(s->payload);
    free(s);
}

/* ---- the walk ---- */

int resync_walk_begin(struct resync_walk *w, const struct resync_span *span, resync_read *read, void *read_arg,
                      bool holes_too)
{
    *w = (struct resync_walk){.span = span,
                              .read_pages = read,
                              .read_arg = read_arg,
                              .holes_too = holes_too,
                              .region = span->first,
                              .offset = REGIONS_HEAD_SIZE};
    w->has_run = regions_next(span->payload, span->n, &w->offset, &w->run) > 0;
    w->buffer = malloc((size_t)span->head.region_pages * VM_PAGE_SIZE);
    return w->buffer ? 0 : -1;
}

void resync_walk_end(struct resync_walk *w)
{
    free(w->buffer);
    w->buffer = NULL;
}

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, VM_PAGE_SIZE - 1) == 0;
}

/* The digest that was told of the region; NULL: it is zero there. */
static const uint8_t *told_digest(struct resync_walk *w)
{
    while (w->has_run && w->run.first + w->run.count <= w->region)
        w->has_run = regions_next(w->span->payload, w->span->n, &w->offset, &w->run) > 0;
    if (!w->has_run || w->region < w->run.first)
        return NULL;
    return w->run.digests + (w->region - w->run.first) * PROTO_DIGEST_SIZE;
}

int resync_read_memory(uint64_t first, uint64_t count, uint8_t *out, void *arg)
{
    memcpy(out, (const uint8_t *)arg + first * VM_PAGE_SIZE, count * VM_PAGE_SIZE);
    return 0;
}

/* Reads the region's populated pages into the buffer; the others are zeroes. *found: how many are populated. */
static int read_region(struct resync_walk *w, uint64_t begin, uint64_t end, uint64_t *found)
{
    const struct page_ranges *p = &w->span->populated;
    uint64_t at = begin;
    *found = 0;
    while (w->range < p->n && p->at[w->range].first < end) {
        const struct page_range *r = &p->at[w->range];
        uint64_t first = r->first > begin ? r->first : begin, last = r->first + r->count;
        uint64_t stop = last < end ? last : end;
        memset(w->buffer + (at - begin) * VM_PAGE_SIZE, 0, (first - at) * VM_PAGE_SIZE);
        if (!w->holes_too &&
            w->read_pages(first, stop - first, w->buffer + (first - begin) * VM_PAGE_SIZE, w->read_arg))
            return -1;
        *found += stop - first;
        at = stop;
        if (last > end)
            break;
        w->range++;
    }
    if (*found)
        memset(w->buffer + (at - begin) * VM_PAGE_SIZE, 0, (end - at) * VM_PAGE_SIZE);
    return 0;
}

int resync_walk_step(struct resync_walk *w, resync_send *send, void *arg)
{
    const struct regions_head *head = &w->span->head;
    uint64_t begin = w->region * head->region_pages, end = begin + head->region_pages;
    uint8_t here[PROTO_DIGEST_SIZE];
    if (w->region >= head->end)
        return 0;
    if (end > w->span->pages)
        end = w->span->pages;
    const uint8_t *there = told_digest(w);
    uint64_t populated;
    if (read_region(w, begin, end, &populated))
        return -1;
    w->region++;
    w->compared += populated;
    if (!there && !populated)
        return w->region < head->end;
    if (w->holes_too && w->read_pages(begin, end - begin, w->buffer, w->read_arg))
        return -1;
    w->read += w->holes_too ? end - begin : 0;
    if (there && !populated && !w->holes_too)
        memset(w->buffer, 0, (end - begin) * VM_PAGE_SIZE);
    if (there) {
        region_digest(head->seed, w->buffer, (end - begin) * VM_PAGE_SIZE, here);
        if (memcmp(here, there, sizeof here) == 0)
            return w->region < head->end;
    }
    for (uint64_t gfn = begin; gfn < end; gfn++) {
        const uint8_t *page = w->buffer + (gfn - begin) * VM_PAGE_SIZE;
        if (!there && is_zero(page)) /* as it is there */
            continue;
        if (send(gfn, page, arg))
            return -1;
        w->sent++;
    }
    return w->region < head->end;
}
