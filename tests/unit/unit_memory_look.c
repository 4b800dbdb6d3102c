/*
 * Unit tests of looks at memory (primary/looks.h, look.h) and of secondary/compare_memory.h: whatever a guest writes
 * while it is looked at, and however late looks and captures are dealt with, a page is named exactly if the replica
 * does not hold what the guest held at the end of the epoch.
 */
#include "primary/looks.h"
#include "proto/epoch.h"
#include "sample.h"
#include "secondary/compare_memory.h"
#include "secondary/replica.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 600, OCTETS = PAGES * PROTO_PAGE_SIZE, JOBS = 8, EPOCHS = 8 };

struct job { /* of the pipeline: a look or a capture */
    struct look *look;
    struct page_set *populated;
    struct capture *capture;
    uint8_t *snapshot; /* all of the guest's memory then */
};

struct rig {
    uint64_t seed, number, told, epoch;
    int64_t clock;
    uint8_t *guest, *memory;
    bool dirty[PAGES];
    struct job jobs[JOBS];
    unsigned n;
    const uint8_t *now; /* the snapshot of the epoch that is told of */
    struct looks *looks;
    struct encoder *encoder;
    struct framer *framer;
    struct replica *replica;
    struct page_set *populated;
    unsigned differing; /* of the CHECKs so far */
    bool repairs[EPOCHS * JOBS * 100];
};

static uint64_t pick(struct rig *g, uint64_t below)
{
    return (sample_random(&g->seed) >> 17) % below;
}

/* ---- the secondary ---- */

static bool is_equal(const struct rig *g, uint64_t gfn)
{
    return !memcmp(g->memory + gfn * PROTO_PAGE_SIZE, g->now + gfn * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE);
}

static void check(struct rig *g, const struct record *r)
{
    struct check_head head;
    struct check_run run;
    struct proto_error e;
    bool named[PAGES] = {false};
    size_t n;
    if (check_read(r->payload, r->length, &(struct disk_sizes){0}, PAGES, ++g->told, &head, &e))
        fail_msg("%s", e.text);
    uint8_t *said = compare_memory(g->memory, g->populated, &head, r->payload, r->length, &n);
    if (checked_read(said, n, &head, &e))
        fail_msg("%s", e.text);
    for (size_t at = CHECKED_HEAD_SIZE; checked_next(said, n, &at, &run) > 0; g->differing += run.count)
        for (uint64_t gfn = run.from; gfn < run.from + run.count; gfn++)
            named[gfn] = true;
    for (uint64_t gfn = head.first; gfn < head.end; gfn++)
        if (named[gfn] == is_equal(g, gfn) || (named[gfn] && g->repairs[head.number]))
            fail_msg("page %lu is %s", (unsigned long)gfn, named[gfn] ? "named" : "not named");
    free(said);
}

static void on_chunk(struct pipeline_chunk *chunk, void *arg)
{
    struct rig *g = arg;
    struct record r;
    struct errmsg e;
    assert_int_equal(framer_feed(g->framer, chunk->data, chunk->n, NULL), 0);
    while (framer_next(g->framer, &r, NULL) > 0) {
        if (r.type == RECORD_CHECK)
            check(g, &r);
        else if (r.type == RECORD_COMMIT)
            assert_int_equal(replica_commit(g->replica, &e), 0);
        else
            assert_int_equal(replica_take(g->replica, &r, &e), REPLICA_TAKEN);
    }
    free(chunk);
}

/* ---- the pipeline ---- */

static void run_capture(struct rig *g, struct job *j)
{
    struct capture *c = j->capture;
    g->now = j->snapshot;
    for (size_t i = 0; i < c->n; i++)
        assert_int_equal(looks_page(g->looks, c->gfns[i], c->pages + i * PROTO_PAGE_SIZE), 0);
    assert_int_equal(looks_repair(g->looks, g->encoder, c), 0);
    for (size_t i = 0; i < c->n; i++)
        assert_int_equal(encoder_page(g->encoder, c->epoch, c->gfns[i], c->pages + i * PROTO_PAGE_SIZE, true), 0);
    assert_int_equal(encoder_blob(g->encoder, c->epoch, DEVICE_STATE, &(struct vm_blob){0}), 0);
    assert_int_equal(encoder_commit(g->encoder, c->epoch), 0);
    assert_int_equal(looks_check(g->looks, g->encoder, c), 0);
    capture_free(c);
    free(j->snapshot);
}

static void run_job(struct rig *g)
{
    struct job j = g->jobs[0];
    memmove(g->jobs, g->jobs + 1, --g->n * sizeof *g->jobs);
    if (j.capture) {
        run_capture(g, &j);
        return;
    }
    assert_int_equal(looks_take_memory(g->looks, j.look, g->guest, &j.populated), 0);
    j.look->read_at = ++g->clock;
    g->repairs[j.look->number] = j.look->repair;
    looks_add(g->looks, j.look, sample_random(&g->seed));
}

/* ---- the primary ---- */

static void write_page(struct rig *g, uint64_t gfn, bool is_seen)
{
    uint8_t *page = g->guest + gfn * PROTO_PAGE_SIZE;
    if (pick(g, 5) == 0)
        memset(page, 0, PROTO_PAGE_SIZE);
    else
        page[pick(g, PROTO_PAGE_SIZE)] ^= (uint8_t)(1 + pick(g, 255));
    g->dirty[gfn] |= is_seen;
}

static struct page_set *nonzero(const uint8_t *memory)
{
    static const uint8_t zeroes[PROTO_PAGE_SIZE];
    struct page_ranges r = {0};
    for (uint64_t gfn = 0; gfn < PAGES; gfn++)
        if (memcmp(memory + gfn * PROTO_PAGE_SIZE, zeroes, sizeof zeroes) != 0)
            assert_int_equal(page_ranges_add(&r, gfn, 1), 0);
    struct page_set *s = page_set_new(PAGES, &r);
    page_ranges_free(&r);
    return s;
}

static void submit(struct rig *g, struct job j)
{
    if (g->n == JOBS)
        run_job(g);
    g->jobs[g->n++] = j;
}

static void submit_look(struct rig *g, uint64_t first, uint64_t end, bool repair, bool is_first)
{
    submit(g, (struct job){.look = look_new(++g->number, CHECK_MEMORY, first, end, repair),
                           .populated = is_first ? nonzero(g->guest) : NULL});
}

static void submit_capture(struct rig *g)
{
    struct errmsg e;
    struct capture *c = capture_new(PAGES, &e);
    c->epoch = ++g->epoch;
    c->times.paused_at = ++g->clock;
    for (uint64_t gfn = 0; gfn < PAGES; gfn++)
        if (g->dirty[gfn]) {
            memcpy(c->pages + c->n * PROTO_PAGE_SIZE, g->guest + gfn * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE);
            c->gfns[c->n++] = gfn;
        }
    memset(g->dirty, 0, sizeof g->dirty);
    struct job j = {.capture = c, .snapshot = malloc(OCTETS)};
    memcpy(j.snapshot, g->guest, OCTETS);
    submit(g, j);
}

static void drain(struct rig *g)
{
    submit_capture(g);
    while (g->n)
        run_job(g);
}

static struct rig *begin(uint64_t seed, uint64_t cache_pages)
{
    struct rig *g = calloc(1, sizeof *g);
    g->seed = seed;
    g->guest = calloc(1, OCTETS);
    g->memory = calloc(1, OCTETS);
    struct pipeline_config c = {.pages = PAGES, .memory = g->guest, .delta_cache_bytes = cache_pages * PROTO_PAGE_SIZE};
    g->encoder = encoder_new(&c, on_chunk, g);
    g->looks = looks_new();
    g->framer = framer_new();
    g->replica = replica_new(g->memory, PAGES, 8 << 20, "/tmp");
    g->populated = nonzero(g->memory);
    replica_note_pages(g->replica, g->populated);
    return g;
}

static void end(struct rig *g)
{
    looks_free(g->looks);
    encoder_free(g->encoder);
    framer_free(g->framer);
    replica_free(g->replica);
    page_set_free(g->populated);
    free(g->guest);
    free(g->memory);
    free(g);
}

/* ---- tests ---- */

/* How far it came is known when it was taken; meanwhile the guest goes on, and its epochs end. */
static uint64_t look_on(struct rig *g, uint64_t from, uint64_t to)
{
    submit_look(g, from, to, pick(g, 6) == 0, from == 0);
    struct look *l = g->jobs[g->n - 1].look;
    for (uint64_t writes = pick(g, 20); writes; writes--)
        write_page(g, pick(g, PAGES / 4 * 3), true);
    if (g->n < JOBS && pick(g, 3) == 0) {
        submit_capture(g);
        for (uint64_t writes = pick(g, 20); writes; writes--)
            write_page(g, pick(g, PAGES / 4 * 3), true);
    }
    while (g->jobs[0].look != l)
        run_job(g);
    run_job(g);
    return l->end;
}

/* One comparison of everything, in pieces, while the guest writes all over its first pages. */
static void compare_all(struct rig *g)
{
    uint64_t at = 0;
    while (at < PAGES) {
        uint64_t what = pick(g, 12), to = at + 1 + pick(g, 200);
        if (what < 8) {
            write_page(g, pick(g, PAGES / 4 * 3), true);
        } else if (what == 8) {
            submit_capture(g);
        } else if (what == 9 && g->n) {
            run_job(g);
        } else if (what == 10) {
            at = look_on(g, at, to < PAGES ? to : PAGES);
        }
    }
    drain(g);
}

static void named_exactly(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct rig *g = begin(seed * UINT64_C(0x9e3779b97f4a7c15), seed % 3 ? PAGES : 20);
        for (unsigned i = 0; i < 150; i++)
            write_page(g, pick(g, PAGES / 2), true);
        drain(g);
        compare_all(g);
        assert_int_equal(g->differing, 0);
        for (unsigned i = 0; i < 20; i++) /* between two epochs, and nobody looks */
            write_page(g, pick(g, PAGES), false);
        for (unsigned i = 0; i < 5; i++) {
            uint64_t gfn = pick(g, PAGES);
            if (page_set_has(g->populated, gfn))
                g->memory[gfn * PROTO_PAGE_SIZE + pick(g, PROTO_PAGE_SIZE)] ^= 0x10;
        }
        compare_all(g);
        assert_true(g->differing);
        assert_int_equal(g->told, g->number);
        end(g);
    }
}

static unsigned note_of(struct rig *g, uint64_t gfn)
{
    uint8_t *notes = looks_notes(g->looks, g->number);
    assert_non_null(notes);
    assert_null(looks_notes(g->looks, g->number)); /* once */
    unsigned note = notes[gfn];
    free(notes);
    return note;
}

static void look_at_all(struct rig *g, bool repair)
{
    submit_look(g, 0, LOOK_BLOCKS, repair, true);
    while (g->n)
        run_job(g);
}

static void explained(void **state)
{
    (void)state;
    struct rig *g = begin(5, PAGES);
    char why[LOOK_EXPLAIN_MAX];
    memset(g->guest + 7 * PROTO_PAGE_SIZE, 1, PROTO_PAGE_SIZE);
    g->dirty[7] = true;
    drain(g);
    g->memory[7 * PROTO_PAGE_SIZE] ^= 1; /* at the replica */
    look_at_all(g, false);
    drain(g);
    assert_int_equal(g->differing, 1);
    assert_int_equal(note_of(g, 7), LOOK_AS_SENT);
    look_explain(LOOK_AS_SENT, why);
    assert_non_null(strstr(why, "is what was last sent"));

    look_at_all(g, true); /* and repaired: nobody is misled by what was sent before */
    drain(g);
    assert_int_equal(g->differing, 1);
    assert_memory_equal(g->memory, g->guest, OCTETS);
    assert_int_equal(note_of(g, 7), LOOK_AS_SENT);

    memset(g->guest + 7 * PROTO_PAGE_SIZE, 0, PROTO_PAGE_SIZE); /* missed */
    look_at_all(g, false);
    drain(g);
    assert_int_equal(g->differing, 2);
    assert_int_equal(note_of(g, 7), LOOK_UNSENT | LOOK_ZEROES);
    look_explain(LOOK_UNSENT | LOOK_ZEROES, why);
    assert_non_null(strstr(why, "changed since it was last sent"));
    assert_non_null(strstr(why, "all zeroes here"));

    look_at_all(g, false);
    write_page(g, 7, true); /* it is in the epoch that settles the look: the replica has it again */
    drain(g);
    assert_int_equal(g->differing, 2);
    assert_true(note_of(g, 7) & LOOK_DIRTY);
    end(g);
}

/* What was never touched is neither read nor kept; a small hole between pages is no look of its own. */
static void holes(void **state)
{
    (void)state;
    struct rig *g = begin(6, PAGES);
    struct page_ranges r = {0};
    assert_int_equal(page_ranges_add(&r, 300, 1), 0);
    assert_int_equal(page_ranges_add(&r, 310, 20), 0);
    struct page_set *s = page_set_new(PAGES, &r);
    page_ranges_free(&r);
    memset(g->guest, 7, OCTETS); /* to be seen if it is read */
    static const struct {
        uint64_t first, end;
        bool is_hole;
    } expected[] = {{0, 300, true}, {300, 428, false}, {428, PAGES, true}, {200, 328, false}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct look *l = look_new(1, CHECK_MEMORY, expected[i].first, PAGES, false);
        assert_int_equal(look_at_memory(l, g->guest, s), 0);
        assert_int_equal(l->end, expected[i].end);
        assert_int_equal(!l->data, expected[i].is_hole);
        for (uint64_t gfn = l->first; l->data && gfn < l->end; gfn++)
            assert_int_equal(l->data[(gfn - l->first) * PROTO_PAGE_SIZE], page_set_has(s, gfn) ? 7 : 0);
        look_free(l);
    }
    page_set_free(s);
    end(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_exactly),
        cmocka_unit_test(explained),
        cmocka_unit_test(holes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
