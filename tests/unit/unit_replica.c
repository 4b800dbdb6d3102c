/*
 * Unit tests of secondary/replica.h: promise 2. Until the commit nothing of an epoch touches the replica; what is
 * malformed never does.
 */
#include "proto/epoch.h"
#include "proto/page.h"
#include "sample.h"
#include "secondary/replica.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 16 };

struct fixture {
    uint8_t memory[PAGES * PROTO_PAGE_SIZE];
    struct replica *replica;
    struct errmsg e;
};

static void begin(struct fixture *f, uint64_t staging)
{
    memset(f, 0, sizeof *f);
    f->replica = replica_new(f->memory, PAGES, staging, "/tmp");
    assert_non_null(f->replica);
}

static int take(struct fixture *f, uint16_t type, const void *payload, size_t n)
{
    struct record r = {.type = type, .length = (uint32_t)n, .epoch = 1, .payload = payload};
    return replica_take(f->replica, &r, &f->e);
}

/* One RAW page, full of `octet`. */
static int take_page(struct fixture *f, uint64_t gfn, int octet)
{
    uint8_t page[PROTO_PAGE_SIZE], payload[PAGES_ENTRY_SIZE + PROTO_PAGE_SIZE];
    memset(page, octet, sizeof page);
    return take(f, RECORD_PAGES, payload, pages_entry_write(payload, gfn, PAGE_RAW, page, sizeof page));
}

static int take_blob(struct fixture *f, enum device_kind kind, const char *text)
{
    uint8_t payload[DEVICE_HEAD_SIZE + 100];
    uint32_t n = (uint32_t)strlen(text);
    device_head_write(payload, kind, BLOB_RAW, n, n, 0);
    memcpy(payload + DEVICE_HEAD_SIZE, text, n);
    return take(f, RECORD_DEVICE, payload, DEVICE_HEAD_SIZE + n);
}

static void first_epoch(struct fixture *f)
{
    for (uint64_t gfn = 0; gfn < PAGES; gfn++)
        assert_int_equal(take_page(f, gfn, (int)gfn + 1), 0);
    assert_int_equal(take_blob(f, DEVICE_INITIAL, "initial"), 0);
    assert_int_equal(take_blob(f, DEVICE_STATE, "state one"), 0);
    assert_int_equal(replica_check(f->replica, &f->e), 0);
    assert_int_equal(replica_commit(f->replica, &f->e), 0);
}

static void expect_page(const struct fixture *f, uint64_t gfn, int octet)
{
    for (size_t i = 0; i < PROTO_PAGE_SIZE; i++)
        assert_int_equal(f->memory[gfn * PROTO_PAGE_SIZE + i], octet);
}

static void expect_blob(const struct vm_blob *b, const char *text)
{
    assert_int_equal(b->size, strlen(text));
    assert_memory_equal(b->data, text, b->size);
}

static void test_commit(void **state)
{
    (void)state;
    static const uint64_t limits[] = {0, 5000, 1 << 20}; /* of staging: spilt, in part, not at all */
    for (size_t k = 0; k < 3; k++) {
        static struct fixture f;
        begin(&f, limits[k]);
        first_epoch(&f);
        for (uint64_t gfn = 0; gfn < PAGES; gfn++)
            expect_page(&f, gfn, (int)gfn + 1);
        assert_int_equal(take_page(&f, 3, 0x77), 0);
        assert_int_equal(take_page(&f, 4, 0x78), 0);
        assert_int_equal(take_page(&f, 3, 0x79), 0); /* entries are applied in the order sent */
        assert_int_equal(take_blob(&f, DEVICE_STATE, "state two"), 0);
        expect_page(&f, 3, 4); /* nothing yet */
        expect_page(&f, 4, 5);
        expect_blob(replica_state(f.replica), "state one");
        assert_true(replica_staged_bytes(f.replica) >= 3 * PROTO_PAGE_SIZE);
        assert_int_equal(replica_check(f.replica, &f.e), 0);
        assert_int_equal(replica_commit(f.replica, &f.e), 0);
        expect_page(&f, 3, 0x79);
        expect_page(&f, 4, 0x78);
        expect_page(&f, 5, 6);
        expect_blob(replica_state(f.replica), "state two");
        expect_blob(replica_initial(f.replica), "initial"); /* stays what it was */
        assert_int_equal(replica_staged_bytes(f.replica), 0);
        replica_free(f.replica);
    }
}

static void test_abort(void **state)
{
    (void)state;
    static struct fixture f;
    begin(&f, 5000);
    first_epoch(&f);
    for (uint64_t gfn = 0; gfn < PAGES; gfn++)
        assert_int_equal(take_page(&f, gfn, 0x55), 0);
    assert_int_equal(take_blob(&f, DEVICE_STATE, "state two"), 0);
    replica_abort(f.replica);
    for (uint64_t gfn = 0; gfn < PAGES; gfn++)
        expect_page(&f, gfn, (int)gfn + 1);
    expect_blob(replica_state(f.replica), "state one");
    /* What was not committed never was: not even its device state is there for another commit. */
    assert_int_equal(replica_check(f.replica, &f.e), -1);
    replica_free(f.replica);
}

static void test_incomplete(void **state)
{
    (void)state;
    static struct fixture f;
    begin(&f, 1 << 20);
    assert_int_equal(replica_check(f.replica, &f.e), -1);
    assert_int_equal(take_blob(&f, DEVICE_STATE, "state"), 0);
    assert_int_equal(replica_check(f.replica, &f.e), -1); /* the first one needs its initial state too */
    assert_non_null(strstr(f.e.text, "initial"));
    assert_int_equal(take_blob(&f, DEVICE_INITIAL, "initial"), 0);
    assert_int_equal(replica_check(f.replica, &f.e), 0);
    assert_int_equal(replica_commit(f.replica, &f.e), 0);
    assert_int_equal(replica_check(f.replica, &f.e), -1); /* the state of the epoch before doesn't count */
    assert_int_equal(take_blob(&f, DEVICE_STATE, "state"), 0);
    assert_int_equal(replica_check(f.replica, &f.e), 0);
    replica_free(f.replica);
}

static void test_malformed_pages(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) { /* in the first epoch pages go into place at once */
        static struct fixture f;
        static uint8_t before[sizeof f.memory];
        begin(&f, 1 << 20);
        if (!first)
            first_epoch(&f);
        memcpy(before, f.memory, sizeof before);
        uint8_t page[PROTO_PAGE_SIZE], payload[2 * (PAGES_ENTRY_SIZE + PROTO_PAGE_SIZE)];
        memset(page, 0x66, sizeof page);
        size_t good = pages_entry_write(payload, 1, PAGE_RAW, page, sizeof page);
        /* A good entry, then one that isn't: the good one isn't applied either. */
        size_t n = good + pages_entry_write(payload + good, PAGES, PAGE_RAW, page, sizeof page);
        assert_int_equal(take(&f, RECORD_PAGES, payload, n), REPLICA_MALFORMED);
        n = good + pages_entry_write(payload + good, 2, PAGE_RAW, page, 100);
        assert_int_equal(take(&f, RECORD_PAGES, payload, n), REPLICA_MALFORMED);
        n = good + pages_entry_write(payload + good, 2, (enum page_encoding)77, page, 4);
        assert_int_equal(take(&f, RECORD_PAGES, payload, n), REPLICA_MALFORMED);
        n = good + pages_entry_write(payload + good, 2, PAGE_LZ4, page, 30);
        assert_int_equal(take(&f, RECORD_PAGES, payload, n), REPLICA_MALFORMED);
        assert_int_equal(take(&f, RECORD_PAGES, payload, good - 1), REPLICA_MALFORMED);
        assert_int_equal(replica_staged_bytes(f.replica), 0);
        assert_memory_equal(f.memory, before, sizeof before);
        replica_free(f.replica);
    }
}

static void test_malformed_device(void **state)
{
    (void)state;
    static struct fixture f;
    uint8_t payload[DEVICE_HEAD_SIZE + 8] = {0};
    begin(&f, 1 << 20);
    first_epoch(&f);
    device_head_write(payload, DEVICE_STATE, BLOB_RAW, 8, 8, 4); /* no piece at 0 before */
    assert_int_equal(take(&f, RECORD_DEVICE, payload, DEVICE_HEAD_SIZE + 4), REPLICA_MALFORMED);
    device_head_write(payload, DEVICE_STATE, BLOB_LZ4, 100, 8, 0); /* no LZ4 */
    memset(payload + DEVICE_HEAD_SIZE, 0xff, 8);
    assert_int_equal(take(&f, RECORD_DEVICE, payload, sizeof payload), REPLICA_MALFORMED);
    assert_int_equal(replica_check(f.replica, &f.e), -1);
    device_head_write(payload, DEVICE_STATE, BLOB_DELTA_LZ4, 100, 8, 0); /* ours has 9 octets */
    assert_int_equal(take(&f, RECORD_DEVICE, payload, sizeof payload), REPLICA_MALFORMED);
    assert_int_equal(replica_check(f.replica, &f.e), -1);
    device_head_write(payload, DEVICE_STATE, BLOB_RAW, 8, 8, 0); /* half of it, then the same half again */
    assert_int_equal(take(&f, RECORD_DEVICE, payload, DEVICE_HEAD_SIZE + 4), 0);
    assert_int_equal(replica_check(f.replica, &f.e), -1);
    device_head_write(payload, DEVICE_STATE, BLOB_RAW, 8, 8, 3);
    assert_int_equal(take(&f, RECORD_DEVICE, payload, DEVICE_HEAD_SIZE + 4), REPLICA_MALFORMED);
    expect_blob(replica_state(f.replica), "state one");
    replica_free(f.replica);
}

/* No room to stage: an error with its remedy, and the replica is what it was. */
static void test_no_room(void **state)
{
    (void)state;
    static struct fixture f;
    begin(&f, 0);
    first_epoch(&f); /* is not staged */
    replica_free(f.replica);
    memset(&f, 0, sizeof f);
    f.replica = replica_new(f.memory, PAGES, 0, "/nonexistent/hikae");
    first_epoch(&f);
    assert_int_equal(take_page(&f, 1, 0x44), REPLICA_NO_ROOM);
    assert_non_null(strstr(f.e.text, "spool_dir"));
    expect_page(&f, 1, 2);
    replica_free(f.replica);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit),           cmocka_unit_test(test_abort),
        cmocka_unit_test(test_incomplete),       cmocka_unit_test(test_malformed_pages),
        cmocka_unit_test(test_malformed_device), cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
