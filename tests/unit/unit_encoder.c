/*
 * Unit tests of primary/encoder.h against the secondary's side: what goes in comes out of framer, stream_check and
 * replica, epoch by epoch, with caches of any size.
 */
#include "primary/encoder.h"
#include "proto/disk.h"
#include "proto/epoch.h"
#include "proto/page.h"
#include "sample.h"
#include "secondary/replica.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 96, OCTETS = PAGES * PROTO_PAGE_SIZE, DISK = 1 << 20 };

struct rig {
    uint64_t seed;
    uint8_t *guest, *memory; /* the guest's; the replica's */
    struct vm_blob state, initial;
    struct encoder *encoder;
    struct framer *framer;
    struct stream_check *check;
    struct replica *replica;
    uint64_t committed;
    size_t chunks, records, pages_records, disk_records, referred, entries, wire, device_records;
    bool refers;          /* what is written to the disk may be in its memory */
    uint8_t *disk, *copy; /* the guest's; the replica's */
    unsigned encodings[PAGE_ENCODINGS];
};

static void count_entries(struct rig *g, const struct record *r)
{
    size_t offset = 0;
    struct pages_entry entry;
    struct proto_error e;
    g->pages_records++;
    for (; pages_next(r->payload, r->length, &offset, &entry, &e) > 0; g->entries++)
        g->encodings[entry.encoding]++;
}

static void write_copy(struct rig *g, const struct record *r)
{
    static const struct disk_sizes sizes = {1, {DISK}};
    static uint8_t room[DISK_DATA_MAX];
    struct disk_extent x;
    struct proto_error why = {""};
    if (disk_read(r->payload, r->length, &sizes, &x, &why))
        fail_msg("%s", why.text);
    g->disk_records++;
    if (x.encoding == DISK_AS_PAGES) {
        static uint8_t resolved[DISK_PAYLOAD_MAX];
        assert_true(g->committed > 0);
        g->referred += x.n / DISK_GFN_SIZE;
        size_t n = disk_resolve(&x, g->memory, PAGES, resolved, &why);
        if (disk_read(resolved, n, &sizes, &x, &why))
            fail_msg("%s", why.text);
    }
    if (x.encoding == DISK_AS_ZEROES)
        memset(g->copy + x.offset, 0, x.length);
    else
        memcpy(g->copy + x.offset, disk_decode(&x, room, &why), x.length);
}

static void receive(struct rig *g, const struct record *r)
{
    struct proto_error why = {""};
    struct errmsg e = {""};
    if (stream_check_record(g->check, r, &why))
        fail_msg("%s", why.text);
    g->records++;
    if (r->type == RECORD_PAGES)
        assert_true(r->length <= PIPELINE_CHUNK - RECORD_HEADER_SIZE);
    if (r->type == RECORD_PAGES)
        count_entries(g, r);
    if (r->type == RECORD_DISK)
        write_copy(g, r);
    g->device_records += r->type == RECORD_DEVICE;
    if (r->type == RECORD_PAGES || r->type == RECORD_DEVICE) {
        if (replica_take(g->replica, r, &e))
            fail_msg("%s", e.text);
    } else if (r->type == RECORD_COMMIT) {
        if (replica_check(g->replica, &e) || replica_commit(g->replica, &e))
            fail_msg("%s", e.text);
        assert_int_equal(r->epoch, g->committed + 1);
        g->committed++;
    }
}

/* The encoder's output goes straight to the secondary's side. Every chunk is whole records. */
static void on_chunk(struct pipeline_chunk *chunk, void *arg)
{
    struct rig *g = arg;
    struct proto_error why = {""};
    struct record r = {0};
    assert_int_equal(framer_feed(g->framer, chunk->data, chunk->n, &why), 0);
    int got;
    while ((got = framer_next(g->framer, &r, &why)) > 0) {
        assert_int_equal(chunk->committed, r.type == RECORD_COMMIT ? r.epoch : 0);
        if (chunk->committed) /* what flight will compare the ack with */
            assert_memory_equal(chunk->digest, r.payload, PROTO_DIGEST_SIZE);
        receive(g, &r);
    }
    if (got)
        fail_msg("%s", why.text);
    assert_int_equal(framer_pending(g->framer), 0);
    g->wire += chunk->n;
    g->chunks++;
    free(chunk);
}

static void feed_control(struct rig *g, uint16_t type, const char *json)
{
    struct record r = {.type = type, .length = (uint32_t)strlen(json), .payload = (const uint8_t *)json};
    struct proto_error why = {""};
    if (stream_check_record(g->check, &r, &why))
        fail_msg("%s", why.text);
}

static struct rig rig_new(uint64_t seed)
{
    struct rig g = {.seed = seed};
    g.guest = calloc(1, OCTETS);
    g.memory = calloc(1, OCTETS);
    g.disk = calloc(1, DISK);
    g.copy = calloc(1, DISK);
    g.framer = framer_new();
    g.check = stream_check_new(STREAM_FROM_PRIMARY);
    g.replica = replica_new(g.memory, PAGES, 64 << 10, "/tmp");
    feed_control(&g, RECORD_HELLO, "{}");
    feed_control(&g, RECORD_CONFIG, "{}");
    return g;
}

static void rig_start(struct rig *g, uint64_t cache_pages, unsigned drop_page)
{
    struct pipeline_config c = {.pages = PAGES,
                                .memory = g->guest,
                                .delta_cache_bytes = cache_pages * PROTO_PAGE_SIZE,
                                .drop_page = drop_page,
                                .refers = g->refers};
    g->encoder = encoder_new(&c, on_chunk, g);
    assert_non_null(g->encoder);
}

static void rig_end(struct rig *g)
{
    encoder_free(g->encoder);
    framer_free(g->framer);
    stream_check_free(g->check);
    replica_free(g->replica);
    vm_blob_free(&g->state);
    vm_blob_free(&g->initial);
    free(g->guest);
    free(g->memory);
    free(g->disk);
    free(g->copy);
}

static uint64_t pick(struct rig *g, uint64_t below)
{
    return (sample_random(&g->seed) >> 17) % below;
}

static void change_page(struct rig *g, uint8_t *page)
{
    switch (pick(g, 6)) {
    case 0:
        memset(page, 0, PROTO_PAGE_SIZE);
        break;
    case 1:
        for (size_t i = 0; i < PROTO_PAGE_SIZE; i++)
            page[i] = (uint8_t)pick(g, 256);
        break;
    case 2:
        memset(page, (int)pick(g, 256), PROTO_PAGE_SIZE);
        break;
    case 3: /* a field in each of many structures */
        for (size_t i = 0; i < PROTO_PAGE_SIZE; i += 8)
            page[i]++;
        break;
    default:
        for (uint64_t n = pick(g, 20); n; n--)
            page[pick(g, PROTO_PAGE_SIZE)] ^= (uint8_t)pick(g, 256);
    }
}

/* Of any size, 0 too; mostly of the same and little changed, as a device state is. */
static void change_blob(struct rig *g, struct vm_blob *b, size_t most)
{
    if (!b->size || pick(g, 4) == 0) {
        size_t n = pick(g, 5) ? (size_t)pick(g, most) : 0;
        bool noise = pick(g, 2);
        b->size = 0;
        for (size_t i = 0; i < n; i++) {
            uint8_t octet = noise ? (uint8_t)pick(g, 256) : (uint8_t)(i / 100);
            assert_int_equal(vm_blob_append(b, &octet, 1), 0);
        }
        return;
    }
    for (uint64_t n = pick(g, 30); n; n--)
        b->data[pick(g, b->size)] ^= 0x20;
}

static void send_page(struct rig *g, uint64_t epoch, uint64_t gfn, bool remember)
{
    assert_int_equal(encoder_page(g->encoder, epoch, gfn, g->guest + gfn * PROTO_PAGE_SIZE, remember), 0);
}

static void expect_same(const struct rig *g)
{
    assert_memory_equal(g->memory, g->guest, OCTETS);
    const struct vm_blob *state = replica_state(g->replica), *initial = replica_initial(g->replica);
    assert_int_equal(state->size, g->state.size);
    if (state->size)
        assert_memory_equal(state->data, g->state.data, state->size);
    assert_int_equal(initial->size, g->initial.size);
    if (initial->size)
        assert_memory_equal(initial->data, g->initial.data, initial->size);
}

/* The first sync in rounds, then the epoch that ends it. */
static void first_epoch(struct rig *g, size_t blob_most)
{
    for (uint64_t gfn = 0; gfn < PAGES; gfn++) {
        change_page(g, g->guest + gfn * PROTO_PAGE_SIZE);
        send_page(g, 1, gfn, false);
    }
    assert_int_equal(encoder_flush(g->encoder), 0);
    for (unsigned n = 0; n < PAGES / 2; n++) {
        uint64_t gfn = pick(g, PAGES);
        change_page(g, g->guest + gfn * PROTO_PAGE_SIZE);
        send_page(g, 1, gfn, true);
    }
    change_blob(g, &g->initial, blob_most);
    assert_int_equal(encoder_blob(g->encoder, 1, DEVICE_INITIAL, &g->initial), 0);
}

static void end_epoch(struct rig *g, uint64_t epoch, size_t blob_most)
{
    change_blob(g, &g->state, blob_most);
    assert_int_equal(encoder_blob(g->encoder, epoch, DEVICE_STATE, &g->state), 0);
    assert_int_equal(g->committed, epoch - 1);
    assert_int_equal(encoder_commit(g->encoder, epoch), 0);
    assert_int_equal(g->committed, epoch);
}

static void random_epochs(struct rig *g, uint64_t epochs, size_t blob_most)
{
    first_epoch(g, blob_most);
    end_epoch(g, 1, blob_most);
    expect_same(g);
    for (uint64_t epoch = 2; epoch <= epochs; epoch++) {
        for (uint64_t n = pick(g, PAGES); n; n--) {
            /* half of the writes go to few pages */
            uint64_t gfn = pick(g, 2) ? pick(g, PAGES) : pick(g, 6);
            change_page(g, g->guest + gfn * PROTO_PAGE_SIZE);
            send_page(g, epoch, gfn, true);
        }
        end_epoch(g, epoch, blob_most);
        expect_same(g);
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    static const uint64_t caches[] = {0, 1, 2, 7, PAGES / 2, PAGES, 10 * PAGES};
    for (size_t k = 0; k < sizeof caches / sizeof *caches; k++) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            struct rig g = rig_new(seed * 7919 + k);
            rig_start(&g, caches[k], 0);
            random_epochs(&g, 40, 20000);
            assert_int_equal(g.encodings[PAGE_UNCHANGED], 0); /* is left out */
            if (!caches[k])
                assert_int_equal(g.encodings[PAGE_DELTA] + g.encodings[PAGE_DELTA_LZ4], 0);
            else if (caches[k] >= PAGES)
                assert_true(g.encodings[PAGE_DELTA] > 100 && g.encodings[PAGE_DELTA_LZ4] > 10);
            rig_end(&g);
        }
    }
}

/* More than fits in a record is cut between pages; no record is larger than a chunk. */
static void test_split(void **state)
{
    (void)state;
    struct rig g = rig_new(17);
    rig_start(&g, 0, 0);
    for (uint64_t gfn = 0; gfn < PAGES; gfn++) {
        for (size_t i = 0; i < PROTO_PAGE_SIZE; i++)
            g.guest[gfn * PROTO_PAGE_SIZE + i] = (uint8_t)pick(&g, 256);
        send_page(&g, 1, gfn, true);
    }
    assert_int_equal(encoder_blob(g.encoder, 1, DEVICE_INITIAL, &g.initial), 0);
    end_epoch(&g, 1, 100);
    expect_same(&g);
    assert_int_equal(g.encodings[PAGE_RAW], PAGES);
    assert_int_equal(g.pages_records, 2);
    rig_end(&g);
}

/* The whole memory of the first round would push out of the cache what is written often: it isn't remembered. */
static void test_remember(void **state)
{
    (void)state;
    struct rig g = rig_new(23);
    rig_start(&g, PAGES, 0);
    for (size_t i = 0; i < PROTO_PAGE_SIZE; i++)
        g.guest[i] = (uint8_t)pick(&g, 256);
    send_page(&g, 1, 0, false);
    g.guest[0]++;
    send_page(&g, 1, 0, true); /* no base yet */
    g.guest[0]++;
    send_page(&g, 1, 0, true);
    send_page(&g, 1, 0, true); /* as it was: left out */
    assert_int_equal(encoder_blob(g.encoder, 1, DEVICE_INITIAL, &g.initial), 0);
    end_epoch(&g, 1, 100);
    expect_same(&g);
    assert_int_equal(g.encodings[PAGE_RAW], 2);
    assert_int_equal(g.encodings[PAGE_DELTA], 1);
    assert_int_equal(g.entries, 3);
    rig_end(&g);
}

/* Of any size, at any place, or zeroes. */
static void write_disk(struct rig *g, uint64_t epoch)
{
    static const size_t most[] = {600, 5000, 20000, 70000, 300000};
    size_t n = 1 + pick(g, most[pick(g, 5)]), at = pick(g, DISK - n);
    if (pick(g, 5) == 0) {
        memset(g->disk + at, 0, n);
        assert_int_equal(encoder_disk_zeroes(g->encoder, epoch, 0, at, n), 0);
        return;
    }
    bool noise = pick(g, 2);
    for (size_t i = at; i < at + n; i++)
        g->disk[i] = noise ? (uint8_t)pick(g, 256) : (uint8_t)(i / 64 + n);
    assert_int_equal(encoder_disk(g->encoder, epoch, 0, at, g->disk + at, n), 0);
}

/* As a guest writes out its page cache: runs of pages, some of which are as they were in an epoch before. */
static void write_memory(struct rig *g, uint64_t epoch)
{
    size_t pages = 1 + pick(g, 70), from = pick(g, PAGES - pages), n = pages * PROTO_PAGE_SIZE;
    size_t at = pick(g, (DISK - n) / DISK_BLOCK_SIZE) * DISK_BLOCK_SIZE;
    memcpy(g->disk + at, g->guest + from * PROTO_PAGE_SIZE, n);
    if (pick(g, 4) == 0)
        g->disk[at + pick(g, n)] ^= 1;
    assert_int_equal(encoder_disk(g->encoder, epoch, 0, at, g->disk + at, n), 0);
}

/* What the replica has in its memory is referred to, as it is at the end of the epoch before; zeroes are not. */
static void test_disk_writes_from_memory(void **state)
{
    (void)state;
    size_t referred = 0;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct rig rig = rig_new(seed), *g = &rig;
        g->refers = true;
        rig_start(g, seed * 8, 0);
        first_epoch(g, 100);
        end_epoch(g, 1, 100);
        for (uint64_t epoch = 2; epoch <= 40; epoch++) {
            for (uint64_t n = pick(g, 12); n; n--) {
                uint64_t gfn = pick(g, PAGES);
                write_memory(g, epoch);
                write_disk(g, epoch);
                change_page(g, g->guest + gfn * PROTO_PAGE_SIZE);
                send_page(g, epoch, gfn, true);
            }
            end_epoch(g, epoch, 100);
            assert_memory_equal(g->copy, g->disk, DISK);
            expect_same(g);
        }
        referred += g->referred;
        rig_end(g);
    }
    assert_true(referred > 10000);
}

/* Writes that overlap, small ones that share chunks and large ones between them, amid pages: their order stays, and the
 * commit's digest is right of what comes out. */
static void test_disk_writes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct rig rig = rig_new(seed), *g = &rig;
        rig_start(g, 4, 0);
        for (uint64_t epoch = 1; epoch <= 12; epoch++) {
            for (uint64_t n = pick(g, 60); n; n--) {
                write_disk(g, epoch);
                uint64_t gfn = pick(g, PAGES);
                change_page(g, g->guest + gfn * PROTO_PAGE_SIZE);
                if (pick(g, 10) == 0)
                    assert_int_equal(encoder_flush(g->encoder), 0);
                send_page(g, epoch, gfn, true);
            }
            if (epoch == 1)
                assert_int_equal(encoder_blob(g->encoder, 1, DEVICE_INITIAL, &g->initial), 0);
            end_epoch(g, epoch, 100);
            assert_memory_equal(g->copy, g->disk, DISK);
            expect_same(g);
        }
        assert_true(g->disk_records > 100 && g->chunks < g->records * 3 / 4);
        rig_end(g);
    }
}

static void test_small_writes_share_a_chunk(void **state)
{
    (void)state;
    enum { WRITES = 150 };
    static uint8_t block[4096];
    struct rig rig = rig_new(5), *g = &rig;
    rig_start(g, 0, 0);
    for (unsigned i = 0; i < WRITES; i++) {
        for (size_t k = 0; k < sizeof block; k++)
            block[k] = (uint8_t)pick(g, 256);
        assert_int_equal(encoder_disk(g->encoder, 1, 0, i * sizeof block, block, sizeof block), 0);
    }
    assert_int_equal(encoder_flush(g->encoder), 0);
    assert_int_equal(g->disk_records, WRITES);
    assert_in_range(g->chunks, 1, WRITES / 15 + 1);
    rig_end(g);
}

/* Blobs of several DEVICE records: just below, at and above a piece, and of many, against the blob before. */
static void test_blobs(void **state)
{
    (void)state;
    static const size_t sizes[] = {0,
                                   1,
                                   DEVICE_PIECE_MAX - 1,
                                   DEVICE_PIECE_MAX,
                                   DEVICE_PIECE_MAX + 1,
                                   2 * DEVICE_PIECE_MAX,
                                   3 * DEVICE_PIECE_MAX + 5,
                                   0,
                                   17};
    struct rig g = rig_new(3);
    rig_start(&g, 4, 0);
    for (uint64_t epoch = 1; epoch <= sizeof sizes / sizeof *sizes; epoch++) {
        size_t n = sizes[epoch - 1];
        g.state.size = 0;
        uint8_t *noise = malloc(n + 8);
        for (size_t i = 0; i < n; i += 8) {
            uint64_t word = sample_random(&g.seed);
            memcpy(noise + i, &word, 8);
        }
        assert_int_equal(vm_blob_append(&g.state, noise, n), 0);
        if (epoch == 1) {
            assert_int_equal(vm_blob_append(&g.initial, "x", 1), 0);
            assert_int_equal(encoder_blob(g.encoder, 1, DEVICE_INITIAL, &g.initial), 0);
        }
        free(noise);
        size_t before = g.device_records;
        assert_int_equal(encoder_blob(g.encoder, epoch, DEVICE_STATE, &g.state), 0);
        assert_int_equal(g.device_records - before, n ? (n + DEVICE_PIECE_MAX - 1) / DEVICE_PIECE_MAX : 1);
        assert_int_equal(encoder_commit(g.encoder, epoch), 0);
        expect_same(&g);
    }
    rig_end(&g);
}

/* A state that hardly changes costs next to nothing; one that is too large is refused. */
static void test_blob_delta(void **state)
{
    (void)state;
    struct rig g = rig_new(5);
    rig_start(&g, 4, 0);
    first_epoch(&g, 100);
    while (g.state.size < 50000) {
        uint8_t octet = (uint8_t)pick(&g, 256);
        assert_int_equal(vm_blob_append(&g.state, &octet, 1), 0);
    }
    assert_int_equal(encoder_blob(g.encoder, 1, DEVICE_STATE, &g.state), 0);
    assert_int_equal(encoder_commit(g.encoder, 1), 0);
    for (uint64_t epoch = 2; epoch <= 4; epoch++) { /* each time against the one before */
        size_t before = g.wire;
        g.state.data[123 * epoch] ^= 1;
        assert_int_equal(encoder_blob(g.encoder, epoch, DEVICE_STATE, &g.state), 0);
        assert_int_equal(encoder_commit(g.encoder, epoch), 0);
        expect_same(&g);
        assert_true(g.wire - before < 1000);
    }
    struct vm_blob huge = {.data = g.state.data, .size = (size_t)DEVICE_BLOB_MAX + 1};
    assert_int_equal(encoder_blob(g.encoder, 5, DEVICE_STATE, &huge), -1);
    rig_end(&g);
}

/* The negative control must do what it says: pages are missing, the stream is well-formed, and what comes later is
 * encoded against what the replica really has. */
static void test_drop_page(void **state)
{
    (void)state;
    enum { EVERY = 10 };
    struct rig g = rig_new(11);
    rig_start(&g, PAGES, EVERY);
    for (uint64_t gfn = 0; gfn < PAGES; gfn++) { /* the first round is whole */
        change_page(&g, g.guest + gfn * PROTO_PAGE_SIZE);
        send_page(&g, 1, gfn, false);
    }
    assert_int_equal(encoder_blob(g.encoder, 1, DEVICE_INITIAL, &g.initial), 0);
    end_epoch(&g, 1, 100);
    expect_same(&g);
    unsigned wrong = 0;
    for (uint64_t epoch = 2; epoch <= 6; epoch++) {
        size_t before = g.entries;
        for (uint64_t gfn = 0; gfn < PAGES; gfn++) {
            g.guest[gfn * PROTO_PAGE_SIZE + 8 * epoch] ^= 0xa5;
            send_page(&g, epoch, gfn, true);
        }
        end_epoch(&g, epoch, 100);
        assert_in_range(g.entries - before, PAGES - PAGES / EVERY - 1, PAGES - PAGES / EVERY);
        for (uint64_t gfn = 0; gfn < PAGES; gfn++)
            wrong += memcmp(g.guest + gfn * PROTO_PAGE_SIZE, g.memory + gfn * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE) != 0;
    }
    assert_in_range(wrong, 5 * PAGES / EVERY - 6, 5 * PAGES / EVERY); /* the next write of a page mends it */
    rig_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_remember),
        cmocka_unit_test(test_disk_writes),
        cmocka_unit_test(test_disk_writes_from_memory),
        cmocka_unit_test(test_small_writes_share_a_chunk),
        cmocka_unit_test(test_blobs),
        cmocka_unit_test(test_blob_delta),
        cmocka_unit_test(test_drop_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
