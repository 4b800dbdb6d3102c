/*
 * discover: attaching to a QEMU that runs. Ours is found by RUN_DIR/vm.json; a foreign one by its QMP socket, and then
 * everything about it is read from QEMU and /proc. What can't be checkpointed is refused here, before the guest is
 * touched.
 */
#include "vm/qemu/qemu.h"

#include "netbuf/tap.h"
#include "vm/qemu/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Besides guest RAM, QEMU's RAM blocks may only be ROMs: they travel once, in the initial sections. */
static bool is_rom_block(const char *name)
{
    size_t n = strlen(name);
    return strncmp(name, "/rom@", 5) == 0 || strcmp(name, "pc.bios") == 0 || strcmp(name, "pc.rom") == 0 ||
           (n > 4 && strcmp(name + n - 4, ".rom") == 0);
}

static int check_ram_blocks(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct json_object *text;
    if (qmp_call(&vm->qmp, "human-monitor-command", "{\"command-line\":\"info ramblock\"}", &text, deadline, e) < 0)
        return -1;
    int status = 0;
    bool found = false;
    const char *line = json_object_get_string(text);
    while (status == 0 && line && (line = strchr(line, '\n')) && *++line) {
        char name[256];
        uint64_t total;
        if (sscanf(line, " %255s %*u %*s 0x%*x 0x%*x 0x%" SCNx64, name, &total) != 2)
            continue;
        if (strcmp(name, vm->shape.ram_id) == 0)
            found = total == vm->shape.memory;
        else if (!is_rom_block(name))
            status =
                errmsg_set(e,
                           "QEMU has memory outside the guest's RAM file that can't be tracked: %s (a graphics card? "
                           "use -nodefaults -vga none)",
                           name);
    }
    json_object_put(text);
    if (status == 0 && !found)
        status = errmsg_set(e, "QEMU has no RAM block %s of the guest's size: set -machine ...,memory-backend=%s",
                            vm->shape.ram_id, vm->shape.ram_id);
    return status;
}

/* The mapping must show the whole memory, each page once. */
static int check_cover(const struct vm *vm, const struct shared_map *map, struct errmsg *e)
{
    uint64_t at = 0;
    for (size_t i = 0; i < map->n && map->piece[i].offset == at; i++)
        at += map->piece[i].end - map->piece[i].start;
    return at == vm->shape.memory && map->bytes == at
               ? 0
               : errmsg_set(e, "QEMU maps its memory file only in part, or twice (%" PRIu64 " of %" PRIu64 " bytes)",
                            map->bytes, vm->shape.memory);
}

int qemu_setup_tracking(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct stat s = {0};
    struct shared_map *map = calloc(1, sizeof *map);
    if (!map)
        return errmsg_set(e, "out of memory");
    int status = 0;
    if (*vm->ram_path && stat(vm->ram_path, &s) < 0)
        status = errmsg_set(e, "%s: %s", vm->ram_path, strerror(errno));
    if (status == 0)
        status = proc_find_shared(vm->pid, s.st_dev, s.st_ino, vm->shape.memory, map, e);
    if (status == 0)
        status = check_cover(vm, map, e);
    if (status == 0)
        status = proc_check_page_size(vm->pid, map, e);
    if (status == 0)
        status = check_ram_blocks(vm, deadline, e);
    if (status == 0 && vm->ram_fd < 0) {
        vm->ram_fd = proc_open_inode(vm->pid, map->dev, map->inode, false, e);
        status = vm->ram_fd < 0 ? -1 : 0;
    }
    if (status == 0)
        status = track_open(&vm->track, vm->pid, vm->pidfd, map, e);
    free(map);
    return status;
}

/* Asked of QEMU, whatever vm.json says: an agent may have died between loading a replica and noting it. */
static int check_not_incoming(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct json_object *status, *value;
    if (qmp_call(&vm->qmp, "query-status", NULL, &status, deadline, e) < 0)
        return -1;
    bool incoming =
        json_object_object_get_ex(status, "status", &value) && strcmp(json_object_get_string(value), "inmigrate") == 0;
    json_object_put(status);
    return incoming
               ? errmsg_set(
                     e, "VM %s is only a replica here: its QEMU waits for an incoming migration and holds no VM yet",
                     vm->name)
               : 0;
}

static int attach_ours(struct vm *vm, struct facts *f, struct errmsg *e)
{
    int64_t deadline = qmp_now_ms() + QEMU_ATTACH_DEADLINE_MS;
    if (!facts_alive(f))
        return errmsg_set(e, "VM %s does not run: its QEMU (process %d) has ended", vm->name, (int)f->pid);
    vm->pid = f->pid;
    vm->shape = f->shape; /* now vm's */
    f->shape = (struct template){0};
    memcpy(vm->qmp_path, f->qmp_path, sizeof vm->qmp_path);
    memcpy(vm->ram_path, f->ram_path, sizeof vm->ram_path);
    memcpy(vm->ifname, f->ifname, sizeof vm->ifname);
    for (unsigned i = 0; i < vm->shape.nic_count; i++)
        if (!vm->shape.nics[i].plug)
            facts_net_path(vm->run_dir, i, vm->net_path[i]);
    vm->ours = true;
    if (qemu_open_pidfd(vm, e) < 0 || qemu_connect(vm, deadline, e) < 0 || check_not_incoming(vm, deadline, e) < 0 ||
        (f->replica && facts_write(vm, e) < 0) || qmp_state_open(&vm->saved, &vm->qmp, deadline, e) < 0 ||
        qemu_setup_tracking(vm, deadline, e) < 0)
        return -1;
    return qemu_map(vm, false, e);
}

static int query_memory(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct json_object *summary, *base, *plugged;
    if (qmp_call(&vm->qmp, "query-memory-size-summary", NULL, &summary, deadline, e) < 0)
        return -1;
    if (json_object_object_get_ex(summary, "base-memory", &base))
        vm->shape.memory = (uint64_t)json_object_get_int64(base);
    bool more = json_object_object_get_ex(summary, "plugged-memory", &plugged) && json_object_get_int64(plugged) > 0;
    json_object_put(summary);
    if (more || vm->shape.memory == 0)
        return errmsg_set(e, "memory that was plugged in later is not tracked: start the VM with all of it");
    return 0;
}

/* Where a foreign QEMU's taps are. The replica's go to the bridge of the same name. */
static int find_taps(struct vm *vm, struct errmsg *e)
{
    for (unsigned i = 0; i < vm->shape.nic_count; i++) {
        struct template_nic *nic = &vm->shape.nics[i];
        if (!nic->plug)
            continue;
        if (!if_nametoindex(vm->ifname[i]))
            return errmsg_set(e, "QEMU's interface %s is not in the network namespace of the agent", vm->ifname[i]);
        if (!*nic->bridge)
            tap_bridge(vm->ifname[i], nic->bridge);
        if (!*nic->bridge)
            return errmsg_set(e,
                              "QEMU's interface %s is no port of a bridge: say which one the replica's shall be "
                              "added to (bridge =)",
                              vm->ifname[i]);
    }
    return 0;
}

/* A foreign QEMU's disks are those of this VM's disk server, all of them and no others; and that can tell what QEMU
 * flushes by itself. */
static int check_disks(const struct vm *vm, const struct vm_spec *spec, const struct template_found *found,
                       struct errmsg *e)
{
    static const char remedy[] = "start it with the options that `hikae-block serve` prints, hikae-disks(7)";
    unsigned n = vm->shape.disk_count;
    if (!spec->disks)
        return 0;
    if (n != spec->disk_count)
        return errmsg_set(e, "QEMU has %u disks, and the VM's disk server %u: %s", n, spec->disk_count, remedy);
    for (unsigned i = 0; i < TEMPLATE_DISKS_MAX; i++)
        if (strcmp(found->disk_paths[i], i < n ? spec->disks[i].socket : "") != 0)
            return errmsg_set(e, "QEMU's disk %u is not of %s: %s", i, i < n ? spec->disks[i].socket : "a device",
                              remedy);
    return strcmp(found->still_path, n ? spec->disks[0].socket : "") == 0
               ? 0
               : errmsg_set(e, "QEMU has no drive hikae-still of the VM's disk server: %s", remedy);
}

/* The shape of a foreign QEMU, from its command line. */
static int read_command_line(struct vm *vm, const struct vm_spec *spec, const char *bridge, struct errmsg *e)
{
    struct words words = {0};
    struct template_found found = {0};
    char cwd[64];
    size_t n;
    char **line = proc_command_line(vm->pid, &n, e);
    if (!line)
        return -1;
    const char *slash = strrchr(line[0], '/');
    snprintf(vm->shape.program, sizeof vm->shape.program, "%s", slash ? slash + 1 : line[0]);
    for (size_t i = 1; i < n; i++)
        words_add(&words, "%s", line[i]);
    free(line);
    snprintf(cwd, sizeof cwd, "/proc/%d/cwd", (int)vm->pid);
    int status = template_filter(&vm->shape, &words, FROM_PROCESS, cwd, &found, e);
    words_free(&words);
    if (status < 0)
        return -1;
    if (!*vm->shape.ram_id)
        return errmsg_set(e, "guest memory is not a shared file: start QEMU with -object "
                             "memory-backend-file,id=ram0,mem-path=/dev/shm/NAME,size=SIZE,share=on and -machine "
                             "...,memory-backend=ram0");
    if (found.configuration_off) /* and QEMU 8 and later abort while they are asked for their state */
        return errmsg_set(e,
                          "QEMU was started with -global migration.send-configuration=off, which its replica is not: "
                          "start it without");
    if (check_disks(vm, spec, &found, e) < 0)
        return -1;
    for (unsigned i = 0; i < vm->shape.nic_count; i++) {
        memcpy(vm->net_path[i], found.net_paths[i], sizeof vm->net_path[i]);
        memcpy(vm->ifname[i], found.ifnames[i], sizeof vm->ifname[i]);
    }
    if (bridge && vm->shape.nic_count > 0)
        snprintf(vm->shape.nics[0].bridge, sizeof vm->shape.nics[0].bridge, "%s", bridge);
    return find_taps(vm, e);
}

/* Whose socket it is, before anything is said to it. */
static int find_peer(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct qmp probe = {.fd = -1};
    struct ucred peer;
    socklen_t size = sizeof peer;
    int reason;
    if (qmp_open(&probe, vm->qmp_path, deadline, &reason, e) < 0)
        return -1;
    int status = getsockopt(probe.fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    qmp_close(&probe);
    if (status < 0 || peer.pid <= 0)
        return errmsg_set(e, "%s: its process can't be seen from here (another PID namespace?)", vm->qmp_path);
    vm->pid = peer.pid;
    return 0;
}

int qemu_pin_shape(struct vm *vm, int64_t deadline, struct errmsg *e)
{
    struct json_object *type, *kvm, *enabled;
    if (qmp_call(&vm->qmp, "qom-get", "{\"path\":\"/machine\",\"property\":\"type\"}", &type, deadline, e) < 0)
        return -1;
    char machine[64];
    const char *name = json_object_get_string(type), *suffix = name ? strstr(name, "-machine") : NULL;
    snprintf(machine, sizeof machine, "%.*s", suffix ? (int)(suffix - name) : 0, name ? name : "");
    json_object_put(type);
    if (qmp_call(&vm->qmp, "query-kvm", NULL, &kvm, deadline, e) < 0)
        return -1;
    bool has_kvm = json_object_object_get_ex(kvm, "enabled", &enabled) && json_object_get_boolean(enabled);
    json_object_put(kvm);
    bool is_said = false; /* by an option of its own, which the replica has too */
    for (size_t i = 0; i < vm->shape.args.n; i++)
        is_said |= strcmp(vm->shape.args.at[i], "-accel") == 0 || strcmp(vm->shape.args.at[i], "-enable-kvm") == 0;
    return template_pin(&vm->shape, machine, is_said ? "" : has_kvm ? "kvm" : "tcg", e);
}

static int attach_foreign(struct vm *vm, const struct vm_spec *spec, const struct qemu_settings *s, struct errmsg *e)
{
    int64_t deadline = qmp_now_ms() + QEMU_ATTACH_DEADLINE_MS;
    if (snprintf(vm->qmp_path, sizeof vm->qmp_path, "%s", s->qmp) >= (int)sizeof vm->qmp_path)
        return errmsg_set(e, "qmp = %s: too long", s->qmp);
    if (!track_choose(e) || find_peer(vm, deadline, e) < 0 || qemu_open_pidfd(vm, e) < 0 ||
        read_command_line(vm, spec, s->bridge, e) < 0 || qemu_connect(vm, deadline, e) < 0 ||
        check_not_incoming(vm, deadline, e) < 0 || qemu_pin_shape(vm, deadline, e) < 0 ||
        query_memory(vm, deadline, e) < 0 || qemu_setup_tracking(vm, deadline, e) < 0 ||
        qmp_state_open(&vm->saved, &vm->qmp, deadline, e) < 0)
        return -1;
    return qemu_map(vm, false, e);
}

static int attach_new(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    struct facts f;
    struct qemu_settings s;
    struct json_object *qmp;
    int known = facts_read(spec->run_dir, &f, e);
    bool foreign = json_object_object_get_ex(spec->settings, "qmp", &qmp);
    if (known < 0)
        return -1;
    if (known == 1 && (facts_alive(&f) || !foreign)) {
        int status = attach_ours(vm, &f, e);
        template_free(&f.shape);
        return status;
    }
    template_free(&f.shape);
    if (!foreign)
        return errmsg_set(e, "VM %s does not run here: start it, or name the QMP socket of a running QEMU (qmp = PATH)",
                          vm->name);
    return qemu_settings_read(&s, spec->settings, e) < 0 ? -1 : attach_foreign(vm, spec, &s, e);
}

int qemu_attach(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    struct vm *vm = qemu_new(spec, e);
    if (!vm)
        return -1;
    if (attach_new(vm, spec, e) < 0) {
        qemu_detach(vm);
        return -1;
    }
    *out = vm;
    return 0;
}
