#include "primary/verification.h"

#include <stdlib.h>

struct area {
    unsigned disk;
    uint64_t blocks;
};

struct verification {
    struct area areas[DISKS_MAX];
    unsigned count;
    bool repair, has_exempt;
    uint64_t exempt;           /* a page */
    unsigned area, unanswered; /* the area that is compared; looks taken */
    uint64_t block;            /* the next one of it */
    struct verification_counts counts;
    struct verification_range ranges[VERIFICATION_RANGES_MAX];
    size_t n;
    struct verification_range *repairs; /* to be looked at, oldest first */
    size_t first, end, capacity;
};

static void add_area(struct verification *v, unsigned disk, uint64_t blocks)
{
    v->areas[v->count++] = (struct area){disk, blocks};
    v->counts.total += blocks;
}

struct verification *verification_new(const struct disk_sizes *sizes, bool repair)
{
    struct verification *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->repair = repair;
    for (unsigned i = 0; i < sizes->count; i++)
        add_area(v, i, sizes->bytes[i] / DISK_BLOCK_SIZE);
    return v;
}

struct verification *verification_new_of_memory(uint64_t pages, bool repair)
{
    struct verification *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->repair = repair;
    add_area(v, CHECK_MEMORY, pages);
    return v;
}

void verification_exempt(struct verification *v, uint64_t gfn)
{
    v->has_exempt = true;
    v->exempt = gfn;
}

void verification_free(struct verification *v)
{
    if (v)
        free(v->repairs);
    free(v);
}

bool verification_next(const struct verification *v, struct verification_step *out)
{
    if (v->first < v->end) { /* first: so they never are many */
        const struct verification_range *r = &v->repairs[v->first];
        *out = (struct verification_step){r->disk, r->first, r->first + r->count, true};
        return true;
    }
    if (v->area == v->count)
        return false;
    *out = (struct verification_step){v->areas[v->area].disk, v->block, v->areas[v->area].blocks, false};
    return true;
}

void verification_looked(struct verification *v, const struct verification_step *step, uint64_t end)
{
    v->unanswered++;
    if (step->repair) {
        struct verification_range *r = &v->repairs[v->first];
        r->count -= end - r->first;
        r->first = end;
        if (!r->count)
            v->first++;
        return;
    }
    v->block = end;
    if (end == v->areas[v->area].blocks) {
        v->area++;
        v->block = 0;
    }
}

/* ---- what differs ---- */

static int repair_later(struct verification *v, const struct verification_range *r)
{
    if (v->first == v->end)
        v->first = v->end = 0;
    if (v->end == v->capacity) {
        size_t capacity = 2 * v->capacity + 16;
        struct verification_range *grown = realloc(v->repairs, capacity * sizeof *grown);
        if (!grown)
            return -1;
        v->repairs = grown;
        v->capacity = capacity;
    }
    v->repairs[v->end++] = *r;
    return 0;
}

static void name(struct verification *v, const struct verification_range *r)
{
    struct verification_range *last = v->n ? &v->ranges[v->n - 1] : NULL;
    if (last && last->disk == r->disk && last->note == r->note && last->first + last->count == r->first)
        last->count += r->count;
    else if (v->n < VERIFICATION_RANGES_MAX)
        v->ranges[v->n++] = *r;
}

/* Cut where what is said of the blocks changes. */
static void name_run(struct verification *v, const struct verification_step *step, const struct check_run *run,
                     const uint8_t *notes)
{
    for (uint64_t from = run->from, end = from + run->count, at; from < end; from = at) {
        struct verification_range r = {step->disk, from, 0, notes ? notes[from - step->first] : 0};
        for (at = from + 1; at < end && (!notes || notes[at - step->first] == r.note);)
            at++;
        r.count = at - from;
        name(v, &r);
    }
}

static int note_run(struct verification *v, const struct verification_step *step, const struct check_run *run,
                    const uint8_t *notes)
{
    const struct verification_range r = {step->disk, run->from, run->count, 0};
    name_run(v, step, run, notes);
    return v->repair ? repair_later(v, &r) : 0;
}

/* What is left of the run without the page that may differ: 0 to 2 runs. */
static unsigned cut_exempt(const struct verification *v, const struct check_run *run, struct check_run out[2])
{
    uint64_t end = run->from + run->count;
    unsigned n = 0;
    if (!v->has_exempt || v->exempt < run->from || v->exempt >= end) {
        out[0] = *run;
        return 1;
    }
    if (v->exempt > run->from)
        out[n++] = (struct check_run){.from = run->from, .count = (uint32_t)(v->exempt - run->from)};
    if (v->exempt + 1 < end)
        out[n++] = (struct check_run){.from = v->exempt + 1, .count = (uint32_t)(end - v->exempt - 1)};
    return n;
}

int verification_answered(struct verification *v, const struct verification_step *step, const uint8_t *payload,
                          size_t n, const uint8_t *notes)
{
    struct check_run run, parts[2];
    uint64_t differing = 0, blocks = step->end - step->first;
    v->unanswered--;
    for (size_t at = CHECKED_HEAD_SIZE; checked_next(payload, n, &at, &run) > 0;)
        for (unsigned i = 0, count = cut_exempt(v, &run, parts); i < count; i++) {
            differing += parts[i].count;
            if (!step->repair && note_run(v, step, &parts[i], notes))
                return -1;
        }
    if (step->repair) {
        v->counts.left += differing;
        v->counts.repaired += blocks - differing;
    } else {
        v->counts.differing += differing;
        v->counts.compared += blocks;
    }
    return 0;
}

bool verification_is_done(const struct verification *v)
{
    struct verification_step ignored;
    return !v->unanswered && !verification_next(v, &ignored);
}

void verification_counts(const struct verification *v, struct verification_counts *out)
{
    *out = v->counts;
}

const struct verification_range *verification_ranges(const struct verification *v, size_t *n)
{
    *n = v->n;
    return v->ranges;
}
