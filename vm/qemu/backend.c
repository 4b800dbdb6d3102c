/*
 * backend: the table of operations of backend qemu and what all of them share: the connection to QEMU, its state, the
 * mapping of its memory. See qemu.h for where the rest is.
 */
#include "vm/qemu/qemu.h"

#include "common/jsonget.h"
#include "vm/qemu/settings.h"
#include "vm/remains.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void on_event(void *arg, const char *event, struct json_object *data)
{
    struct vm *vm = arg;
    struct json_object *value;
    if (strcmp(event, "STOP") == 0) {
        vm->running = false;
        if (vm->pausing)
            qemu_say_stopped(vm);
    } else if (strcmp(event, "RESUME") == 0) {
        vm->running = true;
        vm->shut_down = false; /* somebody has reset it */
    } else if (strcmp(event, "SHUTDOWN") == 0) {
        /* By the guest. A QEMU that was told to end (SIGTERM, quit) says so too, but that VM was killed. */
        vm->shut_down = json_object_object_get_ex(data, "guest", &value) && json_object_get_boolean(value);
    } else {
        qmp_migration_event(&vm->migration, event, data);
    }
}

struct vm *qemu_new(const struct vm_spec *spec, struct errmsg *e)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        errmsg_set(e, "out of memory");
        return NULL;
    }
    vm->qmp = (struct qmp){.fd = -1, .eof = true, .event = on_event, .arg = vm};
    vm->told = spec->told;
    vm->pidfd = vm->event_fd = vm->ram_fd = vm->saved.fd = vm->saved.read_fd = -1;
    track_init(&vm->track);
    if (snprintf(vm->name, sizeof vm->name, "%s", spec->name) >= (int)sizeof vm->name ||
        snprintf(vm->run_dir, sizeof vm->run_dir, "%s", spec->run_dir) >= (int)sizeof vm->run_dir - 16) {
        errmsg_set(e, "the VM's name or its folder's name is too long: %s", spec->run_dir);
        free(vm);
        return NULL;
    }
    return vm;
}

int qemu_open_pidfd(struct vm *vm, struct errmsg *e)
{
    vm->start_time = process_start_time(vm->pid);
    vm->pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
    if (vm->pidfd < 0 || vm->start_time == 0)
        return errmsg_set(e, "QEMU's process %d has ended", (int)vm->pid);
    return 0;
}

static int make_event_fd(struct vm *vm, struct errmsg *e)
{
    vm->event_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event in = {.events = EPOLLIN};
    if (vm->event_fd < 0 || epoll_ctl(vm->event_fd, EPOLL_CTL_ADD, vm->qmp.fd, &in) < 0 ||
        epoll_ctl(vm->event_fd, EPOLL_CTL_ADD, vm->pidfd, &in) < 0)
        return errmsg_set(e, "epoll: %s", strerror(errno));
    return 0;
}

static int query_status(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct json_object *status, *value;
    if (qmp_call(&vm->qmp, "query-status", NULL, &status, deadline, e) < 0)
        return -1;
    if (json_object_object_get_ex(status, "running", &value))
        vm->running = json_object_get_boolean(value);
    if (json_object_object_get_ex(status, "status", &value))
        vm->shut_down = strcmp(json_object_get_string(value), "shutdown") == 0;
    json_object_put(status);
    return 0;
}

static void note_version(struct vm *vm)
{
    struct json_object *q, *version, *qemu, *major, *minor, *micro;
    if (json_object_object_get_ex(vm->qmp.greeting, "QMP", &q) && json_object_object_get_ex(q, "version", &version) &&
        json_object_object_get_ex(version, "qemu", &qemu) && json_object_object_get_ex(qemu, "major", &major) &&
        json_object_object_get_ex(qemu, "minor", &minor) && json_object_object_get_ex(qemu, "micro", &micro))
        snprintf(vm->shape.version, sizeof vm->shape.version, "%d.%d.%d", json_object_get_int(major),
                 json_object_get_int(minor), json_object_get_int(micro));
}

int qemu_connect(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    int reason;
    /* A QEMU that was started a moment ago does not listen yet. */
    while (qmp_open(&vm->qmp, vm->qmp_path, deadline, &reason, e) < 0) {
        struct pollfd ended = {.fd = vm->pidfd, .events = POLLIN};
        if (poll(&ended, 1, 2) > 0)
            return errmsg_set(e, "QEMU ended at once");
        if ((reason != ENOENT && reason != ECONNREFUSED) || qmp_now_ms() > deadline)
            return -1;
    }
    note_version(vm);
    if (make_event_fd(vm, e) < 0)
        return -1;
    return query_status(vm, deadline, e);
}

int qemu_map(struct vm *vm, bool writable, struct errmsg *e)
{
    struct stat s;
    if (fstat(vm->ram_fd, &s) < 0 || (uint64_t)s.st_size < vm->shape.memory)
        return errmsg_set(e, "the memory file of the VM is smaller than its memory");
    void *at = mmap(NULL, vm->shape.memory, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, vm->ram_fd, 0);
    if (at == MAP_FAILED)
        return errmsg_set(e, "mapping guest memory: %s", strerror(errno));
    /* A core dump of an agent shall not hold the guest's memory. */
    (void)madvise(at, vm->shape.memory, MADV_DONTDUMP);
    /* Nor shall this mapping bring huge pages into the guest's memory, whose changes can't be told apart. */
    (void)madvise(at, vm->shape.memory, MADV_NOHUGEPAGE);
    vm->memory = at;
    return 0;
}

static enum vm_state op_state(struct vm *vm)
{
    if (vm->gone)
        return vm->shut_down ? VM_SHUT_DOWN : VM_GONE;
    qmp_drain(&vm->qmp);
    struct pollfd ended = {.fd = vm->pidfd, .events = POLLIN};
    if (vm->qmp.eof || poll(&ended, 1, 0) > 0) {
        vm->gone = true;
        /* Both stay readable for ever: the owner's loop must not spin. */
        if (vm->qmp.fd >= 0)
            epoll_ctl(vm->event_fd, EPOLL_CTL_DEL, vm->qmp.fd, NULL);
        epoll_ctl(vm->event_fd, EPOLL_CTL_DEL, vm->pidfd, NULL);
        return vm->shut_down ? VM_SHUT_DOWN : VM_GONE;
    }
    if (vm->shut_down)
        return VM_SHUT_DOWN;
    return vm->running ? VM_RUNNING : VM_PAUSED;
}

static void op_info(const struct vm *vm, struct vm_info *out)
{
    *out = (struct vm_info){.pages = vm->shape.memory / VM_PAGE_SIZE,
                            .pid = (int)vm->pid,
                            .nic_count = vm->shape.nic_count,
                            .from_remains = vm->from_remains};
    char accel[16] = "";
    for (size_t i = 0; i + 1 < vm->shape.args.n; i++)
        if (strcmp(vm->shape.args.at[i], "-machine") == 0)
            comma_value(vm->shape.args.at[i + 1], "accel", accel, sizeof accel);
    snprintf(out->note, sizeof out->note, "QEMU %s%s%s%s%s", vm->shape.version, *accel ? ", " : "", accel,
             *vm->track.note ? ", " : "", vm->track.note);
    for (unsigned i = 0; i < vm->shape.nic_count; i++) {
        struct vm_nic *nic = &out->nics[i];
        qemu_parse_mac(vm->shape.nics[i].mac, nic->mac);
        memcpy(nic->bridge, vm->shape.nics[i].bridge, sizeof nic->bridge);
        memcpy(nic->stream_path, vm->net_path[i], sizeof nic->stream_path);
        memcpy(nic->ifname, vm->ifname[i], sizeof nic->ifname);
    }
}

static uint8_t *op_memory(struct vm *vm)
{
    return vm->memory;
}

static int op_event_fd(const struct vm *vm)
{
    return vm->event_fd;
}

static int op_describe(struct vm *vm, struct json_object **out, struct errmsg *e)
{
    *out = template_to_json(&vm->shape);
    return *out ? 0 : errmsg_set(e, "out of memory");
}

void qemu_detach(struct vm *vm)
{
    int fds[] = {vm->pidfd, vm->event_fd, vm->ram_fd};
    qmp_state_close(&vm->saved);
    qmp_close(&vm->qmp);
    track_close(&vm->track);
    if (vm->memory)
        munmap(vm->memory, vm->shape.memory);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    template_free(&vm->shape);
    free(vm);
}

/* Has it ended? */
static bool kill_and_wait(int pidfd)
{
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    return poll(&ended, 1, QEMU_DEADLINE_MS) > 0;
}

/* Lets the memory file of an ended QEMU outlive it. If that fails it goes with the other files. */
static void keep_memory(const char *ram_path, const char *remains)
{
    char kept[QEMU_PATH_MAX + 8];
    struct errmsg e;
    if (!*ram_path)
        return;
    snprintf(kept, sizeof kept, "%s.kept", ram_path);
    (void)remains_keep(remains, ram_path, kept, &e);
}

static bool op_is_foreign(struct json_object *settings)
{
    return json_get(settings, "qmp");
}

/* A QEMU that somebody else has started: who listens at its monitor, whether it still answers or not. -1 with `e`: it
 * may live on. */
static int end_foreign(struct json_object *settings, struct errmsg *e)
{
    const char *path = json_get_text(settings, "qmp", "");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer = {.pid = 0};
    socklen_t size = sizeof peer;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), pidfd = -1;
    bool there = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    bool ended = !there && (errno == ENOENT || errno == ECONNREFUSED);
    if (there && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0)
        pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    if (pidfd >= 0) {
        ended = kill_and_wait(pidfd);
        close(pidfd);
    }
    if (fd >= 0)
        close(fd);
    return ended ? 0 : errmsg_set(e, "the QEMU at %s can't go on, and can't be ended: end it", path);
}

static int op_clear(const struct vm_spec *spec, struct errmsg *e)
{
    struct facts f;
    int known = facts_read(spec->run_dir, &f, e);
    bool alive = known == 1 && facts_alive(&f), may_run = alive && !f.replica && !spec->doomed, ended = !alive;
    if (alive && !may_run) {
        int pidfd = (int)syscall(SYS_pidfd_open, f.pid, 0);
        if (pidfd >= 0 && facts_alive(&f)) /* looked at again: the pid was not given to another process meanwhile */
            ended = kill_and_wait(pidfd);
        if (pidfd >= 0)
            close(pidfd);
    }
    if (known == 1 && !may_run && ended && spec->remains)
        keep_memory(f.ram_path, spec->remains);
    if (known == 1 && !may_run)
        facts_clean(spec->run_dir, f.ram_path, f.shape.nic_count);
    template_free(&f.shape);
    if (known == 0 && op_is_foreign(spec->settings)) /* we have no files of it, and can't tell */
        return spec->doomed ? end_foreign(spec->settings, e) : 1;
    return known < 0 ? -1 : may_run;
}

static void op_retire(struct vm *vm, const char *remains)
{
    bool ended = vm->pidfd >= 0 && kill_and_wait(vm->pidfd);
    if (vm->ours && ended && remains)
        keep_memory(vm->ram_path, remains);
    if (vm->ours)
        facts_clean(vm->run_dir, vm->ram_path, vm->shape.nic_count);
    qemu_detach(vm);
}

void qemu_destroy(struct vm *vm)
{
    op_retire(vm, NULL);
}

/* QEMU's NBD client can't resize anything, but takes the size that the server told it when they last connected. */
static int op_disk_grown(struct vm *vm, unsigned disk, uint64_t bytes, struct errmsg *e)
{
    char arguments[96];
    snprintf(arguments, sizeof arguments, "{\"node-name\":\"" TEMPLATE_DISK_ID "%u\",\"size\":%llu}", disk,
             (unsigned long long)bytes);
    return qmp_call(&vm->qmp, "block_resize", arguments, NULL, qmp_now_ms() + QEMU_DEADLINE_MS, e);
}

static int op_dirty_running(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    return vm_dirty_paused(&hikae_vm_ops, vm, out, e);
}

__attribute__((visibility("default"))) const struct vm_ops hikae_vm_ops = {
    .abi = VM_ABI,
    .name = "qemu",
    .drains_disks = true,
    .info = op_info,
    .memory = op_memory,
    .state = op_state,
    .event_fd = op_event_fd,
    .detach = qemu_detach,
    .destroy = qemu_destroy,
    .retire = op_retire,
    .clear = op_clear,
    .is_foreign = op_is_foreign,
    .launch = qemu_launch,
    .attach = qemu_attach,
    .describe = op_describe,
    .arm = qemu_arm,
    .populated = qemu_populated,
    .pause = qemu_pause,
    .state_begin = qemu_state_begin,
    .dirty = qemu_dirty,
    .dirty_running = op_dirty_running,
    .state_end = qemu_state_end,
    .resume = qemu_resume,
    .disk_grown = op_disk_grown,
    .disarm = qemu_disarm,
    .replica_create = qemu_replica_create,
    .load = qemu_load,
};
