/*
 * Unit tests of what a re-sync is made of: secondary/teller says what a replica holds, proto/regions checks it,
 * primary/resync compares and sends. Whatever the replica began with, it is equal to the guest afterwards, and little
 * more than what differed was sent.
 */
#include "primary/resync.h"
#include "sample.h"
#include "secondary/teller.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 4999, REGION = TELLER_REGION_PAGES }; /* several slices; the last region is short */

struct rig {
    uint64_t seed;
    uint8_t *guest, *replica;
    bool guest_has[PAGES], replica_has[PAGES]; /* populated */
    unsigned records;
    uint64_t compared, sent, digests;
    bool holes_too;
};

static uint8_t *page_of(uint8_t *memory, uint64_t gfn)
{
    return memory + gfn * VM_PAGE_SIZE;
}

static void fill(struct rig *g, uint8_t *page)
{
    for (size_t i = 0; i < VM_PAGE_SIZE; i += 8)
        memcpy(page + i, &(uint64_t){sample_random(&g->seed)}, 8);
}

/* Both sides hold the same, in runs with holes between. */
static struct rig *rig_new(uint64_t seed)
{
    struct rig *g = calloc(1, sizeof *g);
    g->seed = seed;
    g->guest = calloc(PAGES, VM_PAGE_SIZE);
    g->replica = calloc(PAGES, VM_PAGE_SIZE);
    bool in = false;
    for (uint64_t i = 0; i < PAGES; i++) {
        if (sample_random(&g->seed) % 16 == 0)
            in = !in;
        g->guest_has[i] = g->replica_has[i] = in;
        if (!in)
            continue;
        if (sample_random(&g->seed) % 32) /* else populated, and zero */
            fill(g, page_of(g->guest, i));
        memcpy(page_of(g->replica, i), page_of(g->guest, i), VM_PAGE_SIZE);
    }
    return g;
}

static void rig_free(struct rig *g)
{
    free(g->guest);
    free(g->replica);
    free(g);
}

static struct page_ranges ranges_of(const bool *has)
{
    struct page_ranges r = {0};
    for (uint64_t i = 0; i < PAGES; i++)
        if (has[i])
            assert_int_equal(page_ranges_add(&r, i, 1), 0);
    return r;
}

static int to_replica(uint64_t gfn, const uint8_t *page, void *arg)
{
    struct rig *g = arg;
    assert_true(gfn < PAGES);
    memcpy(page_of(g->replica, gfn), page, VM_PAGE_SIZE);
    return 0;
}

static void compare(struct rig *g, const struct resync_span *span)
{
    struct resync_walk w;
    assert_int_equal(resync_walk_begin(&w, span, resync_read_memory, g->guest, g->holes_too), 0);
    while (resync_walk_step(&w, to_replica, g) > 0)
        ;
    g->compared += w.compared;
    g->sent += w.sent;
    resync_walk_end(&w);
}

/* What is not populated is not read: other octets than the zeroes that it counts as are put there meanwhile. */
static void poison(struct rig *g, int octet)
{
    for (uint64_t i = 0; i < PAGES; i++)
        if (!g->guest_has[i])
            memset(page_of(g->guest, i), octet, VM_PAGE_SIZE);
}

static void resync(struct rig *g)
{
    struct page_ranges there = ranges_of(g->replica_has), here = ranges_of(g->guest_has);
    struct teller *t = teller_new(g->replica, PAGES, &there, sample_random(&g->seed));
    struct regions_told told = {.pages = PAGES};
    struct proto_error e = {""};
    const uint8_t *payload;
    size_t cursor = 0;
    assert_null(there.at);
    poison(g, 0xaa);
    for (size_t n; (n = teller_next(t, &payload)) > 0; g->records++) {
        uint64_t first = told.head.end;
        struct regions_run run;
        assert_false(regions_all_told(&told));
        if (regions_check(&told, payload, n, &e))
            fail_msg("%s", e.text);
        for (size_t at = REGIONS_HEAD_SIZE; regions_next(payload, n, &at, &run) > 0;)
            g->digests += run.count;
        struct resync_span *span = resync_span_new(&told, first, payload, n, &here, &cursor);
        assert_non_null(span);
        compare(g, span);
        resync_span_free(span);
    }
    poison(g, 0);
    assert_true(regions_all_told(&told));
    assert_int_equal(g->compared, here.pages);
    assert_memory_equal(g->guest, g->replica, (size_t)PAGES * VM_PAGE_SIZE);
    teller_free(t);
    page_ranges_free(&here);
}

static void equal_sides_send_nothing(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    resync(g);
    assert_int_equal(g->sent, 0);
    assert_true(g->records > 2);
    assert_true(g->digests > 0 && g->digests < PAGES / REGION);
    rig_free(g);
}

static void one_octet_is_found(void **state)
{
    (void)state;
    for (uint64_t seed = 2; seed < 12; seed++) {
        struct rig *g = rig_new(seed);
        uint64_t at;
        do
            at = sample_random(&g->seed) % (PAGES * (uint64_t)VM_PAGE_SIZE);
        while (!g->replica_has[at / VM_PAGE_SIZE]);
        g->replica[at] ^= 1;
        resync(g);
        assert_true(g->sent >= 1 && g->sent <= REGION);
        rig_free(g);
    }
}

static void anything_becomes_equal(void **state)
{
    (void)state;
    for (uint64_t seed = 20; seed < 40; seed++) {
        struct rig *g = rig_new(seed);
        uint64_t changes = sample_random(&g->seed) % 400;
        for (uint64_t i = 0; i < changes; i++) {
            uint64_t gfn = sample_random(&g->seed) % PAGES;
            switch (sample_random(&g->seed) % 4) {
            case 0: /* the guest has let go of it, the replica has not */
                g->guest_has[gfn] = false;
                memset(page_of(g->guest, gfn), 0, VM_PAGE_SIZE);
                break;
            case 1: /* the replica never had it */
                g->replica_has[gfn] = false;
                memset(page_of(g->replica, gfn), 0, VM_PAGE_SIZE);
                break;
            case 2: /* the guest has written it since */
                g->guest_has[gfn] = true;
                fill(g, page_of(g->guest, gfn));
                break;
            default: /* it is damaged */
                g->replica_has[gfn] = true;
                fill(g, page_of(g->replica, gfn));
            }
        }
        resync(g);
        assert_true(g->sent <= changes * REGION);
        rig_free(g);
    }
}

static void an_empty_replica_gets_all(void **state)
{
    (void)state;
    struct rig *g = rig_new(50);
    memset(g->replica, 0, (size_t)PAGES * VM_PAGE_SIZE);
    memset(g->replica_has, 0, sizeof g->replica_has);
    resync(g);
    assert_int_equal(g->records, 1);
    assert_int_equal(g->digests, 0);
    assert_true(g->sent > 0 && g->sent <= g->compared); /* but for those that are zero */
    rig_free(g);
}

static void an_empty_guest_takes_all_away(void **state)
{
    (void)state;
    struct rig *g = rig_new(60);
    memset(g->guest, 0, (size_t)PAGES * VM_PAGE_SIZE);
    memset(g->guest_has, 0, sizeof g->guest_has);
    resync(g);
    assert_int_equal(g->compared, 0);
    assert_true(g->sent > 0);
    rig_free(g);
}

/* ---- the record ---- */

struct record_maker {
    uint8_t data[4096];
    size_t n;
};

static struct record_maker head(uint64_t seed, uint64_t end, uint32_t region_pages)
{
    struct record_maker m = {.n = REGIONS_HEAD_SIZE};
    regions_head_write(m.data, &(struct regions_head){seed, end, region_pages});
    return m;
}

static void add_run(struct record_maker *m, uint64_t first, uint32_t count)
{
    regions_run_write(m->data + m->n, first, count);
    m->n += REGIONS_RUN_SIZE + (size_t)count * PROTO_DIGEST_SIZE;
}

static void refused(const struct record_maker *m, struct regions_told told, const char *part)
{
    struct regions_told before = told;
    struct proto_error e = {""};
    assert_int_equal(regions_check(&told, m->data, m->n, &e), -1);
    if (!strstr(e.text, part))
        fail_msg("\"%s\" has no \"%s\"", e.text, part);
    assert_memory_equal(&told, &before, sizeof told);
}

static void violations_are_named(void **state)
{
    (void)state;
    struct regions_told fresh = {.pages = 1000}, told = fresh;
    struct proto_error e;
    struct record_maker m = head(7, 10, 16), good;
    add_run(&m, 0, 2);
    add_run(&m, 5, 5);
    assert_int_equal(regions_check(&told, m.data, m.n, &e), 0);
    assert_int_equal(told.head.end, 10);
    good = head(7, 63, 16); /* 62.5 regions */
    assert_int_equal(regions_check(&(struct regions_told){.pages = 1000}, good.data, good.n, &e), 0);
    refused(&m, told, "told up to 10");
    for (size_t n = 0; n < m.n; n++) {
        struct record_maker cut = m;
        cut.n = n;
        if (n != REGIONS_HEAD_SIZE && n != REGIONS_HEAD_SIZE + REGIONS_RUN_SIZE + 2 * PROTO_DIGEST_SIZE)
            refused(&cut, fresh, "REGIONS");
    }
    m = head(7, 64, 16), refused(&m, fresh, "of 63");
    m = head(7, 0, 16), refused(&m, fresh, "up to 0");
    m = head(7, 1, 0), refused(&m, fresh, "of 0 pages");
    m = head(7, 1, 24), refused(&m, fresh, "of 24 pages");
    m = head(7, 1, 128), refused(&m, fresh, "of 128 pages");
    m = head(8, 20, 16), refused(&m, told, "another size or seed");
    m = head(7, 20, 8), refused(&m, told, "another size or seed");
    m = head(7, 20, 16), m.data[23] = 1, refused(&m, fresh, "reserved");
    m = head(7, 20, 16), add_run(&m, 3, 0), refused(&m, fresh, "run of 0");
    m = head(7, 20, 16), add_run(&m, 9, 1), refused(&m, told, "from 9");
    m = head(7, 20, 16), add_run(&m, 19, 2), refused(&m, fresh, "run of 2");
    m = head(7, 20, 16), add_run(&m, 20, 1), refused(&m, fresh, "from 20");
    m = head(7, 20, 16), add_run(&m, 4, 2), add_run(&m, 5, 2), refused(&m, fresh, "from 5");
}

/* Whatever size the other side chooses. */
static void any_size_of_region(void **state)
{
    (void)state;
    for (uint32_t size = 1; size <= REGION_PAGES_MAX; size *= 2) {
        struct rig *g = rig_new(70 + size);
        struct page_ranges here = ranges_of(g->guest_has);
        uint64_t count = regions_count(PAGES, size), differs = PAGES / 2 / size;
        size_t n = REGIONS_HEAD_SIZE + REGIONS_RUN_SIZE + count * PROTO_DIGEST_SIZE, cursor = 0;
        uint8_t *payload = malloc(n), *at = payload + REGIONS_HEAD_SIZE + REGIONS_RUN_SIZE;
        struct regions_told told = {.pages = PAGES};
        struct proto_error e = {""};
        page_of(g->replica, PAGES / 2)[17] ^= 4;
        regions_head_write(payload, &(struct regions_head){3, count, size});
        regions_run_write(payload + REGIONS_HEAD_SIZE, 0, (uint32_t)count);
        for (uint64_t i = 0; i < count; i++, at += PROTO_DIGEST_SIZE) {
            uint64_t left = PAGES - i * size;
            region_digest(3, page_of(g->replica, i * size), (left < size ? left : size) * VM_PAGE_SIZE, at);
        }
        assert_int_equal(regions_check(&told, payload, n, &e), 0);
        struct resync_span *span = resync_span_new(&told, 0, payload, n, &here, &cursor);
        compare(g, span);
        assert_int_equal(g->sent, (differs + 1) * size <= PAGES ? size : PAGES - differs * size);
        assert_memory_equal(g->guest, g->replica, (size_t)PAGES * VM_PAGE_SIZE);
        resync_span_free(span);
        page_ranges_free(&here);
        free(payload);
        rig_free(g);
    }
}

/* A disk: a hole is written after it was asked what is populated, and that write reaches the replica by the log, before
 * the comparison comes by. It must not be followed by the zeroes that were there. */
static void a_hole_written_meanwhile_stays_written(void **state)
{
    (void)state;
    struct rig *g = rig_new(77);
    struct page_ranges here = ranges_of(g->guest_has), there = ranges_of(g->replica_has);
    uint64_t hole = 0;
    while (g->guest_has[hole] || !g->guest_has[hole ^ 1])
        hole++;
    page_of(g->replica, hole ^ 1)[0] ^= 1; /* the region differs all the same */
    struct teller *t = teller_new(g->replica, PAGES, &there, 5);
    struct regions_told told = {.pages = PAGES};
    struct proto_error e = {""};
    const uint8_t *payload;
    size_t cursor = 0;
    g->holes_too = true;
    for (size_t n; (n = teller_next(t, &payload)) > 0;) {
        uint64_t first = told.head.end;
        assert_int_equal(regions_check(&told, payload, n, &e), 0);
        if (first == 0) {
            fill(g, page_of(g->guest, hole));
            memcpy(page_of(g->replica, hole), page_of(g->guest, hole), VM_PAGE_SIZE);
        }
        struct resync_span *span = resync_span_new(&told, first, payload, n, &here, &cursor);
        compare(g, span);
        resync_span_free(span);
    }
    assert_memory_equal(g->guest, g->replica, (size_t)PAGES * VM_PAGE_SIZE);
    teller_free(t);
    page_ranges_free(&here);
    rig_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_sides_send_nothing), cmocka_unit_test(one_octet_is_found),
        cmocka_unit_test(anything_becomes_equal),   cmocka_unit_test(an_empty_replica_gets_all),
        cmocka_unit_test(violations_are_named),     cmocka_unit_test(an_empty_guest_takes_all_away),
        cmocka_unit_test(any_size_of_region),       cmocka_unit_test(a_hole_written_meanwhile_stays_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
