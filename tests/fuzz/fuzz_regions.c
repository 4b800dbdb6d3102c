/*
 * fuzz_regions: any octets as what a secondary tells of its replica, cut into REGIONS payloads: nothing but the check
 * stands between them and the comparison with the guest's memory. Each octet pair says how long the next payload is.
 */
#include "primary/resync.h"
#include "sample.h"

#include <stdlib.h>
#include <string.h>

enum { PAGES = 150 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int count(uint64_t gfn, const uint8_t *page, void *arg)
{
    uint64_t *sent = arg;
    if (gfn >= PAGES || (page[0] & page[PROTO_PAGE_SIZE - 1]) == 0xee) /* not populated: must not be read */
        abort();
    ++*sent;
    return 0;
}

static void compare(const struct resync_span *span, uint8_t *memory)
{
    struct resync_walk w;
    uint64_t sent = 0;
    if (resync_walk_begin(&w, span, resync_read_memory, memory, false))
        return;
    while (resync_walk_step(&w, count, &sent) > 0)
        ;
    if (sent != w.sent || w.compared != span->populated.pages || w.region != span->head.end)
        abort();
    resync_walk_end(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t memory[PAGES * PROTO_PAGE_SIZE];
    struct page_ranges populated = {0};
    struct regions_told told = {.pages = PAGES};
    struct proto_error e;
    size_t cursor = 0;
    uint64_t compared = 0;
    memset(memory, 0xee, sizeof memory);
    for (uint64_t first = 3; first + 9 <= PAGES; first += 20) {
        page_ranges_add(&populated, first, 9);
        memset(memory + first * PROTO_PAGE_SIZE, (int)(first % 3), 9 * PROTO_PAGE_SIZE);
    }
    while (n >= 2) {
        size_t size = (size_t)data[0] | (size_t)data[1] << 8;
        data += 2, n -= 2;
        size = size < n ? size : n;
        uint64_t first = told.head.end;
        if (regions_check(&told, data, size, &e))
            break;
        struct resync_span *span = resync_span_new(&told, first, data, size, &populated, &cursor);
        if (!span)
            abort();
        compared += span->populated.pages;
        compare(span, memory);
        resync_span_free(span);
        data += size, n -= size;
    }
    if (regions_all_told(&told) && compared != populated.pages)
        abort();
    page_ranges_free(&populated);
    return 0;
}
