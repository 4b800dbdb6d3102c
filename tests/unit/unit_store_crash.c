/*
 * Unit test of disk/applier.h, store.h and journal.h together: a host is lost after each step of applying epochs to two
 * disks, as a killed process (what was written is there) and without power (what was not synced is there in part, or
 * not). Recovered, both disks are those of one and the same committed epoch, and not of an older one than was durable.
 */
#include "common/config.h"
#include "crash_medium.h"
#include "disk/applier.h"
#include "disk/journal.h"
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { EPOCHS = 9, RESTART_AT = 5, DISKS = 2, BYTES = 24 * DISK_BLOCK_SIZE, WRITES = 5 };

static char folder[64];
static struct config *config;
static const struct store_wanted wanted = {.sizes = {DISKS, {BYTES, BYTES}}};
static uint8_t model[EPOCHS + 1][DISKS][BYTES]; /* after each epoch; 0: before the first */
static uint8_t payloads[EPOCHS + 1][WRITES][DISK_HEAD_SIZE + BYTES];
static size_t sizes[EPOCHS + 1][WRITES];

/* Each epoch writes over some of what the one before wrote, and always the same place on both disks. */
static void make_epochs(void)
{
    uint64_t seed = 42;
    for (unsigned d = 0; d < DISKS; d++)
        for (unsigned i = 0; i < BYTES; i++)
            model[0][d][i] = (uint8_t)(i / 700 + 1);
    for (unsigned epoch = 1; epoch <= EPOCHS; epoch++) {
        memcpy(model[epoch], model[epoch - 1], sizeof model[0]);
        for (unsigned w = 0; w < WRITES; w++) {
            unsigned disk = w % DISKS;
            uint32_t length = w < 2 ? 4096 : 1 + (uint32_t)(sample_random(&seed) % 20000);
            uint64_t offset = w < 2 ? 8192 : sample_random(&seed) % (BYTES - length);
            if (epoch % 3) { /* whole blocks, as most guests write them */
                length += DISK_BLOCK_SIZE - 1 - (length - 1) % DISK_BLOCK_SIZE;
                offset -= offset % DISK_BLOCK_SIZE;
                offset = offset < BYTES - length ? offset : BYTES - length;
            }
            uint8_t *at = model[epoch][disk] + offset;
            for (uint32_t i = 0; i < length; i++)
                at[i] = w == 4 && epoch % 2 ? 0
                        : w == 3            ? (uint8_t)sample_random(&seed)
                                            : (uint8_t)(epoch * 16 + i / 99);
            sizes[epoch][w] = disk_encode(disk, offset, at, length, NULL, payloads[epoch][w]);
        }
    }
}

static void disk_path(char out[256], unsigned disk)
{
    snprintf(out, 256, "%s/images/web-%u.img", folder, disk);
}

static void begin_anew(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s/disks/web.json", folder);
    unlink(path);
    for (unsigned d = 0; d < DISKS; d++) {
        disk_path(path, d);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            continue; /* the first time */
        assert_int_equal(pwrite(fd, model[0][d], BYTES, 0), BYTES);
        close(fd);
    }
}

static struct staging *staged(unsigned epoch, unsigned first, unsigned end)
{
    struct staging *s = staging_new(epoch % 3 ? 1 << 20 : 5000, folder); /* of some a part is spilt */
    struct errmsg e;
    for (unsigned w = first; w < end; w++)
        assert_int_equal(staging_add(s, payloads[epoch][w], sizes[epoch][w], &e), 0);
    return s;
}

/* Until all that was ordered is done. */
static void wait_until_idle(struct applier *a)
{
    struct applier_progress p;
    for (;;) {
        struct pollfd pfd = {applier_fd(a), POLLIN, 0};
        applier_progress(a, &p);
        if (!p.queued || p.failed)
            return;
        poll(&pfd, 1, 10000);
    }
}

struct outcome {
    unsigned durable; /* last epoch that certainly is */
    bool ended;       /* nothing was stopped */
};

/* The life of a replica: first epoch, more of them in groups, another applier, more, failover. */
static struct outcome live(struct stores *s, uint64_t *random)
{
    struct applier_progress p;
    struct errmsg e;
    struct outcome out = {0};
    struct applier *a = applier_start(s, &e);
    assert_non_null(a);
    applier_write(a, staged(1, 0, 2));
    applier_write(a, staged(1, 2, WRITES));
    applier_end_sync(a, 1);
    for (unsigned epoch = 2; epoch <= EPOCHS; epoch++) {
        applier_commit(a, epoch, staged(epoch, 0, WRITES));
        if (sample_random(random) % 2)
            wait_until_idle(a);
        if (epoch == RESTART_AT) {
            wait_until_idle(a);
            applier_progress(a, &p);
            applier_free(a);
            out.durable = (unsigned)p.epoch;
            if (p.failed)
                return out;
            a = applier_start(s, &e);
        }
    }
    applier_seal(a);
    do {
        struct pollfd pfd = {applier_fd(a), POLLIN, 0};
        poll(&pfd, 1, 10000);
        applier_progress(a, &p);
    } while (!p.sealed && !p.failed);
    out.ended = p.sealed;
    out.durable = p.epoch ? (unsigned)p.epoch : out.durable;
    applier_free(a);
    return out;
}

static bool disks_are(unsigned epoch)
{
    static uint8_t seen[BYTES];
    char path[256];
    for (unsigned d = 0; d < DISKS; d++) {
        disk_path(path, d);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, seen, BYTES, 0), BYTES);
        close(fd);
        if (memcmp(seen, model[epoch][d], BYTES))
            return false;
    }
    return true;
}

static unsigned recovered, refused;

static void check(const struct outcome *o, unsigned step)
{
    struct errmsg e = {""};
    struct crash_medium again; /* lost once more while it recovers */
    crash_medium_init(&again, step % 7, EIO);
    for (unsigned d = 0; d < DISKS; d++) {
        char path[256];
        disk_path(path, d);
        crash_medium_watch(&again, path);
    }
    char journal[256];
    snprintf(journal, sizeof journal, "%s/disks/web.journal", folder);
    if (!access(journal, F_OK))
        crash_medium_watch(&again, journal);
    (void)stores_recover(config, "web", &again.medium, &e);
    crash_medium_free(&again);
    if (stores_recover(config, "web", &medium_kernel, &e)) {
        if (!strstr(e.text, "first copy") || o->durable)
            fail_msg("step %u, epoch %u was durable: %s", step, o->durable, e.text);
        refused++;
        return;
    }
    for (unsigned epoch = o->durable; epoch <= EPOCHS; epoch++)
        if (disks_are(epoch)) {
            recovered++;
            return;
        }
    fail_msg("step %u: the disks are those of no epoch from %u on", step, o->durable);
}

/* false: nothing was left to stop. */
static bool crash_at(unsigned step, bool power, uint64_t *random)
{
    struct crash_medium m;
    struct errmsg e;
    char path[256];
    begin_anew();
    crash_medium_init(&m, UINT_MAX, EIO);
    struct stores *s = stores_open(config, "web", &wanted, &m.medium, &e);
    if (!s)
        fail_msg("%s", e.text);
    for (unsigned d = 0; d < DISKS; d++) {
        disk_path(path, d);
        crash_medium_watch(&m, path);
    }
    snprintf(path, sizeof path, "%s/disks/web.journal", folder);
    crash_medium_watch(&m, path);
    m.steps = 0;
    m.stop_after = step;
    struct outcome o = live(s, random);
    stores_close(s);
    if (power)
        crash_medium_lose_power(&m, random);
    crash_medium_free(&m);
    check(&o, step);
    if (o.ended)
        assert_true(disks_are(EPOCHS));
    return !o.ended;
}

static void lost_after_each_step(bool power)
{
    uint64_t random = power ? 7 : 8;
    unsigned step = 0;
    recovered = refused = 0;
    while (crash_at(step, power, &random))
        step++;
    assert_true(step > 60);
    assert_true(recovered > 50 && refused > 5);
    print_message("%u steps: %u times an epoch, %u times nothing to start from\n", step, recovered, refused);
}

static void a_process_is_killed(void **state)
{
    (void)state;
    lost_after_each_step(false);
}

static void power_is_lost(void **state)
{
    (void)state;
    lost_after_each_step(true);
}

static void make_config(void)
{
    char path[128];
    struct errmsg e;
    struct stores *s;
    snprintf(path, sizeof path, "%s/hikae.conf", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "[host]\nname = b\nstate_dir = %s\n", folder);
    fclose(f);
    config = config_load(path, &e);
    assert_non_null(config);
    s = stores_open(config, "web", &wanted, &medium_kernel, &e); /* makes the images */
    if (!s)
        fail_msg("%s", e.text);
    stores_close(s);
}

static int prepare(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/hikae-unit-store-XXXXXX");
    assert_non_null(mkdtemp(folder));
    make_epochs();
    make_config();
    return 0;
}

static int clear(void **state)
{
    (void)state;
    static const char *const files[] = {"images/web-0.img", "images/web-1.img", "disks/web.json", "disks/web.journal",
                                        "hikae.conf",       "images",           "disks",          ""};
    char path[256];
    config_free(config);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        remove(path);
    }
    return access(folder, F_OK) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_process_is_killed), cmocka_unit_test(power_is_lost)};
    return cmocka_run_group_tests(tests, prepare, clear);
}
