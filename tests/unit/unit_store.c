/*
 * Unit tests of disk/store.h and disk/applier.h but for crashes (unit_store_crash): disks are found, made or refused
 * before anything is written; a disk that is full or fails stops the replica and says why; holes stay holes.
 */
#include "common/config.h"
#include "crash_medium.h"
#include "disk/applier.h"
#include "disk/journal.h"
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 64 * DISK_BLOCK_SIZE };

static char folder[64];
static const struct store_wanted one = {.sizes = {1, {BYTES}}}, two = {.sizes = {2, {BYTES, 2 * BYTES}}};

static const char *at(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, 256, "%s/%s", folder, name);
    return path;
}

/* `disk`: words, each the name of a file in our folder. NULL: no section. */
static struct config *configure(const char *disk)
{
    char line[512] = "";
    struct errmsg e;
    if (disk) {
        char words[256], *rest;
        snprintf(words, sizeof words, "%s", disk);
        size_t n = (size_t)sprintf(line, "[vm web]\ndisk =");
        for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
            n += (size_t)sprintf(line + n, " %s/%s", folder, word);
    }
    FILE *f = fopen(at("hikae.conf"), "w");
    fprintf(f, "[host]\nname = b\nstate_dir = %s\n%s\n", folder, line);
    fclose(f);
    struct config *c = config_load(at("hikae.conf"), &e);
    if (!c)
        fail_msg("%s", e.text);
    return c;
}

static void make_file(const char *name, off_t bytes)
{
    int fd = open(at(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

static void clear_folder(void)
{
    static const char *const files[] = {"images/web-0.img",
                                        "images/web-1.img",
                                        "disks/web.json",
                                        "disks/web.journal",
                                        "a.img",
                                        "b.img",
                                        "images",
                                        "disks"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        remove(at(files[i]));
}

static void refused(const char *disk, const struct store_wanted *wanted, const char *part)
{
    struct errmsg e = {""};
    struct config *c = configure(disk);
    assert_null(stores_open(c, "web", wanted, &medium_kernel, &e));
    if (!strstr(e.text, part))
        fail_msg("\"%s\" has no \"%s\"", e.text, part);
    assert_int_not_equal(access(at("disks/web.json"), F_OK), 0); /* nothing was begun */
    config_free(c);
}

static struct stores *open_stores(struct config *c, const struct store_wanted *wanted, const struct medium *m)
{
    struct errmsg e;
    struct stores *s = stores_open(c, "web", wanted, m, &e);
    if (!s)
        fail_msg("%s", e.text);
    return s;
}

static void refusals(void **state)
{
    (void)state;
    clear_folder();
    refused("a.img", &one, "does not exist");
    make_file("a.img", BYTES);
    make_file("b.img", BYTES);
    refused("a.img b.img", &two, "disk 1 of VM web has 524288 bytes at its primary, but");
    refused("a.img b.img", &two, "at host b has 262144");
    refused("a.img", &two, "names 1");
    refused("a.img b.img", &one, "names 2");
    make_file("a.img", BYTES + 512);
    refused("a.img", &one, "multiple of 4096");
    make_file("a.img", BYTES);
    assert_int_equal(chmod(at("a.img"), 0400), 0);
    refused("a.img", &one, "read-only");
    assert_int_equal(chmod(at("a.img"), 0600), 0);
    int fd = open(at("a.img"), O_RDWR | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    refused("a.img", &one, "in use");
    close(fd);
    struct store_wanted large = one;
    large.used[0] = (uint64_t)1 << 60;
    refused("a.img", &large, "no room for disk");
    large.sizes.bytes[0] = (uint64_t)1 << 40; /* an image that would be made */
    refused(NULL, &large, "MiB more are needed there");
    assert_int_not_equal(access(at("images/web-0.img"), F_OK), 0);
}

static void images_are_made_and_grow(void **state)
{
    (void)state;
    struct config *c = configure(NULL);
    struct store_paths paths;
    struct store_wanted larger = two;
    struct errmsg e;
    struct stat st;
    clear_folder();
    assert_int_equal(store_paths(c, "web", &paths, &e), 0);
    assert_int_equal(paths.count, 0);
    struct stores *s = open_stores(c, &two, &medium_kernel);
    assert_string_equal(stores_paths(s)->at[1], at("images/web-1.img"));
    assert_int_equal(stat(at("images/web-1.img"), &st), 0);
    assert_int_equal(st.st_size, 2 * BYTES);
    assert_int_equal(st.st_blocks, 0);
    assert_int_equal(stores_begin_sync(s, &e), 0);
    assert_int_equal(stores_end_sync(s, &e), 0);
    stores_close(s);
    assert_int_equal(store_paths(c, "web", &paths, &e), 0);
    assert_int_equal(paths.count, 2);
    larger.sizes.bytes[1] *= 2;
    stores_close(open_stores(c, &larger, &medium_kernel));
    assert_int_equal(stat(at("images/web-1.img"), &st), 0);
    assert_int_equal(st.st_size, 4 * BYTES);
    assert_null(stores_open(c, "web", &two, &medium_kernel, &e)); /* what is there is not cut off */
    assert_non_null(strstr(e.text, "make them equal"));
    config_free(c);
}

static void nobody_starts_from_half_a_copy(void **state)
{
    (void)state;
    struct errmsg e = {""};
    clear_folder();
    make_file("a.img", BYTES);
    struct config *c = configure("a.img");
    assert_int_equal(stores_recover(c, "web", &medium_kernel, &e), 0); /* never a replica's */
    struct stores *s = open_stores(c, &one, &medium_kernel);
    assert_int_equal(stores_begin_sync(s, &e), 0);
    stores_close(s);
    assert_int_equal(stores_recover(c, "web", &medium_kernel, &e), -1);
    assert_non_null(strstr(e.text, "first copy"));
    s = open_stores(c, &one, &medium_kernel); /* a new replica may begin */
    assert_int_equal(stores_end_sync(s, &e), 0);
    stores_close(s);
    assert_int_equal(stores_recover(c, "web", &medium_kernel, &e), 0);
    config_free(c);
}

/* ---- the applier ---- */

static struct staging *writes_of(uint64_t first_block, unsigned blocks, int octet)
{
    static uint8_t data[DISK_BLOCK_SIZE];
    uint8_t payload[DISK_HEAD_SIZE + DISK_BLOCK_SIZE];
    struct staging *s = staging_new(1 << 20, folder);
    struct errmsg e;
    for (unsigned i = 0; i < blocks; i++) {
        uint64_t seed = (unsigned)octet + i + 1;
        for (unsigned o = 0; o < sizeof data; o++)
            data[o] = octet ? (uint8_t)sample_random(&seed) : 0;
        size_t n = disk_encode(0, (first_block + i) * DISK_BLOCK_SIZE, data, sizeof data, NULL, payload);
        assert_int_equal(staging_add(s, payload, n, &e), 0);
    }
    return s;
}

static struct applier_progress wait_for(struct applier *a, uint64_t epoch)
{
    struct applier_progress p;
    for (applier_news(a, &p); p.epoch < epoch && !p.failed; applier_news(a, &p))
        poll(&(struct pollfd){applier_fd(a), POLLIN, 0}, 1, 10000);
    return p;
}

static struct applier *start_synced(struct stores *s)
{
    struct errmsg e;
    struct applier *a = applier_start(s, &e);
    applier_write(a, writes_of(0, 32, 1));
    applier_end_sync(a, 1);
    struct applier_progress p = wait_for(a, 1);
    if (p.failed)
        fail_msg("%s", p.why.text);
    return a;
}

static void progress_is_told(void **state)
{
    (void)state;
    struct errmsg e;
    clear_folder();
    make_file("a.img", BYTES);
    struct config *c = configure("a.img");
    struct stores *s = open_stores(c, &one, &medium_kernel);
    struct applier *a = start_synced(s);
    int lock;
    assert_int_equal(stores_lock(c, "web", &lock), -1);
    applier_commit(a, 2, writes_of(3, 2, 9));
    struct applier_progress p = wait_for(a, 2);
    assert_int_equal(p.queued, 0);
    assert_int_equal(p.written, 34 * DISK_BLOCK_SIZE);
    assert_true(p.unflushed > 0);
    do /* nothing more comes: it is made durable by itself */
        poll(&(struct pollfd){applier_fd(a), POLLIN, 0}, 1, 100);
    while (applier_progress(a, &p), p.unflushed);
    applier_free(a);
    stores_close(s);
    assert_int_equal(stores_lock(c, "web", &lock), 0);
    close(lock);
    assert_int_equal(stores_recover(c, "web", &medium_kernel, &e), 0);
    assert_int_equal(stores_lock(c, "web", &lock), 0);
    assert_int_equal(lock, -1);
    config_free(c);
}

static bool has_news(const struct applier *a)
{
    return poll(&(struct pollfd){applier_fd(a), POLLIN, 0}, 1, 0) == 1;
}

/* Who looks at the progress for reasons of its own takes no news from the loop, which would wait for them for ever: an
 * answer to a CHECK, a failure. */
static void looking_takes_no_news(void **state)
{
    (void)state;
    clear_folder();
    make_file("a.img", BYTES);
    struct config *c = configure("a.img");
    struct stores *s = open_stores(c, &one, &medium_kernel);
    struct applier *a = start_synced(s);
    struct applier_progress p;
    applier_commit(a, 2, writes_of(3, 2, 9));
    do
        applier_progress(a, &p);
    while (p.epoch < 2 && !p.failed);
    assert_true(has_news(a));
    applier_news(a, &p);
    assert_int_equal(p.epoch, 2);
    applier_free(a);
    stores_close(s);
    config_free(c);
}

static void zeroes_become_holes(void **state)
{
    (void)state;
    struct stat before, after;
    clear_folder();
    make_file("a.img", BYTES);
    struct config *c = configure("a.img");
    struct stores *s = open_stores(c, &one, &medium_kernel);
    struct applier *a = start_synced(s);
    assert_int_equal(stat(at("a.img"), &before), 0);
    applier_commit(a, 2, writes_of(0, 16, 0));
    wait_for(a, 2);
    assert_int_equal(stat(at("a.img"), &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    applier_free(a);
    stores_close(s);
    config_free(c);
}

/* A store or journal that takes no more: the replica ends with the reason; with room again all that was durable is
 * recovered. */
static void a_full_disk(void **state)
{
    (void)state;
    for (unsigned stop = 0; stop < 3; stop++) { /* the journal's write, its sync, the store's write */
        struct crash_medium m;
        struct errmsg e;
        clear_folder();
        make_file("a.img", BYTES);
        struct config *c = configure("a.img");
        crash_medium_init(&m, 1000, ENOSPC);
        struct stores *s = open_stores(c, &one, &m.medium);
        struct applier *a = start_synced(s);
        m.stop_after = m.steps + stop;
        applier_commit(a, 2, writes_of(5, 4, 7));
        struct applier_progress p = wait_for(a, 2);
        assert_true(p.failed);
        assert_non_null(strstr(p.why.text, "No space left"));
        assert_non_null(strstr(p.why.text, stop < 2 ? "web.journal" : "a.img"));
        assert_int_equal(p.epoch, 1);
        applier_commit(a, 3, writes_of(5, 4, 8)); /* dropped */
        applier_free(a);
        stores_close(s);
        crash_medium_free(&m);
        assert_int_equal(stores_recover(c, "web", &medium_kernel, &e), 0);
        config_free(c);
    }
}

static void another_disk_in_its_place(void **state)
{
    (void)state;
    struct errmsg e = {""};
    clear_folder();
    make_file("a.img", BYTES);
    make_file("b.img", BYTES);
    struct config *c = configure("a.img"), *changed;
    struct crash_medium m;
    crash_medium_init(&m, 1000, EIO);
    struct stores *s = open_stores(c, &one, &m.medium);
    struct applier *a = start_synced(s);
    m.stop_after = m.steps + 2; /* in the journal, not in the store */
    applier_commit(a, 2, writes_of(5, 4, 7));
    assert_true(wait_for(a, 2).failed);
    applier_free(a);
    stores_close(s);
    crash_medium_free(&m);
    changed = configure("b.img");
    assert_null(stores_open(changed, "web", &one, &medium_kernel, &e));
    assert_non_null(strstr(e.text, "a.img is still in the journal"));
    assert_int_equal(stores_recover(changed, "web", &medium_kernel, &e), 0); /* b.img is no replica's */
    assert_int_equal(stores_recover(c, "web", &medium_kernel, &e), 0);
    stores_close(open_stores(changed, &one, &medium_kernel));
    config_free(c);
    config_free(changed);
}

static int prepare(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/hikae-unit-store-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    clear_folder();
    remove(at("hikae.conf"));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals),
        cmocka_unit_test(images_are_made_and_grow),
        cmocka_unit_test(nobody_starts_from_half_a_copy),
        cmocka_unit_test(progress_is_told),
        cmocka_unit_test(looking_takes_no_news),
        cmocka_unit_test(zeroes_become_holes),
        cmocka_unit_test(a_full_disk),
        cmocka_unit_test(another_disk_in_its_place),
    };
    return cmocka_run_group_tests(tests, prepare, clear);
}
