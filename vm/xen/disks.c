/*
 * disks: a domain's disks are those of the VM's disk server, which the hotplug script block-hikae (tools/block)
 * connects to a block device of dom0, which blkback gives to the guest. All that a replica must know is by which name
 * the guest knows which disk. What an epoch's disk is needs no help from here; why it and the memory are of one moment:
 *
 * A write is in the store and in the log before the server answers it, and the guest knows of it only after that. So
 * the log's head, read when the guest has suspended itself, is after every write that its memory knows to be done. What
 * is under way at that moment may reach the store before or after that, but to the guest's memory it is under way, in
 * blkfront's shadow of the ring: a guest that goes on here gets its answer, and one that goes on elsewhere finds
 * another ring when it resumes, and asks for all of it once more. A write that is done twice is what it was, since
 * nobody writes to a block that is being written; one that was done in no committed epoch is done then.
 *
 * Log-dirty sees the guest's own writes. Into pages that it granted blkback writes: the ring, and what was read. Xen
 * marks a page as dirty when its writable mapping is taken away, which blkback does before it answers, or the page is a
 * persistent grant, out of which blkfront copies, which is a write of the guest's own. So what is written and not
 * marked belongs to requests that are under way, or is a ring, and a resumed guest makes use of neither.
 *
 * An HVM domain's device model has the first four as IDE disks, until the guest has it give them up, here and, as it
 * resumes, elsewhere. A guest without Xen's drivers has no others. Of those nothing is under way when the model has
 * stopped: `stop` waits for it, and writes what dom0's page cache still holds of it to the server. What the model read
 * from them it has marked as dirty itself. The replica's model has its disks open from the beginning, and reads of them
 * when it is made; as it is given its state QEMU has dom0's page cache dropped, so that the guest reads what the store
 * holds then. A guest that has Xen's drivers and uses such a disk all the same is refused (hvm_read_guest).
 */
#include "vm/xen/xen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned count_disks(const libxl_domain_config *c)
{
    unsigned n = 0;
    for (int i = 0; i < c->num_disks; i++)
        n += !c->disks[i].is_cdrom;
    return n;
}

int disks_read(struct vm *vm, const libxl_domain_config *c, struct errmsg *e)
{
    struct shape *s = &vm->shape;
    unsigned count = count_disks(c);
    for (int i = 0; i < c->num_disks; i++) {
        char name[XEN_VM_NAME_MAX];
        unsigned disk;
        if (c->disks[i].is_cdrom)
            continue;
        if (xen_disk_target_parse(c->disks[i].pdev_path, name, &disk) < 0 || disk >= count)
            return errmsg_set(e,
                              "domain %u (%s) can't be protected: its disk %s has target=%s: its %u disks must be %s:0 "
                              "to %s:%u",
                              vm->domid, vm->name, c->disks[i].vdev, c->disks[i].pdev_path, count, vm->name, vm->name,
                              count - 1);
        if (strcmp(name, vm->name) != 0)
            return errmsg_set(e, "domain %u (%s) can't be protected: its disk %s is one of VM %s", vm->domid, vm->name,
                              c->disks[i].vdev, name);
        if (s->disks[disk].vdev[0])
            return errmsg_set(e, "domain %u (%s) can't be protected: it has disk %s:%u twice", vm->domid, vm->name,
                              vm->name, disk);
        snprintf(s->disks[disk].vdev, sizeof s->disks[disk].vdev, "%s", c->disks[i].vdev);
        s->disk_count++;
    }
    return 0;
}

static int fill_disk(libxl_device_disk *d, const char *vm, const char *vdev, unsigned disk)
{
    char target[XEN_TARGET_MAX];
    xen_disk_target_format(target, vm, disk);
    d->vdev = strdup(vdev);
    d->pdev_path = strdup(target);
    d->script = strdup(XEN_DISK_SCRIPT);
    d->backend = LIBXL_DISK_BACKEND_PHY;
    d->format = LIBXL_DISK_FORMAT_RAW;
    d->readwrite = 1;
    return d->vdev && d->pdev_path && d->script ? 0 : -1;
}

static int fill_cdrom(libxl_device_disk *d, const char *vdev)
{
    d->vdev = strdup(vdev);
    d->format = LIBXL_DISK_FORMAT_EMPTY;
    d->is_cdrom = d->removable = 1;
    return d->vdev ? 0 : -1;
}

/* The replica's agent serves them already. Until it has taken over nobody reads or writes them through these devices:
 * the domain has never run, and blkback reads nothing for itself. It does not go through dom0's page cache either:
 * what the guest reads later is what the store holds then. */
int disks_config(const struct vm *vm, libxl_domain_config *c, struct errmsg *e)
{
    const struct shape *s = &vm->shape;
    unsigned n = s->disk_count + s->hvm.cdrom_count;
    int status = 0;
    if (n == 0)
        return 0;
    c->disks = calloc(n, sizeof *c->disks);
    if (!c->disks)
        return errmsg_set(e, "out of memory");
    for (unsigned i = 0; i < n; i++)
        libxl_device_disk_init(&c->disks[i]);
    c->num_disks = (int)n;
    for (unsigned i = 0; status == 0 && i < s->disk_count; i++)
        status = fill_disk(&c->disks[i], vm->name, s->disks[i].vdev, i);
    for (unsigned i = 0; status == 0 && i < s->hvm.cdrom_count; i++)
        status = fill_cdrom(&c->disks[s->disk_count + i], s->hvm.cdroms[i]);
    return status < 0 ? errmsg_set(e, "out of memory") : 0;
}
