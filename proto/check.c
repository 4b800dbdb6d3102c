#include "proto/check.h"

#include "proto/cursor.h"

#include <inttypes.h>

enum { FROM_OCTETS = 5, COUNT_OCTETS = 3 };

_Static_assert(CHECK_HEAD_SIZE == 8 + 8 + 8 + 8 + 2 + 6, "number, seed, first, end, disk, reserved");
_Static_assert(CHECK_RUN_SIZE == FROM_OCTETS + COUNT_OCTETS, "from, count");

void check_head_write(uint8_t out[CHECK_HEAD_SIZE], const struct check_head *h)
{
    uint8_t *at = put_int(put_int(out, 8, h->number), 8, h->seed);
    at = put_int(put_int(at, 8, h->first), 8, h->end);
    put_int(put_int(at, 2, h->disk), 6, 0);
}

void check_run_write(uint8_t out[CHECK_RUN_SIZE], uint64_t from, uint32_t count)
{
    put_int(put_int(out, FROM_OCTETS, from), COUNT_OCTETS, count);
}

void checked_head_write(uint8_t out[CHECKED_HEAD_SIZE], uint64_t number)
{
    put_int(out, 8, number);
}

/* digest: octets that each block of the run brings. */
static bool read_run(struct cursor *c, size_t digest, struct check_run *out)
{
    uint64_t count;
    if (!cursor_int(c, FROM_OCTETS, &out->from) || !cursor_int(c, COUNT_OCTETS, &count))
        return false;
    out->count = (uint32_t)count;
    out->digests = cursor_take(c, (size_t)count * digest);
    return out->digests != NULL;
}

static int next(const uint8_t *payload, size_t n, size_t digest, size_t *offset, struct check_run *out)
{
    struct cursor c = {payload + *offset, n - *offset};
    if (!c.left || !read_run(&c, digest, out))
        return 0;
    *offset = n - c.left;
    return 1;
}

int check_next(const uint8_t *payload, size_t n, size_t *offset, struct check_run *out)
{
    return next(payload, n, PROTO_DIGEST_SIZE, offset, out);
}

int checked_next(const uint8_t *payload, size_t n, size_t *offset, struct check_run *out)
{
    int got = next(payload, n, 0, offset, out);
    out->digests = NULL;
    return got;
}

static int check_runs(struct cursor *c, const char *name, size_t digest, uint64_t first, uint64_t end,
                      struct proto_error *e)
{
    while (c->left) {
        struct check_run run;
        if (!read_run(c, digest, &run))
            return proto_fail(e, "%s ends inside of a run", name);
        if (!run.count || run.from < first || run.from >= end || run.count > end - run.from)
            return proto_fail(e, "%s: a run of %u from %" PRIu64 ", may be from %" PRIu64 " to %" PRIu64, name,
                              run.count, run.from, first, end);
        first = run.from + run.count;
    }
    return 0;
}

int check_read(const uint8_t *payload, size_t n, const struct disk_sizes *sizes, uint64_t pages, uint64_t due,
               struct check_head *out, struct proto_error *e)
{
    struct cursor c = {payload, n};
    uint16_t disk;
    uint64_t reserved;
    if (!cursor_u64(&c, &out->number) || !cursor_u64(&c, &out->seed) || !cursor_u64(&c, &out->first) ||
        !cursor_u64(&c, &out->end) || !cursor_u16(&c, &disk) || !cursor_int(&c, 6, &reserved))
        return proto_fail(e, "CHECK has %zu octets", n);
    if (reserved)
        return proto_fail(e, "CHECK with reserved octets %012" PRIx64, reserved);
    if (out->number != due)
        return proto_fail(e, "CHECK number %" PRIu64 ", %" PRIu64 " is due", out->number, due);
    if (disk != CHECK_MEMORY && disk >= sizes->count)
        return proto_fail(e, "CHECK of disk %u of %u", disk, sizes->count);
    out->disk = disk;
    uint64_t blocks = disk == CHECK_MEMORY ? pages : sizes->bytes[disk] / DISK_BLOCK_SIZE;
    if (out->first >= out->end || out->end > blocks || out->end - out->first > CHECK_BLOCKS_MAX)
        return proto_fail(e, "CHECK of blocks %" PRIu64 " to %" PRIu64 " of %" PRIu64, out->first, out->end, blocks);
    return check_runs(&c, "CHECK", PROTO_DIGEST_SIZE, out->first, out->end, e);
}

int checked_read(const uint8_t *payload, size_t n, const struct check_head *asked, struct proto_error *e)
{
    struct cursor c = {payload, n};
    uint64_t number;
    if (!cursor_u64(&c, &number))
        return proto_fail(e, "CHECKED has %zu octets", n);
    if (number != asked->number)
        return proto_fail(e, "CHECKED number %" PRIu64 ", %" PRIu64 " is due", number, asked->number);
    return check_runs(&c, "CHECKED", 0, asked->first, asked->end, e);
}

/* ---- answering ---- */

size_t checked_bound(const struct check_head *asked)
{
    return CHECKED_HEAD_SIZE + (size_t)(asked->end - asked->first + 1) / 2 * CHECK_RUN_SIZE;
}

void checked_begin(struct checked *c, uint8_t *payload, const struct check_head *asked)
{
    *c = (struct checked){.payload = payload, .n = CHECKED_HEAD_SIZE};
    checked_head_write(payload, asked->number);
}

void checked_differs(struct checked *c, uint64_t block)
{
    if (!c->count || c->from + c->count != block) {
        c->from = block;
        c->count = 0;
        c->n += CHECK_RUN_SIZE;
    }
    check_run_write(c->payload + c->n - CHECK_RUN_SIZE, c->from, ++c->count);
}
