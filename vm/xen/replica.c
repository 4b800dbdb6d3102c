/*
 * replica: a real domain, paused, with its devices and their backends, whose RAM we write into. libxl makes it from a
 * stream without RAM; the RAM is given to it here. It bears another name than the VM until it has taken over.
 */
#include "vm/xen/xen.h"

#include "common/jsonget.h"
#include "vm/xen/refuse.h"
#include "vm/xen/skeleton.h"

#include <libxl_utils.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ORDER_2M = 9, BATCH = 512 };

static int fill_config(struct vm *vm, libxl_domain_config *c, struct errmsg *e)
{
    const struct shape *s = &vm->shape;
    char name[XEN_NAME_MAX + sizeof XEN_REPLICA_SUFFIX];
    snprintf(name, sizeof name, "%s" XEN_REPLICA_SUFFIX, vm->name);
    c->c_info.type = s->is_hvm ? LIBXL_DOMAIN_TYPE_HVM : LIBXL_DOMAIN_TYPE_PVH;
    c->c_info.name = strdup(name);
    memcpy(libxl_uuid_bytearray(&c->c_info.uuid), s->uuid, sizeof s->uuid);
    libxl_defbool_set(&c->c_info.hap, true);
    libxl_domain_build_info_init_type(&c->b_info, c->c_info.type);
    c->b_info.max_vcpus = (int)s->vcpus;
    if (libxl_cpu_bitmap_alloc(vm->ctx, &c->b_info.avail_vcpus, (int)s->vcpus) != 0)
        return xen_error(vm, e, "the replica's vCPUs");
    libxl_bitmap_set_any(&c->b_info.avail_vcpus);
    c->b_info.max_memkb = c->b_info.target_memkb = s->memory_kb;
    c->b_info.max_grant_frames = s->grant_frames;
    c->b_info.max_maptrack_frames = s->maptrack_frames;
    c->b_info.max_grant_version = s->grant_version;
    c->b_info.tsc_mode = (libxl_tsc_mode)s->tsc.mode;
    /* Nobody but the agent watches over it: it stays as the guest left it until the agent has seen that. */
    c->on_poweroff = c->on_reboot = c->on_crash = c->on_watchdog = LIBXL_ACTION_ON_SHUTDOWN_PRESERVE;
    c->nics = calloc(s->nic_count + 1, sizeof *c->nics);
    if (!c->nics || !c->c_info.name)
        return errmsg_set(e, "out of memory");
    c->num_nics = (int)s->nic_count;
    for (unsigned i = 0; i < s->nic_count; i++) {
        libxl_device_nic *n = &c->nics[i];
        libxl_device_nic_init(n);
        n->devid = s->nics[i].devid;
        n->bridge = strdup(s->nics[i].bridge);
        n->script = strdup(s->nics[i].openvswitch ? SCRIPT_OPENVSWITCH : SCRIPT_BRIDGE);
        n->nictype = s->nics[i].model[0] ? LIBXL_NIC_TYPE_VIF_IOEMU : LIBXL_NIC_TYPE_VIF;
        n->model = s->nics[i].model[0] ? strdup(s->nics[i].model) : NULL;
        memcpy(n->mac, s->nics[i].mac, sizeof n->mac);
    }
    return disks_config(vm, c, e) < 0 ? -1 : s->is_hvm ? hvm_config(vm, c, e) : 0;
}

/* A stream in memory, for libxl's helper to read. */
static int make_stream(struct vm *vm, struct errmsg *e)
{
    struct vm_blob stream = {0};
    const libxl_version_info *version = libxl_get_version_info(vm->ctx);
    int fd = memfd_create("hikae-skeleton", MFD_CLOEXEC);
    bool done = version && fd >= 0 &&
                skeleton_write(&vm->shape, (unsigned)version->xen_version_major, (unsigned)version->xen_version_minor,
                               &stream) == 0 &&
                pwrite(fd, stream.data, stream.size, 0) == (ssize_t)stream.size;
    vm_blob_free(&stream);
    if (done)
        return fd;
    errmsg_set(e, "the replica's stream: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static int make_domain(struct vm *vm, struct errmsg *e)
{
    libxl_domain_config c;
    libxl_domain_config_init(&c);
    int status = fill_config(vm, &c, e), stream = -1;
    if (status == 0)
        status = stream = make_stream(vm, e);
    if (status >= 0)
        status = create_domain(vm, &c, stream, e);
    if (stream >= 0)
        close(stream);
    libxl_domain_config_dispose(&c);
    return status;
}

/* [first, first + count) in extents of 2^order pages, as many as Xen takes per call. */
static int populate(struct vm *vm, uint64_t first, uint64_t count, unsigned order, struct errmsg *e)
{
    xen_pfn_t gfns[BATCH];
    uint64_t extents = count >> order;
    for (uint64_t done = 0; done < extents;) {
        unsigned n = extents - done < BATCH ? (unsigned)(extents - done) : BATCH;
        for (unsigned i = 0; i < n; i++)
            gfns[i] = first + ((done + i) << order);
        if (xc_domain_populate_physmap_exact(vm->xc, vm->domid, n, order, 0, gfns) < 0)
            return xen_error(vm, e, "giving the replica its memory");
        done += n;
    }
    return 0;
}

static int populate_range(struct vm *vm, const struct page_range *r, struct errmsg *e)
{
    uint64_t end = r->first + r->count, large = UINT64_C(1) << ORDER_2M;
    uint64_t start = (r->first + large - 1) & ~(large - 1), stop = end & ~(large - 1);
    if (start >= stop)
        return populate(vm, r->first, r->count, 0, e);
    struct errmsg ignored; /* no 2 MiB piece is free: small ones will do */
    if (populate(vm, start, stop - start, ORDER_2M, &ignored) < 0 && populate(vm, start, stop - start, 0, e) < 0)
        return -1;
    return populate(vm, r->first, start - r->first, 0, e) < 0 || populate(vm, stop, end - stop, 0, e) < 0 ? -1 : 0;
}

/* Makes sure that there is room for the replica; or finds the one that another agent has left (vm->kept). */
static int check_host(struct vm *vm, bool use_kept, struct errmsg *e)
{
    enum { SPARE_KB = 16384 }; /* Xen's own part: page tables, vCPUs */
    uint32_t domid;
    uint64_t free_kb = 0;
    char name[XEN_NAME_MAX + sizeof XEN_REPLICA_SUFFIX];
    if (libxl_name_to_domid(vm->ctx, vm->name, &domid) == 0)
        return errmsg_set(e, "a domain of the name %s is on this host already (%u): destroy or rename it", vm->name,
                          domid);
    snprintf(name, sizeof name, "%s" XEN_REPLICA_SUFFIX, vm->name);
    if (libxl_name_to_domid(vm->ctx, name, &domid) == 0) { /* of a worker that died */
        if (keep_is_loaded(vm, domid))
            return errmsg_set(e, "domain %u (%s) is VM %s, taken over by this host: see hikae status", domid, name,
                              vm->name);
        int fits = use_kept ? keep_take(vm, domid, e) : 0;
        vm->kept = fits > 0;
        if (fits)
            return fits < 0 ? -1 : 0;
        model_end(vm, domid);
        if (libxl_domain_destroy(vm->ctx, domid, NULL) != 0)
            return xen_error(vm, e, "destroying an older replica");
    }
    if (libxl_get_free_memory(vm->ctx, &free_kb) == 0 && free_kb < vm->shape.memory_kb + SPARE_KB)
        return errmsg_set(e,
                          "this host has %llu MiB of memory free for domains, VM %s needs %llu: shut one down, or give "
                          "dom0 less (xl mem-set 0)",
                          (unsigned long long)free_kb >> 10, vm->name,
                          (unsigned long long)(vm->shape.memory_kb + SPARE_KB) >> 10);
    return 0;
}

static int use_local_bridge(struct shape *s, struct json_object *settings, struct errmsg *e)
{
    const char *bridge = json_get_text(settings, "local_bridge", NULL);
    for (unsigned i = 0; bridge && i < s->nic_count; i++)
        if (snprintf(s->nics[i].bridge, sizeof s->nics[i].bridge, "%s", bridge) >= (int)sizeof s->nics[i].bridge)
            return errmsg_set(e, "bridge = %s: write an interface's name, e.g. xenbr0", bridge);
    return 0;
}

/* The domain's disks are all that its disk server has, and no others. */
static int check_disks(const struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    unsigned has = vm->shape.disk_count, served = spec->disk_count;
    return has == served ? 0
                         : errmsg_set(e,
                                      "the domain of VM %s has %u disks, and its disk server %u: it must have all that "
                                      "`disk` of [vm %s] names, target=%s:0 ..",
                                      vm->name, has, served, vm->name, vm->name);
}

static int replica_new(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    if (shape_from_json(&vm->shape, spec->settings, e) < 0 || check_disks(vm, spec, e) < 0 ||
        use_local_bridge(&vm->shape, spec->settings, e) < 0 || check_host(vm, spec->remains != NULL, e) < 0)
        return -1;
    char model[sizeof vm->shape.hvm.model];
    memcpy(model, vm->shape.hvm.model, sizeof model);
    vm->replica = true;
    if ((!vm->kept && make_domain(vm, e) < 0) || keep_own(vm, e) < 0 || facts_write(vm, e) < 0 ||
        (vm->kept && vm->shape.is_hvm && model_open(vm, e) < 0))
        return -1;
    if (strcmp(model, vm->shape.hvm.model) != 0)
        return errmsg_set(e, "VM %s needs the device model QEMU %s, this host has %s: install the same version on both",
                          vm->name, model, vm->shape.hvm.model);
    if (vm->shape.is_hvm && model_prepare(vm, e) < 0)
        return -1;
    for (size_t i = 0; !vm->kept && i < vm->shape.ram.n; i++)
        if (populate_range(vm, &vm->shape.ram.at[i], e) < 0)
            return -1;
    return layout_map(vm, true, e) < 0 || keep_finish(vm, e) < 0 ? -1 : 0;
}

int xen_replica_create(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    struct vm *vm = xen_new(spec, e);
    if (!vm)
        return -1;
    if (replica_new(vm, spec, e) < 0) {
        xen_destroy(vm);
        return -1;
    }
    *out = vm;
    return 0;
}
