/*
 * replay: see replay.h. Pages and disk writes of an epoch are staged as they came and applied at its COMMIT.
 */
#include "replay.h"
#include "proto/cursor.h"
#include "sample.h"

#include <stdlib.h>
#include <string.h>

struct octets {
    uint8_t *data;
    size_t n, capacity;
};

struct replay {
    struct framer *framer;
    struct stream_check *check;
    uint64_t pages;
    uint8_t *memory;
    struct octets staged; /* PAGES payloads of the epoch, back to back */
    struct octets writes; /* DISK payloads, each behind its length, a size_t */
    uint8_t disks[SAMPLE_DISKS][SAMPLE_DISK_BYTES];
    uint64_t checks;
    bool in_epoch;
    struct device_piece blob;
    struct octets encoded;                               /* the blob that comes in */
    struct octets now[DEVICE_KINDS], next[DEVICE_KINDS]; /* decoded; capacity 0: none */
};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static void append(struct octets *o, const void *data, size_t n)
{
    if (o->n + n >= o->capacity) {
        o->capacity = 2 * (o->n + n) + 64;
        o->data = must(realloc(o->data, o->capacity));
    }
    if (n)
        memcpy(o->data + o->n, data, n);
    o->n += n;
}

struct replay *replay_new(uint64_t pages)
{
    struct replay *r = must(calloc(1, sizeof *r));
    r->framer = must(framer_new());
    r->check = must(stream_check_new(STREAM_FROM_PRIMARY));
    r->pages = pages;
    r->memory = must(calloc(pages, PROTO_PAGE_SIZE));
    return r;
}

void replay_free(struct replay *r)
{
    framer_free(r->framer);
    stream_check_free(r->check);
    free(r->memory);
    free(r->staged.data);
    free(r->writes.data);
    free(r->encoded.data);
    for (unsigned kind = 0; kind < DEVICE_KINDS; kind++) {
        free(r->now[kind].data);
        free(r->next[kind].data);
    }
    free(r);
}

static int take_piece(struct replay *r, const struct record *record, struct proto_error *e)
{
    struct device_piece p;
    if (device_read(record->payload, record->length, &p, e))
        abort(); /* stream_check has let it pass */
    if (!p.offset)
        r->encoded.n = 0;
    append(&r->encoded, p.data, p.length);
    if (r->encoded.n < p.encoded_total)
        return 0;
    const struct octets *base = &r->now[p.kind];
    struct octets *next = &r->next[p.kind];
    next->capacity = (size_t)p.total + 1;
    next->n = p.total;
    next->data = must(realloc(next->data, next->capacity));
    return blob_decode(p.encoding, r->encoded.data, r->encoded.n, base->data, base->n, next->data, next->n, e);
}

static int take_write(struct replay *r, const struct record *record, struct proto_error *e)
{
    static uint8_t room[DISK_DATA_MAX];
    struct disk_extent x;
    static uint8_t resolved[DISK_PAYLOAD_MAX];
    const uint8_t *payload = record->payload;
    size_t n = record->length;
    if (disk_read(payload, n, &sample_disk_sizes, &x, e))
        return -1;
    if (x.encoding == DISK_AS_PAGES && record->epoch == 1)
        return proto_fail(e, "DISK of pages in the first epoch");
    if (x.encoding == DISK_AS_PAGES) {
        n = disk_resolve(&x, r->memory, r->pages, resolved, e);
        payload = resolved;
    } else if (x.encoding != DISK_AS_ZEROES && !disk_decode(&x, room, e)) {
        return -1;
    }
    if (!n)
        return -1;
    append(&r->writes, &n, sizeof n);
    append(&r->writes, payload, n);
    return 0;
}

static void commit_writes(struct replay *r)
{
    static uint8_t room[DISK_DATA_MAX];
    for (size_t at = 0, n; at < r->writes.n; at += n) {
        struct disk_extent x;
        memcpy(&n, r->writes.data + at, sizeof n);
        at += sizeof n;
        if (disk_read(r->writes.data + at, n, &sample_disk_sizes, &x, NULL))
            abort();
        if (x.encoding == DISK_AS_ZEROES)
            memset(r->disks[x.disk] + x.offset, 0, x.length);
        else
            memcpy(r->disks[x.disk] + x.offset, disk_decode(&x, room, NULL), x.length);
    }
    r->writes.n = 0;
}

static void commit(struct replay *r)
{
    struct pages_entry entry;
    size_t offset = 0;
    while (pages_next(r->staged.data, r->staged.n, &offset, &entry, NULL) > 0)
        page_apply(entry.encoding, entry.data, entry.length, r->memory + entry.gfn * PROTO_PAGE_SIZE);
    r->staged.n = 0;
    commit_writes(r);
    for (unsigned kind = 0; kind < DEVICE_KINDS; kind++) {
        if (!r->next[kind].capacity)
            continue;
        free(r->now[kind].data);
        r->now[kind] = r->next[kind];
        r->next[kind] = (struct octets){0};
    }
}

static int take(struct replay *r, const struct record *record, struct proto_error *e)
{
    struct check_head head;
    if (stream_check_record(r->check, record, e))
        return -1;
    r->in_epoch |= record_is_content(record->type);
    switch (record->type) {
    case RECORD_PAGES:
        if (pages_check(record->payload, record->length, r->pages, e))
            return -1;
        append(&r->staged, record->payload, record->length);
        return 0;
    case RECORD_DISK:
        return take_write(r, record, e);
    case RECORD_DEVICE:
        return take_piece(r, record, e);
    case RECORD_CHECK:
        return check_read(record->payload, record->length, &sample_disk_sizes, r->pages, ++r->checks, &head, e);
    case RECORD_COMMIT:
        r->in_epoch = false;
        commit(r);
        return 0;
    default:
        return 0;
    }
}

int replay_feed(struct replay *r, const uint8_t *data, size_t n, struct proto_error *e)
{
    struct record record;
    int more;
    if (framer_feed(r->framer, data, n, e))
        return -1;
    while ((more = framer_next(r->framer, &record, e)) > 0)
        if (take(r, &record, e))
            return -1;
    return more;
}

const uint8_t *replay_memory(const struct replay *r)
{
    return r->memory;
}

const uint8_t *replay_disk(const struct replay *r, unsigned disk)
{
    return r->disks[disk];
}

uint64_t replay_committed(const struct replay *r)
{
    return stream_check_committed(r->check);
}

bool replay_is_complete(const struct replay *r)
{
    return !r->in_epoch && !framer_pending(r->framer);
}
