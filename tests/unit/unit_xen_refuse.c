/* vm/xen/refuse.c: which configurations of a domain are refused, each with its own reason. */
#include "vm/xen/refuse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* One that is not refused. */
static void good(libxl_domain_config *c, libxl_domain_type type)
{
    libxl_domain_config_init(c);
    c->c_info.type = type;
    libxl_domain_build_info_init_type(&c->b_info, type);
    c->b_info.max_vcpus = 1;
    c->b_info.max_memkb = c->b_info.target_memkb = 131072;
    if (type == LIBXL_DOMAIN_TYPE_HVM)
        c->b_info.u.hvm.vga.kind = LIBXL_VGA_INTERFACE_TYPE_NONE;
    c->nics = calloc(1, sizeof *c->nics);
    c->num_nics = 1;
    libxl_device_nic_init(&c->nics[0]);
    c->nics[0].bridge = strdup("xenbr0");
    c->nics[0].model = strdup("e1000");
}

static libxl_device_disk *add_disk(libxl_domain_config *c, const char *vdev)
{
    c->disks = realloc(c->disks, (size_t)(c->num_disks + 1) * sizeof *c->disks);
    libxl_device_disk *d = &c->disks[c->num_disks++];
    libxl_device_disk_init(d);
    d->vdev = strdup(vdev);
    return d;
}

static libxl_device_disk *add_served_disk(libxl_domain_config *c, const char *vdev, const char *script)
{
    libxl_device_disk *d = add_disk(c, vdev);
    d->pdev_path = strdup("web:0");
    d->script = strdup(script);
    d->readwrite = 1;
    return d;
}

static char **list(const char *a, const char *b, const char *c)
{
    const char *words[] = {a, b, c};
    char **l = calloc(4, sizeof *l);
    for (size_t i = 0; i < 3 && words[i]; i++)
        l[i] = strdup(words[i]);
    return l;
}

static void test_accepted(void **unused)
{
    (void)unused;
    libxl_domain_config c;
    good(&c, LIBXL_DOMAIN_TYPE_PVH);
    assert_null(refuse_config(&c));
    c.nics[0].script = strdup("/etc/xen/scripts/vif-openvswitch");
    assert_null(refuse_config(&c));
    libxl_domain_config_dispose(&c);
    good(&c, LIBXL_DOMAIN_TYPE_PVH);
    add_served_disk(&c, "xvda", "block-hikae");
    assert_null(refuse_config(&c));
    libxl_domain_config_dispose(&c);
    good(&c, LIBXL_DOMAIN_TYPE_PVH);
    add_served_disk(&c, "xvda1", "/etc/xen/scripts/block-hikae"); /* as xl has noted it */
    assert_null(refuse_config(&c));
    libxl_domain_config_dispose(&c);
    good(&c, LIBXL_DOMAIN_TYPE_HVM);
    c.b_info.extra_hvm = list("-incoming", "defer", "-S"); /* it was our replica once */
    c.b_info.u.hvm.serial = strdup("pty");
    libxl_device_disk *d = add_disk(&c, "hdc");
    d->is_cdrom = 1;
    d->format = LIBXL_DISK_FORMAT_EMPTY;
    assert_null(refuse_config(&c));
    add_served_disk(&c, "hda", "block-hikae");
    add_served_disk(&c, "xvdb", "/etc/xen/scripts/block-hikae");
    assert_null(refuse_config(&c));
    assert_int_equal(serial_ports(&c.b_info), 1);
    libxl_domain_config_dispose(&c);
}

/* What `CHANGE` does to a configuration that was good is refused, with words that hold `because`. */
#define REFUSED(type, because, CHANGE)                                                                                 \
    do {                                                                                                               \
        libxl_domain_config c;                                                                                         \
        good(&c, type);                                                                                                \
        CHANGE;                                                                                                        \
        const char *why = refuse_config(&c);                                                                           \
        if (!why || !strstr(why, because))                                                                             \
            fail_msg("%s: %s", #CHANGE, why ? why : "accepted");                                                       \
        libxl_domain_config_dispose(&c);                                                                               \
    } while (0)

static void test_of_both(void **unused)
{
    (void)unused;
    const libxl_domain_type pvh = LIBXL_DOMAIN_TYPE_PVH;
    REFUSED(pvh, "balloon", c.b_info.target_memkb /= 2);
    REFUSED(pvh, "vCPUs", c.b_info.max_vcpus = 1000);
    REFUSED(pvh, "nested", libxl_defbool_set(&c.b_info.nested_hvm, true));
    REFUSED(pvh, "does not serve", (void)add_disk(&c, "xvda"));
    REFUSED(pvh, "does not serve", add_disk(&c, "xvdb")->is_cdrom = 1);
    REFUSED(pvh, "does not serve", add_disk(&c, "xvda")->pdev_path = strdup("/dev/vg0/web"));
    REFUSED(pvh, "does not serve", add_served_disk(&c, "xvda", "block-drbd"));
    REFUSED(pvh, "can't write", add_served_disk(&c, "xvda", "block-hikae")->readwrite = 0);
    REFUSED(pvh, "backend is not in dom0", add_served_disk(&c, "xvda", "block-hikae")->backend_domid = 3);
    REFUSED(pvh, "xvda to xvdz", add_served_disk(&c, "sda", "block-hikae"));
    REFUSED(pvh, "more than 8 disks", c.disks = calloc(9, sizeof *c.disks); c.num_disks = 9);
    REFUSED(pvh, "not in dom0", c.nics[0].backend_domid = 3);
    REFUSED(pvh, "vifname", c.nics[0].ifname = strdup("web0"));
    REFUSED(pvh, "vif-bridge", c.nics[0].script = strdup("/etc/xen/scripts/vif-nat"));
    REFUSED(pvh, "vif-bridge", c.nics[0].script = strdup("my-vif-bridge"));
    REFUSED(pvh, "no bridge", (free(c.nics[0].bridge), c.nics[0].bridge = NULL));
    REFUSED(pvh, "passed through", (c.pcidevs = calloc(1, sizeof *c.pcidevs), c.num_pcidevs = 1));
    REFUSED(pvh, "vtpm", (c.vtpms = calloc(1, sizeof *c.vtpms), c.num_vtpms = 1));
}

static void test_of_hvm(void **unused)
{
    (void)unused;
    const libxl_domain_type hvm = LIBXL_DOMAIN_TYPE_HVM;
    REFUSED(hvm, "balloon", c.b_info.target_memkb /= 2);
    REFUSED(hvm, "traditional", c.b_info.device_model_version = LIBXL_DEVICE_MODEL_VERSION_QEMU_XEN_TRADITIONAL);
    REFUSED(hvm, "stubdom", libxl_defbool_set(&c.b_info.device_model_stubdomain, true));
    REFUSED(hvm, "dm_restrict", libxl_defbool_set(&c.b_info.dm_restrict, true));
    REFUSED(hvm, "override", c.b_info.device_model = strdup("/usr/bin/other"));
    REFUSED(hvm, "device_model_args", c.b_info.extra_hvm = list("-device", "pvpanic", NULL));
    REFUSED(hvm, "device_model_args", c.b_info.extra_hvm = list("-incoming", "defer", NULL));
    REFUSED(hvm, "device_model_args", c.b_info.extra = list("-incoming", "defer", "-S"));
    REFUSED(hvm, "graphics", c.b_info.u.hvm.vga.kind = LIBXL_VGA_INTERFACE_TYPE_STD);
    REFUSED(hvm, "graphics", c.b_info.u.hvm.vga.kind = LIBXL_VGA_INTERFACE_TYPE_UNKNOWN); /* by default it has one */
    REFUSED(hvm, "USB", libxl_defbool_set(&c.b_info.u.hvm.usb, true));
    REFUSED(hvm, "USB", c.b_info.u.hvm.usbdevice_list = list("tablet", NULL, NULL));
    REFUSED(hvm, "sound", c.b_info.u.hvm.soundhw = strdup("hda"));
    REFUSED(hvm, "display", libxl_defbool_set(&c.b_info.u.hvm.spice.enable, true));
    REFUSED(hvm, "ACPI", libxl_defbool_set(&c.b_info.acpi, false));
    REFUSED(hvm, "mmio_hole", c.b_info.u.hvm.mmio_hole_memkb = 1 << 20);
    REFUSED(hvm, "unknown model", (free(c.nics[0].model), c.nics[0].model = strdup("ne2k_isa")));
    REFUSED(hvm, "AHCI", c.b_info.u.hvm.hdtype = LIBXL_HDTYPE_AHCI);
    REFUSED(hvm, "does not serve", (void)add_disk(&c, "hda"));
    REFUSED(hvm, "does not serve", add_disk(&c, "hda")->pdev_path = strdup("/dev/vg0/web"));
    REFUSED(hvm, "can't write", add_served_disk(&c, "hda", "block-hikae")->readwrite = 0);
    REFUSED(hvm, "backend is not in dom0", add_served_disk(&c, "hda", "block-hikae")->backend_domid = 3);
    REFUSED(hvm, "hda to hdd", add_served_disk(&c, "sda", "block-hikae"));
    REFUSED(hvm, "hda to hdd", add_served_disk(&c, "xvda1", "block-hikae"));
    REFUSED(hvm, "hda to hdd", add_disk(&c, "sda")->is_cdrom = 1);
    REFUSED(hvm, "CD", add_served_disk(&c, "hdc", "block-hikae")->is_cdrom = 1);
    REFUSED(hvm, "cd-eject", (add_disk(&c, "hdc")->is_cdrom = 1, c.disks[0].pdev_path = strdup("/srv/a.iso")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_of_both),
        cmocka_unit_test(test_of_hvm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
