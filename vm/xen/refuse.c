#include "vm/xen/refuse.h"

#include "vm/vm.h"
#include "vm/xen/name.h"
#include "vm/xen/shape.h"

#include <libxl_utils.h>

#include <string.h>

const char *const model_arguments[MODEL_ARGUMENTS] = {"-incoming", "defer", "-S"}; /* the last -incoming counts */

bool defbool_is(libxl_defbool b, bool otherwise)
{
    return libxl_defbool_is_default(b) ? otherwise : libxl_defbool_val(b);
}

unsigned serial_ports(const libxl_domain_build_info *b)
{
    unsigned n = b->u.hvm.serial ? 1 : 0;
    while (b->u.hvm.serial_list && b->u.hvm.serial_list[n])
        n++;
    return n;
}

static bool has_any(char *const *list)
{
    return list && list[0];
}

static bool is_ours(char *const *list)
{
    for (size_t i = 0; i < MODEL_ARGUMENTS; i++)
        if (!list[i] || strcmp(list[i], model_arguments[i]) != 0)
            return false;
    return !list[MODEL_ARGUMENTS];
}

/* ---- of both types ---- */

static const char *refuse_build(const libxl_domain_build_info *b)
{
    if (b->max_memkb != b->target_memkb)
        return "its memory may be ballooned: set maxmem to the same as memory (xl mem-set, xl mem-max)";
    if (b->avail_vcpus.size && libxl_bitmap_count_set(&b->avail_vcpus) != b->max_vcpus)
        return "some of its vCPUs are switched off: set maxvcpus to the same as vcpus";
    if (b->max_vcpus > SHAPE_VCPUS_MAX)
        return "it has more than 128 vCPUs";
    if (b->num_vnuma_nodes)
        return "it has virtual NUMA nodes";
    if (defbool_is(b->nested_hvm, false))
        return "it has nested virtualization (nestedhvm)";
    return NULL;
}

static const char *refuse_disk(const libxl_device_disk *d, bool is_hvm)
{
    const char *script = d->script ? strrchr(d->script, '/') : NULL;
    script = script ? script + 1 : d->script;
    if (!script || strcmp(script, XEN_DISK_SCRIPT) != 0 || !d->pdev_path)
        return "it has a disk that Hikae does not serve: write disk = [ 'vdev=xvda, access=rw, script=block-hikae, "
               "target=VM' ], see hikae-disks(7)";
    if (!d->readwrite || d->is_cdrom)
        return "it has a disk that it can't write to (access=rw)";
    if (d->backend_domid || d->backend_domname)
        return "it has a disk whose backend is not in dom0";
    if (!is_hvm && (!d->vdev || !shape_is_vdev(d->vdev)))
        return "it has a disk whose vdev is none of xvda to xvdz";
    if (is_hvm && (!d->vdev || !shape_is_drive(d->vdev)))
        return "it has a disk whose vdev is none of xvda to xvdz and hda to hdd";
    return NULL;
}

static const char *refuse_drive_of_hvm(const libxl_device_disk *d)
{
    if (!d->is_cdrom)
        return refuse_disk(d, true);
    if (!d->vdev || !shape_is_cdrom(d->vdev))
        return "it has a CD-ROM drive that is none of hda to hdd";
    if (d->format != LIBXL_DISK_FORMAT_EMPTY && d->pdev_path && d->pdev_path[0])
        return "it has a CD in its drive, which the other host has not: xl cd-eject";
    return NULL;
}

bool nic_has_script(const libxl_device_nic *n, const char *name)
{
    const char *slash = n->script ? strrchr(n->script, '/') : NULL;
    return n->script && strcmp(slash ? slash + 1 : n->script, name) == 0;
}

static const char *refuse_nic(const libxl_device_nic *n)
{
    if (n->backend_domid != 0)
        return "the backend of its network is not in dom0: its output can't be held here";
    if (!n->bridge || strlen(n->bridge) >= sizeof((struct shape_nic *)0)->bridge)
        return "a network interface of it is on no bridge";
    if (n->script && !nic_has_script(n, SCRIPT_BRIDGE) && !nic_has_script(n, SCRIPT_OPENVSWITCH))
        return "the script of a network interface of it is neither vif-bridge nor vif-openvswitch";
    if (n->ifname)
        return "a network interface of it has a name of its own (vifname)";
    if (n->model && !shape_is_card(n->model))
        return "a network interface of it is of an unknown model (known: e1000, e1000e, rtl8139, virtio-net, vmxnet3 "
               "..)";
    return NULL;
}

static const char *refuse_devices(const libxl_domain_config *c)
{
    const char *why = NULL;
    if (c->num_pcidevs || c->num_dtdevs || c->num_rdms || c->num_usbdevs)
        return "it has a device passed through to it";
    if (c->num_vtpms || c->num_p9s || c->num_pvcallsifs || c->num_vdispls || c->num_vsnds || c->num_channels ||
        c->num_usbctrls || c->num_vfbs || c->num_vkbs)
        return "it has devices other than network interfaces (vfb, vkb, vtpm, p9, channel, usb ..)";
    if (c->num_nics > VM_MAX_NICS)
        return "it has more than 8 network interfaces";
    if (c->num_disks > VM_MAX_DISKS)
        return "it has more than 8 disks";
    for (int i = 0; !why && i < c->num_disks; i++)
        why = c->c_info.type == LIBXL_DOMAIN_TYPE_HVM ? refuse_drive_of_hvm(&c->disks[i])
                                                      : refuse_disk(&c->disks[i], false);
    for (int i = 0; !why && i < c->num_nics; i++)
        why = refuse_nic(&c->nics[i]);
    return why;
}

/* ---- of HVM domains ---- */

static const char *refuse_model(const libxl_domain_build_info *b)
{
    if (b->device_model_version == LIBXL_DEVICE_MODEL_VERSION_QEMU_XEN_TRADITIONAL)
        return "its device model is qemu-xen-traditional";
    if (defbool_is(b->device_model_stubdomain, false))
        return "its device model is in a domain of its own (stubdom)";
    if (defbool_is(b->dm_restrict, false))
        return "its device model is restricted (dm_restrict)";
    if (b->device_model)
        return "it has a device model of its own (device_model_override)";
    if (has_any(b->extra) || (has_any(b->extra_hvm) && !is_ours(b->extra_hvm)))
        return "its device model has arguments of its own (device_model_args)";
    return NULL;
}

static const char *refuse_machine(const libxl_domain_build_info *b)
{
    if (b->u.hvm.vga.kind != LIBXL_VGA_INTERFACE_TYPE_NONE)
        return "it has a graphics card, whose memory Hikae does not track: vga=\"none\"";
    if (defbool_is(b->u.hvm.gfx_passthru, false))
        return "it has a graphics card passed through to it";
    if (defbool_is(b->u.hvm.usb, false) || b->u.hvm.usbversion || b->u.hvm.usbdevice ||
        has_any(b->u.hvm.usbdevice_list))
        return "it has USB: usb=0, no usbdevice";
    if (b->u.hvm.soundhw)
        return "it has a sound card (soundhw)";
    if (defbool_is(b->u.hvm.spice.enable, false) || defbool_is(b->u.hvm.sdl.enable, false))
        return "it has a display (spice, sdl)";
    if (b->u.hvm.vendor_device != LIBXL_VENDOR_DEVICE_NONE)
        return "it has a vendor_device";
    if (b->u.hvm.hdtype == LIBXL_HDTYPE_AHCI)
        return "it has an AHCI controller (hdtype)";
    if (b->u.hvm.mmio_hole_memkb && b->u.hvm.mmio_hole_memkb != LIBXL_MEMKB_DEFAULT)
        return "its hole for devices is of a special size (mmio_hole)";
    if (!defbool_is(b->acpi, true) || !defbool_is(b->u.hvm.acpi, true))
        return "it is without ACPI";
    if (serial_ports(b) > SHAPE_SERIALS_MAX)
        return "it has more than 4 serial ports";
    return NULL;
}

const char *refuse_config(const libxl_domain_config *c)
{
    const char *why = refuse_build(&c->b_info);
    if (!why)
        why = refuse_devices(c);
    if (!why && c->c_info.type == LIBXL_DOMAIN_TYPE_HVM)
        why = refuse_model(&c->b_info);
    if (!why && c->c_info.type == LIBXL_DOMAIN_TYPE_HVM)
        why = refuse_machine(&c->b_info);
    return why;
}
