/*
 * int_shared_replica: a test in place of a primary brings a VM with a shared disk to a real secondary agent. Nothing is
 * written to the disk before the VM is its own and the lost host is fenced; then it has all that was committed, and
 * nothing that was not.
 */
#include "arbiter/file.h"
#include "common/file.h"
#include "disk/identity.h"
#include "disk/server/backing.h"
#include "sample.h"
#include "tests/integration/evil.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BLOCK = 4096, BLOCKS = 8, BYTES = BLOCKS * BLOCK };

static struct {
    struct agents *agents;
    struct host *b;
    struct evil *e;
    struct sample *s;
    size_t sent;
    unsigned term;
    char disk[160];
} f;

static const char *in_dir(const char *name)
{
    static char path[3][200];
    static unsigned next;
    char *out = path[next++ % 3];
    snprintf(out, sizeof path[0], "%s/%s", f.agents->dir, name);
    return out;
}

/* ---- the hosts ---- */

static void claim(unsigned term)
{
    struct errmsg why;
    struct arbiter_register now, want = {.term = term, .owner = "a", .mode = "alone"};
    assert_int_equal(file_register_claim(in_dir("arbiter"), "web", &want, false, &now, &why), ARBITER_GRANTED);
    f.term = term;
}

/* The fencing succeeds when the file "go" is there. */
static void write_fence(void)
{
    char text[400];
    struct errmsg e;
    int n = snprintf(text, sizeof text, "#!/bin/sh\necho >%s/asked\ntest -e %s/go\n", f.agents->dir, f.agents->dir);
    assert_int_equal(file_write_atomic(in_dir("fence"), text, (size_t)n, 0700, &e), 0);
}

static void configure(bool fence, const char *disk)
{
    char vm[500], line[200] = "";
    if (fence)
        snprintf(line, sizeof line, "fence = %s/fence\n", f.agents->dir);
    snprintf(vm, sizeof vm, "pages = 24\nshared_disk = %s\n%s", disk, line);
    agents_write_config(
        f.agents, &(struct agents_options){.host = "restart_grace = 100ms\ndetect = 30s\n", .vm = vm, .accept = "web"});
}

static void make_disk(const char *path, off_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

static void set_up(void)
{
    memset(&f, 0, sizeof f);
    f.agents = agents_new(&(struct agents_options){
        .host = "restart_grace = 100ms\ndetect = 30s\n", .vm = "pages = 24\n", .accept = "web"});
    f.b = &f.agents->b;
    snprintf(f.disk, sizeof f.disk, "%s/san.img", f.agents->dir);
    make_disk(f.disk, BYTES);
    write_fence();
    configure(true, f.disk);
    claim(1);
    f.e = evil_new(&f.agents->a);
}

static void tear_down(void)
{
    evil_free(f.e);
    sample_free(f.s);
    agents_free(f.agents);
}

/* ---- the primary ---- */

static void flush(void)
{
    evil_send(f.e, f.s->data + f.sent, f.s->n - f.sent);
    f.sent = f.s->n;
}

static void connect_with(const char *disk, const char *features)
{
    char text[800];
    if (f.s)
        sample_free(f.s);
    f.s = sample_new();
    f.sent = 0;
    evil_connect(f.e, f.b);
    snprintf(text, sizeof text,
             "{\"version\":1,\"features\":[%s],\"host\":\"a\",\"vm\":\"web\",\"term\":%u,\"agent\":\"test\"}", features,
             f.term);
    sample_json(f.s, RECORD_HELLO, text);
    flush();
    EVIL_WAIT(f.e, f.e->got[RECORD_HELLO] || f.e->bye || f.e->closed);
    if (f.e->bye)
        fail_msg("no HELLO: %s", f.e->bye_text);
    snprintf(text, sizeof text,
             "{\"backend\":\"fake\",\"pages\":24,\"replica\":{\"pages\":\"24\",\"rate\":\"200\",\"frames\":\"0\","
             "\"bridge\":\"\"},\"mode\":1,\"interval_ms\":20,\"disks\":[%s]}",
             disk);
    sample_json(f.s, RECORD_CONFIG, text);
    flush();
    EVIL_WAIT(f.e, f.e->got[RECORD_READY] || f.e->bye || f.e->closed);
}

static const char *describe(const char *path, uint64_t bytes)
{
    static char text[400];
    uint64_t device, inode;
    char identity[DISK_IDENTITY_MAX];
    assert_int_equal(backing_identify(path, &device, &inode), 0);
    disk_identity(device, inode, identity);
    snprintf(text, sizeof text, "{\"bytes\":%d,\"shared\":true,\"identity\":\"%s\"}", (int)bytes, identity);
    return text;
}

static void ready(void)
{
    connect_with(describe(f.disk, BYTES), "\"disks\",\"shared\"");
    if (!f.e->got[RECORD_READY])
        fail_msg("no READY: %s", f.e->bye_text);
}

static void put_device(enum device_kind kind, uint64_t epoch, const void *blob, size_t n)
{
    uint8_t piece[DEVICE_HEAD_SIZE + 64];
    device_head_write(piece, kind, BLOB_RAW, (uint32_t)n, (uint32_t)n, 0);
    memcpy(piece + DEVICE_HEAD_SIZE, blob, n);
    sample_record(f.s, RECORD_DEVICE, 0, epoch, piece, DEVICE_HEAD_SIZE + n);
}

/* Writes block epoch % BLOCKS, all of it the epoch's number. Epoch 1 writes nothing: it is before anything is held. */
static void put_epoch(uint64_t epoch, bool whole)
{
    static const uint64_t state[4] = {MACHINE_MAGIC};
    static uint8_t payload[DISK_PAYLOAD_MAX], data[BLOCK];
    const uint32_t pages = SAMPLE_PAGES;
    memset(data, (int)epoch, sizeof data);
    if (epoch > 1)
        sample_record(f.s, RECORD_DISK, 0, epoch, payload,
                      disk_encode(0, epoch % BLOCKS * BLOCK, data, BLOCK, NULL, payload));
    else
        put_device(DEVICE_INITIAL, epoch, &pages, sizeof pages);
    put_device(DEVICE_STATE, epoch, state, sizeof state);
    if (whole)
        sample_commit(f.s, epoch);
    flush();
}

static void commit_epochs(uint64_t first, uint64_t last)
{
    for (uint64_t n = first; n <= last; n++) {
        put_epoch(n, true);
        EVIL_WAIT(f.e, f.e->acked == n || f.e->bye || f.e->closed);
        if (f.e->acked != n)
            fail_msg("epoch %d is not acknowledged: %s", (int)n, f.e->bye_text);
    }
}

static void say_durable(uint64_t epoch)
{
    char text[64];
    snprintf(text, sizeof text, "{\"durable\":%d}", (int)epoch);
    sample_json(f.s, RECORD_NOTE, text);
    flush();
}

/* ---- the disk ---- */

static int block_of(unsigned block)
{
    uint8_t data[BLOCK];
    int fd = open(f.disk, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, data, BLOCK, block * BLOCK), BLOCK);
    close(fd);
    for (unsigned i = 1; i < BLOCK; i++)
        assert_int_equal(data[i], data[0]);
    return data[0];
}

static void put_block(unsigned block, int octet)
{
    uint8_t data[BLOCK];
    memset(data, octet, BLOCK);
    int fd = open(f.disk, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, data, BLOCK, block * BLOCK), BLOCK);
    close(fd);
}

static void expect_untouched(void)
{
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(block_of(i), 0);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static const char *in_b(const char *name)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", f.b->dir, name);
    return path;
}

/* ---- tests ---- */

/* Epochs 2 to 5 are durable by the primary's word, 6 to 9 not, of which it has written one; 10 is half there. */
static void prepare_failover(void)
{
    set_up();
    host_start_both(f.b);
    ready();
    commit_epochs(1, 5);
    say_durable(3);
    say_durable(5);
    commit_epochs(6, 9);
    put_epoch(10, false);
    evil_serve(f.e, 50);
    expect_untouched();
    put_block(7, 7);
    evil_hang_up(f.e);
    WAIT_FOR(exists(in_dir("asked")));
    agents_sleep_ms(300);
    assert_int_equal(block_of(6), 0); /* the lost host may still write */
    assert_int_equal(agents_running(f.agents), 0);
}

static void expect_taken_over(void)
{
    host_wait_running(f.b);
    for (unsigned n = 2; n <= 5; n++) /* not again what is durable by the primary's word; and nothing of epoch 10 */
        assert_int_equal(block_of(n), 0);
    for (unsigned n = 6; n <= 9; n++)
        assert_int_equal(block_of(n % BLOCKS), (int)n);
    assert_false(exists(in_b("state/disks/web.shared")));
    assert_false(exists(in_b("state/disks/web.shared-2")));
}

static void allow(void)
{
    struct errmsg e;
    assert_int_equal(file_write_atomic(in_dir("go"), "", 0, 0600, &e), 0);
}

static void failover(void **state)
{
    (void)state;
    prepare_failover();
    allow();
    expect_taken_over();
    tear_down();
}

/* What its worker has begun another process finishes: no less is on the disk then. */
static void the_worker_dies_meanwhile(void **state)
{
    (void)state;
    prepare_failover();
    kill(host_worker(f.b, SECONDARY), SIGKILL);
    agents_sleep_ms(200);
    assert_int_equal(block_of(6), 0);
    allow();
    expect_taken_over();
    tear_down();
}

/* The primary goes alone: what it has not written is its own to write. */
static void released(void **state)
{
    (void)state;
    set_up();
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 4);
    evil_bye(f.e, BYE_UNPROTECT, "done");
    WAIT_FOR(!host_worker(f.b, SECONDARY));
    expect_untouched();
    assert_false(exists(in_b("state/disks/web.shared")));
    tear_down();
}

/* The same, but it can't say so: the claim is refused. */
static void claim_refused(void **state)
{
    (void)state;
    set_up();
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 4);
    claim(2);
    evil_hang_up(f.e);
    WAIT_FOR(!host_worker(f.b, SECONDARY));
    expect_untouched();
    assert_false(exists(in_dir("asked")));
    assert_false(exists(in_b("state/disks/web.shared")));
    tear_down();
}

static void handed_over(void **state)
{
    (void)state;
    set_up();
    host_start_both(f.b);
    ready();
    commit_epochs(1, 4);
    say_durable(4);
    const char *json = "{\"protect\":true}";
    sample_record(f.s, RECORD_HANDOVER, 0, 4, json, strlen(json));
    flush();
    EVIL_WAIT(f.e, f.e->bye == BYE_TAKEN_OVER);
    host_wait_running(f.b);
    assert_false(exists(in_dir("asked"))); /* who hands over is well */
    expect_untouched();
    tear_down();
}

static void violates(void (*what)(void), const char *says)
{
    ready();
    commit_epochs(1, 3);
    what();
    EVIL_WAIT(f.e, f.e->bye || f.e->closed);
    if (f.e->bye != BYE_PROTOCOL || !strstr(f.e->bye_text, says))
        fail_msg("BYE %u \"%s\", not \"%s\"", f.e->bye, f.e->bye_text, says);
    expect_untouched();
}

static void too_far(void)
{
    say_durable(4);
}

static void back(void)
{
    say_durable(3);
    say_durable(2);
}

static void hand_over_early(void)
{
    const char *json = "{\"protect\":true}";
    say_durable(2);
    sample_record(f.s, RECORD_HANDOVER, 0, 3, json, strlen(json));
    flush();
}

static void violations(void **state)
{
    (void)state;
    static const struct {
        void (*what)(void);
        const char *says;
    } all[] = {{too_far, "epoch 4 is durable"},
               {back, "epoch 2 is durable, after 3"},
               {hand_over_early, "HANDOVER before what was written to shared disks"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        set_up();
        host_start(f.b, SECONDARY);
        violates(all[i].what, all[i].says);
        tear_down();
    }
}

static void refused(const char *disk, const char *says)
{
    connect_with(disk, "\"disks\",\"shared\"");
    if (f.e->bye != BYE_REFUSED || !strstr(f.e->bye_text, says))
        fail_msg("BYE %u \"%s\", not \"%s\"", f.e->bye, f.e->bye_text, says);
    host_wait_log(f.b, SECONDARY, says);
    WAIT_FOR(!host_worker(f.b, SECONDARY));
    pid_t servers[4];
    assert_int_equal(host_processes(f.b, "hikae-disk.so", servers, 4), 0);
    assert_false(exists(in_b("state/disks/web.shared")));
    expect_untouched();
}

static void refusals(void **state)
{
    (void)state;
    set_up();
    make_disk(in_dir("other.img"), BYTES);
    configure(false, f.disk);
    host_start(f.b, SECONDARY);
    refused(describe(f.disk, BYTES), "only with a fencing command");
    host_kill(f.b);
    configure(true, f.disk);
    host_start(f.b, SECONDARY);
    refused(describe(in_dir("other.img"), BYTES), "is another one than its primary's");
    refused(describe(f.disk, BYTES + BLOCK), "has 36864 bytes at its primary");
    refused("{\"bytes\":32768}", "shared");
    refused("{\"bytes\":32768,\"shared\":true,\"identity\":\"\"}", "is another one");
    host_kill(f.b);
    configure(true, in_dir("missing.img"));
    host_start(f.b, SECONDARY);
    refused(describe(f.disk, BYTES), "missing.img does not exist");
    tear_down();
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(failover),    ONE(the_worker_dies_meanwhile),
        ONE(released),    ONE(claim_refused),
        ONE(handed_over), ONE(violations),
        ONE(refusals),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
