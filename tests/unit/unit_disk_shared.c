/*
 * Unit tests of disk/shared.h: a disk that can't be the primary's is refused; what was committed comes to the disks
 * once the claim was granted, whole, whatever fails on the way, and never otherwise.
 */
#include "disk/shared.h"

#include "common/config.h"
#include "disk/identity.h"
#include "disk/journal.h"
#include "disk/server/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { BYTES = 16 * DISK_BLOCK_SIZE, TERM = 7 };

static char folder[] = "/tmp/hikae-shared-XXXXXX";
static struct errmsg error;

static const char *at(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, 256, "%s/%s", folder, name);
    return path;
}

static struct config *configure(const char *keys)
{
    FILE *f = fopen(at("hikae.conf"), "w");
    fprintf(f, "[host]\nname = b\nstate_dir = %s\n[vm web]\n%s\n", folder, keys);
    fclose(f);
    struct config *c = config_load(at("hikae.conf"), &error);
    if (!c)
        fail_msg("%s", error.text);
    return c;
}

static struct config *with_disks(void)
{
    char keys[600];
    snprintf(keys, sizeof keys, "disk = %s/own.img\nshared_disk = %s/s1.img %s/s2.img", folder, folder, folder);
    return configure(keys);
}

static void make_file(const char *name, off_t bytes)
{
    int fd = open(at(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int make_files(void **state)
{
    (void)state;
    make_file("own.img", BYTES);
    make_file("s1.img", BYTES);
    make_file("s2.img", BYTES);
    return 0;
}

static int teardown(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command); /* NOLINT: of our own making */
}

static const char *identity(const char *name)
{
    static char out[2][DISK_IDENTITY_MAX];
    static unsigned next;
    uint64_t device, inode;
    char *id = out[next++ % 2];
    assert_int_equal(backing_identify(at(name), &device, &inode), 0);
    disk_identity(device, inode, id);
    return id;
}

static struct shared_wanted wanted(void)
{
    return (struct shared_wanted){
        .first = 1, .count = 2, .bytes = {BYTES, BYTES}, .identity = {identity("s1.img"), identity("s2.img")}};
}

static void refused(const struct config *c, const struct shared_wanted *w, const char *part)
{
    assert_int_equal(shared_check(c, "web", w, &error), -1);
    if (!strstr(error.text, part))
        fail_msg("\"%s\" has no \"%s\"", error.text, part);
}

static void test_refusals(void **state)
{
    (void)state;
    struct config *c = with_disks();
    struct shared_wanted w = wanted();
    assert_int_equal(shared_check(c, "web", &w, &error), 0);
    w.identity[1] = w.identity[0]; /* in the wrong order */
    refused(c, &w, "disk 2 is shared, but");
    w = wanted();
    w.bytes[0] += DISK_BLOCK_SIZE;
    refused(c, &w, "disk 1 is shared and has 69632 bytes at its primary");
    w = wanted();
    w.count = 1;
    refused(c, &w, "has 1 shared disks at its primary, but `shared_disk` of [vm web] at host b names 2");
    w = wanted();
    unlink(at("s2.img"));
    refused(c, &w, "does not exist");
    config_free(c);
}

static void journal_write(struct journal *j, uint64_t epoch, unsigned disk, uint64_t offset, int octet)
{
    uint8_t data[DISK_BLOCK_SIZE], payload[DISK_HEAD_SIZE + sizeof data];
    memset(data, octet, sizeof data);
    size_t n = disk_encode(disk, offset, data, sizeof data, NULL, payload);
    journal_begin(j, epoch);
    assert_int_equal(journal_add(j, payload, n, &error), 0);
    assert_int_equal(journal_end(j, &error), 0);
}

/* Epochs 5 and 6, which overlap. */
static void fill_journal(const struct config *c)
{
    struct journal *j = shared_journal(c, "web", &medium_kernel, &error);
    if (!j)
        fail_msg("%s", error.text);
    journal_write(j, 5, 1, 0, 'a');
    journal_write(j, 6, 1, 2048, 'b');
    journal_write(j, 7, 2, BYTES - DISK_BLOCK_SIZE, 'c');
    assert_int_equal(journal_sync(j, &error), 0);
    journal_close(j);
}

static int octet_at(const char *name, off_t offset)
{
    uint8_t octet;
    int fd = open(at(name), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, &octet, 1, offset), 1);
    close(fd);
    return octet;
}

static void expect_applied(bool applied)
{
    assert_int_equal(octet_at("s1.img", 0), applied ? 'a' : 0);
    assert_int_equal(octet_at("s1.img", 2048), applied ? 'b' : 0);
    assert_int_equal(octet_at("s2.img", BYTES - 1), applied ? 'c' : 0);
    assert_int_equal(octet_at("own.img", 0), 0);
}

static void test_granted(void **state)
{
    (void)state;
    struct config *c = with_disks();
    fill_journal(c);
    assert_int_equal(shared_apply(c, "web", TERM, &medium_kernel, &error), 0);
    expect_applied(false); /* nobody has granted it */
    assert_int_equal(shared_granted(c, "web", TERM, &error), 0);
    assert_int_equal(shared_granted(c, "web", TERM, &error), 0); /* whoever finishes it may not know that it is done */
    assert_int_equal(shared_apply(c, "web", TERM + 1, &medium_kernel, &error), 0);
    expect_applied(false); /* another term: this VM has been elsewhere since */
    assert_int_equal(shared_apply(c, "web", TERM, &medium_kernel, &error), 0);
    expect_applied(true);
    make_file("s1.img", BYTES); /* and only once */
    assert_int_equal(shared_apply(c, "web", TERM, &medium_kernel, &error), 0);
    assert_int_equal(octet_at("s1.img", 0), 0);
    config_free(c);
}

/* ---- a disk that fails ---- */

static int calls_left;

static int failing_write(const struct medium *m, int fd, const void *data, size_t n, uint64_t offset)
{
    if (calls_left-- > 0)
        return medium_kernel.write(m, fd, data, n, offset);
    errno = EIO;
    return -1;
}

static int failing_sync(const struct medium *m, int fd)
{
    if (calls_left-- > 0)
        return medium_kernel.sync(m, fd);
    errno = EIO;
    return -1;
}

static void test_fails_at_each_step(void **state)
{
    (void)state;
    const struct medium failing = {failing_write, medium_kernel.zero, failing_sync};
    struct config *c = with_disks();
    int result = -1;
    for (int step = 0; result; step++) {
        make_files(NULL);
        fill_journal(c);
        assert_int_equal(shared_granted(c, "web", TERM, &error), 0);
        calls_left = step;
        result = shared_apply(c, "web", TERM, &failing, &error);
        assert_true(step < 100);
        assert_int_equal(shared_apply(c, "web", TERM, &medium_kernel, &error), 0);
        expect_applied(true);
    }
    config_free(c);
}

/* The replica is given up; names of other VMs that begin likewise are let be. */
static void test_dropped(void **state)
{
    (void)state;
    struct config *c = with_disks();
    fill_journal(c);
    assert_int_equal(shared_granted(c, "web", 12, &error), 0);
    fill_journal(c); /* the next replica: what was granted then and not applied is of no use any more */
    assert_int_not_equal(access(at("disks/web.shared-12"), F_OK), 0);
    make_file("disks/web.shared-1.json", 0);
    make_file("disks/web.shared-13", 0);
    shared_drop(c, "web");
    assert_int_not_equal(access(at("disks/web.shared"), F_OK), 0);
    assert_int_not_equal(access(at("disks/web.shared-13"), F_OK), 0);
    assert_int_equal(access(at("disks/web.shared-1.json"), F_OK), 0);
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_refusals, make_files),
        cmocka_unit_test_setup(test_granted, make_files),
        cmocka_unit_test_setup(test_fails_at_each_step, make_files),
        cmocka_unit_test_setup(test_dropped, make_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
