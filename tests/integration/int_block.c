/* int_block: hikae-block, as the hotplug script calls it: who gets a VM's disks, and when their server ends. What the
 * kernel does then needs its module nbd: tests/xenlab. Here it is refused at the latest there. */
#include "common/file.h"
#include "common/state.h"
#include "disk/journal.h"
#include "proto/disk.h"
#include "tests/integration/disk_harness.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, TERM = 7 };

static struct lab lab;
static char program[256];

static void in_folder(char out[128], const char *name)
{
    snprintf(out, 128, "%s/%s", lab.dir, name);
}

/* The VM has two disks; the second one is named by this key. */
static int setup_with(const char *backend, const char *key)
{
    char path[128], text[1024];
    lab_make(&lab, 2, 4 * MIB);
    snprintf(lab.run, sizeof lab.run, "%s/r/disks/web", lab.dir); /* where the VM's server is */
    in_folder(path, "hikae.conf");
    snprintf(text, sizeof text,
             "[host]\nname = a\nlisten = 127.0.0.1\nrun_dir = %s/r\nstate_dir = %s/s\narbiter = none\n"
             "[vm web]\nbackend = %s\ndisk = %s%s %s\n",
             lab.dir, lab.dir, backend, lab.disk[0], key, lab.disk[1]);
    MUST(file_write_atomic(path, text, strlen(text), 0600, &error));
    return setenv("HIKAE_CONFIG", path, 1);
}

static int setup(void **state)
{
    (void)state;
    return setup_with("xen", "");
}

static int setup_shared(void **state)
{
    (void)state;
    return setup_with("xen", "\nshared_disk =");
}

static int setup_qemu(void **state)
{
    (void)state;
    return setup_with("qemu\nqmp = /run/web.qmp", "");
}

static int teardown(void **state)
{
    (void)state;
    lab_remove(&lab);
    return 0;
}

static const char *run_block(const char *const *command)
{
    static char text[4096];
    char said[128];
    in_folder(said, "block.said");
    int status = run_wait(run_begin(NULL, said, command));
    FILE *f = fopen(said, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    if (status == 127)
        fail_msg("%s can't be run", program);
    return text;
}

static const char *block(const char *what, const char *target, const char *domain)
{
    return run_block((const char *const[]){program, what, target, "7", domain, NULL});
}

static const char *block_qemu(const char *what)
{
    return run_block((const char *const[]){program, what, "web", NULL});
}

static void refused(const char *target, const char *domain, const char *because)
{
    const char *said = block("connect", target, domain);
    if (!strstr(said, because))
        fail_msg("%s for %s: %s", target, domain, said);
}

static bool is_served(void)
{
    struct disk_client *c = disk_connect(lab.run, &error);
    disk_disconnect(c);
    return c;
}

static void note_role_of(const char *role, const char *boot)
{
    char state_dir[128];
    struct vm_record r = {.name = "web", .backend = "xen", .peer = "b", .term = TERM};
    in_folder(state_dir, "s");
    snprintf(r.role, sizeof r.role, "%s", role);
    snprintf(r.boot, sizeof r.boot, "%s", boot);
    MUST(vm_record_save(state_dir, &r, &error));
}

static void note_role(const char *role)
{
    note_role_of(role, "");
}

static void test_words(void **state)
{
    (void)state;
    refused("../web", "web", "write the VM's name");
    refused("web:8", "web", "0 to 7");
    refused("web:2", "web", "has 2 disks on this host, there is no disk 2");
    refused("other", "other", "has 0 disks");
    assert_false(is_served());
    assert_non_null(strstr(block("serve", "web", "web"), "connect|disconnect"));
}

/* Its disks are a replica's, or older than what went on elsewhere. */
static void test_roles(void **state)
{
    (void)state;
    note_role("standby");
    refused("web", "web", "hikae failover web");
    note_role("lost");
    refused("web", "web", "went on at b");
    note_role("moved");
    refused("web", "web", "went on at b");
    note_role_of("running", "00000000-0000-0000-0000-000000000000");
    refused("web", "web", "was rebooted");
    assert_false(is_served());
    note_role("standby");
    refused("web", "web--hikae", "No such file"); /* its agent does not serve them */
    assert_false(is_served());
}

/* The server is there as soon as a domain wants a disk; only its agent, or the last domain's end, ends it. */
static void test_server(void **state)
{
    (void)state;
    char path[128];
    note_role("running");
    block("connect", "web:1", "web");
    assert_true(is_served());
    block("disconnect", "web:1", "web--hikae");
    assert_true(is_served());
    in_folder(path, "r/vms");
    MUST(dir_make(path, 0700, &error));
    in_folder(path, "r/vms/web.lock");
    int agent = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(agent, LOCK_EX), 0);
    block("disconnect", "web:1", "web");
    assert_true(is_served());
    close(agent);
    assert_string_equal(block("disconnect", "web:1", "web"), "");
    assert_false(is_served());
}

/* What was committed, was granted to this host with that term, and was not brought to the disk. */
static void leave_journal(uint64_t term, int octet)
{
    char path[128], name[32];
    uint8_t data[DISK_BLOCK_SIZE], payload[DISK_HEAD_SIZE + sizeof data];
    snprintf(name, sizeof name, "s/disks/web.shared-%u", (unsigned)term);
    in_folder(path, "s/disks");
    MUST(dir_make(path, 0700, &error));
    in_folder(path, name);
    struct journal *j = journal_open(path, &medium_kernel, 0, &error);
    assert_non_null(j);
    memset(data, octet, sizeof data);
    size_t n = disk_encode(1, 0, data, sizeof data, NULL, payload);
    journal_begin(j, 1);
    MUST(journal_add(j, payload, n, &error));
    MUST(journal_end(j, &error));
    MUST(journal_sync(j, &error));
    journal_close(j);
}

static void test_shared(void **state)
{
    (void)state;
    note_role("running");
    leave_journal(TERM, 0xab);
    block("connect", "web:1", "web");
    struct disk_client *c = disk_connect(lab.run, &error);
    assert_non_null(c);
    assert_int_equal(disk_count(c), 2);
    assert_int_equal(disk_shared(c), 1);
    disk_disconnect(c);
    uint8_t *store = lab_store(&lab, 1, DISK_BLOCK_SIZE);
    assert_int_equal(store[0], 0xab);
    free(store);
    refused("web:2", "web", "`shared_disk = `");
    assert_string_equal(block("disconnect", "web:1", "web"), "");
    leave_journal(TERM - 1, 0xcd); /* others had the VM since */
    block("connect", "web:1", "web");
    store = lab_store(&lab, 1, DISK_BLOCK_SIZE);
    assert_int_equal(store[0], 0xab);
    free(store);
    /* It dies with what it holds: no other one may serve what is older. */
    MUST(disk_server_note_holding(lab.run, true, &error));
    kill(lab_server(&lab), SIGKILL);
    for (int waited = 0; !disk_server_has_lost_writes(lab.run) && waited < 5000; waited++)
        usleep(1000);
    refused("web:1", "web", "were not let out");
    assert_false(is_served());
}

/* For a QEMU that somebody starts: until its end, or its agent's word. */
static void test_qemu(void **state)
{
    (void)state;
    char path[128];
    note_role("standby");
    assert_non_null(strstr(block_qemu("serve"), "hikae failover web"));
    assert_false(is_served());
    note_role("running");
    const char *said = block_qemu("serve");
    assert_true(is_served());
    assert_non_null(strstr(said, "-drive if=none,id=hikae-still,"));
    assert_non_null(strstr(said, "export=1,"));
    assert_non_null(strstr(said, "-device virtio-blk-pci,drive=hikae-disk1,"));
    assert_null(strstr(said, "hikae-disk2"));
    assert_non_null(strstr(said, lab.run));
    in_folder(path, "r/vms");
    MUST(dir_make(path, 0700, &error));
    in_folder(path, "r/vms/web.lock");
    int agent = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(agent, LOCK_EX), 0);
    assert_non_null(strstr(block_qemu("serve"), "an agent looks after it"));
    assert_non_null(strstr(block_qemu("end"), "ends the server with it"));
    close(agent);
    MUST(disk_server_note_holding(lab.run, true, &error));
    assert_non_null(strstr(block_qemu("end"), "holds writes"));
    assert_true(is_served());
    MUST(disk_server_note_holding(lab.run, false, &error));
    assert_string_equal(block_qemu("end"), "");
    assert_false(is_served());
    assert_non_null(strstr(block_qemu("end"), "was started by hand"));
    lab_start(&lab); /* a replica's */
    assert_non_null(strstr(block_qemu("end"), "was started by hand"));
    assert_true(is_served());
}

int main(int argc, char **argv)
{
    (void)argc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_words, setup, teardown),
        cmocka_unit_test_setup_teardown(test_roles, setup, teardown),
        cmocka_unit_test_setup_teardown(test_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared, setup_shared, teardown),
        cmocka_unit_test_setup_teardown(test_qemu, setup_qemu, teardown),
    };
    char *slash = strrchr(argv[0], '/');
    snprintf(program, sizeof program, "%.*s/hikae-block", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
