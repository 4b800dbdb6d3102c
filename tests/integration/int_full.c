/*
 * int_full: disks and run directories that are full. The connection ends with a reason that names the remedy, the VM
 * goes on alone, and protection comes back when there is room.
 */
#include "common/file.h"
#include "tests/integration/agents.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* 32 MB that all change between two checkpoints, of which 1 MB is staged in memory. */
#define BUSY "pages = 8192\nrate = 60000\nmode = periodic\ninterval = 300\n"

static void mount_small(const struct host *h, const char *name, const char *size)
{
    char path[128], options[32];
    struct errmsg e;
    snprintf(path, sizeof path, "%s/%s", h->dir, name);
    snprintf(options, sizeof options, "size=%s", size);
    assert_int_equal(dir_make(path, 0700, &e), 0);
    assert_int_equal(mount("tmpfs", path, "tmpfs", 0, options), 0);
}

static void unmount(const struct host *h, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", h->dir, name);
    umount2(path, MNT_DETACH);
}

/* Takes all that is free there. */
static void fill(const struct host *h, const char *name)
{
    static const char zeroes[4096];
    char path[160];
    snprintf(path, sizeof path, "%s/%s/filler", h->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, zeroes, sizeof zeroes) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static void make_room(const struct host *h, const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s/filler", h->dir, name);
    assert_int_equal(unlink(path), 0);
}

static void spool_is_full(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = BUSY});
    char host[160];
    snprintf(host, sizeof host, "staging = 1M\nspool_dir = %s/spool\nrestart_grace = 5s\n", t->b.dir);
    agents_write_config(t, &(struct agents_options){.host = host, .vm = BUSY});
    mount_small(&t->b, "spool", "256k");
    agents_protect(t);
    host_wait_log(&t->b, SECONDARY, "takes no more");
    host_wait_log(&t->a, PRIMARY, "an epoch is larger than `staging`");
    host_wait_running(&t->a);
    assert_int_equal(agents_running(t), 1);
    assert_int_equal(host_vm_pid(&t->b), 0);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"set\",\"vm\":\"web\",\"interval_ms\":5}");
    host_check_memory(&t->a);
    unmount(&t->b, "spool");
    agents_free(t);
}

/* A spool that is large enough: what went through a file is as good as what was kept in memory. */
static void spool_is_used(void **state)
{
    (void)state;
    struct agents *t =
        agents_new(&(struct agents_options){.vm = BUSY, .host = "staging = 1M\nrestart_grace = 100ms\n"});
    agents_protect(t);
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch + 3);
    WAIT_FOR(host_number(&t->a, PRIMARY, "dirty_pages") > 1000);
    host_kill(&t->a);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    agents_free(t);
}

static void run_dir_is_full(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 512\n"});
    mount_small(&t->b, "run", "4m");
    host_start_both(&t->a);
    host_start_both(&t->b);
    fill(&t->b, "run");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_reason(&t->a, PRIMARY, "No space left");
    host_wait_log(&t->b, SECONDARY, "No space left");
    assert_true(host_state_is(&t->a, PRIMARY, "CONNECTING"));
    host_wait_running(&t->a);
    make_room(&t->b, "run");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_kill(&t->a);
    host_wait_running(&t->b);
    host_kill(&t->b);
    unmount(&t->b, "run");
    agents_free(t);
}

/* What must be written to survive a crash can't be: the replica is refused, rather than lost later. */
static void state_dir_is_full(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 512\n"});
    mount_small(&t->b, "state", "64k");
    host_start_both(&t->a);
    host_start_both(&t->b);
    fill(&t->b, "state");
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_reason(&t->a, PRIMARY, "No space left");
    host_wait_running(&t->a);
    make_room(&t->b, "state");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    host_kill(&t->b);
    unmount(&t->b, "state");
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(spool_is_full, agents_teardown),
        cmocka_unit_test_teardown(spool_is_used, agents_teardown),
        cmocka_unit_test_teardown(run_dir_is_full, agents_teardown),
        cmocka_unit_test_teardown(state_dir_is_full, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
