#include "proto/regions.h"

#include "proto/cursor.h"

#include <inttypes.h>
#include <xxhash.h>

enum { FIRST_OCTETS = 5, COUNT_OCTETS = 3 };

_Static_assert(REGIONS_HEAD_SIZE == 8 + 8 + 4 + 4, "seed, end, region_pages, reserved");
_Static_assert(REGIONS_RUN_SIZE == FIRST_OCTETS + COUNT_OCTETS, "first, count");

void regions_head_write(uint8_t out[REGIONS_HEAD_SIZE], const struct regions_head *head)
{
    uint8_t *at = put_int(put_int(out, 8, head->seed), 8, head->end);
    put_int(put_int(at, 4, head->region_pages), 4, 0);
}

void regions_run_write(uint8_t out[REGIONS_RUN_SIZE], uint64_t first, uint32_t count)
{
    put_int(put_int(out, FIRST_OCTETS, first), COUNT_OCTETS, count);
}

static bool read_run(struct cursor *c, struct regions_run *out)
{
    uint64_t count;
    if (!cursor_int(c, FIRST_OCTETS, &out->first) || !cursor_int(c, COUNT_OCTETS, &count))
        return false;
    out->count = (uint32_t)count;
    out->digests = cursor_take(c, (size_t)count * PROTO_DIGEST_SIZE);
    return out->digests != NULL;
}

int regions_next(const uint8_t *payload, size_t n, size_t *offset, struct regions_run *out)
{
    struct cursor c = {payload + *offset, n - *offset};
    if (!c.left || !read_run(&c, out))
        return 0;
    *offset = n - c.left;
    return 1;
}

uint64_t regions_count(uint64_t pages, uint32_t region_pages)
{
    return (pages + region_pages - 1) / region_pages;
}

bool regions_all_told(const struct regions_told *told)
{
    return told->head.region_pages && told->head.end == regions_count(told->pages, told->head.region_pages);
}

static bool read_head(struct cursor *c, struct regions_head *h, uint32_t *reserved)
{
    return cursor_u64(c, &h->seed) && cursor_u64(c, &h->end) && cursor_u32(c, &h->region_pages) &&
           cursor_u32(c, reserved);
}

static int check_head(const struct regions_told *told, const struct regions_head *h, uint32_t reserved,
                      struct proto_error *e)
{
    const struct regions_head *before = &told->head;
    if (reserved)
        return proto_fail(e, "REGIONS with reserved octets %08x", reserved);
    if (!h->region_pages || h->region_pages > REGION_PAGES_MAX || h->region_pages & (h->region_pages - 1))
        return proto_fail(e, "REGIONS of %u pages each", h->region_pages);
    if (before->region_pages && (before->region_pages != h->region_pages || before->seed != h->seed))
        return proto_fail(e, "REGIONS of another size or seed than before");
    if (h->end <= before->end || h->end > regions_count(told->pages, h->region_pages))
        return proto_fail(e, "REGIONS up to %" PRIu64 ", told up to %" PRIu64 " of %" PRIu64, h->end, before->end,
                          regions_count(told->pages, h->region_pages));
    return 0;
}

int regions_check(struct regions_told *told, const uint8_t *payload, size_t n, struct proto_error *e)
{
    struct cursor c = {payload, n};
    struct regions_head h;
    uint32_t reserved;
    if (!read_head(&c, &h, &reserved))
        return proto_fail(e, "REGIONS has %zu octets", n);
    if (check_head(told, &h, reserved, e))
        return -1;
    uint64_t free_from = told->head.end;
    while (c.left) {
        struct regions_run run;
        if (!read_run(&c, &run))
            return proto_fail(e, "REGIONS ends inside of a run");
        if (!run.count || run.first < free_from || run.first >= h.end || run.count > h.end - run.first)
            return proto_fail(e, "REGIONS: a run of %u from %" PRIu64 ", may be from %" PRIu64 " to %" PRIu64,
                              run.count, run.first, free_from, h.end);
        free_from = run.first + run.count;
    }
    told->head = h;
    return 0;
}

void region_digest(uint64_t seed, const void *data, size_t n, uint8_t out[PROTO_DIGEST_SIZE])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(data, n, seed));
    memcpy(out, canonical.digest, PROTO_DIGEST_SIZE);
}
