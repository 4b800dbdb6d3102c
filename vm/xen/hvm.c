/*
 * hvm: what of an HVM domain's machine a replica must know, and the replica's configuration from it. The machine of a
 * replica must have the very devices of the original, at the same places: QEMU loads their state by name.
 */
#include "vm/xen/xen.h"

#include "common/file.h"
#include "vm/xen/refuse.h"

#include <xen/hvm/params.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- its machine ---- */

static int read_param(struct vm *vm, unsigned index, uint64_t *value, struct errmsg *e)
{
    return xc_hvm_param_get(vm->xc, vm->domid, index, value) < 0 ? xen_error(vm, e, "reading the domain's parameters")
                                                                 : 0;
}

int hvm_read(struct vm *vm, const libxl_domain_config *c, struct errmsg *e)
{
    const libxl_domain_build_info *b = &c->b_info;
    struct shape_hvm *h = &vm->shape.hvm;
    uint64_t timer_mode, hpet, vpt_align, altp2m;
    if (read_param(vm, HVM_PARAM_TIMER_MODE, &timer_mode, e) < 0 ||
        read_param(vm, HVM_PARAM_HPET_ENABLED, &hpet, e) < 0 ||
        read_param(vm, HVM_PARAM_VPT_ALIGN, &vpt_align, e) < 0 || read_param(vm, HVM_PARAM_ALTP2M, &altp2m, e) < 0)
        return -1;
    if (altp2m)
        return xen_refuse(vm, e, "it uses alternate views of its memory (altp2m)");
    vm->shape.is_hvm = true;
    h->timer_mode = (unsigned)timer_mode;
    h->hpet = hpet != 0;
    h->vpt_align = vpt_align != 0;
    h->platform_pci = defbool_is(b->u.hvm.xen_platform_pci, true);
    h->direct_boot = b->kernel != NULL;
    h->serials = serial_ports(b);
    for (int i = 0; i < c->num_disks; i++)
        if (c->disks[i].is_cdrom) /* one that is not refused is empty */
            snprintf(h->cdroms[h->cdrom_count++], sizeof h->cdroms[0], "%s", c->disks[i].vdev);
    return 0;
}

/* ---- whether its guest helps ---- */

static bool is_one(const struct vm *vm, const char *path, const char *one)
{
    char *value = xs_read(vm->xs, XBT_NULL, path, NULL);
    bool is = value && strcmp(value, one) == 0;
    free(value);
    return is;
}

/* Does the guest use the interface that Xen offers it, or a card that the device model emulates? One that has just
 * taken over is not connected yet: then what counts is what it used before. */
static bool uses_vif(const struct vm *vm, unsigned i)
{
    char path[80];
    if (vm->known && vm->facts.nic_count == vm->shape.nic_count)
        return !vm->facts.emulated[i];
    snprintf(path, sizeof path, "/local/domain/0/backend/vif/%u/%d/state", vm->domid, vm->shape.nics[i].devid);
    return is_one(vm, path, "4"); /* XenbusStateConnected */
}

/* Likewise of a disk: what would be used instead is a drive of the device model. */
static bool uses_vbd(const struct vm *vm, unsigned i)
{
    char path[80];
    unsigned number = shape_emulated_disk(vm->shape.disks[i].vdev);
    if (!number || vm->known)
        return true;
    snprintf(path, sizeof path, "/local/domain/0/backend/vbd/%u/%u/state", vm->domid, number);
    return is_one(vm, path, "4");
}

static int check_guest_disks(struct vm *vm, struct errmsg *e)
{
    static const char no_drive[] = "it has a disk, its fifth or a later one, that its guest has no driver for: take it "
                                   "away (xl block-detach)";
    static const char no_driver[] =
        "its guest has Xen's drivers and uses a disk by way of its device model: is it still "
        "booting? Else let its drivers have the disk (Linux: no xen_emul_unplug=never)";
    const struct shape *s = &vm->shape;
    for (unsigned i = 0; i < s->disk_count; i++) {
        if (s->hvm.transparent && !shape_emulated_disk(s->disks[i].vdev))
            return xen_refuse(vm, e, no_drive);
        if (!s->hvm.transparent && !uses_vbd(vm, i))
            return xen_refuse(vm, e, no_driver);
    }
    return 0;
}

int hvm_read_guest(struct vm *vm, struct errmsg *e)
{
    struct shape *s = &vm->shape;
    uint64_t callback;
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/control/feature-suspend", vm->domid);
    if (read_param(vm, HVM_PARAM_CALLBACK_IRQ, &callback, e) < 0)
        return -1;
    bool cooperative = is_one(vm, path, "1");
    if (callback && !cooperative)
        return xen_refuse(vm, e,
                          "the guest has Xen's drivers, but does not say that it can suspend itself "
                          "(control/feature-suspend): is it still booting?");
    s->hvm.transparent = !cooperative;
    if (check_guest_disks(vm, e) < 0)
        return -1;
    for (unsigned i = 0; i < s->nic_count; i++) {
        struct shape_nic *n = &s->nics[i];
        n->emulated = n->model[0] && !(cooperative && uses_vif(vm, i));
        if (!n->emulated && s->hvm.transparent)
            return xen_refuse(vm, e, "it has a network interface (type=vif) that its guest has no driver for");
    }
    return 0;
}

/* ---- a replica ---- */

/* A guest that was booted from a kernel, not from a disk, has a device (fw_cfg) from which its firmware took that. The
 * replica's must be there too; what is in it does not matter, for no replica boots. This is the least that QEMU takes
 * for a kernel: the setup header of Linux's boot protocol. */
static int write_kernel(const struct vm *vm, char **path, struct errmsg *e)
{
    enum { SIZE = 16384, MAGIC = 0x202, VERSION = 0x206 };
    static char kernel[SIZE];
    char name[XEN_RUN_DIR_MAX + 16];
    memcpy(kernel + MAGIC, "HdrS", 4);
    kernel[VERSION] = 6; /* 2.06 */
    kernel[VERSION + 1] = 2;
    snprintf(name, sizeof name, "%s/kernel", vm->run_dir);
    if (file_write_atomic(name, kernel, sizeof kernel, 0600, e) < 0)
        return -1;
    *path = strdup(name);
    return *path ? 0 : errmsg_set(e, "out of memory");
}

/* A list of strings that libxl frees. */
static char **make_list(const char *const *words, size_t n)
{
    char **list = calloc(n + 1, sizeof *list);
    for (size_t i = 0; list && i < n; i++)
        list[i] = strdup(words[i]);
    return list;
}

int hvm_config(struct vm *vm, libxl_domain_config *c, struct errmsg *e)
{
    static const char *const ptys[SHAPE_SERIALS_MAX] = {"pty", "pty", "pty", "pty"};
    const struct shape_hvm *h = &vm->shape.hvm;
    libxl_domain_build_info *b = &c->b_info;
    b->device_model_version = LIBXL_DEVICE_MODEL_VERSION_QEMU_XEN;
    b->timer_mode = (libxl_timer_mode)h->timer_mode;
    b->video_memkb = 0;
    b->u.hvm.vga.kind = LIBXL_VGA_INTERFACE_TYPE_NONE;
    libxl_defbool_set(&b->u.hvm.vnc.enable, false);
    libxl_defbool_set(&b->u.hvm.usb, false);
    libxl_defbool_set(&b->u.hvm.hpet, h->hpet);
    libxl_defbool_set(&b->u.hvm.vpt_align, h->vpt_align);
    libxl_defbool_set(&b->u.hvm.xen_platform_pci, h->platform_pci);
    b->extra_hvm = make_list(model_arguments, MODEL_ARGUMENTS);
    b->u.hvm.serial_list = h->serials ? make_list(ptys, h->serials) : NULL;
    if (!b->extra_hvm || (h->serials && !b->u.hvm.serial_list))
        return errmsg_set(e, "out of memory");
    return h->direct_boot ? write_kernel(vm, &b->kernel, e) : 0;
}
