/*
 * fuzz_disk: any octets as a DISK payload, which is written to small disks if it is valid, as a BLOCKS, a CHECK (of
 * memory: it is compared), a CHECKED and a CHANGED payload.
 * Then the octets as what a guest writes: encoded, they come back as they were.
 */
#include "proto/changed.h"
#include "sample.h"
#include "secondary/compare_memory.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uint8_t room[DISK_DATA_MAX];

static void as_payload(const uint8_t *data, size_t n)
{
    static uint8_t disks[SAMPLE_DISKS][SAMPLE_DISK_BYTES];
    struct disk_extent x;
    struct proto_error e;
    if (disk_read(data, n, &sample_disk_sizes, &x, &e))
        return;
    uint8_t *at = disks[x.disk] + x.offset;
    if (x.encoding == DISK_AS_PAGES) {
        static uint8_t memory[SAMPLE_PAGES * PROTO_PAGE_SIZE], resolved[DISK_PAYLOAD_MAX];
        size_t size = disk_resolve(&x, memory, SAMPLE_PAGES, resolved, &e);
        if (size && (disk_read(resolved, size, &sample_disk_sizes, &x, &e) || x.encoding != DISK_AS_DATA))
            abort();
        return;
    }
    if (x.encoding == DISK_AS_ZEROES) {
        memset(at, 0, x.length);
        return;
    }
    const uint8_t *decoded = disk_decode(&x, room, &e);
    if (decoded)
        memcpy(at, decoded, x.length);
}

static void as_telling(const uint8_t *data, size_t n)
{
    struct blocks_told told;
    struct proto_error e;
    unsigned disk;
    blocks_told_init(&told, &sample_disk_sizes);
    if (blocks_check(&told, data, n, &disk, &e))
        return;
    struct regions_run run;
    uint64_t end = told.disks[disk].head.end;
    for (size_t at = REGIONS_HEAD_SIZE; regions_next(data + BLOCKS_HEAD_SIZE, n - BLOCKS_HEAD_SIZE, &at, &run);)
        if (run.first + run.count > end || run.digests + run.count * PROTO_DIGEST_SIZE > data + n)
            abort();
}

/* Whatever is claimed of it, the answer is one that a primary accepts. */
static void compare(const struct check_head *head, const uint8_t *data, size_t n)
{
    static uint8_t memory[SAMPLE_PAGES * PROTO_PAGE_SIZE];
    struct page_ranges some = {0};
    size_t answer_n;
    memory[5 * PROTO_PAGE_SIZE] = 1;
    if (page_ranges_add(&some, 2, SAMPLE_PAGES / 2))
        abort();
    struct page_set *populated = page_set_new(SAMPLE_PAGES, &some);
    uint8_t *answer = compare_memory(memory, populated, head, data, n, &answer_n);
    if (!answer || answer_n > checked_bound(head) || checked_read(answer, answer_n, head, NULL))
        abort();
    free(answer);
    page_set_free(populated);
    page_ranges_free(&some);
}

static void as_check(const uint8_t *data, size_t n)
{
    const struct check_head asked = {.number = n ? data[0] : 0, .first = 3, .end = 4000};
    struct check_head head;
    struct check_run run;
    struct proto_error e;
    uint64_t blocks = 0;
    if (!check_read(data, n, &sample_disk_sizes, SAMPLE_PAGES, n ? data[0] : 0, &head, &e)) {
        for (size_t at = CHECK_HEAD_SIZE; check_next(data, n, &at, &run); blocks += run.count)
            if (run.from < head.first || run.from + run.count > head.end ||
                run.digests + run.count * PROTO_DIGEST_SIZE > data + n)
                abort();
        if (blocks > head.end - head.first)
            abort();
        if (head.disk == CHECK_MEMORY)
            compare(&head, data, n);
    }
    if (!checked_read(data, n, &asked, &e))
        for (size_t at = CHECKED_HEAD_SIZE; checked_next(data, n, &at, &run);)
            if (run.from < asked.first || run.from + run.count > asked.end)
                abort();
}

static void as_changed(const uint8_t *data, size_t n)
{
    struct changed_told told;
    struct check_run run;
    struct proto_error e;
    unsigned disk;
    changed_told_init(&told, &sample_disk_sizes);
    if (!changed_check(&told, data, n, &disk, &e))
        for (size_t at = CHANGED_HEAD_SIZE; changed_next(data, n, &at, &run);)
            if (run.from + run.count > told.end[disk] || told.end[disk] > told.blocks[disk])
                abort();
}

static void as_write(const uint8_t *data, size_t n)
{
    static uint8_t payload[DISK_PAYLOAD_MAX];
    struct disk_extent x;
    if (!n || n > SAMPLE_DISK_BYTES)
        return;
    size_t size = disk_encode(1, SAMPLE_DISK_BYTES - n, data, (uint32_t)n, NULL, payload);
    if (size > DISK_HEAD_SIZE + n || disk_read(payload, size, &sample_disk_sizes, &x, NULL) || x.length != n)
        abort();
    memset(room, 0, n);
    if (memcmp(x.encoding == DISK_AS_ZEROES ? room : disk_decode(&x, room, NULL), data, n) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    as_payload(data, n);
    as_telling(data, n);
    as_check(data, n);
    as_changed(data, n);
    as_write(data, n);
    return 0;
}
