/*
 * int_resync: a replica that is made anew where one was, or where the VM ran, begins with what was kept of that memory:
 * only what differs is sent, and it is equal to the guest whatever was kept. The guest itself checks that, after a
 * failover: each page that it visits must hold what it wrote there last.
 */
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { VISITS = 10, FULL_PAGES = 1800, FEW = 20, MANY = 10000 };

/* Rates are those that a VM is made with; a test may change that of one that runs. */
#define LARGE "pages = 2048\nrate = 20\n"
/* Visits each page several times a second. */
#define BUSY "pages = 256\nrate = 4000\n"

static void path_of(char out[200], const struct host *h, const char *name)
{
    snprintf(out, 200, "%s/run/vms/%s", h->dir, name);
}

static bool has_remains(const struct host *h)
{
    char path[200];
    struct stat s;
    path_of(path, h, "web.remains");
    return lstat(path, &s) == 0;
}

/* Memory files of that host, kept or in use. */
static unsigned memory_files(const struct host *h)
{
    char command[300], line[32] = "";
    snprintf(command, sizeof command, "ls -d %s/run/vms/*/ram %s/run/vms/*.ram.* 2>/dev/null | wc -l", h->dir, h->dir);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    pclose(f);
    return (unsigned)atoi(line);
}

static bool sent_differences(const struct host *h)
{
    struct json_object *j = host_status(h, PRIMARY);
    bool differences = json_get_bool(j, "sync_differences", false);
    json_object_put(j);
    return differences;
}

/* Pages that the guest writes per second from now on. */
static void set_rate(const struct host *h, uint32_t rate)
{
    char dirs[8][160], path[200];
    struct machine *m;
    assert_int_equal(host_machines(h, false, &m, dirs, 8), 1);
    machine_unmap(m);
    snprintf(path, sizeof path, "%s/control", dirs[0]);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &rate, sizeof rate, offsetof(struct machine, rate)), sizeof rate);
    close(fd);
}

/* The guest has visited each page several times since it came to run at `h`. */
static void check_every_page(const struct host *h)
{
    set_rate(h, MANY);
    struct machine *m = host_vm(h);
    uint64_t enough = m->checked + VISITS * (uint64_t)m->pages;
    WAIT_FOR(m->checked > enough);
    assert_int_equal(m->errors, 0);
    machine_unmap(m);
}

static void fail_over(struct host *to)
{
    host_order(to, SECONDARY, "{\"cmd\":\"failover\",\"vm\":\"web\"}");
    host_wait_running(to);
}

/* Until most pages hold something, in the replica too; from then on few are written. */
static void wait_written(const struct agents *t)
{
    set_rate(&t->a, MANY);
    struct machine *m = host_vm(&t->a);
    WAIT_FOR(m->step > 3 * (uint64_t)m->pages);
    machine_unmap(m);
    set_rate(&t->a, FEW);
    uint64_t epoch = host_number(&t->b, SECONDARY, "epoch");
    WAIT_FOR(host_number(&t->b, SECONDARY, "epoch") > epoch + 3);
}

static void wait_protected_anew(const struct agents *t, uint64_t term)
{
    WAIT_FOR(host_number(&t->a, PRIMARY, "term") > term && host_state_is(&t->a, PRIMARY, "PROTECTED"));
}

/* ---- what is sent ---- */

static void only_differences_after_a_reset(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = LARGE});
    agents_protect(t);
    wait_written(t);
    assert_false(sent_differences(&t->a));
    for (int i = 0; i < 3; i++) {
        uint64_t term = host_number(&t->a, PRIMARY, "term");
        kill(host_worker(&t->b, SECONDARY), SIGKILL);
        wait_protected_anew(t, term);
        assert_true(sent_differences(&t->a));
        assert_true(host_number(&t->a, PRIMARY, "sync_total") >= FULL_PAGES);
        assert_true(host_number(&t->a, PRIMARY, "sync_sent") < FULL_PAGES / 4);
        assert_true(host_number(&t->a, PRIMARY, "sync_bytes") > 0);
        assert_true(host_number(&t->a, PRIMARY, "sync_memory_bytes") >= FULL_PAGES * 4096);
        assert_false(has_remains(&t->b));
        assert_int_equal(memory_files(&t->b), 1);
    }
    fail_over(&t->b);
    check_every_page(&t->b);
    agents_free(t);
}

/* The primary's worker: its replica is dropped for the new connection. */
static void only_differences_for_a_new_worker(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.host = "detect = 2s\nrestart_grace = 2s", .vm = LARGE});
    agents_protect(t);
    wait_written(t);
    uint64_t term = host_number(&t->a, PRIMARY, "term");
    kill(host_worker(&t->a, PRIMARY), SIGKILL);
    wait_protected_anew(t, term);
    assert_true(sent_differences(&t->a));
    assert_true(host_number(&t->a, PRIMARY, "sync_sent") < FULL_PAGES / 4);
    assert_int_equal(memory_files(&t->b), 1);
    fail_over(&t->b);
    check_every_page(&t->b);
    agents_free(t);
}

/* Roles change: what the loser kept of the VM is what its replica begins with. */
static void only_differences_to_the_old_primary(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = LARGE});
    agents_protect(t);
    wait_written(t);
    fail_over(&t->b);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    assert_true(sent_differences(&t->b));
    assert_true(host_number(&t->b, PRIMARY, "sync_sent") < FULL_PAGES / 4);
    assert_false(has_remains(&t->a));
    assert_int_equal(memory_files(&t->a), 1);
    fail_over(&t->a);
    check_every_page(&t->a);
    agents_free(t);
}

/* ---- what is kept may be anything ---- */

/* Of a replica that nobody serves any more. */
static void damage_memory(const struct host *h, bool cut)
{
    char dirs[8][160], path[200];
    struct machine *m;
    assert_int_equal(host_machines(h, true, &m, dirs, 8), 1);
    uint64_t bytes = (uint64_t)m->pages * MACHINE_PAGE;
    machine_unmap(m);
    snprintf(path, sizeof path, "%s/ram", dirs[0]);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    for (uint64_t at = 100; !cut && at < bytes; at += 5 * MACHINE_PAGE) {
        uint8_t octet;
        assert_int_equal(pread(fd, &octet, 1, (off_t)at), 1);
        octet ^= 0x10;
        assert_int_equal(pwrite(fd, &octet, 1, (off_t)at), 1);
    }
    if (cut)
        assert_int_equal(ftruncate(fd, (off_t)bytes - 4 * MACHINE_PAGE), 0);
    close(fd);
}

static void memory_is_damaged(bool cut)
{
    struct agents *t = agents_new(&(struct agents_options){.vm = BUSY});
    agents_protect(t);
    wait_written(t);
    host_kill_agent(&t->b, SECONDARY);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    damage_memory(&t->b, cut);
    host_start(&t->b, SECONDARY);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_int_equal(sent_differences(&t->a), !cut);
    assert_false(has_remains(&t->b));
    assert_int_equal(memory_files(&t->b), 1);
    host_kill(&t->a);
    host_wait_running(&t->b);
    check_every_page(&t->b);
    agents_free(t);
}

static void flipped_bits_do_not_matter(void **state)
{
    (void)state;
    memory_is_damaged(false);
}

static void another_size_is_not_used(void **state)
{
    (void)state;
    memory_is_damaged(true);
}

/* ---- when nothing is kept ---- */

static void nothing_is_kept_of_what_is_over(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = BUSY});
    agents_protect(t);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"unprotect\",\"vm\":\"web\"}");
    WAIT_FOR(!host_replica_pid(&t->b) && memory_files(&t->b) == 0);
    assert_false(has_remains(&t->b));
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    assert_false(sent_differences(&t->a));
    host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
    WAIT_FOR(memory_files(&t->a) == 0 && memory_files(&t->b) == 0);
    assert_false(has_remains(&t->a) || has_remains(&t->b));
    agents_free(t);
}

static void nothing_is_kept_if_the_admin_says_so(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.host = "keep_memory = 0", .vm = BUSY});
    agents_protect(t);
    uint64_t term = host_number(&t->a, PRIMARY, "term");
    kill(host_worker(&t->b, SECONDARY), SIGKILL);
    wait_protected_anew(t, term);
    assert_false(sent_differences(&t->a));
    agents_free(t);
}

/* By an agent that was not there when it was kept. */
static void what_nobody_wants_expires(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.host = "keep_memory = 1s", .vm = BUSY});
    agents_protect(t);
    host_kill_agent(&t->b, SECONDARY);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    host_kill(&t->a);
    host_start(&t->b, SECONDARY);
    host_wait_log(&t->b, SECONDARY, "is cleaned up");
    WAIT_FOR(!has_remains(&t->b) && memory_files(&t->b) == 0);
    agents_free(t);
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(only_differences_after_a_reset),
        ONE(only_differences_for_a_new_worker),
        ONE(only_differences_to_the_old_primary),
        ONE(flipped_bits_do_not_matter),
        ONE(another_size_is_not_used),
        ONE(nothing_is_kept_of_what_is_over),
        ONE(what_nobody_wants_expires),
        ONE(nothing_is_kept_if_the_admin_says_so),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
