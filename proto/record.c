/*
 * record: the table of record types, and the framer that cuts records out of a byte stream. What may come when is
 * epoch.c's business; here only what one header can tell is checked, and before anything is stored on its word.
 */
#include "proto/record.h"

#include "proto/cursor.h"

#include "proto/changed.h"
#include "proto/check.h"
#include "proto/disk.h"
#include "proto/epoch.h"
#include "proto/page.h"
#include "proto/regions.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int proto_fail(struct proto_error *e, const char *format, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(e->text, sizeof e->text, format, ap);
        va_end(ap);
    }
    return -1;
}

/* ---- types ---- */

enum {
    HELLO_MAX = 16 << 10,
    CONFIG_MAX = 256 << 10,
    JSON_MAX = 64 << 10, /* READY, NOTE */
    HANDOVER_MAX = 4 << 10,
    JSON_MIN = 2, /* "{}" */
    BYE_HEAD_SIZE = 4,
};

static const struct record_kind {
    const char *name;
    uint32_t least, most; /* octets of payload */
} kinds[] = {
    [RECORD_HELLO] = {"HELLO", JSON_MIN, HELLO_MAX},
    [RECORD_CONFIG] = {"CONFIG", JSON_MIN, CONFIG_MAX},
    [RECORD_PAGES] = {"PAGES", 0, RECORD_PAYLOAD_MAX},
    [RECORD_DEVICE] = {"DEVICE", DEVICE_HEAD_SIZE, RECORD_PAYLOAD_MAX},
    [RECORD_COMMIT] = {"COMMIT", COMMIT_SIZE, COMMIT_SIZE},
    [RECORD_ACK] = {"ACK", COMMIT_SIZE, COMMIT_SIZE},
    [RECORD_HEARTBEAT] = {"HEARTBEAT", HEARTBEAT_SIZE, HEARTBEAT_SIZE},
    [RECORD_BYE] = {"BYE", BYE_HEAD_SIZE, BYE_HEAD_SIZE + PROTO_REASON_MAX},
    [RECORD_READY] = {"READY", JSON_MIN, JSON_MAX},
    [RECORD_NOTE] = {"NOTE", JSON_MIN, JSON_MAX},
    [RECORD_DISK] = {"DISK", DISK_HEAD_SIZE, DISK_PAYLOAD_MAX},
    [RECORD_HANDOVER] = {"HANDOVER", JSON_MIN, HANDOVER_MAX},
    [RECORD_REGIONS] = {"REGIONS", REGIONS_HEAD_SIZE, RECORD_PAYLOAD_MAX},
    [RECORD_BLOCKS] = {"BLOCKS", BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE, RECORD_PAYLOAD_MAX},
    [RECORD_CHECK] = {"CHECK", CHECK_HEAD_SIZE, RECORD_PAYLOAD_MAX},
    [RECORD_CHANGED] = {"CHANGED", CHANGED_HEAD_SIZE, RECORD_PAYLOAD_MAX},
    [RECORD_CHECKED] = {"CHECKED", CHECKED_HEAD_SIZE, RECORD_PAYLOAD_MAX},
};

enum { KINDS = sizeof kinds / sizeof kinds[0] };

_Static_assert(KINDS == (int)RECORD_TYPES, "every record type has its row");
_Static_assert(RECORD_HEADER_SIZE == 2 + 2 + 4 + 8, "type, flags, length, epoch");
_Static_assert(COMMIT_SIZE == PROTO_DIGEST_SIZE + 4 + 4, "digest, records, reserved");
_Static_assert(HEARTBEAT_SIZE == 8 + 8, "sequence, echo");
_Static_assert(DEVICE_HEAD_SIZE == 1 + 1 + 2 + 4 + 4 + 4, "kind, encoding, reserved, total, encoded_total, offset");
_Static_assert(PAGES_ENTRY_SIZE == 5 + 1 + 2, "gfn, encoding, length");
_Static_assert(PAGE_ENCODED_MAX <= UINT16_MAX, "an entry's length is a u16");

static const struct record_kind *kind_of(uint16_t type)
{
    return type < KINDS && kinds[type].name ? &kinds[type] : NULL;
}

const char *record_name(uint16_t type)
{
    const struct record_kind *k = kind_of(type);
    return k ? k->name : "unknown";
}

bool record_is_content(uint16_t type)
{
    return type == RECORD_PAGES || type == RECORD_DISK || type == RECORD_DEVICE;
}

uint32_t record_limit(uint16_t type)
{
    const struct record_kind *k = kind_of(type);
    return k ? k->most : 0;
}

void record_header_write(uint8_t out[RECORD_HEADER_SIZE], uint16_t type, uint16_t flags, uint32_t length,
                         uint64_t epoch)
{
    uint8_t *at = put_int(out, 2, type);
    at = put_int(at, 2, flags);
    at = put_int(at, 4, length);
    put_int(at, 8, epoch);
}

/* ---- framer ---- */

/* Octets [start, end) of `buffer` have been fed and not yet given out. */
struct framer {
    uint8_t *buffer;
    size_t capacity, start, end;
    bool failed;
    struct proto_error why;
};

struct framer *framer_new(void)
{
    return calloc(1, sizeof(struct framer));
}

void framer_free(struct framer *f)
{
    if (!f)
        return;
    free(f->buffer);
    free(f);
}

static int framer_repeat_failure(const struct framer *f, struct proto_error *e)
{
    if (e)
        *e = f->why;
    return -1;
}

/* What was not given out yet moves to the front only when there is no room behind it, and there is room for several
 * feeds: so it moves seldom. */
static int framer_make_room(struct framer *f, size_t n)
{
    enum { FEEDS = 4 };
    if (n <= f->capacity - f->end)
        return 0;
    size_t pending = f->end - f->start, capacity = f->capacity ? f->capacity : 4096;
    if (n > SIZE_MAX / FEEDS / 4 || pending > SIZE_MAX / 4)
        return -1;
    while (capacity < pending + FEEDS * n)
        capacity *= 2;
    if (pending)
        memmove(f->buffer, f->buffer + f->start, pending);
    f->start = 0;
    f->end = pending;
    if (capacity == f->capacity)
        return 0;
    uint8_t *grown = realloc(f->buffer, capacity);
    if (!grown)
        return -1;
    f->buffer = grown;
    f->capacity = capacity;
    return 0;
}

uint8_t *framer_room(struct framer *f, size_t n)
{
    return f->failed || framer_make_room(f, n) ? NULL : f->buffer + f->end;
}

int framer_feed(struct framer *f, const uint8_t *data, size_t n, struct proto_error *e)
{
    if (f->failed)
        return framer_repeat_failure(f, e);
    if (!n)
        return 0;
    if (framer_make_room(f, n)) {
        f->failed = true;
        proto_fail(&f->why, "no memory for %zu octets of stream", n);
        return framer_repeat_failure(f, e);
    }
    if (data != f->buffer + f->end)
        memcpy(f->buffer + f->end, data, n);
    f->end += n;
    return 0;
}

static int header_check(const struct record *r, const struct record_kind *k, struct proto_error *e)
{
    if (!k && !(r->flags & RECORD_OPTIONAL))
        return proto_fail(e, "unknown mandatory record type %u", r->type);
    if (!k) {
        if (r->length > RECORD_PAYLOAD_MAX)
            return proto_fail(e, "optional record of unknown type %u has %u octets, at most %u are allowed", r->type,
                              r->length, (unsigned)RECORD_PAYLOAD_MAX);
        return 0;
    }
    if (r->length < k->least || r->length > k->most)
        return proto_fail(e, "%s has %u octets, it must have %u to %u", k->name, r->length, k->least, k->most);
    if (r->flags & ~RECORD_OPTIONAL)
        return proto_fail(e, "%s with reserved flags %04x", k->name, r->flags);
    return 0;
}

int framer_next(struct framer *f, struct record *r, struct proto_error *e)
{
    while (!f->failed) {
        struct cursor c = {f->buffer + f->start, f->end - f->start};
        if (c.left < RECORD_HEADER_SIZE)
            return 0;
        cursor_u16(&c, &r->type);
        cursor_u16(&c, &r->flags);
        cursor_u32(&c, &r->length);
        cursor_u64(&c, &r->epoch);
        const struct record_kind *k = kind_of(r->type);
        if (header_check(r, k, &f->why)) {
            f->failed = true;
            break;
        }
        r->payload = cursor_take(&c, r->length);
        if (!r->payload)
            return 0;
        f->start = f->end - c.left;
        if (k)
            return 1;
    }
    return framer_repeat_failure(f, e);
}

size_t framer_pending(const struct framer *f)
{
    return f->end - f->start;
}
