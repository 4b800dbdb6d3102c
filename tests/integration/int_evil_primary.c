/*
 * int_evil_primary: a paired host that acts as primary and sends what it should not, to a real secondary agent. The
 * connection ends with a reason that is said and logged, and the replica stays byte by byte what the last committed
 * epoch made it, as its RAM file shows.
 */
#include "arbiter/file.h"
#include "common/file.h"
#include "sample.h"
#include "tests/integration/evil.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { TERM = 1, MEMORY = SAMPLE_PAGES * PROTO_PAGE_SIZE, FLIPS = 250, GARBAGE = 20 };

#define CONFIG                                                                                                         \
    "{\"backend\":\"fake\",\"pages\":24,\"replica\":{\"pages\":\"24\",\"rate\":\"0\",\"frames\":\"0\",\"bridge\":"     \
    "\"\"},\"mode\":1,\"interval_ms\":20}"

struct fixture {
    struct agents *agents;
    struct host *b;
    struct evil *e;
    struct sample *s;
    size_t sent;              /* octets of s that went out */
    uint8_t expected[MEMORY]; /* after the last committed epoch */
};

static struct fixture f;

static void hello(char out[256], unsigned version, const char *vm, unsigned term)
{
    snprintf(out, 256, "{\"version\":%u,\"features\":[],\"host\":\"a\",\"vm\":\"%s\",\"term\":%u,\"agent\":\"evil\"}",
             version, vm, term);
}

static void set_up(void)
{
    struct errmsg why;
    char dir[96];
    struct arbiter_register now, want = {.term = TERM, .owner = "a", .mode = "alone"};
    f.agents = agents_new(
        &(struct agents_options){.host = "restart_grace = 10s\ndetect = 30s\n", .vm = "pages = 24\n", .accept = "web"});
    f.b = &f.agents->b;
    snprintf(dir, sizeof dir, "%s/arbiter", f.agents->dir);
    assert_int_equal(file_register_claim(dir, "web", &want, false, &now, &why), ARBITER_GRANTED);
    host_start(f.b, SECONDARY);
    f.e = evil_new(&f.agents->a);
    f.s = NULL;
}

static void tear_down(void)
{
    evil_free(f.e);
    sample_free(f.s);
    agents_free(f.agents);
}

/* Sends what was added to the sample since. */
static void flush(void)
{
    evil_send(f.e, f.s->data + f.sent, f.s->n - f.sent);
    f.sent = f.s->n;
}

static void begin(void)
{
    if (f.s)
        sample_free(f.s);
    f.s = sample_new();
    f.s->diskless = true;
    f.sent = 0;
    evil_connect(f.e, f.b);
}

static bool ram_is(const uint8_t *expected)
{
    struct machine *m;
    char dirs[8][160], path[200];
    struct machine *all[8];
    size_t n = host_machines(f.b, true, all, dirs, 8), size = 0;
    bool same = false;
    struct errmsg why;
    for (size_t i = 0; i < n; i++) {
        m = all[i];
        snprintf(path, sizeof path, "%.159s/ram", dirs[i]);
        char *ram = n == 1 ? file_read_all(path, MEMORY, &size, &why) : NULL;
        same = ram && size == MEMORY && !memcmp(ram, expected, MEMORY);
        free(ram);
        machine_unmap(m);
    }
    return same;
}

static void send_epoch(uint64_t epoch)
{
    sample_epoch(f.s, epoch);
    flush();
    EVIL_WAIT(f.e, f.e->acked == epoch || f.e->bye || f.e->closed);
    assert_int_equal(f.e->acked, epoch);
    memcpy(f.expected, f.s->memory, MEMORY);
    WAIT_FOR(ram_is(f.expected));
}

static void ready(void)
{
    char text[256];
    begin();
    hello(text, 1, "web", TERM);
    sample_json(f.s, RECORD_HELLO, text);
    flush();
    EVIL_WAIT(f.e, f.e->got[RECORD_HELLO] || f.e->bye || f.e->closed);
    sample_json(f.s, RECORD_CONFIG, CONFIG);
    flush();
    EVIL_WAIT(f.e, f.e->got[RECORD_READY] || f.e->bye || f.e->closed);
    if (!f.e->got[RECORD_READY])
        fail_msg("no READY: %s", f.e->bye_text);
}

/* Two epochs are committed. */
static void standby(void)
{
    ready();
    send_epoch(1);
    send_epoch(2);
}

static void check_untouched(void)
{
    assert_true(ram_is(f.expected));
    WAIT_FOR(host_state_is(f.b, SECONDARY, "GRACE"));
    assert_int_equal(host_number(f.b, SECONDARY, "epoch"), 2);
    assert_true(ram_is(f.expected));
}

/* The connection was ended for that. */
static void check_bye(enum bye_reason reason, const char *says)
{
    EVIL_WAIT(f.e, f.e->bye || f.e->closed);
    if (f.e->bye != reason || !strstr(f.e->bye_text, says))
        fail_msg("BYE %u \"%s\", not %d \"%s\"", f.e->bye, f.e->bye_text, (int)reason, says);
    host_wait_log(f.b, SECONDARY, says);
    EVIL_WAIT(f.e, f.e->closed);
}

/* ---- after two good epochs ---- */

static void flush_and_check(const char *says)
{
    flush();
    check_bye(BYE_PROTOCOL, says);
    check_untouched();
}

static void truncated_record(void)
{
    uint8_t payload[1000] = {0};
    standby();
    sample_record(f.s, RECORD_PAGES, 0, 3, payload, sizeof payload);
    f.s->n -= 500;
    flush();
    evil_serve(f.e, 50);
    assert_int_equal(f.e->bye, 0);
    assert_true(ram_is(f.expected));
    evil_hang_up(f.e);
    check_untouched();
}

static void part_of_an_epoch(void)
{
    standby();
    sample_epoch(f.s, 3);
    f.s->n -= RECORD_HEADER_SIZE + COMMIT_SIZE; /* all but its COMMIT */
    flush();
    evil_serve(f.e, 50);
    assert_true(ram_is(f.expected));
    evil_hang_up(f.e);
    check_untouched();
}

static void oversized_record(void)
{
    uint8_t header[RECORD_HEADER_SIZE];
    standby();
    record_header_write(header, RECORD_PAGES, 0, 0x7fffffff, 3);
    sample_octets(f.s, header, sizeof header);
    flush_and_check("PAGES has 2147483647 octets");
}

static void replayed_epoch(void)
{
    standby();
    sample_epoch(f.s, 2);
    flush_and_check("epoch");
}

static void skipped_epoch(void)
{
    standby();
    sample_epoch(f.s, 4);
    flush_and_check("epoch");
}

static void wrong_digest(void)
{
    uint8_t payload[COMMIT_SIZE], digest[PROTO_DIGEST_SIZE] = {1, 2, 3};
    standby();
    sample_epoch(f.s, 3);
    f.s->n -= RECORD_HEADER_SIZE + COMMIT_SIZE;
    commit_write(payload, digest, 0);
    memcpy(payload + 16, f.s->data + f.s->n + RECORD_HEADER_SIZE + 16, 4); /* the right count */
    sample_record(f.s, RECORD_COMMIT, 0, 3, payload, sizeof payload);
    flush_and_check("the digest is wrong");
}

static void page_beyond_the_end(void)
{
    uint8_t payload[PAGES_ENTRY_SIZE];
    standby();
    sample_record(f.s, RECORD_PAGES, 0, 3, payload, pages_entry_write(payload, SAMPLE_PAGES, PAGE_ZERO, NULL, 0));
    flush_and_check("gfn");
}

static void malformed_page(void)
{
    uint8_t payload[PAGES_ENTRY_SIZE + 64], data[64];
    memset(data, 0xff, sizeof data);
    standby();
    sample_record(f.s, RECORD_PAGES, 0, 3, payload, pages_entry_write(payload, 1, PAGE_LZ4, data, sizeof data));
    flush_and_check("LZ4");
}

static void malformed_device(void)
{
    uint8_t payload[DEVICE_HEAD_SIZE + 64];
    memset(payload, 0xff, sizeof payload);
    standby();
    device_head_write(payload, DEVICE_STATE, BLOB_LZ4, 3000, 64, 0);
    sample_record(f.s, RECORD_DEVICE, 0, 3, payload, sizeof payload);
    flush_and_check("LZ4");
}

static void commit_without_device(void)
{
    uint8_t payload[PAGES_ENTRY_SIZE];
    standby();
    sample_record(f.s, RECORD_PAGES, 0, 3, payload, pages_entry_write(payload, 1, PAGE_ZERO, NULL, 0));
    sample_commit(f.s, 3);
    flush_and_check("COMMIT (type 5) from the primary may not come in PAGES");
}

static void unknown_mandatory_record(void)
{
    standby();
    sample_record(f.s, 99, 0, 0, "x", 1);
    flush_and_check("unknown mandatory record type 99");
}

static void unknown_optional_record(void)
{
    standby();
    sample_record(f.s, 99, RECORD_OPTIONAL, 77, "x", 1);
    send_epoch(3);
    assert_int_equal(f.e->bye, 0);
    WAIT_FOR(host_number(f.b, SECONDARY, "epoch") == 3);
}

static void record_of_the_other_side(void)
{
    uint8_t payload[COMMIT_SIZE] = {0};
    standby();
    sample_record(f.s, RECORD_ACK, 0, 2, payload, sizeof payload);
    flush_and_check("ACK");
}

static void second_greeting(void)
{
    char text[256];
    standby();
    hello(text, 1, "web", TERM);
    sample_json(f.s, RECORD_HELLO, text);
    flush_and_check("HELLO");
}

/* ---- comparing ---- */

static uint8_t answer[64];
static size_t answer_size;

static void on_answer(struct evil *e, const struct record *r)
{
    (void)e;
    if (r->type != RECORD_CHECKED)
        return;
    assert_in_range(r->length, 1, sizeof answer);
    memcpy(answer, r->payload, r->length);
    answer_size = r->length;
}

static size_t ask(uint64_t number)
{
    answer_size = 0;
    sample_check_memory(f.s, 2, number);
    flush();
    EVIL_WAIT(f.e, answer_size || f.e->bye || f.e->closed);
    assert_int_equal(answer[0], number);
    return answer_size;
}

/* It says of its memory what is true, then what is not: the answer names just that page, and nothing comes of it. */
static void memory_that_differs(void)
{
    struct check_run run;
    size_t at = CHECKED_HEAD_SIZE;
    standby();
    f.e->on_record = on_answer;
    assert_int_equal(ask(1), CHECKED_HEAD_SIZE);
    f.s->memory[7 * PROTO_PAGE_SIZE + 5] ^= 1;
    assert_int_equal(ask(2), CHECKED_HEAD_SIZE + CHECK_RUN_SIZE);
    assert_true(checked_next(answer, answer_size, &at, &run) > 0 && run.from == 7 && run.count == 1);
    f.s->memory[7 * PROTO_PAGE_SIZE + 5] ^= 1;
    assert_int_equal(ask(3), CHECKED_HEAD_SIZE);
    f.e->on_record = NULL;
    send_epoch(3);
}

static void put_check(uint64_t end, unsigned disk)
{
    uint8_t payload[CHECK_HEAD_SIZE];
    standby();
    check_head_write(payload, &(struct check_head){.number = 1, .end = end, .disk = disk});
    sample_record(f.s, RECORD_CHECK, 0, 2, payload, sizeof payload);
}

static void check_beyond_the_end(void)
{
    put_check(SAMPLE_PAGES + 1, CHECK_MEMORY);
    flush_and_check("CHECK of blocks 0 to 25 of 24");
}

static void check_of_no_disk(void)
{
    put_check(1, 0);
    flush_and_check("CHECK of disk 0 of 0");
}

static void check_twice(void)
{
    uint8_t again[RECORD_HEADER_SIZE + CHECK_HEAD_SIZE];
    put_check(1, CHECK_MEMORY);
    memcpy(again, f.s->data + f.s->n - sizeof again, sizeof again);
    sample_octets(f.s, again, sizeof again);
    flush_and_check("CHECK number 1, 2 is due");
}

/* ---- greetings ---- */

static void refused(unsigned version, const char *vm, unsigned term, enum bye_reason reason, const char *says)
{
    char text[256];
    begin();
    hello(text, version, vm, term);
    sample_json(f.s, RECORD_HELLO, text);
    flush();
    check_bye(reason, says);
    assert_int_equal(host_replica_pid(f.b), 0);
}

static void wrong_greetings(void)
{
    refused(2, "web", TERM, BYE_REFUSED, "version 2 of the protocol");
    refused(1, "db", TERM, BYE_REFUSED, "not in accept");
    refused(1, "../x", TERM, BYE_REFUSED, "valid VM name");
    refused(1, "web", TERM + 5, BYE_REFUSED, "the arbiter says");
    refused(1, "web", 0, BYE_REFUSED, "without a term");
}

static void epoch_before_its_time(void)
{
    char text[256];
    begin();
    sample_epoch(f.s, 1);
    flush();
    check_bye(BYE_PROTOCOL, "PAGES");
    begin();
    hello(text, 1, "web", TERM);
    sample_json(f.s, RECORD_HELLO, text);
    sample_epoch(f.s, 1);
    flush();
    check_bye(BYE_PROTOCOL, "PAGES");
    assert_int_equal(host_replica_pid(f.b), 0);
}

static void replica_that_can_not_be(void)
{
    static const char *const configs[][2] = {
        {"{\"backend\":\"nosuch\",\"pages\":24,\"replica\":{}}", "backend nosuch"},
        {"{\"backend\":\"../fake\",\"pages\":24,\"replica\":{}}", "CONFIG without backend"},
        {"{\"backend\":\"fake\",\"pages\":25,\"replica\":{\"pages\":\"24\"}}", "25 pages"},
        {"{\"backend\":\"fake\",\"pages\":24,\"replica\":{\"pages\":\"1e9\"}}", "pages = 1e9"},
        {"{\"backend\":\"fake\",\"pages\":24}", "CONFIG without backend"},
    };
    char text[256];
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        begin();
        hello(text, 1, "web", TERM);
        sample_json(f.s, RECORD_HELLO, text);
        flush();
        EVIL_WAIT(f.e, f.e->got[RECORD_HELLO] || f.e->bye || f.e->closed);
        sample_json(f.s, RECORD_CONFIG, configs[i][0]);
        flush();
        check_bye(BYE_REFUSED, configs[i][1]);
        WAIT_FOR(!host_replica_pid(f.b) && !host_worker(f.b, SECONDARY));
    }
}

/* ---- noise ---- */

/* One bit of epoch 3 is another: it is noticed, or was of no account (in a HEARTBEAT, a NOTE, a record that is
 * skipped), or is waited for (a length); never does the replica become anything but epoch 2 or epoch 3. */
static void flipped_bits(void)
{
    uint64_t random = 20261121;
    unsigned noticed = 0;
    for (unsigned i = 0; i < FLIPS; i++) {
        standby();
        sample_epoch(f.s, 3);
        size_t bit = sample_random(&random) % ((f.s->n - f.sent) * 8);
        f.s->data[f.sent + bit / 8] ^= (uint8_t)(1u << bit % 8);
        flush();
        for (int turns = 0; turns < 100 && !f.e->bye && !f.e->closed && f.e->acked != 3; turns++)
            evil_serve(f.e, 5);
        if (f.e->acked == 3) {
            WAIT_FOR(ram_is(f.s->memory));
        } else {
            noticed += f.e->bye == BYE_PROTOCOL;
            evil_hang_up(f.e);
            check_untouched();
        }
    }
    print_message("%u of %u flips were noticed before the connection ended\n", noticed, FLIPS);
    assert_true(noticed > FLIPS / 2);
}

static void noise(void)
{
    uint64_t random = 7;
    uint8_t data[4096];
    for (unsigned i = 0; i < GARBAGE; i++) {
        standby();
        for (size_t o = 0; o < sizeof data; o++)
            data[o] = (uint8_t)sample_random(&random);
        evil_send(f.e, data, sizeof data);
        EVIL_WAIT(f.e, f.e->bye || f.e->closed);
        assert_int_equal(f.e->bye, BYE_PROTOCOL);
        check_untouched();
    }
}

/* Before the first epoch is committed there is nothing to keep. */
static void trouble_in_the_first_epoch(void)
{
    ready();
    sample_epoch(f.s, 1);
    f.s->data[f.s->n - 1] ^= 1; /* COMMIT's reserved octets */
    flush();
    check_bye(BYE_PROTOCOL, "reserved");
    WAIT_FOR(!host_replica_pid(f.b) && !host_worker(f.b, SECONDARY));
    standby(); /* and the next one is welcome */
}

static void run(void **state)
{
    set_up();
    ((void (*)(void)) * state)();
    tear_down();
}

#define EVIL(test)                                                                                                     \
    {                                                                                                                  \
        .name = #test, .test_func = run, .teardown_func = agents_teardown, .initial_state = (void *)(uintptr_t)test    \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        EVIL(truncated_record),
        EVIL(part_of_an_epoch),
        EVIL(oversized_record),
        EVIL(replayed_epoch),
        EVIL(skipped_epoch),
        EVIL(wrong_digest),
        EVIL(page_beyond_the_end),
        EVIL(malformed_page),
        EVIL(malformed_device),
        EVIL(commit_without_device),
        EVIL(unknown_mandatory_record),
        EVIL(unknown_optional_record),
        EVIL(record_of_the_other_side),
        EVIL(second_greeting),
        EVIL(memory_that_differs),
        EVIL(check_beyond_the_end),
        EVIL(check_of_no_disk),
        EVIL(check_twice),
        EVIL(wrong_greetings),
        EVIL(epoch_before_its_time),
        EVIL(replica_that_can_not_be),
        EVIL(trouble_in_the_first_epoch),
        EVIL(flipped_bits),
        EVIL(noise),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
