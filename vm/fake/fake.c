/*
 * fake: a VM made of memory, for tests: a small process (hikae-fake-vm) that writes and checks patterned pages and
 * sends numbered frames. It outlives the agent, can be attached to again and be killed, as a real VM. Dirty pages are
 * exact because the process notes them itself. See machine.h.
 *
 * Settings, all strings: pages (1024), rate (pages written per second, 1000), frames (ms between frames, 0: no NIC),
 * bridge, stop_after (the guest shuts down after so many writes).
 */
#include "common/jsonget.h"
#include "vm/fake/machine.h"
#include "vm/process.h"
#include "vm/remains.h"
#include "vm/vm.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE_MS = VM_CALL_MS, WAITS_MS = 50 };

extern const struct vm_ops hikae_vm_ops;

struct fake_state { /* device state as saved */
    uint64_t magic, step, sequence, shut_down_at;
};

struct vm {
    char run_dir[PATH_MAX - 32];
    struct machine *machine;
    uint8_t *memory;
    _Atomic uint64_t *dirty;
    size_t memory_bytes, dirty_bytes; /* mapped */
    int pidfd;
    struct fake_state state; /* of the last pause */
    bool replica, ours, from_remains;
    struct vm_told told;
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool has_ended(const struct vm *vm)
{
    struct pollfd p = {.fd = vm->pidfd, .events = POLLIN};
    return vm->pidfd < 0 || poll(&p, 1, 0) > 0;
}

/* Tells the process to run or stand still and waits until it does. */
static int switch_run(struct vm *vm, uint32_t run, struct errmsg *e)
{
    struct machine *m = vm->machine;
    int64_t deadline = now_ms() + DEADLINE_MS;
    struct timespec slice = {.tv_nsec = 10000000};
    atomic_store(&m->run, run);
    (void)syscall(SYS_futex, &m->run, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    while (atomic_load(&m->running) != run) {
        if (has_ended(vm))
            return errmsg_set(e, "the fake VM's process has ended");
        if (now_ms() > deadline)
            return errmsg_set(e, "the fake VM does not answer");
        (void)syscall(SYS_futex, &m->running, FUTEX_WAIT, !run, &slice, NULL, 0);
    }
    return 0;
}

/* ---- files ---- */

static void *map_file(const struct vm *vm, const char *name, size_t create_size, size_t *size, struct errmsg *e)
{
    char path[PATH_MAX];
    struct stat s;
    snprintf(path, sizeof path, "%s/%s", vm->run_dir, name);
    int fd = open(path, O_RDWR | O_CLOEXEC | (create_size ? O_CREAT | O_TRUNC : 0), 0600);
    void *at = MAP_FAILED;
    /* Reserved, not only sized: on a full file system the first touch would be a SIGBUS. */
    if (fd >= 0 && (!create_size || fallocate(fd, 0, 0, (off_t)create_size) == 0) && fstat(fd, &s) == 0 &&
        s.st_size > 0) {
        *size = (size_t)s.st_size;
        at = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (at != MAP_FAILED)
        return at;
    errmsg_set(e, "%s: %s%s", path, strerror(error),
               error == ENOSPC ? ": make room there, or set run_dir to a larger file system" : "");
    return NULL;
}

static int map_machine(struct vm *vm, uint32_t create_pages, struct errmsg *e)
{
    size_t size;
    vm->machine = map_file(vm, "control", create_pages ? sizeof *vm->machine : 0, &size, e);
    if (!vm->machine)
        return -1;
    uint32_t pages = create_pages ? create_pages : vm->machine->pages;
    if (!create_pages && (size < sizeof *vm->machine || vm->machine->magic != MACHINE_MAGIC))
        return errmsg_set(e, "%s/control is not of a fake VM", vm->run_dir);
    vm->memory =
        map_file(vm, "ram", create_pages && !vm->from_remains ? (size_t)pages * MACHINE_PAGE : 0, &vm->memory_bytes, e);
    if (!vm->memory)
        return -1;
    vm->dirty = map_file(vm, "dirty", create_pages ? (pages + 63) / 64 * 8 : 0, &vm->dirty_bytes, e);
    return vm->dirty ? 0 : -1;
}

static void remove_files(const struct vm *vm)
{
    static const char *const names[] = {"ram", "dirty", "net0.sock", "control"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", vm->run_dir, names[i]);
        unlink(path);
    }
}

static void op_detach(struct vm *vm)
{
    if (vm->memory)
        munmap(vm->memory, vm->memory_bytes);
    if (vm->dirty)
        munmap((void *)vm->dirty, vm->dirty_bytes);
    if (vm->machine)
        munmap(vm->machine, sizeof *vm->machine);
    if (vm->pidfd >= 0)
        close(vm->pidfd);
    free(vm);
}

static void path_in(const struct vm *vm, const char *name, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/%s", vm->run_dir, name);
}

static void keep_memory(const struct vm *vm, const char *remains)
{
    char ram[PATH_MAX], kept[PATH_MAX];
    struct errmsg e;
    path_in(vm, "ram", ram);
    if (vm->machine && snprintf(kept, sizeof kept, "%s.ram.%d", remains, vm->machine->pid) < (int)sizeof kept)
        (void)remains_keep(remains, ram, kept, &e);
}

static void op_retire(struct vm *vm, const char *remains)
{
    struct pollfd p = {.fd = vm->pidfd, .events = POLLIN};
    bool ended = vm->pidfd < 0;
    if (vm->pidfd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, vm->pidfd, SIGKILL, NULL, 0);
        ended = poll(&p, 1, DEADLINE_MS) > 0;
    }
    if (vm->ours && ended && remains)
        keep_memory(vm, remains);
    if (vm->ours)
        remove_files(vm);
    op_detach(vm);
}

static void op_destroy(struct vm *vm)
{
    op_retire(vm, NULL);
}

static struct vm *vm_new(const struct vm_spec *spec, struct errmsg *e)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm || snprintf(vm->run_dir, sizeof vm->run_dir, "%s", spec->run_dir) >= (int)sizeof vm->run_dir) {
        errmsg_set(e, vm ? "run_dir is too long" : "out of memory");
        free(vm);
        return NULL;
    }
    vm->pidfd = -1;
    return vm;
}

/* ---- settings ---- */

struct settings {
    unsigned long pages, rate, frames, stop_after, suspend;
    const char *bridge;
};

static int read_number(unsigned long *out, const char *key, const char *text, unsigned long least, unsigned long most,
                       struct errmsg *e)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || n < least || n > most)
        return errmsg_set(e, "%s = %s: write a number from %lu to %lu", key, text, least, most);
    *out = n;
    return 0;
}

static int read_settings(struct settings *s, struct json_object *settings, struct errmsg *e)
{
    *s = (struct settings){.pages = 1024, .rate = 1000, .bridge = ""};
    if (!settings)
        return 0;
    json_object_object_foreach(settings, key, value)
    {
        const char *text = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
        int status = 0;
        if (strcmp(key, "pages") == 0)
            status = read_number(&s->pages, key, text, MACHINE_PAGES_MIN, MACHINE_PAGES_MAX, e);
        else if (strcmp(key, "rate") == 0)
            status = read_number(&s->rate, key, text, 0, 10000000, e);
        else if (strcmp(key, "frames") == 0)
            status = read_number(&s->frames, key, text, 0, 60000, e);
        else if (strcmp(key, "stop_after") == 0)
            status = read_number(&s->stop_after, key, text, 0, ULONG_MAX, e);
        else if (strcmp(key, "suspend") == 0)
            status = read_number(&s->suspend, key, text, 0, DEADLINE_MS, e);
        else if (strcmp(key, "bridge") == 0 || strcmp(key, "local_bridge") == 0)
            s->bridge = strlen(text) < 16 && (key[0] == 'l' || !*s->bridge) ? text : s->bridge;
        else
            status = errmsg_set(
                e, "unknown key %s: backend fake knows pages, rate, frames, stop_after, suspend and bridge", key);
        if (status < 0)
            return -1;
    }
    return 0;
}

/* ---- making and finding ---- */

/* hikae-fake-vm lies in ../bin of the module's folder (build tree), or in that folder. */
static int find_program(char *out, size_t size, struct errmsg *e)
{
    static const char *const places[] = {"/../bin/hikae-fake-vm", "/hikae-fake-vm"};
    Dl_info here;
    char module[PATH_MAX];
    if (!dladdr((void *)(uintptr_t)find_program, &here) || !realpath(here.dli_fname, module))
        return errmsg_set(e, "where backend fake was loaded from is unknown");
    *strrchr(module, '/') = '\0';
    for (size_t i = 0; i < 2; i++)
        if (snprintf(out, size, "%s%s", module, places[i]) < (int)size && access(out, X_OK) == 0)
            return 0;
    return errmsg_set(e, "hikae-fake-vm is not there (looked in %s/../bin)", module);
}

static int start_process(struct vm *vm, struct errmsg *e)
{
    char program[PATH_MAX], log[PATH_MAX];
    struct machine *m = vm->machine;
    if (find_program(program, sizeof program, e) < 0)
        return -1;
    snprintf(log, sizeof log, "%s/fake.log", vm->run_dir);
    char *command[] = {program, vm->run_dir, NULL};
    m->running = 1; /* until it says that it stands still, and is ready */
    pid_t pid = process_spawn(command, NULL, log, e);
    if (pid < 0)
        return -1;
    m->pid = pid;
    m->start_time = process_start_time(pid);
    vm->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (switch_run(vm, 0, e) < 0) {
        process_explain(log, e);
        return -1;
    }
    return 0;
}

static bool is_alive(const struct machine *m)
{
    return m->pid > 0 && m->start_time != 0 && process_start_time(m->pid) == m->start_time;
}

/* A dead VM's files are taken away, a living one's are refused. */
static int clear_run_dir(const struct vm_spec *spec, struct errmsg *e)
{
    struct vm *old = vm_new(spec, e);
    if (!old)
        return -1;
    bool alive = map_machine(old, 0, e) == 0 && is_alive(old->machine);
    if (!alive)
        remove_files(old);
    op_detach(old);
    return alive ? errmsg_set(e, "VM %s already runs here", spec->name) : 0;
}

static int make(const struct vm_spec *spec, bool replica, struct vm **out, struct errmsg *e)
{
    struct settings s;
    if (read_settings(&s, spec->settings, e) < 0 || clear_run_dir(spec, e) < 0)
        return -1;
    struct vm *vm = vm_new(spec, e);
    if (!vm)
        return -1;
    vm->ours = true;
    vm->replica = replica;
    char ram[PATH_MAX];
    path_in(vm, "ram", ram);
    vm->from_remains = replica && spec->remains && remains_take(spec->remains, ram, s.pages * MACHINE_PAGE);
    if (map_machine(vm, (uint32_t)s.pages, e) < 0) {
        op_destroy(vm);
        return -1;
    }
    struct machine *m = vm->machine;
    m->pages = (uint32_t)s.pages;
    m->rate = (uint32_t)s.rate;
    m->frames_ms = (uint32_t)s.frames;
    m->shut_down_at = s.stop_after;
    m->suspend_ms = (uint32_t)s.suspend;
    vm->told = spec->told;
    m->replica = replica;
    memcpy(m->mac, (uint8_t[]){0x02, 0x66, 0x61, 0x6b, 0x65, 0x01}, 6);
    snprintf(m->bridge, sizeof m->bridge, "%s", s.bridge);
    m->magic = MACHINE_MAGIC;
    if (start_process(vm, e) < 0 || (!replica && switch_run(vm, 1, e) < 0)) {
        op_destroy(vm);
        return -1;
    }
    if (!replica)
        (void)mprotect(vm->memory, (size_t)m->pages * MACHINE_PAGE, PROT_READ);
    *out = vm;
    return 0;
}

static int op_launch(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    return make(spec, false, out, e);
}

static int op_replica_create(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    return make(spec, true, out, e);
}

static int attach(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    if (map_machine(vm, 0, e) < 0)
        return -1;
    if (!is_alive(vm->machine))
        return errmsg_set(e, "the fake VM's process has ended");
    if (vm->machine->replica)
        return errmsg_set(e, "this is only a replica: it runs after a failover");
    vm->pidfd = (int)syscall(SYS_pidfd_open, vm->machine->pid, 0);
    vm->ours = true;
    vm->told = spec->told;
    (void)mprotect(vm->memory, (size_t)vm->machine->pages * MACHINE_PAGE, PROT_READ);
    return 0;
}

static int op_attach(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    struct vm *vm = vm_new(spec, e);
    if (!vm)
        return -1;
    if (attach(vm, spec, e) < 0) {
        op_detach(vm);
        return -1;
    }
    *out = vm;
    return 0;
}

static int op_clear(const struct vm_spec *spec, struct errmsg *e)
{
    struct vm *vm = vm_new(spec, e);
    if (!vm)
        return -1;
    bool alive = map_machine(vm, 0, e) == 0 && is_alive(vm->machine);
    if (alive && !vm->machine->replica && !spec->doomed) {
        op_detach(vm);
        return 1;
    }
    if (alive)
        vm->pidfd = (int)syscall(SYS_pidfd_open, vm->machine->pid, 0);
    vm->ours = true;
    op_retire(vm, spec->remains);
    return 0;
}

static int op_describe(struct vm *vm, struct json_object **out, struct errmsg *e)
{
    struct {
        const char *key;
        unsigned long value;
    } numbers[] = {{"pages", vm->machine->pages}, {"rate", vm->machine->rate}, {"frames", vm->machine->frames_ms}};
    (void)e;
    *out = json_object_new_object();
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        char text[24];
        snprintf(text, sizeof text, "%lu", numbers[i].value);
        json_object_object_add(*out, numbers[i].key, json_object_new_string(text));
    }
    json_object_object_add(*out, "bridge", json_object_new_string(vm->machine->bridge));
    return 0;
}

/* ---- looking ---- */

static void op_info(const struct vm *vm, struct vm_info *out)
{
    const struct machine *m = vm->machine;
    *out = (struct vm_info){
        .pages = m->pages, .pid = m->pid, .nic_count = m->frames_ms ? 1 : 0, .from_remains = vm->from_remains};
    snprintf(out->note, sizeof out->note, "fake, %u pages/s", m->rate);
    memcpy(out->nics[0].mac, m->mac, 6);
    memcpy(out->nics[0].bridge, m->bridge, sizeof m->bridge);
    if (snprintf(out->nics[0].stream_path, sizeof out->nics[0].stream_path, "%s/net0.sock", vm->run_dir) >=
        (int)sizeof out->nics[0].stream_path)
        out->nics[0].stream_path[0] = '\0'; /* cannot be: hikae-fake-vm would not have started */
}

static uint8_t *op_memory(struct vm *vm)
{
    return vm->memory;
}

static enum vm_state op_state(struct vm *vm)
{
    if (atomic_load(&vm->machine->shut_down))
        return VM_SHUT_DOWN;
    if (has_ended(vm))
        return VM_GONE;
    return atomic_load(&vm->machine->running) ? VM_RUNNING : VM_PAUSED;
}

static int op_event_fd(const struct vm *vm)
{
    return vm->pidfd;
}

/* ---- checkpoints ---- */

/* As a guest that has to suspend itself. */
static int op_pause(struct vm *vm, struct errmsg *e)
{
    for (uint32_t ms = 0; vm->told.waits && ms < vm->machine->suspend_ms; ms += WAITS_MS) {
        nanosleep(&(struct timespec){.tv_nsec = WAITS_MS * 1000000}, NULL);
        vm->told.waits(vm->told.arg);
    }
    int status = switch_run(vm, 0, e);
    if (status == 0 && vm->told.stopped)
        vm->told.stopped(vm->told.arg);
    return status;
}

static int op_resume(struct vm *vm, struct errmsg *e)
{
    if (vm->told.goes_on)
        vm->told.goes_on(vm->told.arg);
    return vm->machine->replica ? errmsg_set(e, "a replica without state can't run") : switch_run(vm, 1, e);
}

static int op_arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    uint32_t pages = vm->machine->pages;
    if (op_pause(vm, e) < 0)
        return -1;
    memset((void *)vm->dirty, 0, vm->dirty_bytes);
    int status = vm_blob_append(initial, &pages, sizeof pages) < 0 ? errmsg_set(e, "out of memory") : 0;
    return op_resume(vm, e) < 0 ? -1 : status;
}

static int op_populated(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    static const uint8_t zero[MACHINE_PAGE];
    for (uint32_t i = 0; i < vm->machine->pages; i++)
        if (memcmp(vm->memory + (size_t)i * MACHINE_PAGE, zero, MACHINE_PAGE) != 0 && page_ranges_add(out, i, 1) < 0)
            return errmsg_set(e, "out of memory");
    return 0;
}

static int op_dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    for (uint32_t i = 0; i < vm->dirty_bytes / 8; i++) {
        uint64_t bits = atomic_exchange(&vm->dirty[i], 0);
        for (; bits; bits &= bits - 1)
            if (page_ranges_add(out, (uint64_t)i * 64 + (unsigned)__builtin_ctzll(bits), 1) < 0)
                return errmsg_set(e, "out of memory");
    }
    return 0;
}

static int op_state_begin(struct vm *vm, struct errmsg *e)
{
    const struct machine *m = vm->machine;
    vm->state = (struct fake_state){
        .magic = MACHINE_MAGIC, .step = m->step, .sequence = m->sequence, .shut_down_at = m->shut_down_at};
    return has_ended(vm) ? errmsg_set(e, "the fake VM's process has ended") : 0;
}

static int op_state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    return vm_blob_append(out, &vm->state, sizeof vm->state) < 0 ? errmsg_set(e, "out of memory") : 0;
}

/* It has no disks. */
static int op_disk_grown(struct vm *vm, unsigned disk, uint64_t bytes, struct errmsg *e)
{
    (void)vm, (void)bytes;
    return errmsg_set(e, "there is no disk %u", disk);
}

static int op_disarm(struct vm *vm, struct errmsg *e)
{
    (void)vm;
    (void)e;
    return 0; /* noting the pages costs the guest nothing worth ending */
}

static int op_load(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e)
{
    struct machine *m = vm->machine;
    struct fake_state s;
    if (!m->replica)
        return errmsg_set(e, "state can be loaded into a replica only, and only once");
    if (initial->size != sizeof m->pages || memcmp(initial->data, &m->pages, sizeof m->pages) != 0)
        return errmsg_set(e, "the initial state is not of this VM");
    if (state->size != sizeof s)
        return errmsg_set(e, "the device state is not of a fake VM");
    memcpy(&s, state->data, sizeof s);
    if (s.magic != MACHINE_MAGIC)
        return errmsg_set(e, "the device state is not of a fake VM");
    if (has_ended(vm))
        return errmsg_set(e, "the fake VM's process has ended");
    m->step = s.step;
    m->sequence = s.sequence;
    m->shut_down_at = s.shut_down_at;
    m->replica = 0;
    return 0;
}

static int op_dirty_running(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    return vm_dirty_paused(&hikae_vm_ops, vm, out, e);
}

static bool op_is_foreign(struct json_object *settings)
{
    return json_get(settings, "foreign");
}

__attribute__((visibility("default"))) const struct vm_ops hikae_vm_ops = {
    .abi = VM_ABI,
    .name = "fake",
    .drains_disks = true,
    .info = op_info,
    .memory = op_memory,
    .state = op_state,
    .event_fd = op_event_fd,
    .detach = op_detach,
    .destroy = op_destroy,
    .retire = op_retire,
    .clear = op_clear,
    .is_foreign = op_is_foreign,
    .launch = op_launch,
    .attach = op_attach,
    .describe = op_describe,
    .arm = op_arm,
    .populated = op_populated,
    .pause = op_pause,
    .state_begin = op_state_begin,
    .dirty = op_dirty,
    .dirty_running = op_dirty_running,
    .state_end = op_state_end,
    .resume = op_resume,
    .disk_grown = op_disk_grown,
    .disarm = op_disarm,
    .replica_create = op_replica_create,
    .load = op_load,
};
