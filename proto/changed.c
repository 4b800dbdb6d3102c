#include "proto/changed.h"

#include "proto/cursor.h"

#include <inttypes.h>

_Static_assert(CHANGED_HEAD_SIZE == 2 + 6 + 8, "disk, reserved, end");
_Static_assert(GENERATION_TEXT == 2 * GENERATION_SIZE + 1, "hexadecimal");

void changed_head_write(uint8_t out[CHANGED_HEAD_SIZE], unsigned disk, uint64_t end)
{
    put_int(put_int(put_int(out, 2, disk), 6, 0), 8, end);
}

void changed_told_init(struct changed_told *told, const struct disk_sizes *sizes)
{
    *told = (struct changed_told){.count = sizes->count};
    for (unsigned i = 0; i < sizes->count; i++)
        told->blocks[i] = sizes->bytes[i] / DISK_BLOCK_SIZE;
}

int changed_next(const uint8_t *payload, size_t n, size_t *offset, struct check_run *out)
{
    return checked_next(payload, n, offset, out);
}

static int check_runs(const uint8_t *payload, size_t n, uint64_t free_from, uint64_t end, struct proto_error *e)
{
    struct check_run run;
    size_t at = CHANGED_HEAD_SIZE;
    while (changed_next(payload, n, &at, &run) > 0) {
        if (!run.count || run.from < free_from || run.from >= end || run.count > end - run.from)
            return proto_fail(e, "CHANGED: a run of %u from %" PRIu64 ", may be from %" PRIu64 " to %" PRIu64,
                              run.count, run.from, free_from, end);
        free_from = run.from + run.count;
    }
    return at == n ? 0 : proto_fail(e, "CHANGED ends inside of a run");
}

int changed_check(struct changed_told *told, const uint8_t *payload, size_t n, unsigned *disk, struct proto_error *e)
{
    struct cursor c = {payload, n};
    uint16_t number;
    uint64_t reserved, end;
    if (!cursor_u16(&c, &number) || !cursor_int(&c, 6, &reserved) || !cursor_u64(&c, &end))
        return proto_fail(e, "CHANGED has %zu octets", n);
    if (reserved)
        return proto_fail(e, "CHANGED with reserved octets %012" PRIx64, reserved);
    if (number >= told->count)
        return proto_fail(e, "CHANGED of disk %u of %u", number, told->count);
    if (end <= told->end[number] || end > told->blocks[number])
        return proto_fail(e, "CHANGED up to %" PRIu64 ", told up to %" PRIu64 " of %" PRIu64, end, told->end[number],
                          told->blocks[number]);
    if (check_runs(payload, n, told->end[number], end, e))
        return -1;
    told->end[number] = end;
    *disk = number;
    return 0;
}

bool changed_all_told(const struct changed_told *told)
{
    for (unsigned i = 0; i < told->count; i++)
        if (told->end[i] < told->blocks[i])
            return false;
    return true;
}

void generation_print(char out[GENERATION_TEXT], const uint8_t generation[GENERATION_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < GENERATION_SIZE; i++) {
        out[2 * i] = digits[generation[i] >> 4];
        out[2 * i + 1] = digits[generation[i] & 15];
    }
    out[GENERATION_TEXT - 1] = 0;
}

static int value_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool generation_parse(const char *text, uint8_t out[GENERATION_SIZE])
{
    if (!text || strlen(text) != 2 * GENERATION_SIZE)
        return false;
    for (size_t i = 0; i < GENERATION_SIZE; i++) {
        int high = value_of(text[2 * i]), low = value_of(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
