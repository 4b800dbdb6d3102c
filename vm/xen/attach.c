/*
 * attach: finding a domain that runs on this host, refusing what can't be checkpointed, and learning what it is made
 * of. Nothing here touches the guest.
 */
#include "vm/xen/xen.h"

#include "common/jsonget.h"
#include "common/log.h"
#include "vm/xen/refuse.h"

#include <libxl_utils.h>
#include <xen/hvm/params.h>
#include <xenguest.h>

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding it ---- */

static int find_domain(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    struct facts *f = &vm->facts;
    xc_domaininfo_t info;
    int known = facts_read(vm->run_dir, f, e);
    if (known < 0)
        return -1;
    vm->known = known > 0;
    if (known > 0) {
        vm->domid = f->domid;
        if (xen_info(vm, &info) && memcmp(info.handle, f->uuid, sizeof f->uuid) == 0)
            return 0;
        return errmsg_set(e, "the domain of VM %s (%u) is gone", vm->name, f->domid);
    }
    const char *domain = json_get_text(spec->settings, "domain", vm->name);
    if (libxl_domain_qualifier_to_domid(vm->ctx, domain, &vm->domid) != 0 || !xen_info(vm, &info)) {
        vm->domid = XEN_NO_DOMAIN;
        return errmsg_set(e,
                          "no domain %s runs on this host: start it with xl create, or name it with domain = in "
                          "[vm %s]",
                          domain, vm->name);
    }
    return 0;
}

/* ---- what is refused ---- */

int xen_refuse(const struct vm *vm, struct errmsg *e, const char *why)
{
    return errmsg_set(e, "domain %u (%s) can't be protected: %s", vm->domid, vm->name, why);
}

static int check_kind(const struct vm *vm, const xc_domaininfo_t *info, struct errmsg *e)
{
    if (vm->domid == 0)
        return xen_refuse(vm, e, "it is dom0");
    if (!(info->flags & XEN_DOMINF_hvm_guest))
        return xen_refuse(vm, e,
                          "it is a PV guest, which Xen can't track the memory of; make it type=\"pvh\" or \"hvm\"");
    if (!(info->flags & XEN_DOMINF_hap))
        return xen_refuse(vm, e, "it runs without hardware-assisted paging (hap)");
    if (info->paged_pages || info->shr_pages)
        return xen_refuse(vm, e, "its memory is paged or shared");
    return 0;
}

/* Linux says so as soon as it can be asked. */
static int check_guest(const struct vm *vm, struct errmsg *e)
{
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/control/feature-suspend", vm->domid);
    char *value = xs_read(vm->xs, XBT_NULL, path, NULL);
    bool can = value && strcmp(value, "1") == 0;
    free(value);
    return can ? 0
               : xen_refuse(vm, e,
                            "the guest does not say that it can suspend itself (control/feature-suspend): is it "
                            "still booting, or without Xen's drivers?");
}

/* ---- its shape ---- */

static void read_config(struct shape *s, const libxl_domain_config *c)
{
    s->is_hvm = c->c_info.type == LIBXL_DOMAIN_TYPE_HVM;
    memcpy(s->uuid, libxl_uuid_bytearray_const(&c->c_info.uuid), sizeof s->uuid);
    s->vcpus = (unsigned)c->b_info.max_vcpus;
    s->memory_kb = c->b_info.max_memkb;
    s->grant_frames = c->b_info.max_grant_frames;
    s->maptrack_frames = c->b_info.max_maptrack_frames;
    s->grant_version = c->b_info.max_grant_version;
    s->nic_count = c->num_nics < VM_MAX_NICS ? (unsigned)c->num_nics : VM_MAX_NICS;
    for (unsigned i = 0; i < s->nic_count; i++) {
        s->nics[i].devid = c->nics[i].devid;
        memcpy(s->nics[i].mac, c->nics[i].mac, sizeof s->nics[i].mac);
        snprintf(s->nics[i].bridge, sizeof s->nics[i].bridge, "%s", c->nics[i].bridge ? c->nics[i].bridge : "");
        s->nics[i].openvswitch = nic_has_script(&c->nics[i], SCRIPT_OPENVSWITCH);
        if (c->c_info.type == LIBXL_DOMAIN_TYPE_HVM && c->nics[i].nictype == LIBXL_NIC_TYPE_VIF_IOEMU &&
            c->nics[i].model)
            snprintf(s->nics[i].model, sizeof s->nics[i].model, "%s", c->nics[i].model);
    }
}

/* Those that libxc's own migration carries. */
static int read_params(struct vm *vm, struct errmsg *e)
{
    static const unsigned carried[] = {
        HVM_PARAM_STORE_PFN,
        HVM_PARAM_IOREQ_PFN,
        HVM_PARAM_BUFIOREQ_PFN,
        HVM_PARAM_PAGING_RING_PFN,
        HVM_PARAM_MONITOR_RING_PFN,
        HVM_PARAM_SHARING_RING_PFN,
        HVM_PARAM_VM86_TSS_SIZED,
        HVM_PARAM_CONSOLE_PFN,
        HVM_PARAM_ACPI_IOPORTS_LOCATION,
        HVM_PARAM_VIRIDIAN,
        HVM_PARAM_IDENT_PT,
        HVM_PARAM_VM_GENERATION_ID_ADDR,
        HVM_PARAM_IOREQ_SERVER_PFN,
        HVM_PARAM_NR_IOREQ_SERVER_PAGES,
        HVM_PARAM_X87_FIP_WIDTH,
        HVM_PARAM_MCA_CAP,
    };
    struct shape *s = &vm->shape;
    for (size_t i = 0; i < sizeof carried / sizeof carried[0]; i++) {
        uint64_t value = 0;
        if (xc_hvm_param_get(vm->xc, vm->domid, carried[i], &value) < 0)
            return xen_error(vm, e, "reading the domain's parameters");
        if (value) {
            s->params[s->param_count].index = carried[i];
            s->params[s->param_count++].value = value;
        }
    }
    return 0;
}

static int read_policy(struct vm *vm, struct errmsg *e)
{
    struct shape *s = &vm->shape;
    uint32_t leaves = 0, msrs = 0;
    xc_cpu_policy_t *policy = xc_cpu_policy_init();
    xen_cpuid_leaf_t *leaf = NULL;
    xen_msr_entry_t *msr = NULL;
    int status = -1;
    if (policy && xc_cpu_policy_get_size(vm->xc, &leaves, &msrs) == 0 &&
        xc_cpu_policy_get_domain(vm->xc, vm->domid, policy) == 0) {
        leaf = calloc(leaves, sizeof *leaf);
        msr = calloc(msrs, sizeof *msr);
        if (leaf && msr && xc_cpu_policy_serialise(vm->xc, policy, leaf, &leaves, msr, &msrs) == 0 &&
            vm_blob_append(&s->cpuid, leaf, leaves * sizeof *leaf) == 0 &&
            vm_blob_append(&s->msr, msr, msrs * sizeof *msr) == 0)
            status = 0;
    }
    if (policy)
        xc_cpu_policy_destroy(policy);
    free(leaf);
    free(msr);
    return status < 0 ? xen_error(vm, e, "reading the domain's CPU policy") : 0;
}

/* The size is the same at every checkpoint: asked for once, since asking costs as much as reading. */
static int reserve_context(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    static const uint8_t none[1024];
    if (vm->context_size == 0) {
        int size = xc_domain_hvm_getcontext(vm->xc, vm->domid, NULL, 0);
        if (size <= 0)
            return xen_error(vm, e, "the size of the domain's context");
        vm->context_size = (uint32_t)size;
    }
    for (uint32_t left = vm->context_size; left > 0;) {
        uint32_t n = left < sizeof none ? left : (uint32_t)sizeof none;
        if (vm_blob_append(out, none, n) < 0)
            return errmsg_set(e, "out of memory for the domain's context");
        left -= n;
    }
    return 0;
}

int xen_context(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    size_t before = out->size;
    if (reserve_context(vm, out, e) < 0)
        return -1;
    int got = xc_domain_hvm_getcontext(vm->xc, vm->domid, out->data + before, vm->context_size);
    if (got < 0)
        return xen_error(vm, e, "reading the domain's context");
    out->size = before + (size_t)got;
    return 0;
}

static int read_shape(struct vm *vm, struct errmsg *e)
{
    libxl_domain_config c;
    libxl_domain_config_init(&c);
    int status = 0;
    if (libxl_retrieve_domain_configuration(vm->ctx, vm->domid, &c, NULL) != 0)
        status = xen_error(vm, e, "the domain's configuration");
    if (status == 0) {
        const char *why = refuse_config(&c);
        read_config(&vm->shape, &c);
        status = why ? xen_refuse(vm, e, why) : 0;
    }
    if (status == 0)
        status = disks_read(vm, &c, e);
    if (status == 0 && c.c_info.type == LIBXL_DOMAIN_TYPE_HVM)
        status = hvm_read(vm, &c, e);
    libxl_domain_config_dispose(&c);
    if (status == 0)
        status = vm->shape.is_hvm ? hvm_read_guest(vm, e) : check_guest(vm, e);
    return status < 0 || read_params(vm, e) < 0 || read_policy(vm, e) < 0 || layout_find(vm, e) < 0 ? -1 : 0;
}

/* A replica that has taken over keeps a replica's name until now: the guest need not wait for libxl to rename it. */
static void give_name(struct vm *vm)
{
    char replica[XEN_NAME_MAX + sizeof XEN_REPLICA_SUFFIX];
    snprintf(replica, sizeof replica, "%s" XEN_REPLICA_SUFFIX, vm->name);
    char *name = libxl_domid_to_name(vm->ctx, vm->domid);
    if (name && strcmp(name, replica) == 0 && libxl_domain_rename(vm->ctx, vm->domid, replica, vm->name) != 0)
        log_warn("domain %u can't be given its name, %s, and keeps that of a replica, %s: %s (does another domain bear "
                 "the name? xl list)",
                 vm->domid, vm->name, replica, vm->log.last);
    free(name);
}

static int attach(struct vm *vm, const struct vm_spec *spec, struct errmsg *e)
{
    xc_domaininfo_t info;
    if (find_domain(vm, spec, e) < 0)
        return -1;
    if (!xen_info(vm, &info))
        return errmsg_set(e, "the domain of VM %s is gone", vm->name);
    give_name(vm);
    if (change_watch(vm, e) < 0)
        return -1;
    if (check_kind(vm, &info, e) == 0 && read_shape(vm, e) == 0 && layout_map(vm, false, e) == 0 &&
        (!vm->shape.is_hvm || (model_open(vm, e) == 0 && drives_find(vm, e) == 0))) {
        vm->full_pages = vm->shape.ram.pages;
        return facts_write(vm, e);
    }
    if (!vm->known || vm->shape.is_hvm || memcmp(info.handle, vm->shape.uuid, sizeof info.handle) != 0)
        return -1;
    /* An agent that died has protected it, and its output may be held: it is ours to let go of, and protected again as
     * soon as it can be (promise 4). */
    log_warn("%s", e->text);
    vm->changed = "the domain was changed while no agent looked after it";
    layout_unmap(vm);
    return facts_write(vm, e);
}

int xen_attach(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    struct vm *vm = xen_new(spec, e);
    if (!vm)
        return -1;
    if (attach(vm, spec, e) < 0) {
        xen_detach(vm);
        return -1;
    }
    *out = vm;
    return 0;
}

/* xl makes domains, we take those that run. */
int xen_launch(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    (void)out;
    return errmsg_set(e, "VM %s: backend xen starts no domain: do it with xl create", spec->name);
}

/* The domain is looked at as when it was found. It may be refused now; it runs on without protection then, and without
 * our map. */
static int look_again(struct vm *vm, struct errmsg *e)
{
    const char *was = vm->changed;
    char model[sizeof vm->shape.hvm.model];
    memcpy(model, vm->shape.hvm.model, sizeof model);
    layout_unmap(vm);
    shape_free(&vm->shape);
    vm->context_size = 0;
    int status = change_watch(vm, e) < 0 ? -1 : read_shape(vm, e);
    memcpy(vm->shape.hvm.model, model, sizeof model);
    if (status == 0) {
        if (vm->shape.ram.pages >= vm->full_pages)
            return layout_map(vm, false, e);
        errmsg_set(e, "the guest has not taken all of its memory back yet");
    }
    vm->changed = was;
    return -1;
}

int xen_describe(struct vm *vm, struct json_object **out, struct errmsg *e)
{
    struct shape *s = &vm->shape;
    xen_drain_watches(vm);
    if (vm->changed && look_again(vm, e) < 0)
        return -1;
    vm_blob_free(&s->context);
    if (xen_context(vm, &s->context, e) < 0)
        return -1;
    if (xc_domain_get_tsc_info(vm->xc, vm->domid, &s->tsc.mode, &s->tsc.ns, &s->tsc.khz, &s->tsc.incarnation) < 0)
        return xen_error(vm, e, "the domain's TSC");
    *out = shape_to_json(s);
    return *out ? 0 : errmsg_set(e, "out of memory");
}
