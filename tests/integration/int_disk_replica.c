/*
 * int_disk_replica: a test in place of a primary brings a VM with two disks to a real secondary agent, whose disks a
 * real server serves. Whatever becomes of either side, the disks are those of a committed epoch, the same as the memory
 * of; and what can't be replicated is refused before anything is written.
 */
#include "arbiter/file.h"
#include "common/config.h"
#include "common/file.h"
#include "common/jsonget.h"
#include "disk/server.h"
#include "disk/store.h"
#include "sample.h"
#include "tests/integration/evil.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { EPOCHS_MAX = 64 };

#define CONFIG_OF(disks)                                                                                               \
    "{\"backend\":\"fake\",\"pages\":24,\"replica\":{\"pages\":\"24\",\"rate\":\"200\",\"frames\":\"0\",\"bridge\":"   \
    "\"\"},\"mode\":1,\"interval_ms\":20,\"disks\":" disks "}"
#define CONFIG CONFIG_OF("[{\"bytes\":20480},{\"bytes\":20480}]")

struct fixture {
    struct agents *agents;
    struct host *b;
    struct evil *e;
    struct sample *s;
    size_t sent; /* octets of s that went out */
    unsigned term;
    uint64_t epoch;                                             /* last that was sent whole */
    uint8_t disks[EPOCHS_MAX][SAMPLE_DISKS][SAMPLE_DISK_BYTES]; /* after each epoch; 0: before the first */
    struct disk_sizes sizes;                                    /* as CONFIG tells */
    struct blocks_told told;                                    /* by the secondary */
    uint64_t digests, equal;                                    /* regions that it told of, and those as expected */
};

static struct fixture f;

static const char *in_b(const char *name)
{
    static char path[2][200];
    static unsigned next;
    char *out = path[next++ % 2];
    snprintf(out, sizeof path[0], "%s/%s", f.b->dir, name);
    return out;
}

/* ---- what the secondary tells of its disks ---- */

static bool is_as_expected(unsigned disk, uint64_t region, const uint8_t *digest)
{
    uint8_t want[PROTO_DIGEST_SIZE];
    if (disk >= SAMPLE_DISKS)
        return false;
    assert_int_equal(region, 0); /* such disks have one region */
    region_digest(f.told.disks[disk].head.seed, f.disks[f.epoch][disk], SAMPLE_DISK_BYTES, want);
    return !memcmp(want, digest, sizeof want);
}

static void on_record(struct evil *evil, const struct record *r)
{
    struct proto_error e;
    struct regions_run run;
    unsigned disk;
    (void)evil;
    if (r->type != RECORD_BLOCKS)
        return;
    if (blocks_check(&f.told, r->payload, r->length, &disk, &e))
        fail_msg("%s", e.text);
    for (size_t at = REGIONS_HEAD_SIZE;
         regions_next(r->payload + BLOCKS_HEAD_SIZE, r->length - BLOCKS_HEAD_SIZE, &at, &run);)
        for (uint32_t i = 0; i < run.count; i++, f.digests++)
            f.equal += is_as_expected(disk, run.first + i, run.digests + i * PROTO_DIGEST_SIZE);
}

/* ---- the primary ---- */

static void claim(unsigned term)
{
    struct errmsg why;
    char dir[96];
    struct arbiter_register now, want = {.term = term, .owner = "a", .mode = "alone"};
    snprintf(dir, sizeof dir, "%s/arbiter", f.agents->dir);
    assert_int_equal(file_register_claim(dir, "web", &want, false, &now, &why), ARBITER_GRANTED);
    f.term = term;
}

static void set_up(const char *host_lines, const char *vm_lines)
{
    char vm[256];
    memset(&f, 0, sizeof f);
    snprintf(vm, sizeof vm, "pages = 24\n%s", vm_lines);
    f.agents = agents_new(&(struct agents_options){.host = host_lines, .vm = vm, .accept = "web"});
    f.b = &f.agents->b;
    f.sizes = sample_disk_sizes;
    claim(1);
    f.e = evil_new(&f.agents->a);
    f.e->on_record = on_record;
}

static void tear_down(void)
{
    evil_free(f.e);
    sample_free(f.s);
    agents_free(f.agents);
}

static void flush(void)
{
    evil_send(f.e, f.s->data + f.sent, f.s->n - f.sent);
    f.sent = f.s->n;
}

/* A connection, up to the answer to CONFIG. The guest's disks are what they were after f.epoch. */
static void connect_with(const char *config)
{
    char text[256];
    struct sample *s = sample_new();
    memcpy(s->disks, f.disks[f.epoch], sizeof s->disks);
    if (f.s)
        sample_free(f.s);
    f.s = s;
    f.sent = 0;
    f.digests = f.equal = 0;
    blocks_told_init(&f.told, &f.sizes);
    evil_connect(f.e, f.b);
    snprintf(text, sizeof text,
             "{\"version\":1,\"features\":[\"disks\"],\"host\":\"a\",\"vm\":\"web\",\"term\":%u,\"agent\":\"test\"}",
             f.term);
    sample_json(s, RECORD_HELLO, text);
    flush();
    EVIL_WAIT(f.e, f.e->got[RECORD_HELLO] || f.e->bye || f.e->closed);
    if (f.e->bye)
        fail_msg("no HELLO: %s", f.e->bye_text);
    sample_json(s, RECORD_CONFIG, config);
    flush();
    EVIL_WAIT(f.e, f.e->got[RECORD_READY] || f.e->bye || f.e->closed);
}

static void ready(void)
{
    connect_with(CONFIG);
    if (!f.e->got[RECORD_READY])
        fail_msg("no READY: %s", f.e->bye_text);
    EVIL_WAIT(f.e, blocks_all_told(&f.told));
}

/* Epoch `number` of this connection. */
static void put_epoch(uint64_t number)
{
    sample_epoch(f.s, number);
    memcpy(f.disks[++f.epoch], f.s->disks, sizeof f.s->disks);
    flush();
}

static void commit_epochs(uint64_t first, uint64_t last)
{
    for (uint64_t n = first; n <= last; n++) {
        put_epoch(n);
        EVIL_WAIT(f.e, f.e->acked == n || f.e->bye || f.e->closed);
        if (f.e->acked != n)
            fail_msg("epoch %d is not acknowledged: %s", (int)n, f.e->bye_text);
    }
}

/* All of the next epoch but its COMMIT, and that. */
static void put_part(uint64_t number)
{
    sample_epoch(f.s, number);
    f.s->n -= RECORD_HEADER_SIZE + COMMIT_SIZE;
    flush();
    evil_serve(f.e, 50);
}

static void put_rest(void)
{
    f.s->n += RECORD_HEADER_SIZE + COMMIT_SIZE;
    memcpy(f.disks[++f.epoch], f.s->disks, sizeof f.s->disks);
    flush();
}

/* ---- epochs of a guest that a fake VM can go on with: no memory but zeroes ---- */

static void put_device(enum device_kind kind, uint64_t epoch, const void *blob, size_t n)
{
    uint8_t piece[DEVICE_HEAD_SIZE + 64];
    device_head_write(piece, kind, BLOB_RAW, (uint32_t)n, (uint32_t)n, 0);
    memcpy(piece + DEVICE_HEAD_SIZE, blob, n);
    sample_record(f.s, RECORD_DEVICE, 0, epoch, piece, DEVICE_HEAD_SIZE + n);
}

static void put_live_epoch(uint64_t epoch, bool whole)
{
    static const uint64_t state[4] = {MACHINE_MAGIC};
    static uint8_t payload[DISK_PAYLOAD_MAX];
    const uint32_t pages = SAMPLE_PAGES;
    for (unsigned d = 0; d < SAMPLE_DISKS; d++) {
        uint8_t *at = f.s->disks[d] + 4096 * (epoch % 5);
        memset(at, (int)epoch, 4096);
        sample_record(f.s, RECORD_DISK, 0, epoch, payload, disk_encode(d, 4096 * (epoch % 5), at, 4096, NULL, payload));
    }
    if (epoch == 1)
        put_device(DEVICE_INITIAL, epoch, &pages, sizeof pages);
    put_device(DEVICE_STATE, epoch, state, sizeof state);
    if (whole) {
        sample_commit(f.s, epoch);
        memcpy(f.disks[++f.epoch], f.s->disks, sizeof f.s->disks);
    }
    flush();
}

/* ---- the disks ---- */

static bool disks_are(uint64_t epoch)
{
    char name[40];
    for (unsigned d = 0; d < SAMPLE_DISKS; d++) {
        uint8_t seen[SAMPLE_DISK_BYTES];
        snprintf(name, sizeof name, "state/images/web-%u.img", d);
        int fd = open(in_b(name), O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pread(fd, seen, sizeof seen, 0), sizeof seen);
        close(fd);
        if (memcmp(seen, f.disks[epoch][d], sizeof seen))
            return false;
    }
    return true;
}

static bool says_consistent(void)
{
    struct errmsg e;
    char *text = file_read_all(in_b("state/disks/web.json"), 4096, NULL, &e);
    bool is = text && strstr(text, "\"consistent\"");
    free(text);
    return is;
}

/* ---- tests ---- */

static void first_epoch_and_more(void **state)
{
    (void)state;
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    host_start(f.b, SECONDARY);
    ready();
    assert_int_equal(f.digests, 0); /* images that were just made: holes */
    put_part(1);
    assert_false(says_consistent()); /* nobody starts from what is half there */
    put_rest();
    EVIL_WAIT(f.e, f.e->acked == 1);
    assert_true(says_consistent()); /* before the ACK came */
    assert_true(disks_are(1));
    commit_epochs(2, 8);
    WAIT_FOR(disks_are(8));
    put_part(9);
    assert_true(disks_are(8));
    struct json_object *status = host_status(f.b, SECONDARY), *disks = json_get(status, "disks");
    assert_non_null(disks);
    assert_true(json_get_u64(disks, "written_bytes", 0) > 0);
    assert_int_equal(json_object_array_length(json_get_array(disks, "paths")), 2);
    json_object_put(status);
    evil_bye(f.e, BYE_UNPROTECT, "done");
    WAIT_FOR(!host_worker(f.b, SECONDARY));
    assert_true(disks_are(8));
    tear_down();
}

/* What is there already is told by digest. */
static void again_tells_what_is_there(void **state)
{
    (void)state;
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 3);
    evil_hang_up(f.e);
    ready(); /* the old replica yields */
    assert_int_equal(f.digests, SAMPLE_DISKS);
    assert_int_equal(f.equal, SAMPLE_DISKS);
    commit_epochs(1, 3);
    WAIT_FOR(disks_are(6));
    tear_down();
}

/* The primary is lost: the VM runs from the disks of the last committed epoch, and no journal will ever write to them.
 */
static void failover(void **state)
{
    (void)state;
    set_up("restart_grace = 100ms\ndetect = 30s\n", "");
    host_start_both(f.b);
    ready();
    for (uint64_t epoch = 1; epoch <= 20; epoch++)
        put_live_epoch(epoch, true); /* not waiting for what the disks take */
    EVIL_WAIT(f.e, f.e->acked == 20);
    put_live_epoch(21, false);
    evil_serve(f.e, 50);
    evil_hang_up(f.e);
    WAIT_FOR(host_vm_pid(f.b));
    host_wait_running(f.b);
    assert_true(disks_are(20));
    assert_int_not_equal(access(in_b("state/disks/web.journal"), F_OK), 0);
    pid_t servers[4];
    assert_int_equal(host_processes(f.b, "hikae-disk.so", servers, 4), 1); /* it serves on */
    tear_down();
}

/* All of host b is lost while epochs come: its disks are those of one of them. */
static void the_secondary_is_lost(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 8; round++) {
        struct errmsg e;
        set_up("restart_grace = 10s\ndetect = 30s\n", "");
        host_start(f.b, SECONDARY);
        ready();
        commit_epochs(1, 2);
        pid_t worker = host_worker(f.b, SECONDARY);
        for (uint64_t n = 3; n < EPOCHS_MAX; n++) {
            put_epoch(n);
            if (n == 10 + 5 * round)
                kill(worker, SIGKILL);
        }
        evil_serve(f.e, 10);
        uint64_t acked = f.e->acked;
        host_kill(f.b);
        struct config *c = config_load(in_b("hikae.conf"), &e);
        if (!c || stores_recover(c, "web", &medium_kernel, &e))
            fail_msg("%s", e.text);
        uint64_t epoch = 1;
        while (epoch <= f.epoch && !disks_are(epoch))
            epoch++;
        print_message("epoch %d was acknowledged, the disks are those of %d\n", (int)acked, (int)epoch);
        assert_true(epoch <= f.epoch);
        config_free(c);
        tear_down();
    }
}

/* Only its worker: the agent cleans up, and the next replica begins with the disks. */
static void the_worker_is_lost(void **state)
{
    (void)state;
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 5);
    kill(host_worker(f.b, SECONDARY), SIGKILL);
    EVIL_WAIT(f.e, f.e->closed);
    pid_t servers[4];
    WAIT_FOR(!host_processes(f.b, "hikae-disk.so", servers, 4));
    claim(2);
    ready();
    assert_int_equal(f.digests, SAMPLE_DISKS);
    commit_epochs(1, 3);
    WAIT_FOR(disks_are(8));
    tear_down();
}

static void refused(const char *config, const char *says)
{
    connect_with(config);
    if (f.e->bye != BYE_REFUSED || !strstr(f.e->bye_text, says))
        fail_msg("BYE %u \"%s\", not \"%s\"", f.e->bye, f.e->bye_text, says);
    host_wait_log(f.b, SECONDARY, says);
    WAIT_FOR(!host_worker(f.b, SECONDARY));
    pid_t servers[4];
    assert_int_equal(host_processes(f.b, "hikae-disk.so", servers, 4), 0);
    assert_int_not_equal(access(in_b("state/disks/web.json"), F_OK), 0);
}

static void make_store(const char *name, off_t bytes)
{
    int fd = open(in_b(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

static void refusals(void **state)
{
    (void)state;
    char vm[300], host[300];
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    host_start(f.b, SECONDARY);
    refused(CONFIG_OF("[{\"bytes\":20480},{\"bytes\":20481}]"), "not a multiple of 4096");
    refused(CONFIG_OF("[{\"bytes\":0}]"), "it is empty");
    refused(CONFIG_OF("[]"), "0 disks");
    refused(CONFIG_OF("[{\"bytes\":1099511627776,\"used\":1099511627776}]"), "no room for disk");
    host_kill(f.b);
    snprintf(vm, sizeof vm, "pages = 24\ndisk = %s/one.img %s/two.img\n", f.b->dir, f.b->dir);
    snprintf(host, sizeof host, "restart_grace = 10s\ndetect = 30s\n");
    agents_write_config(f.agents, &(struct agents_options){.host = host, .vm = vm, .accept = "web"});
    host_start(f.b, SECONDARY);
    refused(CONFIG, "one.img does not exist");
    make_store("one.img", 20480);
    make_store("two.img", 24576);
    refused(CONFIG, "disk 1 of VM web has 20480 bytes at its primary");
    refused(CONFIG_OF("[{\"bytes\":20480}]"), "names 2");
    make_store("two.img", 20480);
    assert_int_equal(chmod(in_b("two.img"), 0400), 0);
    refused(CONFIG, "two.img is read-only");
    assert_int_equal(chmod(in_b("two.img"), 0600), 0);
    struct errmsg e;
    assert_int_equal(dir_make(in_b("run/disks/web"), 0700, &e), 0);
    assert_int_equal(disk_server_note_taken(in_b("run/disks/web"), &e), 0);
    refused(CONFIG, "a VM that was started by hand has the disks");
    assert_int_equal(unlink(in_b("run/disks/web/taken")), 0);
    ready();
    tear_down();
}

/* ---- comparing ---- */

static uint8_t answer[64];
static size_t answer_n;
static unsigned answers;

static void on_answer(struct evil *evil, const struct record *r)
{
    if (r->type == RECORD_CHECKED && r->length <= sizeof answer) {
        memcpy(answer, r->payload, r->length);
        answer_n = r->length;
        answers++;
    }
    on_record(evil, r);
}

/* A CHECK of disk 1 and what is answered: the octets of its runs. */
static size_t check(uint64_t epoch, uint64_t number)
{
    unsigned before = answers;
    sample_check(f.s, epoch, number);
    flush();
    EVIL_WAIT(f.e, answers > before || f.e->bye || f.e->closed);
    if (answers == before)
        fail_msg("CHECK %d is not answered: %s", (int)number, f.e->bye_text);
    assert_true(answer[0] == number);
    return answer_n - CHECKED_HEAD_SIZE;
}

static void spoil(unsigned disk, off_t at)
{
    char name[40];
    snprintf(name, sizeof name, "state/images/web-%u.img", disk);
    int fd = open(in_b(name), O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "spoilt", 6, at), 6);
    close(fd);
}

/* Each is of the disk at the end of its epoch, however much is on its way behind it. */
static void compared_at_its_epoch(void **state)
{
    (void)state;
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    f.e->on_record = on_answer;
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 2);
    assert_int_equal(check(2, 1), 0);
    for (uint64_t n = 3; n < 40; n++) {
        put_epoch(n);
        sample_check(f.s, n, n - 1);
    }
    flush();
    EVIL_WAIT(f.e, answers == 38 || f.e->bye || f.e->closed);
    assert_int_equal(answers, 38);
    assert_int_equal(answer_n, CHECKED_HEAD_SIZE);
    spoil(1, 4096 * 3 + 100);
    spoil(0, 0); /* nobody asks for it */
    assert_int_equal(check(39, 39), CHECK_RUN_SIZE);
    assert_true(answer[8] == 3 && answer[13] == 1);
    sample_check(f.s, 39, 39); /* a second one of that number */
    flush();
    EVIL_WAIT(f.e, f.e->bye);
    assert_int_equal(f.e->bye, BYE_PROTOCOL);
    assert_non_null(strstr(f.e->bye_text, "40 is due"));
    tear_down();
}

/* Answers have one order: memory may be asked about when all about disks is answered, not before. */
static void memory_after_disks(void **state)
{
    (void)state;
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    f.e->on_record = on_answer;
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 2);
    assert_int_equal(check(2, 1), 0);
    unsigned before = answers;
    sample_check_memory(f.s, 2, 2);
    sample_check(f.s, 2, 3);
    flush();
    EVIL_WAIT(f.e, answers == before + 2 || f.e->bye || f.e->closed);
    assert_true(answer[0] == 3 && answer_n == CHECKED_HEAD_SIZE);
    sample_check(f.s, 2, 4);
    sample_check_memory(f.s, 2, 5);
    flush();
    EVIL_WAIT(f.e, f.e->bye);
    assert_int_equal(f.e->bye, BYE_PROTOCOL);
    assert_non_null(strstr(f.e->bye_text, "CHECK of memory while one of a disk is unanswered"));
    tear_down();
}

/* A disk that CONFIG does not have, or no disk at all. */
static void writes_nowhere(void **state)
{
    (void)state;
    uint8_t payload[DISK_HEAD_SIZE];
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    host_start(f.b, SECONDARY);
    ready();
    commit_epochs(1, 2);
    disk_encode_zeroes(SAMPLE_DISKS, 0, 4096, payload);
    sample_record(f.s, RECORD_DISK, 0, 3, payload, sizeof payload);
    flush();
    EVIL_WAIT(f.e, f.e->bye);
    assert_int_equal(f.e->bye, BYE_PROTOCOL);
    assert_non_null(strstr(f.e->bye_text, "disk 2 of 2"));
    WAIT_FOR(disks_are(2));
    tear_down();
}

static void mount_small(const char *name, const char *size)
{
    char options[32];
    struct errmsg e;
    snprintf(options, sizeof options, "size=%s", size);
    assert_int_equal(dir_make(in_b(name), 0700, &e), 0);
    assert_int_equal(mount("tmpfs", in_b(name), "tmpfs", 0, options), 0);
}

enum { MB = (1 << 20) / DISK_DATA_MAX };

/* Noise over disk 2 from its begin, so many pieces of DISK_DATA_MAX. */
static void put_noise(uint64_t epoch, unsigned pieces, uint64_t seed)
{
    static uint8_t data[DISK_DATA_MAX], payload[DISK_PAYLOAD_MAX];
    for (unsigned i = 0; i < pieces; i++) {
        for (size_t o = 0; o < sizeof data; o += 8)
            memcpy(data + o, &(uint64_t){sample_random(&seed)}, 8);
        size_t n = disk_encode(2, i * sizeof data, data, sizeof data, NULL, payload);
        sample_record(f.s, RECORD_DISK, 0, epoch, payload, n);
        flush();
        evil_serve(f.e, 1);
    }
}

static bool disk_2_is_noise(unsigned pieces, uint64_t seed)
{
    static uint8_t seen[DISK_DATA_MAX];
    bool same = true;
    int fd = open(in_b("state/images/web-2.img"), O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < pieces; i++) {
        assert_int_equal(pread(fd, seen, sizeof seen, (off_t)(i * sizeof seen)), sizeof seen);
        for (size_t o = 0; o < sizeof seen; o += 8)
            same &= !memcmp(seen + o, &(uint64_t){sample_random(&seed)}, 8);
    }
    close(fd);
    return same;
}

static void ready_with_third_disk(void)
{
    f.sizes = (struct disk_sizes){3, {SAMPLE_DISK_BYTES, SAMPLE_DISK_BYTES, 32 << 20}};
    connect_with(CONFIG_OF("[{\"bytes\":20480},{\"bytes\":20480},{\"bytes\":33554432}]"));
    if (!f.e->got[RECORD_READY])
        fail_msg("no READY: %s", f.e->bye_text);
    EVIL_WAIT(f.e, blocks_all_told(&f.told));
}

/* Epochs 1 and 2, where 1 MiB is staged in memory and a quarter of that in the spool. */
static void commit_with_small_spool(void)
{
    char host[300];
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    snprintf(host, sizeof host, "restart_grace = 10s\ndetect = 30s\nstaging = 1M\nspool_dir = %s/spool\n", f.b->dir);
    agents_write_config(f.agents, &(struct agents_options){.host = host, .vm = "pages = 24\n", .accept = "web"});
    mount_small("spool", "256k");
    host_start(f.b, SECONDARY);
    ready_with_third_disk();
    commit_epochs(1, 2);
}

/* The spool takes no more of an epoch: it is not committed, and the primary hears why. */
static void spool_is_full(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    commit_with_small_spool();
    WAIT_FOR(disks_are(2));
    put_noise(3, 4 * MB, 1);
    EVIL_WAIT(f.e, f.e->bye);
    assert_int_equal(f.e->bye, BYE_TROUBLE);
    assert_non_null(strstr(f.e->bye_text, "takes no more"));
    assert_int_equal(f.e->acked, 2);
    assert_true(disks_are(2));
    umount2(in_b("spool"), MNT_DETACH);
    tear_down();
}

/* Epochs that each fit into memory come faster than the disks take them: what comes is not read until they do, and not
 * spilt, for which there is no room here. */
static void faster_than_the_disks(void **state)
{
    (void)state;
    enum { LAST = 30 };
    if (!agents_have_sandbox())
        skip();
    commit_with_small_spool();
    for (uint64_t epoch = 3; epoch <= LAST; epoch++) {
        put_noise(epoch, 3, epoch);
        put_epoch(epoch);
    }
    EVIL_WAIT(f.e, f.e->acked == LAST || f.e->bye);
    assert_string_equal(f.e->bye_text, "");
    WAIT_FOR(disks_are(LAST) && disk_2_is_noise(3, LAST));
    umount2(in_b("spool"), MNT_DETACH);
    tear_down();
}

/* Far more than is kept in memory: the first epoch is written as it comes, a later one goes through the spool, and the
 * acknowledgement waits for the disks. */
static void much_at_once(void **state)
{
    (void)state;
    set_up("restart_grace = 10s\ndetect = 30s\nstaging = 1M\n", "");
    host_start(f.b, SECONDARY);
    ready_with_third_disk();
    put_noise(1, 32 * MB, 11);
    commit_epochs(1, 1);
    assert_true(disk_2_is_noise(32 * MB, 11));
    put_noise(2, 16 * MB, 12);
    commit_epochs(2, 2);
    WAIT_FOR(disk_2_is_noise(16 * MB, 12));
    commit_epochs(3, 5);
    WAIT_FOR(disks_are(5));
    evil_hang_up(f.e);
    ready_with_third_disk(); /* each region of it is told */
    assert_int_equal(f.told.disks[2].head.end, (32 << 20) / (DISK_REGION_BLOCKS * DISK_BLOCK_SIZE));
    tear_down();
}

/* There is no room for the journal: refused. The stores' file system is full: the replica ends, the primary hears why.
 */
static void disks_are_full(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    set_up("restart_grace = 10s\ndetect = 30s\n", "");
    mount_small("state", "32m");
    host_start(f.b, SECONDARY);
    refused(CONFIG, "(it needs 64 MiB)");
    umount2(in_b("state"), MNT_DETACH);
    mount_small("state/images", "8m");
    ready_with_third_disk();
    commit_epochs(1, 2);
    put_noise(3, 16 * MB, 13);
    sample_epoch(f.s, 3);
    flush();
    EVIL_WAIT(f.e, f.e->bye);
    assert_int_equal(f.e->bye, BYE_TROUBLE);
    assert_non_null(strstr(f.e->bye_text, "web-2.img can't be written: No space left"));
    WAIT_FOR(!host_worker(f.b, SECONDARY));
    umount2(in_b("state/images"), MNT_DETACH);
    tear_down();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(first_epoch_and_more, agents_teardown),
        cmocka_unit_test_teardown(again_tells_what_is_there, agents_teardown),
        cmocka_unit_test_teardown(failover, agents_teardown),
        cmocka_unit_test_teardown(the_secondary_is_lost, agents_teardown),
        cmocka_unit_test_teardown(the_worker_is_lost, agents_teardown),
        cmocka_unit_test_teardown(refusals, agents_teardown),
        cmocka_unit_test_teardown(compared_at_its_epoch, agents_teardown),
        cmocka_unit_test_teardown(memory_after_disks, agents_teardown),
        cmocka_unit_test_teardown(writes_nowhere, agents_teardown),
        cmocka_unit_test_teardown(spool_is_full, agents_teardown),
        cmocka_unit_test_teardown(faster_than_the_disks, agents_teardown),
        cmocka_unit_test_teardown(much_at_once, agents_teardown),
        cmocka_unit_test_teardown(disks_are_full, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
