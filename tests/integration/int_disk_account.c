/*
 * int_disk_account: both agents, a disk server on each side, a guest made of qemu-io. After an outage only the blocks
 * that were written meanwhile, on either host, are read and sent; whatever was lost, and in whatever order, both disks
 * are equal then. And where nobody can be sure, all is compared.
 *
 *      int_disk_account MIB        only the first test, with a disk of so many MiB: what the account saves
 */
#include "common/jsonget.h"
#include "tests/integration/disk_agents.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BLOCKS_1 = 300, EXTENT_BLOCKS = 1024, BOOT_AT = 32, GENERATION_AT = 16 };

static unsigned blocks_0 = 8192;

#define NOTED "blocks were written since it was equal"

/* ---- hosts ---- */

static struct agents *protect_with_disks(void)
{
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_DISKS});
    disks_make(&t->a, blocks_0, BLOCKS_1);
    disks_make(&t->b, blocks_0, BLOCKS_1);
    for (unsigned i = 0; i < blocks_0; i++)
        disk_put(&t->a, "0.img", i, i);
    agents_protect(t);
    assert_int_equal(host_log_count(&t->a, PRIMARY, NOTED), 0); /* everything was compared */
    return t;
}

static void lose_replica(const struct agents *t)
{
    host_kill((struct host *)(uintptr_t)&t->b);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
}

/* The number in the last line "disk 0: N of M blocks were written .."; -1: there is none. One that took the VM over
 * writes to the log of the agent that it was before. */
static long noted(const struct host *h, const char *agent)
{
    char path[160], line[600];
    long n = -1;
    snprintf(path, sizeof path, "%s/%s.log", h->dir, agent);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        const char *at = strstr(line, "disk 0: ");
        if (at && strstr(at, NOTED))
            n = atol(at + 8);
    }
    fclose(f);
    return n;
}

static void wait_protected_again(struct agents *t)
{
    host_start_both(&t->b);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
}

/* Octets in the account's file of that host, while none of its processes lives. */
static void change_account(const struct host *h, off_t at, uint8_t xor)
{
    char path[160];
    uint8_t octet;
    snprintf(path, sizeof path, "%s/state/disks/web.account", h->dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &octet, 1, at), 1);
    octet ^= xor;
    assert_int_equal(pwrite(fd, &octet, 1, at), 1);
    close(fd);
}

/* Every nth block. */
static unsigned write_every(const struct host *h, unsigned nth, unsigned pattern)
{
    char commands[4000];
    unsigned n = 0;
    size_t used = 0;
    for (unsigned block = nth / 2; block < blocks_0; block += nth, n++) {
        used += (size_t)snprintf(commands + used, sizeof commands - used, "write -q -P %u %uk 4k;", pattern, block * 4);
        if (used > sizeof commands - 400) {
            guest_does(h, commands);
            used = 0;
        }
    }
    if (used)
        guest_does(h, commands);
    return n;
}

/* ---- tests ---- */

static uint64_t octets_read(pid_t pid)
{
    char path[64], line[200];
    unsigned long long n = 0;
    snprintf(path, sizeof path, "/proc/%d/io", (int)pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "rchar: %llu", &n);
    if (f)
        fclose(f);
    return n;
}

struct figures {
    uint64_t read_a, read_b;
    double seconds;
};

static struct figures resync(struct agents *t)
{
    uint64_t before = octets_read(host_worker(&t->a, PRIMARY));
    double began = agents_now();
    host_start_both(&t->b);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    return (struct figures){octets_read(host_worker(&t->a, PRIMARY)) - before,
                            octets_read(host_worker(&t->b, SECONDARY)), agents_now() - began};
}

static void show(const char *what, const struct figures *f)
{
    print_message("%s: read by the primary %.1f MiB, by the secondary %.1f MiB, protected again after %.2f s\n", what,
                  (double)f->read_a / 1048576, (double)f->read_b / 1048576, f->seconds);
}

/* 1 % is written while the replica is away, and the same once more without an account. */
static void only_what_was_written(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    lose_replica(t);
    unsigned n = write_every(&t->a, 100, 0xa1);
    struct figures with = resync(t);
    show("with the account", &with);
    long sent = noted(&t->a, "primary");
    assert_true(sent >= (long)n && sent <= (long)n + 8);
    assert_true(disks_equal(t));
    assert_int_equal(hikae(&t->a, "verify-disk web"), 0);

    lose_replica(t);
    write_every(&t->a, 100, 0xa2);
    change_account(&t->b, GENERATION_AT, 1);
    struct figures without = resync(t);
    show("without", &without);
    assert_int_equal(host_log_count(&t->a, PRIMARY, NOTED), 2); /* of two disks, once: all was compared this time */
    assert_true(disks_equal(t));
    uint64_t all = (uint64_t)blocks_0 * BLOCK;
    assert_true(without.read_a >= all && without.read_b >= all);
    assert_true(with.read_a < all / 10 && with.read_b < all / 10);
    agents_free(t);
}

/* What the replica has durably is forgotten: a second outage does not bring the first one's blocks again. */
static void forgotten_in_time(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    guest_does(&t->a, "write -q -P 1 0 8M");
    guest_does(&t->a, "write -q -P 2 0 4k"); /* until the other host has told that all is durable there */
    for (unsigned i = 0; i < 30; i++) {
        agents_sleep_ms(100);
        guest_does(&t->a, "write -q -P 3 4k 4k");
    }
    lose_replica(t);
    wait_protected_again(t);
    print_message("%ld blocks\n", noted(&t->a, "primary"));
    assert_true(noted(&t->a, "primary") >= 0 && noted(&t->a, "primary") < 2048);
    assert_true(disks_equal(t));
    agents_free(t);
}

/* The primary's host is lost with writes that were never committed; the VM goes on at the other one and writes others.
 */
static struct agents *fail_over_amid_writes(void)
{
    struct agents *t = protect_with_disks();
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP); /* what comes now is acknowledged by nobody */
    write_every(&t->a, 400, 0xb1);
    host_kill(&t->a);
    kill(worker, SIGCONT);
    WAIT_FOR(host_vm_pid(&t->b));
    host_wait_running(&t->b);
    WAIT_FOR(host_state_is(&t->b, PRIMARY, "CONNECTING"));
    write_every(&t->b, 300, 0xb2);
    assert_false(disks_equal(t));
    return t;
}

static void rolled_to_the_new_truth(void **state)
{
    (void)state;
    struct agents *t = fail_over_amid_writes();
    host_start_both(&t->a);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    long n = noted(&t->b, "secondary"), most = blocks_0 / 400 + blocks_0 / 300 + 10;
    print_message("%ld blocks of both hosts\n", n);
    assert_true(n >= (long)(blocks_0 / 400 + blocks_0 / 300) - 10 && n <= most);
    assert_true(disks_equal(t));
    assert_int_equal(hikae(&t->b, "verify-disk web"), 0);
    agents_free(t);
}

/* The same, and its host was started again: its notes may be lost, the extents that it wrote to are not. */
static void after_a_reboot(void **state)
{
    (void)state;
    struct agents *t = fail_over_amid_writes();
    change_account(&t->a, BOOT_AT, 0xff);
    host_start_both(&t->a);
    host_wait_state(&t->b, PRIMARY, "PROTECTED");
    long n = noted(&t->b, "secondary");
    print_message("%ld blocks, extents of %d\n", n, EXTENT_BLOCKS);
    assert_true(n >= EXTENT_BLOCKS);
    assert_true(disks_equal(t));
    agents_free(t);
}

/* Notes that are damaged, missing, or of another generation: everything is compared. */
static void not_to_be_relied_on(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    char path[160];
    for (unsigned round = 0; round < 4; round++) {
        lose_replica(t);
        write_every(&t->a, 500, 0xc0 + round);
        disk_put(&t->b, "0.img", 4000 + round, 99); /* nobody's account has it */
        if (round == 0)
            change_account(&t->b, 0, 1);
        if (round == 1)
            change_account(&t->b, GENERATION_AT + 15, 0x80);
        snprintf(path, sizeof path, "%s/state/disks/web.account", t->b.dir);
        if (round == 2)
            assert_int_equal(unlink(path), 0);
        if (round == 3)
            assert_int_equal(truncate(path, 100), 0);
        wait_protected_again(t);
        assert_int_equal(host_log_count(&t->a, PRIMARY, NOTED), 0);
        assert_true(disks_equal(t));
    }
    lose_replica(t); /* and from there on it is relied on again */
    wait_protected_again(t);
    assert_int_equal(host_log_count(&t->a, PRIMARY, NOTED), 2);
    agents_free(t);
}

/* The worker that has ended the VM may be on its way out still. */
static bool protects(const struct host *h)
{
    struct json_object *reply = host_ask(h, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    bool ok = json_get_bool(reply, "ok", false);
    json_object_put(reply);
    return ok;
}

/* Somebody mounts a disk while the VM is stopped: that is seen, and no account has it. */
static void changed_by_hand(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    pid_t servers[4];
    for (unsigned by_hand = 0; by_hand < 2; by_hand++) {
        guest_does(&t->a, "write -q -P 7 0 40k");
        host_order(&t->a, PRIMARY, "{\"cmd\":\"stop\",\"vm\":\"web\"}");
        WAIT_FOR(!host_worker(&t->a, PRIMARY) && !host_worker(&t->b, SECONDARY));
        WAIT_FOR(!host_processes(&t->a, "hikae-disk.so", servers, 4));
        if (by_hand)
            disk_put(&t->a, "0.img", 5000, 4711);
        WAIT_FOR(protects(&t->a));
        host_wait_state(&t->a, PRIMARY, "PROTECTED");
        assert_int_equal(host_log_count(&t->a, PRIMARY, NOTED), 2); /* the first time, of two disks */
        assert_true(host_log_has(&t->a, PRIMARY, "0.img was changed since the VM ran from it") == by_hand);
        assert_true(disks_equal(t));
    }
    agents_free(t);
}

/* The disk server is killed at any instant of a guest's writing, and started again. */
static void the_server_is_killed(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    pid_t servers[4];
    lose_replica(t);
    for (unsigned round = 0; round < 6; round++) {
        char command[700];
        snprintf(command, sizeof command,
                 "for i in $(seq 1 400); do echo write -q -P $((1 + (i + %u) %% 250)) $(((i * 7919 + %u * 31) %% "
                 "8000 * 4))k 12k; done | qemu-io -t writeback --image-opts driver=nbd,server.type=unix,"
                 "server.path=%s/run/disks/web/nbd.sock,export=0,reconnect-delay=60,open-timeout=30 >/dev/null; echo "
                 "\"exit $?\"",
                 round, round, t->a.dir);
        FILE *f = popen(command, "r");
        agents_sleep_ms(30 + 37 * round);
        if (host_processes(&t->a, "hikae-disk.so", servers, 4) == 1)
            kill(servers[0], SIGKILL);
        assert_int_equal(hikae_end(f), 0);
        wait_protected_again(t);
        assert_true(disks_equal(t));
        lose_replica(t);
    }
    assert_int_equal(host_log_count(&t->a, PRIMARY, NOTED), 12);
    agents_free(t);
}

/* The replica goes again and again, before it is whole or after. */
static void interrupted(void **state)
{
    (void)state;
    struct agents *t = protect_with_disks();
    for (unsigned round = 0; round < 8; round++) {
        host_kill(&t->b);
        write_every(&t->a, 700 + round, 0xd0 + round);
        host_start_both(&t->b);
        agents_sleep_ms(20 + 45 * round);
    }
    lose_replica(t);
    wait_protected_again(t);
    assert_true(disks_equal(t));
    assert_true(host_log_count(&t->a, PRIMARY, NOTED) >= 2);
    assert_int_equal(hikae(&t->a, "verify-disk web"), 0);
    agents_free(t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(only_what_was_written, agents_teardown),
        cmocka_unit_test_teardown(forgotten_in_time, agents_teardown),
        cmocka_unit_test_teardown(rolled_to_the_new_truth, agents_teardown),
        cmocka_unit_test_teardown(after_a_reboot, agents_teardown),
        cmocka_unit_test_teardown(not_to_be_relied_on, agents_teardown),
        cmocka_unit_test_teardown(changed_by_hand, agents_teardown),
        cmocka_unit_test_teardown(the_server_is_killed, agents_teardown),
        cmocka_unit_test_teardown(interrupted, agents_teardown),
    };
    agents_enter_sandbox();
    if (argc > 1) {
        blocks_0 = (unsigned)atoi(argv[1]) * 256;
        cmocka_set_test_filter("only_what_was_written");
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
