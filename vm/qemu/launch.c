/*
 * launch: starts QEMU, for a VM from its configuration and for a replica from another host's description.
 */
#include "vm/qemu/qemu.h"

#include "netbuf/tap.h"
#include "vm/qemu/settings.h"
#include "vm/remains.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RAM_DIR "/dev/shm"

/* The preload library lies beside this module. */
static int preload_path(char *out, size_t size, struct errmsg *e)
{
    Dl_info here;
    if (!dladdr((void *)(uintptr_t)preload_path, &here) || !here.dli_fname)
        return errmsg_set(e, "where backend qemu was loaded from is unknown");
    char module[PATH_MAX];
    if (!realpath(here.dli_fname, module)) /* QEMU starts in another folder */
        return errmsg_set(e, "%s: %s", here.dli_fname, strerror(errno));
    *strrchr(module, '/') = '\0';
    if (snprintf(out, size, "%s/hikae-uffd.so", module) >= (int)size || access(out, R_OK) < 0)
        return errmsg_set(e, "%s: %s: it belongs beside backend qemu; install it again", out, strerror(errno));
    /* ld.so cuts LD_PRELOAD at blanks and colons. */
    return strpbrk(out, " :") ? errmsg_set(e, "%s: its folder's name has a blank or a colon", out) : 0;
}

static bool is_short(const struct statvfs *space, const struct stat *file, uint64_t bytes)
{
    return (uint64_t)space->f_bavail * space->f_frsize + (uint64_t)file->st_blocks * 512 < bytes;
}

/* Room for what the file does not hold yet. */
static int check_room(const struct vm *vm, struct errmsg *e)
{
    struct statvfs space;
    struct stat s;
    uint64_t bytes = vm->shape.memory;
    if (statvfs(RAM_DIR, &space) < 0 || fstat(vm->ram_fd, &s) < 0)
        return errmsg_set(e, RAM_DIR ": %s", strerror(errno));
    if (is_short(&space, &s, bytes)) {
        remains_make_room(vm->run_dir); /* a VM that runs is worth more than a shorter sync */
        if (statvfs(RAM_DIR, &space) < 0)
            return errmsg_set(e, RAM_DIR ": %s", strerror(errno));
    }
    if (is_short(&space, &s, bytes))
        return errmsg_set(e,
                          RAM_DIR " has %llu MiB free, VM %s needs %llu: remove files there (ls -l " RAM_DIR "), or "
                                  "mount -o remount,size=SIZE " RAM_DIR,
                          (unsigned long long)space.f_bavail * space.f_frsize >> 20, vm->name,
                          (unsigned long long)bytes >> 20);
    return 0;
}

/* A sparse file of the VM's memory, in tmpfs because its pages are the guest's: new, or what was kept of it. */
static int make_ram_file(struct vm *vm, const char *remains, struct errmsg *e)
{
    snprintf(vm->ram_path, sizeof vm->ram_path, RAM_DIR "/hikae-%s-XXXXXX.ram", vm->name);
    vm->ram_fd = mkostemps(vm->ram_path, 4, O_CLOEXEC);
    if (vm->ram_fd < 0) {
        int status = errmsg_set(e, "%s: %s", vm->ram_path, strerror(errno));
        vm->ram_path[0] = '\0';
        return status;
    }
    if (remains && remains_take(remains, vm->ram_path, vm->shape.memory)) { /* in place of the empty file */
        close(vm->ram_fd);
        vm->ram_fd = open(vm->ram_path, O_RDWR | O_CLOEXEC);
        vm->from_remains = true;
    } else if (ftruncate(vm->ram_fd, (off_t)vm->shape.memory) < 0) {
        return errmsg_set(e, "%s: %s", vm->ram_path, strerror(errno));
    }
    return vm->ram_fd < 0 ? errmsg_set(e, "%s: %s", vm->ram_path, strerror(errno)) : check_room(vm, e);
}

/* The ends of the VM's network for QEMU: taps, or the names of sockets. */
static int make_network(struct vm *vm, struct template_paths *paths, int taps[VM_MAX_NICS], size_t *n, struct errmsg *e)
{
    for (unsigned i = 0; i < vm->shape.nic_count; i++) {
        if (vm->shape.nics[i].plug) {
            paths->tap[i] = 3 + (int)*n;
            taps[*n] = tap_create(vm->ifname[i], e);
            if (taps[*n] < 0)
                return -1;
            ++*n;
            continue;
        }
        facts_net_path(vm->run_dir, i, vm->net_path[i]);
        if (!*vm->net_path[i])
            return errmsg_set(e, "%s: too long a name for the folder of unix sockets: choose a shorter run_dir",
                              vm->run_dir);
        unlink(vm->net_path[i]);
        paths->net[i] = vm->net_path[i];
    }
    return 0;
}

static int start_process(struct vm *vm, const struct vm_spec *spec, const char *program, bool replica, struct errmsg *e)
{
    char preload[PATH_MAX], log[PATH_MAX];
    struct words command = {0};
    struct template_paths paths = {
        .name = vm->name, .program = program, .run_dir = vm->run_dir, .ram = vm->ram_path, .qmp = vm->qmp_path};
    int taps[VM_MAX_NICS];
    size_t tap_count = 0;
    if (preload_path(preload, sizeof preload, e) < 0)
        return -1;
    int status = make_network(vm, &paths, taps, &tap_count, e);
    for (unsigned i = 0; i < spec->disk_count && i < TEMPLATE_DISKS_MAX; i++) {
        paths.disk_socket[i] = spec->disks[i].socket;
        paths.disk_export[i] = spec->disks[i].export_name;
    }
    unlink(vm->qmp_path);
    snprintf(log, sizeof log, "%s/qemu.log", vm->run_dir);
    if (status == 0)
        status = template_command(&vm->shape, &paths, replica, &command, e);
    if (status == 0) {
        vm->pid = process_spawn_with(command.at, preload, taps, tap_count, log, e);
        status = vm->pid > 0 ? qemu_open_pidfd(vm, e) : -1;
        if (status == 0)
            status = facts_write(vm, e);
        if (status == 0)
            status = qemu_connect(vm, qmp_now_ms() + QEMU_START_DEADLINE_MS, e);
        if (status < 0 && vm->pid > 0)
            process_explain(log, e);
    }
    for (size_t i = 0; i < tap_count; i++)
        close(taps[i]); /* QEMU has them: they end with it */
    words_free(&command);
    return status;
}

/* A folder that another VM of this name lives in is refused; what a dead one left is removed. */
static int clear_run_dir(const struct vm_spec *spec, struct errmsg *e)
{
    struct facts f;
    int known = facts_read(spec->run_dir, &f, e);
    if (known <= 0)
        return known;
    if (facts_alive(&f))
        known = errmsg_set(e, "VM %s already runs here (process %d)", spec->name, (int)f.pid);
    else
        facts_clean(spec->run_dir, f.ram_path, f.shape.nic_count);
    template_free(&f.shape);
    return known < 0 ? -1 : 0;
}

/* Without mac in the configuration: the same for the same name. */
static void default_mac(const char *name, char out[18])
{
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    snprintf(out, 18, "52:54:00:%02x:%02x:%02x", hash & 0xff, (hash >> 8) & 0xff, (hash >> 16) & 0xff);
}

/* Is there a KVM to rely on? A /dev/kvm without virtualization in the CPU is an emulation of it, which fails on real
 * guests after it has started them. */
static bool kvm_is_usable(void)
{
    char line[8192];
    bool usable = access("/dev/kvm", R_OK | W_OK) == 0;
    FILE *f = usable ? fopen("/proc/cpuinfo", "re") : NULL;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "flags\t", 6) != 0)
            continue;
        usable = strstr(line, " vmx") || strstr(line, " svm");
        break;
    }
    if (f)
        fclose(f);
    return usable;
}

static int shape_from_settings(struct vm *vm, const struct vm_spec *spec, const struct qemu_settings *s,
                               struct errmsg *e)
{
    struct words words = {0};
    struct template *t = &vm->shape;
    const char *slash = strrchr(s->qemu, '/');
    char cwd[PATH_MAX];
    t->memory = s->memory;
    snprintf(t->ram_id, sizeof t->ram_id, "ram0");
    snprintf(t->program, sizeof t->program, "%s", slash ? slash + 1 : s->qemu);
    words_add(&words, "-machine");
    bool choose = strcmp(s->accel, "kvm:tcg") == 0;
    words_add(&words, "%s,accel=%s", s->machine, !choose ? s->accel : kvm_is_usable() ? "kvm" : "tcg");
    words_add(&words, "-smp");
    words_add(&words, "%u", s->cpus);
    static const char *const bare[] = {"-nodefaults", "-no-user-config", "-vga", "none"};
    for (size_t i = 0; i < sizeof bare / sizeof bare[0]; i++)
        words_add(&words, "%s", bare[i]);
    if (s->bridge || s->mac) {
        struct template_nic *nic = &t->nics[t->nic_count++];
        snprintf(nic->id, sizeof nic->id, "hikae0");
        snprintf(nic->bridge, sizeof nic->bridge, "%s", s->bridge ? s->bridge : "");
        nic->plug = s->plug;
        if (s->mac)
            snprintf(nic->mac, sizeof nic->mac, "%s", s->mac);
        else
            default_mac(vm->name, nic->mac);
        /* Legacy virtio: 15 KB of state instead of 105, and half the time to save it. */
        words_add(&words, "-device");
        words_add(&words,
                  "virtio-net-pci,netdev=hikae0,mac=%s,disable-modern=on,disable-legacy=off,romfile=", nic->mac);
    }
    for (unsigned i = 0; i < spec->disk_count;
         i++) { /* a write that fails is the guest's to know of: it is never paused */
        words_add(&words, "-device");
        words_add(&words,
                  "virtio-blk-pci,drive=" TEMPLATE_DISK_ID
                  "%u,disable-modern=on,disable-legacy=off,werror=report,rerror=report",
                  i);
    }
    int status = words_split(&words, s->options, e);
    if (status == 0)
        status = template_filter(t, &words, FROM_CONFIG, getcwd(cwd, sizeof cwd) ? cwd : "/", NULL, e);
    words_free(&words);
    return status;
}

static int launch_new(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    struct qemu_settings s;
    if (qemu_settings_read(&s, spec->settings, e) < 0)
        return -1;
    if (s.qmp)
        return errmsg_set(e, "VM %s has qmp set: it is started by whoever owns that QEMU, not by Hikae", vm->name);
    if (clear_run_dir(spec, e) < 0 || !track_choose(e) || shape_from_settings(vm, spec, &s, e) < 0 ||
        make_ram_file(vm, NULL, e) < 0)
        return -1;
    vm->ours = true;
    int64_t deadline = qmp_now_ms() + QEMU_ATTACH_DEADLINE_MS;
    if (start_process(vm, spec, s.qemu, false, e) < 0 || qemu_pin_shape(vm, deadline, e) < 0 ||
        facts_write(vm, e) < 0 || qmp_state_open(&vm->saved, &vm->qmp, deadline, e) < 0 ||
        qemu_setup_tracking(vm, deadline, e) < 0 || qemu_map(vm, false, e) < 0 || qemu_connect_taps(vm, e) < 0)
        return -1;
    return qemu_resume(vm, e);
}

int qemu_launch(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    struct vm *vm = qemu_new(spec, e);
    if (!vm)
        return -1;
    snprintf(vm->qmp_path, sizeof vm->qmp_path, "%.480s/qmp.sock", vm->run_dir);
    if (launch_new(vm, spec, e) < 0) {
        if (*vm->ram_path && !vm->ours)
            unlink(vm->ram_path);
        qemu_destroy(vm);
        return -1;
    }
    *out = vm;
    return 0;
}

static int replica_new(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    struct json_object *value;
    const char *bridge = NULL;
    if (json_object_object_get_ex(spec->settings, "local_bridge", &value)) {
        bridge = json_object_get_string(value);
        if (!bridge || !qemu_bridge_is_valid(bridge))
            return errmsg_set(e, "bridge = %s: write an interface's name, e.g. br0", bridge ? bridge : "");
    }
    if (template_from_json(&vm->shape, spec->settings, FROM_PEER, bridge, e) < 0)
        return -1;
    if (vm->shape.disk_count != spec->disk_count)
        return errmsg_set(e, "the VM's description names %u disks, its primary tells of %u", vm->shape.disk_count,
                          spec->disk_count);
    /* After a failover the replica must be trackable itself. */
    if (clear_run_dir(spec, e) < 0 || !track_choose(e) || make_ram_file(vm, spec->remains, e) < 0)
        return -1;
    vm->ours = vm->replica = true;
    if (start_process(vm, spec, vm->shape.program, true, e) < 0)
        return -1;
    return qmp_call(&vm->qmp, "migrate-set-capabilities",
                    "{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":true},"
                    "{\"capability\":\"events\",\"state\":true}]}",
                    NULL, qmp_now_ms() + QEMU_DEADLINE_MS, e) < 0
               ? -1
               : qemu_map(vm, true, e);
}

int qemu_replica_create(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    struct vm *vm = qemu_new(spec, e);
    if (!vm)
        return -1;
    snprintf(vm->qmp_path, sizeof vm->qmp_path, "%.480s/qmp.sock", vm->run_dir);
    if (replica_new(vm, spec, e) < 0) {
        if (*vm->ram_path && !vm->ours)
            unlink(vm->ram_path);
        qemu_destroy(vm);
        return -1;
    }
    *out = vm;
    return 0;
}
