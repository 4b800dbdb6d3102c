/*
 * int_disk_faults: a disk server whose store is slow, fails or is full, by strace's injections into the real system
 * calls and by real full and read-only devices; and in what order it calls the store.
 */
#include "common/file.h"
#include "common/module.h"
#include "disk/owing.h"
#include "tests/integration/disk_harness.h"
#include "vm/qemu/template.h"
#include "vm/qmp/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, BYTES = 4 * MIB };

static struct lab lab;
static pid_t tracer; /* strace; 0: none */

static int teardown(void **state)
{
    (void)state;
    lab_remove(&lab);
    if (tracer)
        run_wait(tracer);
    tracer = 0;
    return 0;
}

/* ---- a server under strace ---- */

static struct disk_client *start_traced(const char *inject)
{
    char module[PATH_MAX], socket[128], trace[128], dir[128], disk[128];
    MUST(dir_make(lab.run, 0700, &error));
    assert_int_equal(module_path("hikae-disk.so", module, sizeof module), 0);
    snprintf(socket, sizeof socket, "%s/nbd.sock", lab.run);
    snprintf(trace, sizeof trace, "%s/trace", lab.dir);
    snprintf(dir, sizeof dir, "dir=%s", lab.run);
    snprintf(disk, sizeof disk, "disk=%s", lab.disk[0]);
    const char *const command[] = {"strace",
                                   "-f",
                                   "--seccomp-bpf",
                                   "-o",
                                   trace,
                                   "-e",
                                   "trace=pwrite64,fdatasync",
                                   "-e",
                                   inject ? inject : "signal=none",
                                   "nbdkit",
                                   "-f",
                                   "-U",
                                   socket,
                                   module,
                                   dir,
                                   disk,
                                   NULL};
    tracer = run_begin(NULL, NULL, command);
    for (struct disk_client *c; !run_ends_within(tracer, 20);)
        if ((c = disk_connect(lab.run, &error)))
            return c;
    tracer = run_wait(tracer);
    if (tracer == 127)
        print_message("strace is not installed\n");
    tracer = 0;
    skip();
    return NULL;
}

/* Starts one whose system calls are noted, and changed as `inject` says (NULL: not at all). */
static struct disk_client *begin_traced(const char *inject)
{
    lab_make(&lab, 1, BYTES);
    return start_traced(inject);
}

/* What it called so far: 'w' a pwrite that began and 'W' that ended, 's' and 'S' for fdatasync. */
static const char *calls(void)
{
    static char said[256];
    char path[128], line[512], *at = said;
    snprintf(path, sizeof path, "%s/trace", lab.dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && at < said + sizeof said - 3) {
        bool write = strstr(line, "pwrite64"), sync = strstr(line, "fdatasync");
        if ((write || sync) && !strstr(line, "resumed>"))
            *at++ = write ? 'w' : 's';
        if ((write || sync) && !strstr(line, "<unfinished"))
            *at++ = write ? 'W' : 'S';
    }
    *at = '\0';
    fclose(f);
    return said;
}

static unsigned wait_for(struct disk_client *c, unsigned event)
{
    struct pollfd p = {.fd = disk_fd(c), .events = POLLIN};
    unsigned events = 0;
    while (!(events & event) && poll(&p, 1, 30000) == 1)
        events |= disk_events(c);
    return events & event;
}

static void expect(struct disk_client *c, enum disk_kind kind, uint64_t offset, uint64_t length, int error_number)
{
    struct disk_write w;
    assert_int_equal(disk_next(c, UINT64_MAX, &w), 1);
    assert_int_equal(w.kind, kind);
    assert_int_equal(w.error, error_number);
    assert_int_equal(w.offset, offset);
    assert_int_equal(w.length, length);
}

/* A flush, and a write with FUA, is answered when the store has synced: also while somebody tracks. */
static void test_flush_syncs(void **state)
{
    (void)state;
    static const char script[] =
        "write 0 4k\nflush\nwrite 8k 4k\nwrite 16k 4k\nflush\nwrite -f 0 4k\nwrite 4k 4k\nflush\n";
    struct disk_client *c = begin_traced(NULL);
    MUST(disk_track(c, true, &error));
    assert_int_equal(guest(&lab, 0, script), 0);
    MUST(disk_server_stop(lab.run, &error));
    assert_memory_equal(calls(), "wWsSwWwWsSwWsSwWsS", 18);
    disk_disconnect(c);
}

/* A flush during a pause is answered at once. It is done all the same, and before what comes after it. */
static void test_owed_flush(void **state)
{
    (void)state;
    struct disk_client *c = begin_traced("inject=fdatasync:delay_enter=3000000");
    MUST(disk_track(c, true, &error));
    disk_set_pausing(c, true);
    disk_set_urgent(c);
    assert_false(disk_owes_flush(c));
    pid_t vm = guest_begin(&lab, 0, "write -P 1 0 4k\nflush\nread -P 1 0 4k\nwrite -P 2 8k 4k\nread -P 2 8k 4k\n");
    while (!strstr(guest_said(&lab, 0), "read 4096")) /* so the flush was answered */
        assert_false(run_ends_within(vm, 5));
    assert_true(disk_owes_flush(c));
    uint64_t mark = disk_mark(c);
    assert_false(run_ends_within(vm, 200));
    assert_int_equal(disk_mark(c), mark); /* the second write waits */
    assert_true(wait_for(c, DISK_EVENT_FLUSHED));
    assert_int_equal(run_wait(vm), 0);
    expect(c, DISK_DATA, 0, 4096, 0);
    expect(c, DISK_DATA, 8192, 4096, 0);
    assert_memory_equal(calls(), "wWsSwW", 6);
    disk_disconnect(c);
}

/* It dies before that: the next one does it before all else, and whoever must know sees that it is owed. */
static void test_dies_owing(void **state)
{
    (void)state;
    char socket[128];
    struct disk_client *c = begin_traced("inject=fdatasync:delay_enter=3000000");
    MUST(disk_track(c, true, &error));
    disk_set_pausing(c, true);
    disk_set_urgent(c);
    pid_t vm = guest_begin(&lab, 0, "write -P 1 0 4k\nflush\nread -P 1 0 4k\nwrite -P 2 8k 4k\n");
    while (!strstr(guest_said(&lab, 0), "read 4096"))
        assert_false(run_ends_within(vm, 5));
    assert_true(owing_is_noted(lab.run));
    kill(lab_server(&lab), SIGKILL);
    run_wait(tracer);
    run_wait(vm);
    disk_disconnect(c);
    assert_true(owing_is_noted(lab.run));
    snprintf(socket, sizeof socket, "%s/nbd.sock", lab.run);
    unlink(socket);
    c = start_traced("inject=fdatasync:delay_enter=3000000");
    assert_true(owing_is_noted(lab.run));
    assert_int_equal(guest(&lab, 0, "read -P 1 0 4k\nwrite -P 3 8k 4k\n"), 0); /* qemu-io flushes as it ends */
    assert_false(owing_is_noted(lab.run));
    assert_memory_equal(calls(), "sSwWsS", 6);
    disk_disconnect(c);
}

/* One that is under way as the pause begins is answered as soon as the VM's processors stand still, long before it is
 * done. What they have begun does not wait for it. */
static void test_flush_under_way(void **state)
{
    (void)state;
    struct disk_client *c = begin_traced("inject=fdatasync:delay_enter=3000000");
    MUST(disk_track(c, true, &error));
    pid_t vm = guest_begin(&lab, 0, "write -P 1 0 4k\nflush\nread -P 1 0 4k\n");
    assert_false(run_ends_within(vm, 1000)); /* it waits for its flush */
    expect(c, DISK_DATA, 0, 4096, 0);
    assert_false(disk_owes_flush(c));
    disk_set_pausing(c, true);
    disk_set_stopped(c);
    assert_int_equal(run_wait(vm), 0);
    assert_int_equal(guest(&lab, 0, "write -P 2 8k 4k\nwrite -z 16k 4k\n"), 0);
    expect(c, DISK_DATA, 8192, 4096, 0);
    assert_true(disk_owes_flush(c));
    assert_true(wait_for(c, DISK_EVENT_FLUSHED));
    assert_memory_equal(calls(), "wWswW", 5);
    disk_disconnect(c);
}

/* ---- QEMU's own flushes ---- */

/* A QEMU with the lab's disk, as vm/qemu starts them; without `still` it lacks the drive that tells what is its own. */
static pid_t begin_qemu(const char *qmp, bool still)
{
    char socket[128], ram[128], said[128];
    struct template t = {.memory = 64 * MIB, .ram_id = "ram0", .program = "qemu-system-x86_64", .disk_count = 1};
    struct template_paths p = {.name = "lab", .program = t.program, .run_dir = lab.run, .ram = ram, .qmp = qmp};
    struct words command = {0};
    static const char *const args[] = {"-machine", "pc,accel=tcg,memory-backend=ram0", "-nodefaults", "-vga", "none",
                                       "-device",  "virtio-blk-pci,drive=hikae-disk0"};
    for (size_t i = 0; i < sizeof args / sizeof *args; i++)
        words_add(&t.args, "%s", args[i]);
    snprintf(socket, sizeof socket, "%s/nbd.sock", lab.run);
    snprintf(ram, sizeof ram, "%s/ram", lab.dir);
    snprintf(said, sizeof said, "%s/qemu", lab.dir);
    p.disk_socket[0] = socket;
    p.disk_export[0] = "0";
    MUST(template_command(&t, &p, false, &command, &error));
    for (size_t i = 0; !still && command.at[i]; i++)
        if (strcmp(command.at[i], "-drive") == 0) { /* two words that say nothing in their place */
            snprintf(command.at[i], strlen(command.at[i]) + 1, "-m");
            snprintf(command.at[i + 1], strlen(command.at[i + 1]) + 1, "64");
        }
    pid_t pid = run_begin(NULL, said, (const char *const *)command.at);
    words_free(&command);
    words_free(&t.args);
    return pid;
}

/* Starts a VM, stops it, as a checkpoint does, and saves its state, which stops it once more. Its flushes are answered
 * while a pause is announced. */
static void pause_qemu(struct disk_client *c, bool still)
{
    char path[128], state[160];
    struct qmp q = {.fd = -1};
    int64_t deadline = qmp_now_ms() + 60000;
    int reason;
    snprintf(path, sizeof path, "%s/qmp", lab.dir);
    snprintf(state, sizeof state, "{\"filename\":\"%.100s/state\"}", lab.dir);
    pid_t pid = begin_qemu(path, still);
    while (qmp_open(&q, path, deadline, &reason, &error) < 0)
        if (run_ends_within(pid, 20))
            fail_msg("QEMU has ended: %s", error.text);
    MUST(qmp_call(&q, "cont", NULL, NULL, deadline, &error));
    disk_set_pausing(c, true);
    disk_set_urgent(c);
    MUST(qmp_call(&q, "stop", NULL, NULL, deadline, &error));
    MUST(qmp_call(&q, "xen-save-devices-state", state, NULL, deadline, &error));
    kill(pid, SIGKILL); /* its end flushes as well */
    run_wait(pid);
    qmp_close(&q);
}

/* What QEMU flushes because it stops is not done, and nothing waits for it. */
static void test_qemus_flush(void **state)
{
    (void)state;
    struct disk_client *c = begin_traced(NULL);
    MUST(disk_track(c, true, &error));
    pause_qemu(c, true);
    assert_false(disk_owes_flush(c));
    assert_string_equal(calls(), "");
    /* The next pause is another one: what is flushed in it may be the guest's. */
    disk_set_pausing(c, false);
    disk_set_pausing(c, true);
    disk_set_urgent(c);
    assert_int_equal(guest(&lab, 0, "write 0 4k\nflush\n"), 0);
    assert_true(wait_for(c, DISK_EVENT_FLUSHED));
    assert_memory_equal(calls(), "wWsS", 4);
    disk_disconnect(c);
}

/* Without the drive that tells of it the server does not know, and does it. */
static void test_unknown_flush(void **state)
{
    (void)state;
    struct disk_client *c = begin_traced(NULL);
    MUST(disk_track(c, true, &error));
    pause_qemu(c, false);
    assert_true(wait_for(c, DISK_EVENT_FLUSHED));
    assert_memory_equal(calls(), "sS", 2);
    disk_disconnect(c);
}

/* ---- a store that fails ---- */

static void test_write_error(void **state)
{
    (void)state;
    struct disk_write none;
    struct disk_client *c = begin_traced("inject=pwrite64:error=EIO");
    MUST(disk_track(c, true, &error));
    assert_int_not_equal(guest(&lab, 0, "write 12k 4k\n"), 0);
    assert_non_null(strstr(guest_said(&lab, 0), "Input/output error"));
    assert_true(wait_for(c, DISK_EVENT_ERROR));
    expect(c, DISK_ERROR, 12288, 4096, EIO);
    assert_int_equal(disk_next(c, UINT64_MAX, &none), 0);
    disk_disconnect(c);
}

static void test_flush_error(void **state)
{
    (void)state;
    struct disk_client *c = begin_traced("inject=fdatasync:error=EIO");
    MUST(disk_track(c, true, &error));
    assert_int_not_equal(guest(&lab, 0, "write 0 4k\nflush\n"), 0);
    assert_true(wait_for(c, DISK_EVENT_ERROR));
    expect(c, DISK_DATA, 0, 4096, 0);
    expect(c, DISK_ERROR, 0, 0, EIO);
    disk_disconnect(c);
}

/* It was answered as well; the next flush says what became of it. */
static void test_owed_flush_error(void **state)
{
    (void)state;
    struct disk_client *c = begin_traced("inject=fdatasync:error=EIO");
    MUST(disk_track(c, true, &error));
    disk_set_pausing(c, true);
    disk_set_urgent(c);
    assert_int_equal(guest(&lab, 0, "write 0 4k\nflush\n"), 0);
    assert_true(wait_for(c, DISK_EVENT_ERROR));
    expect(c, DISK_DATA, 0, 4096, 0);
    expect(c, DISK_ERROR, 0, 0, EIO);
    disk_set_pausing(c, false);
    assert_int_not_equal(guest(&lab, 0, "write 0 4k\nflush\n"), 0);
    disk_disconnect(c);
}

/* A real one: a file larger than its file system. */
static void test_full(void **state)
{
    (void)state;
    char folder[128];
    lab_make(&lab, 1, BYTES);
    snprintf(folder, sizeof folder, "%s/small", lab.dir);
    MUST(dir_make(folder, 0700, &error));
    if (mount("small", folder, "tmpfs", 0, "size=1M") < 0)
        skip();
    snprintf(lab.disk[0], sizeof lab.disk[0], "%.80s/0.img", folder);
    int fd = open(lab.disk[0], O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    close(fd);
    lab_start(&lab);
    struct disk_client *c = lab_connect(&lab);
    MUST(disk_track(c, true, &error));
    assert_int_equal(guest(&lab, 0, "write 0 64k\n"), 0);
    assert_int_not_equal(guest(&lab, 0, "write 1M 1M\n"), 0);
    assert_non_null(strstr(guest_said(&lab, 0), "No space left"));
    expect(c, DISK_DATA, 0, 64 << 10, 0);
    expect(c, DISK_ERROR, MIB, MIB, ENOSPC);
    disk_disconnect(c);
    MUST(disk_server_stop(lab.run, &error));
    assert_int_equal(umount(folder), 0);
}

/* ---- block devices ---- */

/* A loop device over a file of the lab. "" if there are none here. */
static void begin_loop(const char *option, char device[64])
{
    char said[128];
    snprintf(said, sizeof said, "%s/loop", lab.dir);
    const char *const command[] = {"losetup", option, "--show", "-f", lab.disk[0], NULL};
    device[0] = '\0';
    if (run_wait(run_begin(NULL, said, command)) != 0)
        return;
    FILE *f = fopen(said, "r");
    if (f && fgets(device, 64, f))
        device[strcspn(device, "\n")] = '\0';
    if (f)
        fclose(f);
}

static void end_loop(const char *device)
{
    const char *const command[] = {"losetup", "-d", device, NULL};
    assert_int_equal(run_wait(run_begin(NULL, NULL, command)), 0);
}

static void test_device(void **state)
{
    (void)state;
    char device[64];
    uint8_t *copy = calloc(1, BYTES);
    lab_make(&lab, 1, BYTES);
    begin_loop("--direct-io=off", device);
    if (!*device) {
        free(copy);
        skip();
    }
    snprintf(lab.disk[0], sizeof lab.disk[0], "%s", device);
    lab_start(&lab);
    struct disk_client *c = lab_connect(&lab);
    assert_int_equal(disk_bytes(c, 0), BYTES);
    MUST(disk_track(c, true, &error));
    assert_int_equal(guest(&lab, 0,
                           "write -P 7 0 1M\nwrite -P 8 1000 3000\nwrite -z 64k 64k\nwrite -z -u 128k 64k\n"
                           "discard 256k 64k\ndiscard 513 100\nwrite -z 700 1000\nflush\n"),
                     0);
    assert_true(replay(c, disk_mark(c), &copy, BYTES) >= 7);
    uint8_t *store = lab_store(&lab, 0, BYTES);
    assert_memory_equal(store, copy, BYTES);
    free(store);
    free(copy);
    disk_disconnect(c);
    MUST(disk_server_stop(lab.run, &error));
    end_loop(device);
}

static void test_device_refusals(void **state)
{
    (void)state;
    char device[64];
    lab_make(&lab, 1, BYTES);
    begin_loop("--direct-io=off", device);
    if (!*device)
        skip();
    const char *path = device;
    int owner = open(device, O_RDONLY | O_EXCL); /* as a mount has it */
    assert_true(owner >= 0);
    assert_int_equal(disk_server_start(lab.run, &path, 1, &error), -1);
    assert_non_null(strstr(error.text, "in use"));
    close(owner);
    end_loop(device);
    begin_loop("--read-only", device);
    assert_int_equal(disk_server_start(lab.run, &path, 1, &error), -1);
    assert_non_null(strstr(error.text, "read-only"));
    end_loop(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_flush_syncs, teardown),
        cmocka_unit_test_teardown(test_owed_flush, teardown),
        cmocka_unit_test_teardown(test_dies_owing, teardown),
        cmocka_unit_test_teardown(test_flush_under_way, teardown),
        cmocka_unit_test_teardown(test_qemus_flush, teardown),
        cmocka_unit_test_teardown(test_unknown_flush, teardown),
        cmocka_unit_test_teardown(test_write_error, teardown),
        cmocka_unit_test_teardown(test_flush_error, teardown),
        cmocka_unit_test_teardown(test_owed_flush_error, teardown),
        cmocka_unit_test_teardown(test_full, teardown),
        cmocka_unit_test_teardown(test_device, teardown),
        cmocka_unit_test_teardown(test_device_refusals, teardown),
    };
    if (unshare(CLONE_NEWNS) == 0) /* what a test mounts is gone with it */
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
