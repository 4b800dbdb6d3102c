#include "held_model.h"

#include "disk/server/held.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DISKS = 2, BYTES = 256, MARKS = 4 };

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct mark { /* the end of an epoch */
    uint64_t position;
    uint8_t guest[DISKS][BYTES];
};

struct model {
    struct held *held;
    uint8_t guest[DISKS][BYTES], disk[DISKS][BYTES];
    struct mark marks[MARKS];
    unsigned count;
    uint64_t position, last_given;
};

struct octets {
    const uint8_t *at;
    size_t n;
};

static unsigned next(struct octets *o)
{
    if (!o->n)
        return 0;
    o->n--;
    return *o->at++;
}

/* ---- what the guest does ---- */

static void write_some(struct model *m, struct octets *o, enum held_kind kind)
{
    uint8_t data[BYTES];
    struct held_write w = {.disk = next(o) % DISKS, .kind = kind, .position = ++m->position};
    if (kind != HELD_BARRIER) {
        w.offset = next(o) % BYTES;
        w.length = 1 + next(o) % (BYTES - w.offset);
        memset(data, kind == HELD_DATA ? (int)(m->position * 37 % 255 + 1) : 0, sizeof data);
        memcpy(m->guest[w.disk] + w.offset, data, w.length);
    }
    w.data = kind == HELD_DATA ? data : NULL;
    uint64_t before = held_bytes(m->held);
    held_add(m->held, &w);
    CHECK(held_bytes(m->held) == before + HELD_ENTRY_BYTES + (kind == HELD_DATA ? w.length : 0));
    CHECK(!held_is_empty(m->held) && (kind == HELD_BARRIER || held_has(m->held, w.disk)));
}

struct reading {
    struct model *m;
    unsigned disk;
    uint8_t *out;
    uint64_t offset, last;
};

static void fill_gap(uint64_t offset, uint64_t n, void *arg)
{
    struct reading *r = arg;
    CHECK(n > 0 && offset >= r->last);
    memcpy(r->out + (offset - r->offset), r->m->disk[r->disk] + offset, n);
    r->last = offset + n;
}

static void read_some(struct model *m, unsigned disk, uint64_t offset, size_t n)
{
    uint8_t out[BYTES];
    memset(out, 0xee, sizeof out);
    struct reading r = {.m = m, .disk = disk, .out = out, .offset = offset, .last = offset};
    held_read(m->held, disk, out, n, offset, fill_gap, &r);
    CHECK(memcmp(out, m->guest[disk] + offset, n) == 0);
}

static void read_all(struct model *m)
{
    for (unsigned i = 0; i < DISKS; i++)
        read_some(m, i, 0, BYTES);
}

/* ---- what its owner does ---- */

static void set_mark(struct model *m)
{
    if (m->count == MARKS)
        return;
    struct mark *k = &m->marks[m->count++];
    k->position = m->position;
    memcpy(k->guest, m->guest, sizeof k->guest);
}

static void carry_out(struct model *m, const struct held_write *w)
{
    uint8_t *at = m->disk[w->disk] + w->offset;
    CHECK(w->position > m->last_given && w->position <= held_released(m->held));
    m->last_given = w->position;
    if (w->kind == HELD_DATA)
        memcpy(at, w->data, w->length);
    else if (w->kind != HELD_BARRIER)
        memset(at, 0, w->length);
}

/* Some are given, and then the disk fails: all of them again. In between reads are right. */
static void write_out(struct model *m, uint64_t upto, unsigned fail_after)
{
    const struct held_write *w;
    uint64_t from = m->last_given;
    for (unsigned i = 0; i < fail_after && (w = held_next(m->held, upto)); i++)
        carry_out(m, w);
    read_all(m);
    held_rewind(m->held);
    m->last_given = from;
    while ((w = held_next(m->held, upto)))
        carry_out(m, w);
    read_all(m);
    held_done(m->held);
    CHECK(!held_next(m->held, upto));
}

static void release(struct model *m, unsigned fail_after)
{
    if (!m->count)
        return;
    struct mark k = m->marks[0];
    memmove(m->marks, m->marks + 1, --m->count * sizeof *m->marks);
    held_release(m->held, fail_after % 2 && m->count ? m->marks[0].position : k.position); /* perhaps more than that */
    write_out(m, k.position, fail_after);
    CHECK(memcmp(m->disk, k.guest, sizeof k.guest) == 0); /* all of the epoch, and nothing of the next */
}

static void release_all(struct model *m, unsigned fail_after)
{
    m->count = 0;
    held_release_all(m->held);
    write_out(m, UINT64_MAX, fail_after);
    CHECK(held_is_empty(m->held) && held_bytes(m->held) == 0 && memcmp(m->disk, m->guest, sizeof m->guest) == 0);
    for (unsigned i = 0; i < DISKS; i++)
        CHECK(!held_has(m->held, i));
}

/* The VM is lost to another host. */
static void discard(struct model *m)
{
    held_free(m->held);
    m->held = held_new();
    m->count = 0;
    m->last_given = 0;
    memcpy(m->guest, m->disk, sizeof m->guest);
}

void held_model_run(const uint8_t *octets, size_t n)
{
    static const enum held_kind kinds[] = {HELD_DATA, HELD_DATA, HELD_DATA, HELD_ZERO, HELD_TRIM, HELD_BARRIER};
    struct octets o = {octets, n};
    struct model m = {.held = held_new()};
    while (o.n) {
        unsigned what = next(&o) % 16;
        if (what < 10)
            write_some(&m, &o, kinds[what % 6]);
        else if (what < 12)
            set_mark(&m);
        else if (what < 14)
            release(&m, next(&o) % 8);
        else if (what == 14)
            release_all(&m, next(&o) % 8);
        else
            discard(&m);
        unsigned disk = next(&o) % DISKS, offset = next(&o) % BYTES;
        read_some(&m, disk, offset, 1 + next(&o) % (BYTES - offset));
    }
    read_all(&m);
    held_free(m.held);
}
