/*
 * hikae-block: disks for VMs that others start.
 *
 *   hikae-block serve VM      starts the VM's disk server and prints the options with which a QEMU has its disks
 *   hikae-block end VM        ends it, when that QEMU has ended, unless an agent looks after the VM
 *
 * And what Xen's hotplug script block-hikae (beside this) needs of us: a disk of a VM as a block device of this host.
 * The VM's disk server is started if this is its first disk here, and ended with the last one if no agent looks after
 * the VM. Nobody types this; the words are those of the script.
 *
 *   hikae-block connect VM[:N] DOMID DOMAIN      prints the device, "MAJOR:MINOR NAME", the numbers in hexadecimal;
 *                                                status 3: another domain has one, prints the domain's number
 *   hikae-block disconnect VM[:N] DOMID DOMAIN
 *
 * A replica's domain (VM--hikae) gets the disks that its agent serves already: their stores are the agent's alone until
 * it takes over. Every other domain runs from them, and may not while they are a replica's.
 */
#include "common/config.h"
#include "common/file.h"
#include "common/jsonget.h"
#include "common/state.h"
#include "disk/kernel.h"
#include "disk/log.h"
#include "disk/prepare.h"
#include "disk/server.h"
#include "disk/shared.h"
#include "vm/qemu/template.h"
#include "vm/xen/name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

enum { IN_USE = 3 };

struct order {
    struct config *config;
    char vm[64];
    bool is_replica; /* of the domain */
    bool is_script;  /* who asks */
    struct kernel_disk disk;
};

/* ---- connect ---- */

static bool is_role(const struct vm_record *r, const char *role)
{
    return strcmp(r->role, role) == 0;
}

/* May a domain run here from these disks, by what is known of the VM? */
static int check_record(const struct order *o, const struct vm_record *r, struct errmsg *e)
{
    const char *dir = o->config->state_dir;
    if (is_role(r, "standby"))
        return errmsg_set(e, "this host holds a replica of VM %s for %s: to run it here, `hikae failover %s`", o->vm,
                          r->peer, o->vm);
    if (is_role(r, "lost") || is_role(r, "moved"))
        return errmsg_set(e,
                          "VM %s went on at %s, what its disks here hold is older: let it come back (`hikae migrate`), "
                          "or, if it is to begin here from that, remove %s/vms/%s.json",
                          o->vm, *r->peer ? r->peer : "another host", dir, o->vm);
    if (is_role(r, "running") && vm_record_is_of_other_boot(r))
        return errmsg_set(e,
                          "this host was rebooted since VM %s ran here, and its agent has not seen yet whether it went "
                          "on elsewhere: start hikae-primary, or, if it did not for sure, remove %s/vms/%s.json",
                          o->vm, dir, o->vm);
    return 0;
}

/* *term: of its last grant to this host that is known; 0: none. */
static int check_role(const struct order *o, uint64_t *term, struct errmsg *e)
{
    struct vm_record r;
    int got = vm_record_load(o->config->state_dir, o->vm, &r, e);
    int status = got < 0 ? -1 : got == 0 ? check_record(o, &r, e) : 0;
    *term = r.term;
    vm_record_clear(&r);
    return status;
}

/* Starts the server, unless it runs. drains: as in disk/prepare.h. */
static int serve(const struct order *o, bool drains, struct disk_paths *paths, struct store_paths *stores,
                 struct errmsg *e)
{
    uint64_t term;
    if (check_role(o, &term, e) < 0 || store_paths(o->config, o->vm, stores, e) < 0 ||
        disk_paths(o->config, o->vm, stores, paths, e) < 0)
        return -1;
    if (o->disk.disk >= paths->n)
        return errmsg_set(
            e,
            "VM %s has %u disks on this host, there is no disk %u: name it, `disk = ` or `shared_disk = ` "
            "in [vm %s]",
            o->vm, paths->n, o->disk.disk, o->vm);
    if (disk_server_has_lost_writes(o->disk.dir))
        return errmsg_set(
            e,
            "the disk server of VM %s has ended with writes to its shared disks that were not let out: its "
            "agent sees to that, `hikae status %s`",
            o->vm, o->vm);
    if (!disk_server_exists(o->disk.dir) && disks_prepare(o->config, o->vm, o->disk.dir, stores, term, drains, e) < 0)
        return -1;
    /* One that exists has whatever stores it has: they are compared. */
    return disk_server_start_shared(o->disk.dir, paths->at, paths->n, paths->shared, false, e) < 0 ||
                   disk_server_note_taken(o->disk.dir, e) < 0
               ? -1
               : 0;
}

static int print_device(const struct kernel_disk *k, struct errmsg *e)
{
    char path[32];
    struct stat s;
    snprintf(path, sizeof path, "/dev/nbd%u", k->index);
    if (stat(path, &s) < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    printf("%x:%x %s\n", major(s.st_rdev), minor(s.st_rdev), path);
    return 0;
}

static int find_other(const struct kernel_disk *k, void *arg)
{
    struct order *o = arg;
    if (k->disk != o->disk.disk || k->domid == o->disk.domid)
        return 0;
    printf("%u\n", k->domid);
    return IN_USE;
}

/* 0, IN_USE or -1 */
static int connect_disk(struct order *o, struct errmsg *e)
{
    if (kernel_disks(o->disk.dir, find_other, o))
        return IN_USE;
    struct store_paths stores;
    struct disk_paths paths;
    if (!o->is_replica && serve(o, false, &paths, &stores, e) < 0)
        return -1;
    if (kernel_disk_disconnect(&o->disk, e) < 0) /* of this very domain: left by an attempt that failed */
        return -1;
    return kernel_disk_connect(&o->disk, e) < 0 || print_device(&o->disk, e) < 0 ? -1 : 0;
}

/* ---- disconnect ---- */

/* An agent that looks after a running VM holds its lock. */
static bool has_agent(const struct order *o)
{
    char path[512];
    snprintf(path, sizeof path, "%s/vms/%s.lock", o->config->run_dir, o->vm);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool has = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;
    if (fd >= 0)
        close(fd);
    return has;
}

static int is_used(const struct kernel_disk *k, void *arg)
{
    const struct order *o = arg;
    return k->domid != o->disk.domid; /* ours is on its way out */
}

/* Two disks of a domain go one after the other, and each finds that no other domain has one: to end the server while
 * the second is still connected loses nothing, since its domain is gone. */
static int disconnect_disk(struct order *o, struct errmsg *e)
{
    if (kernel_disk_disconnect(&o->disk, e) < 0)
        return -1;
    if (o->is_replica || has_agent(o) || kernel_disks(o->disk.dir, is_used, o))
        return 0;
    return disk_server_stop(o->disk.dir, e);
}

/* ---- a QEMU that somebody else starts ---- */

static int print_options(const struct order *o, unsigned disks, struct errmsg *e)
{
    struct words all = {0};
    struct sockaddr_un room;
    char socket[KERNEL_DISK_DIR_MAX + 16], number[12];
    snprintf(socket, sizeof socket, "%s/nbd.sock", o->disk.dir);
    if (strlen(socket) >= sizeof room.sun_path || strpbrk(socket, ", \t"))
        return errmsg_set(e, "%s: too long for a socket, or with a comma or a blank: choose another run_dir", socket);
    template_still(socket, &all);
    for (unsigned i = 0; i < disks; i++) {
        snprintf(number, sizeof number, "%u", i);
        template_disk(i, socket, number, &all);
        words_add(&all, "-device");
        words_add(&all, "virtio-blk-pci,drive=" TEMPLATE_DISK_ID "%u,werror=report,rerror=report", i);
    }
    for (size_t i = 0; i < all.n; i++)
        printf("%s%c", all.at[i], i + 1 < all.n ? ' ' : '\n');
    int status = all.failed ? errmsg_set(e, "out of memory") : 0;
    words_free(&all);
    return status;
}

static int serve_qemu(struct order *o, struct errmsg *e)
{
    struct store_paths stores;
    struct disk_paths paths;
    if (!json_get_text(config_vm(o->config, o->vm)->settings, "qmp", NULL))
        return errmsg_set(e, "[vm %s] has no key qmp: Hikae starts its QEMU itself, and its disk server too", o->vm);
    if (has_agent(o))
        return errmsg_set(e, "VM %s runs on this host: an agent looks after it", o->vm);
    return serve(o, true, &paths, &stores, e) < 0 ? -1 : print_options(o, paths.n, e);
}

/* Whatever still has these disks is the admin's to know of. But not what is held: that would be lost. */
static int end_qemu(struct order *o, struct errmsg *e)
{
    if (has_agent(o))
        return errmsg_set(e, "VM %s runs on this host: the agent that looks after it ends the server with it", o->vm);
    if (!disk_server_is_taken(o->disk.dir))
        return errmsg_set(e, "no disk server of VM %s was started by hand on this host", o->vm);
    if (disk_server_is_holding(o->disk.dir))
        return errmsg_set(
            e,
            "the disk server of VM %s holds writes to its shared disks: start hikae-primary, which sees to "
            "them",
            o->vm);
    if (disk_server_stop(o->disk.dir, e) < 0)
        return -1;
    kernel_disks_disconnect(o->disk.dir);
    return 0;
}

/* ---- words ---- */

static int read_target(struct order *o, const char *target, struct errmsg *e)
{
    if (xen_disk_target_parse(target, o->vm, &o->disk.disk) < 0 || o->disk.disk >= DISK_MAX)
        return errmsg_set(e, "target=%s: write the VM's name, or VM:N for its disk N (0 to %d)", target, DISK_MAX - 1);
    if (snprintf(o->disk.dir, sizeof o->disk.dir, "%s/disks/%s", o->config->run_dir, o->vm) >= (int)sizeof o->disk.dir)
        return errmsg_set(e, "%s: choose a shorter run_dir", o->config->run_dir);
    return 0;
}

static int read_domain(struct order *o, const char *domid, const char *name, struct errmsg *e)
{
    char *end;
    unsigned long number = strtoul(domid, &end, 10);
    if (*end || end == domid || number > UINT32_MAX)
        return errmsg_set(e, "%s is no domain's number", domid);
    o->disk.domid = (uint32_t)number;
    o->is_replica = xen_is_replica_name(name);
    return 0;
}

/* libxl calls for all disks of a domain at once; they take turns. The lock is this process's. */
static int take_turn(const struct order *o, struct errmsg *e)
{
    char path[512];
    snprintf(path, sizeof path, "%s/disks", o->config->run_dir);
    if (dir_make(path, 0700, e) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/disks/%s.turn", o->config->run_dir, o->vm);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 && flock(fd, LOCK_EX) == 0 ? 0 : errmsg_set(e, "%s: %s", path, strerror(errno));
}

struct word {
    const char *name;
    bool of_domain; /* DOMID DOMAIN follow the target */
    int (*carry_out)(struct order *o, struct errmsg *e);
};

static const struct word *find_word(int argc, char **argv)
{
    static const struct word words[] = {{"connect", true, connect_disk},
                                        {"disconnect", true, disconnect_disk},
                                        {"serve", false, serve_qemu},
                                        {"end", false, end_qemu}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (argc == (words[i].of_domain ? 5 : 3) && strcmp(argv[1], words[i].name) == 0)
            return &words[i];
    return NULL;
}

static int carry_out(struct order *o, int argc, char **argv, struct errmsg *e)
{
    const char *path = getenv("HIKAE_CONFIG");
    const struct word *word = find_word(argc, argv);
    if (!word)
        return errmsg_set(e, "serve VM or end VM: disks of a QEMU that you start, hikae-disks(7); "
                             "connect|disconnect VM[:N] DOMID DOMAIN: block-hikae knows how");
    o->is_script = word->of_domain;
    o->config = config_load(path ? path : "/etc/hikae/hikae.conf", e);
    if (!o->config || read_target(o, argv[2], e) < 0)
        return -1;
    if (o->is_script && read_domain(o, argv[3], argv[4], e) < 0)
        return -1;
    return take_turn(o, e) < 0 ? -1 : word->carry_out(o, e);
}

int main(int argc, char **argv)
{
    struct order order = {.config = NULL};
    struct errmsg e;
    int status = carry_out(&order, argc, argv, &e);
    if (status < 0) /* the script reads stdout, and has a log for what the libraries say */
        fprintf(order.is_script ? stdout : stderr, order.is_script ? "%s\n" : "hikae-block: %s\n", e.text);
    if (order.config)
        config_free(order.config);
    return status < 0 ? 1 : status;
}
