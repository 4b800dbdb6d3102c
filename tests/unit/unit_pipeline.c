/*
 * Unit tests of primary/pipeline.h, with its thread: order, what is handed over to whom, back-pressure, and an end at
 * any moment. Meant for ThreadSanitizer too.
 */
#include "primary/pipeline.h"
#include "proto/epoch.h"
#include "proto/page.h"
#include "sample.h"
#include "secondary/block_teller.h"
#include "secondary/compare_memory.h"
#include "secondary/replica.h"
#include "secondary/teller.h"

#include <ev.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGES = 2048, OCTETS = PAGES * PROTO_PAGE_SIZE }; /* noise: twice what may wait as output */

struct rig {
    struct ev_loop *loop;
    struct pipeline *pipeline;
    uint8_t *guest, *memory;
    uint64_t seed;
    bool deaf; /* takes no output */
    unsigned rounds, captured, commits, looks, checks, writes;
    unsigned differing;   /* pages, by the CHECKs of memory that came */
    struct looked looked; /* the last one */
    uint64_t last_captured;
    size_t chunks;
    struct framer *framer;
    struct stream_check *check;
    struct replica *replica;
};

static void compare(struct rig *g, const struct record *r)
{
    static const struct disk_sizes sizes = {1, {4000 * DISK_BLOCK_SIZE}};
    struct page_ranges all = {0};
    struct check_head head;
    struct check_run run;
    size_t n;
    assert_int_equal(check_read(r->payload, r->length, &sizes, PAGES, g->checks, &head, NULL), 0);
    if (head.disk != CHECK_MEMORY)
        return;
    assert_int_equal(page_ranges_add(&all, 0, PAGES), 0);
    struct page_set *populated = page_set_new(PAGES, &all);
    uint8_t *said = compare_memory(g->memory, populated, &head, r->payload, r->length, &n);
    for (size_t at = CHECKED_HEAD_SIZE; checked_next(said, n, &at, &run) > 0;)
        g->differing += run.count;
    free(said);
    page_set_free(populated);
    page_ranges_free(&all);
}

static void receive(struct rig *g, const struct record *r)
{
    struct proto_error why = {""};
    struct errmsg e = {""};
    if (stream_check_record(g->check, r, &why))
        fail_msg("%s", why.text);
    if (r->type == RECORD_COMMIT) {
        assert_int_equal(r->epoch, ++g->commits);
        if (replica_check(g->replica, &e) || replica_commit(g->replica, &e))
            fail_msg("%s", e.text);
    } else if (r->type == RECORD_CHECK) {
        g->checks++;
        compare(g, r);
    } else if (r->type == RECORD_DISK) {
        g->writes++;
    } else if (r->type == RECORD_PAGES || r->type == RECORD_DEVICE) {
        if (replica_take(g->replica, r, &e))
            fail_msg("%s", e.text);
    }
}

static void take_chunks(struct rig *g)
{
    struct proto_error why = {""};
    struct record r = {0};
    for (struct pipeline_chunk *c; (c = pipeline_take(g->pipeline)); free(c)) {
        g->chunks++;
        assert_int_equal(framer_feed(g->framer, c->data, c->n, &why), 0);
        while (framer_next(g->framer, &r, &why) > 0)
            receive(g, &r);
        assert_int_equal(framer_pending(g->framer), 0);
    }
}

static void on_output(void *arg)
{
    struct rig *g = arg;
    if (!g->deaf)
        take_chunks(g);
}

static void on_captured(struct capture *done, void *arg)
{
    struct rig *g = arg;
    assert_int_equal(done->epoch, g->last_captured + 1);
    g->last_captured = done->epoch;
    g->captured++;
    capture_free(done);
}

static void on_round(void *arg)
{
    struct rig *g = arg;
    g->rounds++;
}

static void on_looked(const struct looked *at, void *arg)
{
    struct rig *g = arg;
    g->looks++;
    g->looked = *at;
}

static void begin(struct rig *g)
{
    static const struct pipeline_handlers handlers = {
        .output = on_output, .captured = on_captured, .round_done = on_round, .looked = on_looked};
    *g = (struct rig){.seed = 41, .loop = ev_loop_new(EVFLAG_AUTO)};
    g->guest = malloc(OCTETS);
    g->memory = calloc(1, OCTETS);
    for (size_t i = 0; i < OCTETS; i += 8) {
        uint64_t word = sample_random(&g->seed);
        memcpy(g->guest + i, &word, 8);
    }
    g->framer = framer_new();
    g->check = stream_check_new(STREAM_FROM_PRIMARY);
    g->replica = replica_new(g->memory, PAGES, 1 << 20, "/tmp");
    receive(g, &(struct record){.type = RECORD_HELLO, .length = 2, .payload = (const uint8_t *)"{}"});
    receive(g, &(struct record){.type = RECORD_CONFIG, .length = 2, .payload = (const uint8_t *)"{}"});
    struct pipeline_config c = {.pages = PAGES, .memory = g->guest, .delta_cache_bytes = 64 * PROTO_PAGE_SIZE};
    struct errmsg e;
    g->pipeline = pipeline_new(g->loop, &c, &handlers, g, &e);
    assert_non_null(g->pipeline);
}

static void end(struct rig *g)
{
    pipeline_free(g->pipeline);
    framer_free(g->framer);
    stream_check_free(g->check);
    replica_free(g->replica);
    free(g->guest);
    free(g->memory);
    ev_loop_destroy(g->loop);
}

static void submit_round(struct rig *g, uint64_t first, uint64_t count, bool is_first)
{
    struct page_ranges ranges = {0};
    assert_int_equal(page_ranges_add(&ranges, first, count / 2), 0);
    assert_int_equal(page_ranges_add(&ranges, first + count / 2 + 1, count - count / 2 - 1), 0); /* one is left out */
    pipeline_round(g->pipeline, 1, &ranges, is_first);
    assert_null(ranges.at); /* taken over */
    assert_int_equal(ranges.n, 0);
}

/* The first round when the replica did not begin empty: it tells what it holds, record by record, and gets what
 * differs. The guest has nothing in [hole, hole_end). Returns how many records there were. */
static unsigned submit_resync(struct rig *g, uint64_t hole, uint64_t hole_end)
{
    struct page_ranges there = {0}, here = {0};
    assert_int_equal(page_ranges_add(&there, 0, PAGES), 0);
    assert_int_equal(page_ranges_add(&here, 0, hole), 0);
    assert_int_equal(page_ranges_add(&here, hole_end, PAGES - hole_end), 0);
    struct teller *teller = teller_new(g->memory, PAGES, &there, 7);
    assert_non_null(teller);
    struct regions_told told = {.pages = PAGES};
    struct proto_error e = {""};
    const uint8_t *payload;
    size_t cursor = 0;
    unsigned records = 0;
    for (size_t n; (n = teller_next(teller, &payload)) > 0; records++) {
        uint64_t first = told.head.end;
        if (regions_check(&told, payload, n, &e))
            fail_msg("%s", e.text);
        struct resync_span *span = resync_span_new(&told, first, payload, n, &here, &cursor);
        assert_non_null(span);
        pipeline_resync(g->pipeline, 1, span);
        ev_run(g->loop, EVRUN_NOWAIT); /* pages come back while the rest is told */
    }
    assert_true(regions_all_told(&told));
    teller_free(teller);
    page_ranges_free(&here);
    return records;
}

/* A capture of n pages of the guest, changed at once; their copies are in it. */
static struct capture *capture_make(struct rig *g, uint64_t epoch, size_t n)
{
    struct errmsg e;
    struct capture *c = capture_new(n, &e);
    assert_non_null(c);
    c->epoch = epoch;
    c->n = n;
    uint64_t start = (sample_random(&g->seed) >> 9) % (PAGES - n + 1);
    for (size_t i = 0; i < n; i++) {
        uint8_t *page = g->guest + (start + i) * PROTO_PAGE_SIZE;
        memcpy(page, &epoch, 8);
        c->gfns[i] = start + i;
        memcpy(c->pages + i * PROTO_PAGE_SIZE, page, PROTO_PAGE_SIZE);
    }
    char state[40];
    int length = snprintf(state, sizeof state, "state of epoch %u", (unsigned)epoch);
    assert_int_equal(vm_blob_append(&c->state, state, (size_t)length), 0);
    return c;
}

static bool run_until(struct rig *g, const unsigned *what, unsigned reaches)
{
    for (unsigned turns = 0; *what < reaches && turns < 200000; turns++)
        ev_run(g->loop, EVRUN_ONCE);
    return *what >= reaches;
}

static void rest(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

/* Rounds, then epochs handed in without waiting for each other: the replica is the guest after the last of them. */
static void test_stream(void **state)
{
    (void)state;
    enum { EPOCHS = 30 };
    struct rig g;
    struct vm_blob initial = {0};
    begin(&g);
    assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
    submit_round(&g, 0, PAGES, true);
    assert_true(run_until(&g, &g.rounds, 1));
    assert_int_equal(pipeline_pages_done(g.pipeline), PAGES - 1);
    submit_round(&g, PAGES / 2 - 5, 11, false); /* brings the one that was left out */
    assert_true(run_until(&g, &g.rounds, 2));
    for (uint64_t epoch = 1; epoch <= EPOCHS; epoch++) {
        pipeline_epoch(g.pipeline, capture_make(&g, epoch, 1 + epoch * 3), epoch == 1 ? &initial : NULL);
        if (epoch == 1)
            memset(initial.data, 'x', initial.size); /* was copied */
        if (epoch % 3 == 0)
            ev_run(g.loop, EVRUN_NOWAIT);
    }
    assert_true(run_until(&g, &g.commits, EPOCHS));
    assert_true(run_until(&g, &g.captured, EPOCHS));
    assert_int_equal(g.rounds, 2);
    assert_null(pipeline_take(g.pipeline));
    assert_memory_equal(g.memory, g.guest, OCTETS);
    assert_int_equal(replica_initial(g.replica)->size, 7);
    assert_memory_equal(replica_initial(g.replica)->data, "initial", 7);
    assert_memory_equal(replica_state(g.replica)->data, "state of epoch 30", 17);
    vm_blob_free(&initial);
    end(&g);
}

/* What was told on the loop's thread is compared on the encoder's, and only what differs comes out. */
static void test_resync(void **state)
{
    (void)state;
    enum { HOLE = 700, HOLE_END = 900, DAMAGED = 9 };
    struct rig g;
    struct vm_blob initial = {0};
    begin(&g);
    memcpy(g.memory, g.guest, OCTETS);
    memset(g.guest + HOLE * PROTO_PAGE_SIZE, 0, (HOLE_END - HOLE) * PROTO_PAGE_SIZE);
    for (uint64_t i = 0; i < DAMAGED; i++)
        g.memory[(i * 61 + 3) * PROTO_PAGE_SIZE + i] ^= 0x20; /* below the hole, in regions of their own */
    unsigned records = submit_resync(&g, HOLE, HOLE_END);
    assert_true(run_until(&g, &g.rounds, records));
    assert_int_equal(pipeline_pages_done(g.pipeline), PAGES - (HOLE_END - HOLE));
    assert_int_equal(pipeline_pages_sent(g.pipeline), DAMAGED * TELLER_REGION_PAGES + HOLE_END - HOLE);
    assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
    pipeline_epoch(g.pipeline, capture_make(&g, 1, 20), &initial);
    assert_true(run_until(&g, &g.commits, 1));
    assert_memory_equal(g.memory, g.guest, OCTETS);
    vm_blob_free(&initial);
    end(&g);
}

static void put_look_epoch(struct rig *g, uint64_t epoch, int64_t paused_at, const struct vm_blob *initial)
{
    struct capture *c = capture_make(g, epoch, 5);
    c->times.paused_at = paused_at;
    pipeline_epoch(g->pipeline, c, initial);
    assert_true(run_until(g, &g->commits, (unsigned)epoch));
}

/* A look is told behind the first epoch whose pause began after it, not before: what it saw may be of a later one. */
static void test_looks(void **state)
{
    (void)state;
    struct rig g;
    struct vm_blob initial = {0};
    int fd = memfd_create("disk", MFD_CLOEXEC);
    begin(&g);
    assert_int_equal(ftruncate(fd, 10 * DISK_BLOCK_SIZE), 0);
    assert_int_equal(pwrite(fd, "x", 1, 3 * DISK_BLOCK_SIZE), 1);
    assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
    put_look_epoch(&g, 1, 1, &initial);
    pipeline_look(g.pipeline, fd, 7, look_new(1, 0, 0, 10, false));
    assert_true(run_until(&g, &g.looks, 1));
    assert_true(g.looked.number == 1 && g.looked.end == 3 && g.looked.is_hole && !g.looked.error);
    put_look_epoch(&g, 2, 1, NULL); /* its VM stood still before the look */
    put_look_epoch(&g, 3, 1, NULL);
    assert_int_equal(g.checks, 0);
    put_look_epoch(&g, 4, clock_now(), NULL);
    assert_true(run_until(&g, &g.checks, 1));
    assert_int_equal(g.writes, 0);
    pipeline_look(g.pipeline, fd, 7, look_new(2, 0, 3, 10, true)); /* one that repairs: one block, and what is zero */
    assert_true(run_until(&g, &g.looks, 2));
    put_look_epoch(&g, 5, clock_now(), NULL);
    assert_true(run_until(&g, &g.checks, 2));
    assert_int_equal(g.writes, 2);
    pipeline_look(g.pipeline, fd, 7, look_new(3, 0, 4, 12, false)); /* a hole, and the disk's end: it is no error */
    pipeline_look(g.pipeline, fd, 7, look_new(4, 0, 3, 12, false)); /* behind it: one */
    assert_true(run_until(&g, &g.looks, 4));
    assert_true(g.looked.number == 4 && g.looked.error);
    put_look_epoch(&g, 6, clock_now(), NULL);
    assert_true(run_until(&g, &g.checks, 3));
    pipeline_look(g.pipeline, fd, 7, look_new(4, 0, 3, 10, false)); /* freed as it is */
    vm_blob_free(&initial);
    end(&g);
    close(fd);
}

/* Has a look from `at` to the end, of which all is populated. Returns where it ended. */
static uint64_t look_on(struct rig *g, uint64_t number, uint64_t at, bool repair)
{
    struct page_ranges all = {0};
    assert_int_equal(page_ranges_add(&all, 0, PAGES), 0);
    struct page_set *populated = at ? NULL : page_set_new(PAGES, &all);
    page_ranges_free(&all);
    pipeline_look_memory(g->pipeline, number, look_new(number, CHECK_MEMORY, at, PAGES, repair), populated);
    assert_true(run_until(g, &g->looks, (unsigned)number));
    assert_true(g->looked.number == number && g->looked.first == at && g->looked.end > at && !g->looked.is_hole);
    return g->looked.end;
}

static uint64_t look_at_all(struct rig *g, uint64_t number, bool repair)
{
    for (uint64_t at = 0; at < PAGES; number++)
        at = look_on(g, number, at, repair);
    return number;
}

/* Memory: what is damaged is told and repaired, with the epoch that settles the look. */
static void test_looks_at_memory(void **state)
{
    (void)state;
    enum { DAMAGED = 5 };
    struct rig g;
    struct vm_blob initial = {0};
    begin(&g);
    assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
    submit_round(&g, 0, PAGES, true);
    struct page_ranges one = {0};
    assert_int_equal(page_ranges_add(&one, PAGES / 2, 1), 0); /* which it leaves out */
    pipeline_round(g.pipeline, 1, &one, false);
    put_look_epoch(&g, 1, 1, &initial);
    uint64_t next = look_at_all(&g, 1, false);
    put_look_epoch(&g, 2, clock_now(), NULL);
    assert_true(run_until(&g, &g.checks, (unsigned)next - 1));
    assert_int_equal(g.differing, 0);
    for (unsigned i = 0; i < DAMAGED; i++)
        g.memory[(size_t)(100 + 300 * i) * PROTO_PAGE_SIZE + 77] ^= 4;
    next = look_at_all(&g, next, false);
    put_look_epoch(&g, 3, clock_now(), NULL);
    assert_true(run_until(&g, &g.checks, (unsigned)next - 1));
    assert_in_range(g.differing, DAMAGED - 1, DAMAGED); /* an epoch may have one of them */
    next = look_at_all(&g, next, true);
    put_look_epoch(&g, 4, clock_now(), NULL);
    assert_true(run_until(&g, &g.checks, (unsigned)next - 1));
    assert_in_range(g.differing, DAMAGED - 1, DAMAGED);
    assert_memory_equal(g.memory, g.guest, OCTETS);
    free(pipeline_notes(g.pipeline, next - 1));
    assert_null(pipeline_notes(g.pipeline, next - 1));
    vm_blob_free(&initial);
    end(&g);
}

/* The last epoch of a move has its pages in a round before it: what was looked at to be repaired must not undo them. */
static void test_look_before_the_last_epoch(void **state)
{
    (void)state;
    struct rig g;
    struct vm_blob initial = {0};
    begin(&g);
    assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
    submit_round(&g, 0, PAGES, true);
    struct page_ranges dirty = {0};
    assert_int_equal(page_ranges_add(&dirty, PAGES / 2, 1), 0);
    pipeline_round(g.pipeline, 1, &dirty, false);
    put_look_epoch(&g, 1, 1, &initial);
    look_on(&g, 1, 0, true);
    memset(g.guest + 9 * PROTO_PAGE_SIZE, 9, PROTO_PAGE_SIZE); /* since */
    assert_int_equal(page_ranges_add(&dirty, 9, 1), 0);
    struct capture *last = capture_make(&g, 2, 0);
    last->times.paused_at = clock_now();
    pipeline_round(g.pipeline, 2, &dirty, true);
    pipeline_epoch(g.pipeline, last, NULL);
    assert_true(run_until(&g, &g.checks, 1));
    assert_int_equal(g.differing, 0);
    assert_memory_equal(g.memory, g.guest, OCTETS);
    vm_blob_free(&initial);
    end(&g);
}

/* A disk that nothing is known of at the other side. */
static int submit_disk(struct rig *g, uint64_t bytes)
{
    struct errmsg e;
    struct page_ranges all = {0};
    struct proto_error why = {""};
    struct blocks_told told;
    struct disk_sizes sizes = {.count = 1, .bytes = {bytes}};
    const uint8_t *payload;
    unsigned disk;
    size_t cursor = 0;
    int here = memfd_create("here", MFD_CLOEXEC), there = memfd_create("there", MFD_CLOEXEC);
    assert_int_equal(ftruncate(there, (off_t)bytes), 0);
    assert_int_equal(write(here, g->guest, bytes), bytes);
    assert_int_equal(page_ranges_add(&all, 0, bytes / PROTO_PAGE_SIZE), 0);
    blocks_told_init(&told, &sizes);
    struct block_teller *teller = block_teller_new(0, there, bytes, 7);
    ssize_t n = block_teller_next(teller, &payload, &e);
    assert_int_equal(blocks_check(&told, payload, (size_t)n, &disk, &why), 0);
    assert_true(blocks_all_told(&told));
    struct resync_span *span =
        resync_span_new(&told.disks[0], 0, payload + BLOCKS_HEAD_SIZE, (size_t)n - BLOCKS_HEAD_SIZE, &all, &cursor);
    pipeline_resync_disk(g->pipeline, 1, 0, here, span);
    block_teller_free(teller);
    page_ranges_free(&all);
    close(there);
    return here;
}

/* One octet per second: after the first region nothing more is read, until the rate is another one. */
static void test_disk_sync_rate(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    struct rig g;
    begin(&g);
    g.deaf = true;
    pipeline_set_disk_sync_rate(g.pipeline, 1);
    int fd = submit_disk(&g, BYTES);
    while (!pipeline_disk_blocks_done(g.pipeline))
        rest(1);
    rest(100);
    assert_int_equal(pipeline_disk_blocks_done(g.pipeline), DISK_REGION_BLOCKS);
    ev_run(g.loop, EVRUN_NOWAIT);
    assert_int_equal(g.rounds, 0);
    pipeline_set_disk_sync_rate(g.pipeline, 0);
    assert_true(run_until(&g, &g.rounds, 1));
    assert_int_equal(pipeline_disk_blocks_done(g.pipeline), BYTES / PROTO_PAGE_SIZE);
    assert_int_equal(pipeline_pages_done(g.pipeline), BYTES / PROTO_PAGE_SIZE);
    pipeline_set_disk_sync_rate(g.pipeline, 1);
    int other = submit_disk(&g, BYTES);
    rest(20);
    end(&g); /* it does not wait for that one */
    close(fd);
    close(other);
}

/* Blocks of a disk that have to be sent, in records of a region at most; then the round is done. */
static void test_blocks(void **state)
{
    (void)state;
    struct rig g;
    struct vm_blob initial = {0};
    struct page_ranges blocks = {0};
    int fd = memfd_create("disk", MFD_CLOEXEC);
    begin(&g);
    assert_int_equal(ftruncate(fd, 100 * DISK_BLOCK_SIZE), 0);
    assert_int_equal(pwrite(fd, "x", 1, 70 * DISK_BLOCK_SIZE), 1);
    assert_int_equal(page_ranges_add(&blocks, 3, 1), 0);
    assert_int_equal(page_ranges_add(&blocks, 60, 40), 0);
    pipeline_send_disk(g.pipeline, 1, 0, fd, &blocks);
    assert_null(blocks.at); /* taken over */
    assert_true(run_until(&g, &g.rounds, 1));
    pipeline_send_disk(g.pipeline, 1, 0, fd, &blocks); /* none */
    assert_true(run_until(&g, &g.rounds, 2));
    assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
    put_look_epoch(&g, 1, 1, &initial);
    assert_int_equal(g.writes, 1 + 3);
    assert_int_equal(pipeline_pages_sent(g.pipeline), 41);
    vm_blob_free(&initial);
    end(&g);
    close(fd);
}

/* The rate holds for them too. */
static void test_blocks_rate(void **state)
{
    (void)state;
    struct rig g;
    struct page_ranges blocks = {0};
    int fd = memfd_create("disk", MFD_CLOEXEC);
    begin(&g);
    assert_int_equal(ftruncate(fd, 100 * DISK_BLOCK_SIZE), 0);
    assert_int_equal(page_ranges_add(&blocks, 0, 100), 0);
    pipeline_set_disk_sync_rate(g.pipeline, 1);
    pipeline_send_disk(g.pipeline, 1, 0, fd, &blocks);
    while (!pipeline_disk_blocks_done(g.pipeline))
        rest(1);
    rest(100);
    assert_int_equal(pipeline_disk_blocks_done(g.pipeline), DISK_REGION_BLOCKS);
    pipeline_set_disk_sync_rate(g.pipeline, 0);
    assert_true(run_until(&g, &g.rounds, 1));
    assert_int_equal(pipeline_disk_blocks_done(g.pipeline), 100);
    pipeline_set_disk_sync_rate(g.pipeline, 1);
    assert_int_equal(page_ranges_add(&blocks, 0, 100), 0);
    pipeline_send_disk(g.pipeline, 1, 0, fd, &blocks);
    rest(20);
    end(&g); /* it does not wait for these */
    close(fd);
}

/* Nobody takes the output: the encoder stops at its limit, and goes on when somebody does. */
static void test_back_pressure(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    g.deaf = true;
    submit_round(&g, 0, PAGES, true);
    uint64_t before = 0, done;
    for (unsigned still = 0; still < 20; before = done) { /* 200 ms without progress */
        rest(10);
        done = pipeline_pages_done(g.pipeline);
        still = done == before && done ? still + 1 : 0;
    }
    ev_run(g.loop, EVRUN_NOWAIT);
    assert_int_equal(g.rounds, 0);
    assert_true(done * PROTO_PAGE_SIZE >= PIPELINE_OUTPUT_MAX - PIPELINE_CHUNK);
    assert_true(done * PROTO_PAGE_SIZE <= PIPELINE_OUTPUT_MAX + 3 * PIPELINE_CHUNK);
    g.deaf = false;
    take_chunks(&g);
    assert_true(run_until(&g, &g.rounds, 1));
    take_chunks(&g);
    assert_true(g.chunks * PIPELINE_CHUNK >= OCTETS - PROTO_PAGE_SIZE);
    end(&g);
}

/* The end at any moment: nothing hangs, nothing is leaked (for that, see the sanitizers), no handler is called later.
 */
static void test_free_in_the_middle(void **state)
{
    (void)state;
    for (unsigned run = 0; run < 24; run++) {
        struct rig g;
        begin(&g);
        g.deaf = run % 2;
        struct capture *captures[3]; /* before the rounds: memory that changes meanwhile is a race to a sanitizer */
        for (uint64_t epoch = 1; epoch <= 3; epoch++)
            captures[epoch - 1] = capture_make(&g, epoch, 50);
        if (run % 4 < 2)
            submit_round(&g, 0, PAGES, true);
        else
            submit_resync(&g, PAGES / 4, PAGES / 2);
        submit_round(&g, 0, PAGES / 2, false);
        struct vm_blob initial = {0};
        assert_int_equal(vm_blob_append(&initial, "initial", 7), 0);
        for (uint64_t epoch = 1; epoch <= 3; epoch++)
            pipeline_epoch(g.pipeline, captures[epoch - 1], epoch == 1 ? &initial : NULL);
        vm_blob_free(&initial);
        rest(run / 2);
        if (run % 3 == 0)
            ev_run(g.loop, EVRUN_NOWAIT);
        pipeline_free(g.pipeline);
        g.pipeline = NULL;
        unsigned rounds = g.rounds, captured = g.captured;
        ev_run(g.loop, EVRUN_NOWAIT);
        assert_int_equal(g.rounds, rounds);
        assert_int_equal(g.captured, captured);
        end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),          cmocka_unit_test(test_resync),
        cmocka_unit_test(test_looks),           cmocka_unit_test(test_disk_sync_rate),
        cmocka_unit_test(test_blocks),          cmocka_unit_test(test_blocks_rate),
        cmocka_unit_test(test_looks_at_memory), cmocka_unit_test(test_look_before_the_last_epoch),
        cmocka_unit_test(test_back_pressure),   cmocka_unit_test(test_free_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
