/*
 * options: see options.h. The table at the end is the list; each entry names the function that judges the value.
 */
#include "vm/qemu/options.h"

#include "vm/qemu/settings.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DISK_DEVICE "virtio-blk-pci"

struct rule {
    const char *name;
    bool has_value;
    int (*take)(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e);
    const char *detail; /* for take_const: the allowed values, blank-separated */
};

static int keep(struct option_context *c, const struct rule *r, const char *value)
{
    words_add(&c->t->args, "-%s", r->name);
    if (r->has_value)
        words_add(&c->t->args, "%s", value);
    return 0;
}

static bool is_plain(const char *value)
{
    return value[strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,=+:-")] == '\0';
}

static int take_flag(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    (void)e;
    return keep(c, r, value);
}

static int take_plain(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    if (!is_plain(value) || strstr(value, "splash") || strstr(value, "file="))
        return errmsg_set(e, "-%s %s: this value can't be replicated (letters, digits and _.,=+:- only, no files)",
                          r->name, value);
    return keep(c, r, value);
}

/* One of the values in r->detail. */
static int take_const(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    size_t n = strlen(value);
    for (const char *s = r->detail; n > 0 && (s = strstr(s, value)); s++)
        if ((s == r->detail || s[-1] == ' ') && (s[n] == ' ' || s[n] == '\0'))
            return keep(c, r, value);
    return errmsg_set(e, "-%s %s: only these values can be replicated: %s", r->name, value, r->detail);
}

/* An option that Hikae sets itself. */
static int take_ours(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    (void)value;
    if (c->source == FROM_PROCESS)
        return 0;
    return errmsg_set(e, "-%s is set by Hikae itself: remove it (%s)", r->name, r->detail);
}

static int take_text(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    for (const char *s = value; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 127)
            return errmsg_set(e, "-%s: control characters are not allowed", r->name);
    return keep(c, r, value);
}

/* A file that the replica's host must have too. From a peer it must be public, lest the guest be shown a secret of this
 * host. */
static int take_file(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    char joined[PATH_MAX], path[PATH_MAX];
    struct stat s;
    if (c->source == FROM_FACTS)
        return keep(c, r, value);
    if (strchr(value, ','))
        return errmsg_set(e, "-%s %s: a comma in a file's name can't be replicated", r->name, value);
    if (*value != '/' && c->source == FROM_PEER)
        return errmsg_set(e, "-%s %s: the file's name must be absolute", r->name, value);
    int n = *value == '/' ? snprintf(joined, sizeof joined, "%s", value)
                          : snprintf(joined, sizeof joined, "%s/%s", c->base, value);
    if (n >= (int)sizeof joined || !realpath(joined, path) || stat(path, &s) < 0)
        return errmsg_set(e, "-%s %s: %s: the file must be at this place on each host of the VM", r->name, value,
                          strerror(errno));
    if (!S_ISREG(s.st_mode))
        return errmsg_set(e, "-%s %s: not a regular file", r->name, value);
    if (c->source == FROM_PEER && !(s.st_mode & S_IROTH))
        return errmsg_set(e,
                          "-%s %s: the file is not readable by everybody, so no other host may ask for it: chmod o+r",
                          r->name, value);
    /* The name as it was given, made absolute: on the other host a link may lead elsewhere. */
    return keep(c, r, joined);
}

static int take_machine(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    static const char *const known[] = {
        "accel", "kernel-irqchip",  "usb",       "vmport", "hpet",  "smm", "graphics", "acpi",
        "i8042", "dump-guest-core", "mem-merge", "sata",   "smbus", "pit", "type",     "memory-backend",
        "hmat",  "fd-bootchk",      NULL};
    char id[32] = "";
    if (!is_plain(value))
        return errmsg_set(e, "-machine %s: unexpected character", value);
    for (size_t i = 0; i < c->t->args.n; i++)
        if (strcmp(c->t->args.at[i], "-machine") == 0)
            return errmsg_set(e, "-machine is given twice: write one");
    const char *item = value + strcspn(value, ",");
    while (*item == ',') {
        size_t n = strcspn(++item, ",="), i = 0;
        while (known[i] && (strlen(known[i]) != n || memcmp(known[i], item, n) != 0))
            i++;
        if (!known[i])
            return errmsg_set(e, "-machine ...%s: this property can't be replicated", item - 1);
        item += strcspn(item, ",");
    }
    if (comma_value(value, "memory-backend", id, sizeof id)) {
        if (c->source != FROM_PROCESS)
            return errmsg_set(e, "-machine memory-backend= is set by Hikae itself: remove it");
        snprintf(c->t->ram_id, sizeof c->t->ram_id, "%s", id);
    }
    char *rest = comma_without(value, "memory-backend");
    if (!rest)
        return errmsg_set(e, "out of memory");
    static const struct rule machine = {"machine", true, NULL, NULL};
    (void)r;
    keep(c, &machine, rest);
    free(rest);
    return 0;
}

static int take_object(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    if (strncmp(value, "rng-builtin,", 12) == 0 && is_plain(value))
        return keep(c, r, value);
    if (strncmp(value, "memory-backend-", 15) != 0)
        return errmsg_set(e, "-object %s: only rng-builtin,id=ID can be replicated", value);
    if (c->source != FROM_PROCESS)
        return errmsg_set(e, "-object memory-backend-...: guest memory is set up by Hikae itself: use the key memory");
    char share[8] = "";
    comma_value(value, "share", share, sizeof share);
    bool is_private = strcmp(share, "off") == 0 || (!*share && strncmp(value, "memory-backend-memfd", 20) != 0);
    if (is_private || strncmp(value, "memory-backend-ram", 18) == 0)
        return errmsg_set(e,
                          "-object %s: guest memory is not a shared file: use memory-backend-file with mem-path= on "
                          "/dev/shm, or memory-backend-memfd, with share=on",
                          value);
    if (comma_value(value, "hugetlb", share, sizeof share) && strcmp(share, "on") == 0)
        return errmsg_set(e, "-object %s: changes to huge pages can't be told apart: use hugetlb=off", value);
    return 0;
}

static int add_nic(struct option_context *c, const char *id, const char *path, const char *ifname, struct errmsg *e)
{
    unsigned n = c->t->nic_count;
    if (n == TEMPLATE_NICS_MAX)
        return errmsg_set(e, "more than %d network interfaces", TEMPLATE_NICS_MAX);
    snprintf(c->t->nics[n].id, sizeof c->t->nics[n].id, "%s", id);
    snprintf(c->found->net_paths[n], sizeof c->found->net_paths[n], "%s", path);
    snprintf(c->found->ifnames[n], sizeof c->found->ifnames[n], "%s", ifname);
    c->t->nics[n].plug = *ifname;
    c->t->nic_count++;
    return 0;
}

/* A tap whose interface we know, and that only QEMU reads and writes. vhost is a thread of the kernel that writes guest
 * memory. It stops with the VM, but that none of its writes escapes the tracking was never seen: refused. */
static int take_tap(struct option_context *c, const char *value, struct errmsg *e)
{
    static const struct {
        const char *key, *value, *why; /* NULL: any value */
    } known[] = {{"id", NULL, NULL},
                 {"ifname", NULL, NULL},
                 {"script", NULL, NULL},
                 {"downscript", NULL, NULL},
                 {"sndbuf", NULL, NULL},
                 {"vhost", "off", "vhost writes guest memory where no page tracking sees it: use vhost=off"},
                 {"vnet_hdr", "on", "the replica's tap has frames with a virtio-net header: use vnet_hdr=on"},
                 {"queues", "1", "only one queue is replicated: use queues=1"}};
    char id[32] = "", ifname[16] = "";
    for (const char *item = strchr(value, ','); item; item = strchr(item, ',')) {
        size_t n = strcspn(++item, ",="), i = 0;
        while (i < sizeof known / sizeof known[0] && (strlen(known[i].key) != n || memcmp(known[i].key, item, n) != 0))
            i++;
        if (i == sizeof known / sizeof known[0])
            return errmsg_set(e, "-netdev tap,%.*s: this property can't be replicated", (int)strcspn(item, ","), item);
        const char *is = item + n + (item[n] == '=');
        size_t length = strcspn(is, ",");
        if (known[i].value && (strlen(known[i].value) != length || memcmp(known[i].value, is, length) != 0))
            return errmsg_set(e, "-netdev tap,%.*s: %s", (int)strcspn(item, ","), item, known[i].why);
    }
    if (!comma_value(value, "id", id, sizeof id) || !comma_value(value, "ifname", ifname, sizeof ifname))
        return errmsg_set(e, "-netdev %s: id= and ifname= must be given", value);
    if (!qemu_bridge_is_valid(ifname) || strchr(ifname, '%'))
        return errmsg_set(e, "-netdev %s: ifname= is no interface's name", value);
    return add_nic(c, id, "", ifname, e);
}

static int take_netdev(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    (void)r;
    static const char *remedy =
        "-netdev stream,id=ID,server=on,addr.type=unix,addr.path=PATH, or -netdev tap,id=ID,ifname=TAP";
    if (c->source != FROM_PROCESS)
        return errmsg_set(e, "-netdev is set up by Hikae itself: use the keys bridge and mac");
    char server[8] = "", type[8] = "", path[108] = "", id[32] = "";
    comma_value(value, "server", server, sizeof server);
    comma_value(value, "addr.type", type, sizeof type);
    comma_value(value, "addr.path", path, sizeof path);
    comma_value(value, "id", id, sizeof id);
    if (strncmp(value, "tap,", 4) == 0)
        return take_tap(c, value, e);
    if (strncmp(value, "stream,", 7) != 0)
        return errmsg_set(e, "-netdev %.*s: its packets can't be held back until they may leave: use %s",
                          (int)strcspn(value, ","), value, remedy);
    if (strcmp(server, "on") != 0 || strcmp(type, "unix") != 0 || *path != '/' || !*id)
        return errmsg_set(e, "-netdev %s: use %s", value, remedy);
    return add_nic(c, id, path, "", e);
}

static int take_global(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    static const char *const known[] = {"kvm-pit.lost_tick_policy=", "PIIX4_PM.disable_s3=", "PIIX4_PM.disable_s4=",
                                        "ICH9-LPC.disable_s3=", "ICH9-LPC.disable_s4="};
    if (strncmp(value, "migration.", 10) == 0) {
        if (c->source != FROM_PROCESS)
            return errmsg_set(e, "-global %s: migration's properties are set by Hikae itself: remove it", value);
        if (strcmp(value, "migration.send-configuration=off") == 0)
            c->found->configuration_off = true;
        return 0;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strncmp(value, known[i], strlen(known[i])) == 0 && is_plain(value))
            return keep(c, r, value);
    return errmsg_set(e, "-global %s: this property can't be replicated", value);
}

static int refuse_device(const char *value, size_t n, struct errmsg *e)
{
    static const struct {
        const char *prefix, *why;
    } reasons[] = {
        {"vfio", "a host device writes guest memory where no page tracking sees it"},
        {"vhost-", "another process or the kernel writes guest memory where no page tracking sees it"},
        {"virtio-fs", "another process writes guest memory where no page tracking sees it"},
        {"ivshmem", "its memory is shared with other programs"},
        {"virtio-balloon", "it takes pages away behind the replica's back"},
        {"VGA", "its video memory is outside the tracked memory; use -vga none"},
        {"virtio-vga", "its video memory is outside the tracked memory; use -vga none"},
        {"qxl", "its video memory is outside the tracked memory; use -vga none"},
        {"virtio-scsi", "only disks that the key disk names are replicated, and the guest sees those as virtio-blk"},
        {"ide-", "only disks that the key disk names are replicated, and the guest sees those as virtio-blk"},
        {"scsi-", "only disks that the key disk names are replicated, and the guest sees those as virtio-blk"},
        {"nvme", "only disks that the key disk names are replicated, and the guest sees those as virtio-blk"},
        {"pc-dimm", "only memory in one piece is tracked"},
        {"nvdimm", "only memory in one piece is tracked"},
        {"virtio-mem", "only memory in one piece is tracked"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (strncmp(value, reasons[i].prefix, strlen(reasons[i].prefix)) == 0)
            return errmsg_set(e, "-device %.*s can't be replicated: %s", (int)n, value, reasons[i].why);
    return errmsg_set(e,
                      "-device %.*s is not known to be replicable (known: virtio-net-pci, virtio-rng-pci, e1000, "
                      "pcie-root-port, pvpanic, i6300esb, isa-debug-exit)",
                      (int)n, value);
}

/* Is a value what we would have written, with the socket that it names? */
static bool is_as_written(const char *value, const struct words *ours)
{
    return !ours->failed && ours->n == 2 && strcmp(ours->at[1], value) == 0;
}

static int refuse_disk(const struct rule *r, const char *value, struct errmsg *e)
{
    return errmsg_set(e,
                      "-%s %s: only disks of Hikae's disk server are replicated: start QEMU with the options that "
                      "`hikae-block serve` prints, hikae-disks(7)",
                      r->name, value);
}

static int give_by_key(const struct rule *r, struct errmsg *e)
{
    return errmsg_set(e, "-%s: give the VM its disks by the key disk: only those are replicated", r->name);
}

static int take_blockdev(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    char path[108] = "", name[32] = "", number[12], rest;
    struct words ours = {0};
    unsigned disk;
    if (c->source != FROM_PROCESS)
        return give_by_key(r, e);
    if (!comma_value(value, "server.path", path, sizeof path) || !comma_value(value, "node-name", name, sizeof name) ||
        sscanf(name, TEMPLATE_DISK_ID "%u%c", &disk, &rest) != 1 || disk >= TEMPLATE_DISKS_MAX)
        return refuse_disk(r, value, e);
    snprintf(number, sizeof number, "%u", disk);
    template_disk(disk, path, number, &ours);
    bool good = is_as_written(value, &ours);
    words_free(&ours);
    if (!good)
        return refuse_disk(r, value, e);
    memcpy(c->found->disk_paths[disk], path, sizeof path);
    return 0;
}

static int take_drive(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    char path[108] = "";
    struct words ours = {0};
    if (c->source != FROM_PROCESS)
        return give_by_key(r, e);
    comma_value(value, "server.path", path, sizeof path);
    template_still(path, &ours);
    bool good = is_as_written(value, &ours);
    words_free(&ours);
    if (!good)
        return refuse_disk(r, value, e);
    memcpy(c->found->still_path, path, sizeof path);
    return 0;
}

static bool is_reported(const char *value, const char *key)
{
    char policy[8] = "";
    return comma_value(value, key, policy, sizeof policy) && strcmp(policy, "report") == 0;
}

/* A disk of the VM, by its number: they come in order, each once. */
static int take_disk(struct option_context *c, const char *value, struct errmsg *e)
{
    char drive[64], expected[64];
    snprintf(expected, sizeof expected, TEMPLATE_DISK_ID "%u", c->t->disk_count);
    if (!comma_value(value, "drive", drive, sizeof drive) || strcmp(drive, expected) != 0)
        return errmsg_set(e, "-device %s: only disks that the key disk names are replicated", value);
    if (c->t->disk_count == TEMPLATE_DISKS_MAX)
        return errmsg_set(e, "more than %d disks", TEMPLATE_DISKS_MAX);
    if (c->source == FROM_PROCESS && !(is_reported(value, "werror") && is_reported(value, "rerror")))
        return errmsg_set(e,
                          "-device %s: write werror=report,rerror=report: an error of a store would else stop the VM, "
                          "and be seen by nobody",
                          value);
    c->t->disk_count++;
    return 0;
}

static int take_device(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    static const char *const known[] = {"virtio-net-pci", "virtio-rng-pci", "e1000",
                                        "pcie-root-port", "pvpanic",        "i6300esb",
                                        "isa-debug-exit", DISK_DEVICE,      NULL};
    size_t n = strcspn(value, ","), i = 0;
    char text[64];
    while (known[i] && (strlen(known[i]) != n || memcmp(known[i], value, n) != 0))
        i++;
    if (!known[i])
        return refuse_device(value, n, e);
    if (!is_plain(value))
        return errmsg_set(e, "-device %s: unexpected character", value);
    if (strncmp(value, DISK_DEVICE, n) == 0 && take_disk(c, value, e) < 0)
        return -1;
    for (const char *rom = value; (rom = strstr(rom, "romfile=")); rom++)
        if (rom[8] != ',' && rom[8] != '\0')
            return errmsg_set(e, "-device %s: a ROM file can't be replicated: use romfile= (empty)", value);
    if (comma_value(value, "vhost", text, sizeof text) || comma_value(value, "vhostfd", text, sizeof text))
        return errmsg_set(e, "-device %s: vhost writes guest memory where no page tracking sees it", value);
    return keep(c, r, value);
}

/* Output of the guest's serial port. What a peer says about its own files is not for this host: see template_command.
 */
static int take_serial(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    if (strcmp(value, "none") == 0 || strcmp(value, "null") == 0)
        return keep(c, r, value);
    if (strncmp(value, "file:", 5) == 0 && !strchr(value, ',') && value[5] == '/')
        return keep(c, r, value);
    if (c->source == FROM_PROCESS)
        return keep(c, r, "null"); /* the same device; where its output goes is not the replica's */
    return errmsg_set(e, "-%s %s: only none, null and file:/ABSOLUTE/PATH can be replicated", r->name, value);
}

static int take_parallel(struct option_context *c, const struct rule *r, const char *value, struct errmsg *e)
{
    if (strcmp(value, "none") != 0 && strcmp(value, "null") != 0)
        return errmsg_set(e, "-%s %s: only none and null can be replicated", r->name, value);
    return keep(c, r, value);
}

static const struct rule rules[] = {
    {"machine", true, take_machine, NULL},
    {"M", true, take_machine, NULL},
    {"accel", true, take_plain, NULL},
    {"enable-kvm", false, take_flag, NULL},
    {"cpu", true, take_plain, NULL},
    {"smp", true, take_plain, NULL},
    {"uuid", true, take_plain, NULL},
    {"rtc", true, take_plain, NULL},
    {"boot", true, take_plain, NULL},
    {"nodefaults", false, take_flag, NULL},
    {"no-user-config", false, take_flag, NULL},
    {"no-acpi", false, take_flag, NULL},
    {"no-hpet", false, take_flag, NULL},
    {"no-fd-bootchk", false, take_flag, NULL},
    {"no-reboot", false, take_flag, NULL},
    {"vga", true, take_const, "none"},
    {"kernel", true, take_file, NULL},
    {"initrd", true, take_file, NULL},
    {"append", true, take_text, NULL},
    {"global", true, take_global, NULL},
    {"device", true, take_device, NULL},
    {"object", true, take_object, NULL},
    {"serial", true, take_serial, NULL},
    {"parallel", true, take_parallel, NULL},
    {"sandbox", true, take_plain, NULL},
    {"netdev", true, take_netdev, NULL},
    {"blockdev", true, take_blockdev, NULL},
    {"drive", true, take_drive, NULL},
    {"m", true, take_ours, "use the key memory"},
    {"name", true, take_ours, "it is the VM's name"},
    {"display", true, take_ours, "there is none"},
    {"qmp", true, take_ours, "the agent's own"},
    {"mon", true, take_ours, "the agent has a QMP socket of its own"},
    {"monitor", true, take_ours, "the agent has a QMP socket of its own"},
    {"chardev", true, take_ours, "use -serial file:PATH"},
    {"pidfile", true, take_ours, "see vm.json in the VM's folder"},
    {"msg", true, take_ours, "QEMU's messages go to qemu.log"},
    {"incoming", true, take_ours, "only replicas wait for a stream"},
    {"daemonize", false, take_ours, "it runs on its own anyway"},
    {"S", false, take_ours, "a launched VM runs"},
    {"no-shutdown", false, take_ours, "always on"},
    {"only-migratable", false, take_ours, "always on"},
};

int option_take(struct option_context *c, const char *name, const char *value, struct errmsg *e)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct rule *r = &rules[i];
        if (strcmp(r->name, name) != 0)
            continue;
        if (r->has_value && !value)
            return errmsg_set(e, "-%s needs a value", name);
        /* So that a word that begins with '-' is an option, wherever one looks. */
        if (r->has_value && *value == '-')
            return errmsg_set(e, "-%s %s: a value that begins with '-' is not supported", name, value);
        if (r->take(c, r, r->has_value ? value : "", e) < 0)
            return -1;
        return r->has_value ? 2 : 1;
    }
    static const char *const disks[] = {"hda", "hdb", "cdrom", "fda", "pflash", NULL};
    for (size_t i = 0; disks[i]; i++)
        if (strcmp(disks[i], name) == 0)
            return errmsg_set(e, "-%s: give the VM its disks by the key disk: only those are replicated", name);
    return errmsg_set(e, "-%s is not among the QEMU options that can be replicated: see hikae-qemu(7)", name);
}
