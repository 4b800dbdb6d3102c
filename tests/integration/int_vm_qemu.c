/*
 * int_vm_qemu: backend qemu with a real QEMU and a real Linux guest, whose program checks its own memory. Exactness of
 * dirty tracking, failover, re-protection, attaching (again, and to a QEMU started by hand), the pause by stage, and
 * every refusal.
 *
 * A word on the command line names the tests to run (with * and ?). HIKAE_TEST_GUEST names the folder of vmlinuz and
 * initrd.gz (default: the build folder's guest/).
 */
#include "netbuf/tap.h"
#include "tests/integration/vm_guest.h"
#include "vm/process.h"
#include "vm/remains.h"

#include <json-c/json.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { CHECKPOINTS = 50, MEASURED = 300, INTERVAL_MS = 20, BOOT_MS = 60000 };

static const struct vm_ops *ops;
static const char *guest;

#define HAND_RAM "-object memory-backend-file,id=ram0,mem-path=/dev/shm/hikae-test-hand.ram,size=256M,share=on"
#define HAND_BARE                                                                                                      \
    "-m 256M -smp 1 -nodefaults -no-user-config -vga none -display none -qmp unix:%s/q,server=on,wait=off "
#define HAND_GOOD HAND_BARE HAND_RAM " -machine pc,accel=tcg,memory-backend=ram0 "

static struct json_object *launch_settings(const char *dir, const char *memory)
{
    char options[1024];
    snprintf(
        options, sizeof options,
        "-kernel %s/vmlinuz -initrd %s/initrd.gz -append \"console=ttyS0 quiet hikae.rate=10000 hikae.region=4096\" "
        "-serial file:%s/serial -cpu max",
        guest, guest, dir);
    struct json_object *s = json_object_new_object();
    json_object_object_add(s, "memory", json_object_new_string(memory));
    json_object_object_add(s, "accel", json_object_new_string("tcg"));
    json_object_object_add(s, "mac", json_object_new_string("52:54:00:01:02:03"));
    json_object_object_add(s, "options", json_object_new_string(options));
    return s;
}

static struct vm *launch(const char *dir, const char *memory)
{
    struct vm *vm = NULL;
    struct json_object *s = launch_settings(dir, memory);
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = s};
    MUST(ops->launch(&spec, &vm, &error));
    json_object_put(s);
    return vm;
}

static struct vm *attach(const char *dir, struct json_object *settings)
{
    struct vm *vm = NULL;
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings};
    MUST(ops->attach(&spec, &vm, &error));
    return vm;
}

static struct vm *make_replica(struct vm *of, const char *dir)
{
    struct vm *vm = NULL;
    struct json_object *described;
    MUST(ops->describe(of, &described, &error));
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = described};
    MUST(ops->replica_create(&spec, &vm, &error));
    json_object_put(described);
    return vm;
}

/* The last "tick N ... errors E" of a serial log. false: none yet. */
static bool last_tick(const char *dir, const char *name, unsigned *tick, unsigned *errors)
{
    char path[256], line[512];
    bool found = false;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "tick %u dirtied %*u checked %*u errors %u", tick, errors) == 2)
            found = true;
    if (f)
        fclose(f);
    return found;
}

static void wait_tick(const char *dir, const char *name, unsigned least)
{
    unsigned tick = 0, errors = 0;
    for (double until = now_ms() + BOOT_MS; now_ms() < until; sleep_ms(100))
        if (last_tick(dir, name, &tick, &errors) && tick >= least) {
            assert_int_equal(errors, 0);
            return;
        }
    fail_msg("%s/%s: the guest did not get to tick %u (was at %u)", dir, name, least, tick);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_percentiles(const char *name, double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    printf("  %-6s p50 %6.2f  p99 %6.2f  max %6.2f\n", name, values[n / 2], values[n * 99 / 100], values[n - 1]);
}

static void many_checkpoints(struct vm *vm, uint8_t *memory, struct vm_blob *state, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        sleep_ms(INTERVAL_MS);
        assert_int_equal(checkpoint(ops, vm, memory, state, true, false, true, NULL), 0);
    }
    /* That the comparison can fail: a page left out is found. Then it is made good. */
    sleep_ms(INTERVAL_MS);
    assert_int_equal(checkpoint(ops, vm, memory, state, true, true, true, NULL), 1);
    struct vm_blob unused = {0};
    first_sync(ops, vm, memory, &unused);
    vm_blob_free(&unused);
}

static void measure(struct vm *vm, uint8_t *memory, struct vm_blob *state)
{
    static double stage[6][MEASURED];
    static const char *const names[] = {"stop", "scan", "copy", "save", "cont", "pause"};
    uint64_t pages = 0;
    for (unsigned i = 0; i < MEASURED; i++) {
        struct checkpoint_times t;
        sleep_ms(INTERVAL_MS);
        checkpoint(ops, vm, memory, state, false, false, true, &t);
        const double values[] = {t.stop, t.scan, t.copy, t.save, t.cont, t.pause};
        for (unsigned k = 0; k < 6; k++)
            stage[k][i] = values[k];
        pages += t.pages;
    }
    printf("pause at %d ms interval, %llu dirty pages and %zu bytes of state per checkpoint, ms:\n", INTERVAL_MS,
           (unsigned long long)pages / MEASURED, state->size);
    for (unsigned k = 0; k < 6; k++)
        print_percentiles(names[k], stage[k], MEASURED);
}

static void exact_and_survives(void **arg)
{
    (void)arg;
    char *a = make_folder(), *b = make_folder(), *c = make_folder();
    struct vm_blob initial = {0}, state = {0};
    struct vm *vm = launch(a, "512M"), *replica = make_replica(vm, b);
    uint8_t *memory = ops->memory(replica);
    wait_tick(a, "serial", 2);
    first_sync(ops, vm, memory, &initial);
    many_checkpoints(vm, memory, &state, CHECKPOINTS);
    measure(vm, memory, &state);
    assert_int_equal(ops->resume(replica, &error), -1); /* it has no state yet */
    initial.size = 0;
    first_sync(ops, vm, memory, &initial);
    assert_int_equal(checkpoint(ops, vm, memory, &state, true, false, false, NULL), 0);
    unsigned tick = 0, errors = 0;
    last_tick(a, "serial", &tick, &errors);
    ops->destroy(vm);

    double start = now_ms();
    MUST(ops->load(replica, &initial, &state, &error));
    double loaded = now_ms();
    assert_int_equal(ops->state(replica), VM_PAUSED);
    MUST(ops->resume(replica, &error));
    printf("load %.1f ms, resume %.1f ms\n", loaded - start, now_ms() - loaded);
    assert_int_equal(ops->state(replica), VM_RUNNING);
    wait_tick(b, "serial0.log", tick + 2);
    ops->detach(replica);

    /* Protected again from its new host, by a new agent, on to a third. */
    vm = attach(b, NULL);
    replica = make_replica(vm, c);
    memory = ops->memory(replica);
    first_sync(ops, vm, memory, &initial);
    many_checkpoints(vm, memory, &state, 10);
    initial.size = 0;
    first_sync(ops, vm, memory, &initial);
    assert_int_equal(checkpoint(ops, vm, memory, &state, true, false, false, NULL), 0);
    ops->destroy(vm);
    MUST(ops->load(replica, &initial, &state, &error));
    ops->detach(replica);
    vm = attach(c, NULL);
    assert_int_equal(ops->state(vm), VM_PAUSED);
    MUST(ops->resume(vm, &error));
    wait_tick(c, "serial0.log", tick + 4);
    ops->destroy(vm);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
    remove_folder(c);
}

static struct vm *make_from_remains(struct json_object *described, const char *dir, const char *remains)
{
    struct vm *vm = NULL;
    struct vm_info info;
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = described, .remains = remains};
    MUST(ops->replica_create(&spec, &vm, &error));
    ops->info(vm, &info);
    assert_true(info.from_remains);
    assert_false(remains_exist(remains));
    return vm;
}

/* What a VM leaves when it is retired is what it had, to the last octet, through any number of replicas, and no standby
 * QEMU touches it: it needs nothing but the devices' state to run on. */
static void memory_outlives_the_vm(void **arg)
{
    (void)arg;
    enum { MEMORY = 256 << 20, STANDS_MS = 500 };
    char *a = make_folder(), *b = make_folder(), *c = make_folder(), remains[REMAINS_PATH_MAX];
    struct vm_blob initial = {0}, state = {0};
    struct vm *vm = launch(a, "256M");
    struct json_object *described;
    uint8_t *copy = calloc(1, MEMORY);
    unsigned tick = 0, errors = 0;
    assert_non_null(copy);
    snprintf(remains, sizeof remains, "%s/t.remains", a);
    wait_tick(a, "serial", 1);
    MUST(ops->describe(vm, &described, &error));
    first_sync(ops, vm, copy, &initial);
    assert_int_equal(checkpoint(ops, vm, copy, &state, true, false, false, NULL), 0); /* it stands still */
    last_tick(a, "serial", &tick, &errors);
    ops->retire(vm, remains);
    assert_true(remains_exist(remains));

    struct vm *replica = make_from_remains(described, b, remains);
    sleep_ms(STANDS_MS);
    assert_memory_equal(ops->memory(replica), copy, MEMORY);
    ops->detach(replica); /* as of an agent that died */
    struct vm_spec spec = {.name = "t", .run_dir = b, .remains = remains};
    assert_int_equal(ops->clear(&spec, &error), 0);
    assert_true(remains_exist(remains));

    replica = make_from_remains(described, c, remains);
    assert_memory_equal(ops->memory(replica), copy, MEMORY);
    MUST(ops->load(replica, &initial, &state, &error));
    MUST(ops->resume(replica, &error));
    wait_tick(c, "serial0.log", tick + 2);
    ops->destroy(replica);
    assert_false(remains_exist(remains));
    free(copy);
    json_object_put(described);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
    remove_folder(c);
}

/* An agent that dies between stop and cont leaves a paused VM; the next one finds it so, and tracks it exactly. */
static void agent_dies_while_paused(void **arg)
{
    (void)arg;
    char *a = make_folder(), *b = make_folder();
    struct vm_blob initial = {0}, state = {0};
    pid_t agent = fork();
    if (agent == 0) {
        struct vm *vm = launch(a, "256M");
        ops->arm(vm, &initial, &error);
        _exit(ops->pause(vm, &error) == 0 ? 0 : 1);
    }
    int status;
    waitpid(agent, &status, 0);
    assert_int_equal(status, 0);
    struct vm *vm = attach(a, NULL);
    assert_int_equal(ops->state(vm), VM_PAUSED);
    MUST(ops->resume(vm, &error));
    assert_int_equal(ops->state(vm), VM_RUNNING);
    wait_tick(a, "serial", 1);
    struct vm_info info;
    ops->info(vm, &info);
    assert_true(strstr(info.note, "by preload") || strstr(info.note, "soft-dirty"));
    struct vm *replica = make_replica(vm, b);
    first_sync(ops, vm, ops->memory(replica), &initial);
    many_checkpoints(vm, ops->memory(replica), &state, 5);
    MUST(ops->disarm(vm, &error));

    kill(info.pid, SIGKILL);
    struct pollfd p = {.fd = ops->event_fd(vm), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    while (ops->state(vm) == VM_RUNNING)
        sleep_ms(1);
    assert_int_equal(ops->state(vm), VM_GONE);
    ops->destroy(vm);
    ops->destroy(replica);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
}

/* The file of a socket is there a moment before one can connect to it. */
static bool is_listening(const char *path)
{
    enum { ACCEPTS = 0x10000 }; /* __SO_ACCEPTCON of the kernel */
    char line[512], name[256];
    unsigned flags;
    bool found = false;
    FILE *f = fopen("/proc/net/unix", "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "%*s %*s %*s %x %*s %*s %*s %255s", &flags, name) == 2 && flags & ACCEPTS &&
                strcmp(name, path) == 0;
    if (f)
        fclose(f);
    return found;
}

/* Starts QEMU as an admin would. */
static pid_t start_by_hand(const char *dir, const char *format)
{
    char arguments[2048], command[4096];
    snprintf(arguments, sizeof arguments, format, dir, dir, dir, dir);
    snprintf(command, sizeof command, "exec qemu-system-x86_64 %s 2>%s/stderr", arguments, dir);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    char path[256];
    snprintf(path, sizeof path, "%s/q", dir);
    for (double until = now_ms() + BOOT_MS; !is_listening(path); sleep_ms(10))
        if (now_ms() > until)
            fail_msg("QEMU does not listen at %s", path);
    return pid;
}

static void end_by_hand(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    unlink("/dev/shm/hikae-test-hand.ram");
}

static struct json_object *qmp_setting(const char *dir)
{
    char text[256];
    snprintf(text, sizeof text, "{\"qmp\":\"%s/q\"}", dir);
    return json(text);
}

static void attach_by_hand(const char *more)
{
    char *a = make_folder(), *b = make_folder(), format[2048];
    struct vm_blob initial = {0}, state = {0};
    snprintf(format, sizeof format,
             HAND_GOOD "-kernel %s/vmlinuz -initrd %s/initrd.gz -append 'console=ttyS0 quiet hikae.rate=5000 "
                       "hikae.region=1024' -serial file:%%s/serial -netdev "
                       "stream,id=n0,server=on,addr.type=unix,addr.path=%%s/net -device virtio-net-pci,netdev=n0 %s",
             "%s", guest, guest, more);
    pid_t pid = start_by_hand(a, format);
    struct json_object *settings = qmp_setting(a);
    wait_tick(a, "serial", 1);
    double start = now_ms();
    struct vm *vm = attach(a, settings);
    printf("attach by ptrace %.1f ms\n", now_ms() - start);
    struct vm_info info;
    ops->info(vm, &info);
    assert_int_equal(info.pid, pid);
    assert_true(strstr(info.note, "by ptrace") || strstr(info.note, "soft-dirty"));
    assert_int_equal(info.nic_count, 1);
    assert_int_equal(info.nics[0].mac[5], 0x56);
    assert_int_equal(ops->state(vm), VM_RUNNING);
    ops->detach(vm);
    vm = attach(a, settings); /* again: the userfaultfd is there already */
    struct vm *replica = make_replica(vm, b);
    first_sync(ops, vm, ops->memory(replica), &initial);
    many_checkpoints(vm, ops->memory(replica), &state, 10);
    initial.size = 0;
    first_sync(ops, vm, ops->memory(replica), &initial);
    assert_int_equal(checkpoint(ops, vm, ops->memory(replica), &state, true, false, false, NULL), 0);
    ops->detach(vm);
    end_by_hand(pid);
    MUST(ops->load(replica, &initial, &state, &error));
    MUST(ops->resume(replica, &error));
    unsigned tick = 0, errors = 0;
    last_tick(a, "serial", &tick, &errors);
    wait_tick(b, "serial0.log", tick + 2);
    ops->destroy(replica);
    json_object_put(settings);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
}

static void attach_to_foreign(void **arg)
{
    (void)arg;
    attach_by_hand("");
    attach_by_hand("-sandbox on");
}

/* Foreign QEMUs that can't be checkpointed: options, and what the refusal must say. */
static void foreign_refusals(void **arg)
{
    (void)arg;
    static const char *const cases[][2] = {
        {HAND_BARE "-machine pc,accel=tcg", "not a shared file"},
        {HAND_BARE "-object memory-backend-ram,id=ram0,size=256M,share=on -machine pc,accel=tcg,memory-backend=ram0",
         "not a shared file"},
        {HAND_GOOD "-global migration.send-configuration=off", "start it without"},
        {HAND_GOOD "-device VGA", "video memory"},
        {HAND_GOOD "-device ivshmem-plain,memdev=iv -object memory-backend-ram,id=iv,size=1M,share=on",
         "shared with other"},
        {HAND_GOOD "-netdev user,id=n -device virtio-net-pci,netdev=n", "use -netdev stream"},
        {HAND_GOOD "-netdev hubport,id=n,hubid=0 -device virtio-net-pci,netdev=n", "or -netdev tap"},
        {HAND_GOOD "-drive driver=null-co,if=virtio", "hikae-block serve"},
        {HAND_GOOD "-incoming defer", "waits for an incoming migration"},
        {HAND_GOOD "-device virtio-balloon-pci", "virtio-balloon-pci"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *dir = make_folder();
        pid_t pid = start_by_hand(dir, cases[i][0]);
        struct json_object *settings = qmp_setting(dir);
        struct vm *vm = NULL;
        struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings};
        error.text[0] = '\0';
        assert_int_equal(ops->attach(&spec, &vm, &error), -1);
        if (!strstr(error.text, cases[i][1]))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, error.text, cases[i][1]);
        assert_int_equal(kill(pid, 0), 0); /* it goes on unharmed */
        end_by_hand(pid);
        json_object_put(settings);
        remove_folder(dir);
    }
}

/* A disk server runs for the VM, and its QEMU does not have its disk from that. */
static void foreign_without_its_disks(void **arg)
{
    (void)arg;
    char *dir = make_folder();
    pid_t pid = start_by_hand(dir, HAND_GOOD);
    struct json_object *settings = qmp_setting(dir);
    struct vm *vm = NULL;
    struct vm_disk disk = {.socket = "/r/nbd.sock", .export_name = "0", .bytes = 4096};
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings, .disks = &disk, .disk_count = 1};
    assert_int_equal(ops->attach(&spec, &vm, &error), -1);
    assert_non_null(strstr(error.text, "QEMU has 0 disks, and the VM's disk server 1"));
    end_by_hand(pid);
    json_object_put(settings);
    remove_folder(dir);
}

/* Says a command on a QMP socket that no agent is connected to. */
static void tell_qemu(const char *dir, const char *command)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char text[256];
    snprintf(address.sun_path, sizeof address.sun_path, "%s/qmp.sock", dir);
    snprintf(text, sizeof text, "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"%s\"}", command);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
    sleep_ms(300);
    close(fd);
}

/* After a failover the guest can boot anew: its firmware has come along. */
static void reboots_after_failover(void **arg)
{
    (void)arg;
    char *a = make_folder(), *b = make_folder();
    struct vm_blob initial = {0}, state = {0};
    struct vm *vm = launch(a, "256M"), *replica = make_replica(vm, b);
    wait_tick(a, "serial", 3);
    first_sync(ops, vm, ops->memory(replica), &initial);
    assert_int_equal(checkpoint(ops, vm, ops->memory(replica), &state, true, false, false, NULL), 0);
    ops->destroy(vm);
    MUST(ops->load(replica, &initial, &state, &error));
    MUST(ops->resume(replica, &error));
    wait_tick(b, "serial0.log", 4);
    ops->detach(replica);
    tell_qemu(b, "system_reset");
    unsigned tick = 99, errors = 0;
    for (double until = now_ms() + BOOT_MS; tick > 3 && now_ms() < until; sleep_ms(100))
        last_tick(b, "serial0.log", &tick, &errors);
    assert_true(tick <= 3);
    vm = attach(b, NULL);
    assert_int_equal(ops->state(vm), VM_RUNNING);
    ops->destroy(vm);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
}

static void guest_ends_by_itself(void **arg)
{
    (void)arg;
    char *dir = make_folder(), text[1024];
    struct vm *vm = NULL;
    snprintf(text, sizeof text,
             "{\"memory\":\"256M\",\"machine\":\"q35\",\"options\":\"-kernel %s/vmlinuz -initrd %s/initrd.gz -append "
             "'quiet rdinit=/bin/busybox -- poweroff -f'\"}",
             guest, guest);
    struct json_object *settings = json(text);
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings};
    MUST(ops->launch(&spec, &vm, &error));
    for (double until = now_ms() + BOOT_MS; ops->state(vm) == VM_RUNNING && now_ms() < until;) {
        struct pollfd p = {.fd = ops->event_fd(vm), .events = POLLIN};
        poll(&p, 1, 1000);
    }
    assert_int_equal(ops->state(vm), VM_SHUT_DOWN);
    assert_int_equal(ops->pause(vm, &error), -1);
    assert_non_null(strstr(error.text, "shut down"));
    ops->detach(vm);
    vm = attach(dir, NULL);
    assert_int_equal(ops->state(vm), VM_SHUT_DOWN);
    ops->destroy(vm);
    json_object_put(settings);
    remove_folder(dir);
}

/* A QEMU that hangs: every call ends in time and says so, and it can still be destroyed. */
static void hung_qemu(void **arg)
{
    (void)arg;
    char *dir = make_folder();
    struct vm_info info;
    struct vm *vm = launch(dir, "256M");
    ops->info(vm, &info);
    kill(info.pid, SIGSTOP);
    double start = now_ms();
    assert_int_equal(ops->state(vm), VM_RUNNING);
    assert_true(now_ms() - start < 100);
    assert_int_equal(ops->pause(vm, &error), -1);
    assert_non_null(strstr(error.text, "did not answer in time"));
    assert_true(now_ms() - start < 7000);
    ops->destroy(vm);
    assert_int_equal(process_start_time(info.pid), 0);
    remove_folder(dir);
}

/* One that can't go on is ended by its files alone, whatever it waits for; any other is let be. */
static void doomed_qemu(void **arg)
{
    (void)arg;
    char *dir = make_folder();
    struct vm_info info;
    struct vm_spec spec = {.name = "t", .run_dir = dir};
    struct vm *vm = launch(dir, "256M");
    ops->info(vm, &info);
    ops->detach(vm);
    kill(info.pid, SIGSTOP);
    assert_int_equal(ops->clear(&spec, &error), 1);
    assert_int_not_equal(process_start_time(info.pid), 0);
    spec.doomed = true;
    assert_int_equal(ops->clear(&spec, &error), 0);
    assert_int_equal(process_start_time(info.pid), 0);
    remove_folder(dir);
}

static void doomed_foreign_qemu(void **arg)
{
    (void)arg;
    char *dir = make_folder();
    pid_t pid = start_by_hand(dir, HAND_GOOD);
    struct json_object *settings = qmp_setting(dir);
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings};
    kill(pid, SIGSTOP);
    assert_int_equal(ops->clear(&spec, &error), 1);
    assert_int_not_equal(process_start_time(pid), 0);
    spec.doomed = true;
    assert_int_equal(ops->clear(&spec, &error), 0);
    assert_int_equal(process_start_time(pid), 0);
    waitpid(pid, NULL, 0);
    assert_int_equal(ops->clear(&spec, &error), 0); /* it has ended already */
    json_object_put(settings);
    remove_folder(dir);
}

static void settings_refusals(void **arg)
{
    (void)arg;
    static const char *const cases[][2] = {
        {"{\"memroy\":\"1G\"}", "unknown key memroy"},
        {"{\"memory\":\"1000\"}", "memory = 1000"},
        {"{\"memory\":\"8192G\"}", "/dev/shm has"},
        {"{\"qemu\":\"no-such-qemu\"}", "not installed"},
        {"{\"options\":\"-no-such-option\"}", "-no-such-option"},
        {"{\"options\":\"-device vfio-pci\"}", "page tracking"},
        {"{\"options\":\"-append \\\"open\"}", "quote"},
        {"{\"options\":\"-cpu no-such-cpu\",\"accel\":\"tcg\"}", "no-such-cpu"},
        {"{\"qmp\":\"/x\"}", "has qmp set"},
    };
    char *dir = make_folder();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_object *settings = json(cases[i][0]);
        struct vm *vm = NULL;
        struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings};
        assert_int_equal(ops->launch(&spec, &vm, &error), -1);
        if (!strstr(error.text, cases[i][1]))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, error.text, cases[i][1]);
        json_object_put(settings);
    }
    struct vm *vm = NULL;
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = NULL};
    assert_int_equal(ops->attach(&spec, &vm, &error), -1);
    assert_non_null(strstr(error.text, "does not run here"));
    remove_folder(dir);
}

/* Is the interface there and up? -1: it is not there. */
static int is_up(const char *ifname)
{
    struct ifreq r = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", ifname);
    int status = ioctl(fd, SIOCGIFFLAGS, &r);
    close(fd);
    return status < 0 ? -1 : (r.ifr_flags & IFF_UP) != 0;
}

/* A QEMU that somebody else started with a tap: it is found, and the bridge that the replica's is to be added to. */
static void foreign_tap(void)
{
    char *dir = make_folder();
    struct vm_info info;
    struct json_object *settings = qmp_setting(dir), *described;
    struct vm *vm = NULL;
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = settings};
    pid_t pid = start_by_hand(dir, HAND_GOOD "-netdev tap,id=n0,ifname=hand0,script=no,downscript=no -device "
                                             "virtio-net-pci,netdev=n0");
    assert_int_equal(ops->attach(&spec, &vm, &error), -1);
    assert_non_null(strstr(error.text, "no port of a bridge"));
    assert_int_equal(system("ip link set dev hand0 master brt"), 0);
    vm = attach(dir, settings);
    ops->info(vm, &info);
    assert_string_equal(info.nics[0].ifname, "hand0");
    assert_string_equal(info.nics[0].bridge, "brt");
    assert_string_equal(info.nics[0].stream_path, "");
    MUST(ops->describe(vm, &described, &error));
    assert_non_null(strstr(json_object_to_json_string(described), "\"plug\": \"brt\""));
    json_object_put(described);
    ops->detach(vm);
    end_by_hand(pid);
    json_object_put(settings);
    remove_folder(dir);
}

/* netbuf = plug: the VM's tap is a port of the bridge; the replica's is nothing of the kind until that runs, and both
 * end with their QEMU. Changes this process's network namespace: the last test. */
static void taps(void **arg)
{
    (void)arg;
    if (unshare(CLONE_NEWNET) < 0 || system("ip link add brt type bridge && ip link set dev brt up") != 0) {
        printf("left out: no network namespace of our own\n");
        return;
    }
    foreign_tap();
    char *a = make_folder(), *b = make_folder(), first[16], bridge[16];
    struct vm_blob initial = {0}, state = {0};
    struct vm_info info;
    struct vm *vm = NULL;
    struct json_object *s = launch_settings(a, "256M");
    json_object_object_add(s, "netbuf", json_object_new_string("plug"));
    json_object_object_add(s, "bridge", json_object_new_string("none"));
    struct vm_spec spec = {.name = "t", .run_dir = a, .settings = s};
    assert_int_equal(ops->launch(&spec, &vm, &error), -1);
    assert_non_null(strstr(error.text, "no bridge 'none'"));
    json_object_object_add(s, "bridge", json_object_new_string("brt"));
    MUST(ops->launch(&spec, &vm, &error));
    json_object_put(s);
    ops->info(vm, &info);
    assert_string_equal(info.nics[0].stream_path, "");
    memcpy(first, info.nics[0].ifname, sizeof first);
    tap_bridge(first, bridge);
    assert_string_equal(bridge, "brt");
    assert_int_equal(is_up(first), 1);

    struct vm *replica = make_replica(vm, b);
    ops->info(replica, &info);
    tap_bridge(info.nics[0].ifname, bridge);
    assert_string_equal(bridge, "");
    assert_int_equal(is_up(info.nics[0].ifname), 0);
    wait_tick(a, "serial", 1);
    first_sync(ops, vm, ops->memory(replica), &initial);
    assert_int_equal(checkpoint(ops, vm, ops->memory(replica), &state, true, false, false, NULL), 0);
    ops->destroy(vm);
    assert_int_equal(is_up(first), -1);
    MUST(ops->load(replica, &initial, &state, &error));
    assert_int_equal(is_up(info.nics[0].ifname), 0);
    MUST(ops->resume(replica, &error));
    tap_bridge(info.nics[0].ifname, bridge);
    assert_string_equal(bridge, "brt");
    assert_int_equal(is_up(info.nics[0].ifname), 1);
    ops->detach(replica);
    vm = attach(b, NULL);
    memcpy(first, info.nics[0].ifname, sizeof first);
    ops->info(vm, &info);
    assert_string_equal(info.nics[0].ifname, first);
    ops->destroy(vm);
    assert_int_equal(is_up(first), -1);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
}

int main(int argc, char **argv)
{
    static char path[512];
    guest = getenv("HIKAE_TEST_GUEST") ? getenv("HIKAE_TEST_GUEST") : GUEST_DIR;
    snprintf(path, sizeof path, "%s/initrd.gz", guest);
    ops = vm_backend("qemu", &error);
    if (!ops || access(path, R_OK) < 0) {
        fprintf(stderr, "%s\n", ops ? "no guest: run tests/guest/build DIR and set HIKAE_TEST_GUEST=DIR" : error.text);
        return 1;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_and_survives),
        cmocka_unit_test(agent_dies_while_paused),
        cmocka_unit_test(memory_outlives_the_vm),
        cmocka_unit_test(attach_to_foreign),
        cmocka_unit_test(reboots_after_failover),
        cmocka_unit_test(guest_ends_by_itself),
        cmocka_unit_test(hung_qemu),
        cmocka_unit_test(doomed_qemu),
        cmocka_unit_test(doomed_foreign_qemu),
        cmocka_unit_test(foreign_refusals),
        cmocka_unit_test(foreign_without_its_disks),
        cmocka_unit_test(settings_refusals),
        cmocka_unit_test(taps),
    };
    return cmocka_run_group_tests_name("int_vm_qemu", tests, NULL, NULL);
}
