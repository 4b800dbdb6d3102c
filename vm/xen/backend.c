/*
 * backend: the table of operations of backend xen and what all of them share. See xen.h for where the rest is.
 */
#include "vm/xen/xen.h"

#include "common/jsonget.h"
#include "common/log.h"

#include <libxl_utils.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RELEASE_WATCH "@releaseDomain" /* a domain has shut down, suspended, or is gone */

/* ---- what the libraries say ---- */

/* What a hotplug script says of its failure (libxl: device_hotplug_child_death_cb). It is worth more than what libxl
 * says of the consequences. */
static bool is_of_script(const char *text)
{
    return strstr(text, "script: ");
}

static void on_message(xentoollog_logger *logger, xentoollog_level level, int errno_value, const char *context,
                       const char *format, va_list arguments)
{
    struct xen_log *log = (struct xen_log *)logger;
    char text[sizeof log->last];
    if (level < XTL_ERROR)
        return;
    vsnprintf(text, sizeof text, format, arguments);
    log_debug("%s: %s%s%s", context ? context : "xen", text, errno_value > 0 ? ": " : "",
              errno_value > 0 ? strerror(errno_value) : "");
    if (!is_of_script(log->last) || is_of_script(text))
        memcpy(log->last, text, sizeof text);
}

void xen_forget_errors(struct vm *vm)
{
    vm->log.last[0] = 0;
}

static void on_destroy(xentoollog_logger *logger)
{
    (void)logger; /* it is part of struct vm */
}

int xen_error(const struct vm *vm, struct errmsg *e, const char *what)
{
    const char *said = vm->log.last;
    return errmsg_set(e, "%s: %s%s%s", what, *said ? said : "", *said ? ": " : "", strerror(errno));
}

/* ---- handles ---- */

static int open_events(struct vm *vm, struct errmsg *e)
{
    const int sources[] = {xs_fileno(vm->xs), vm->wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    vm->events = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        struct epoll_event readable = {.events = EPOLLIN};
        if (epoll_ctl(vm->events, EPOLL_CTL_ADD, sources[i], &readable) < 0)
            return errmsg_set(e, "waiting for events of the domain: %s", strerror(errno));
    }
    return 0;
}

static int open_handles(struct vm *vm, struct errmsg *e)
{
    vm->xc = xc_interface_open(&vm->log.vtable, NULL, 0);
    vm->foreign = vm->xc ? xenforeignmemory_open(&vm->log.vtable, 0) : NULL;
    vm->xs = vm->foreign ? xs_open(0) : NULL;
    if (!vm->xs)
        return errmsg_set(e,
                          "this host's hypervisor can't be talked to: %s (is this a dom0 with xen-utils, and are we "
                          "root?)",
                          strerror(errno));
    if (libxl_ctx_alloc(&vm->ctx, LIBXL_VERSION, 0, &vm->log.vtable) != 0)
        return xen_error(vm, e, "libxl");
    return xs_watch(vm->xs, RELEASE_WATCH, "released") ? open_events(vm, e) : xen_error(vm, e, "xenstore");
}

struct vm *xen_new(const struct vm_spec *spec, struct errmsg *e)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        errmsg_set(e, "out of memory");
        return NULL;
    }
    vm->log.vtable.vmessage = on_message;
    vm->log.vtable.destroy = on_destroy;
    vm->domid = XEN_NO_DOMAIN;
    vm->told = spec->told;
    model_init(vm);
    vm->events = vm->wakeup = -1;
    vm->dirty = (xc_hypercall_buffer_t){HYPERCALL_BUFFER_INIT_NO_BOUNCE};
    if (snprintf(vm->name, sizeof vm->name, "%s", spec->name) >= (int)sizeof vm->name ||
        snprintf(vm->run_dir, sizeof vm->run_dir, "%s", spec->run_dir) >= (int)sizeof vm->run_dir) {
        errmsg_set(e, "the VM's name or its folder's name is too long: %s", spec->run_dir);
        free(vm);
        return NULL;
    }
    if (open_handles(vm, e) == 0)
        return vm;
    xen_detach(vm);
    return NULL;
}

void xen_detach(struct vm *vm)
{
    model_close(vm);
    if (vm->xc)
        layout_unmap(vm);
    xen_settle(vm);
    if (vm->events >= 0)
        close(vm->events);
    if (vm->wakeup >= 0)
        close(vm->wakeup);
    if (vm->ctx)
        libxl_ctx_free(vm->ctx);
    if (vm->xs)
        xs_close(vm->xs);
    if (vm->foreign)
        xenforeignmemory_close(vm->foreign);
    if (vm->xc)
        xc_interface_close(vm->xc);
    shape_free(&vm->shape);
    vm_blob_free(&vm->context);
    free(vm);
}

/* ---- state ---- */

bool xen_info(const struct vm *vm, xc_domaininfo_t *info)
{
    return vm->domid != XEN_NO_DOMAIN && xc_domain_getinfolist(vm->xc, vm->domid, 1, info) == 1 &&
           info->domain == vm->domid && !(info->flags & XEN_DOMINF_dying);
}

static unsigned shutdown_reason(const xc_domaininfo_t *info)
{
    return info->flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask;
}

bool xen_is_suspended(const xc_domaininfo_t *info)
{
    return info->flags & XEN_DOMINF_shutdown && shutdown_reason(info) == SHUTDOWN_suspend;
}

void xen_drain_watches(struct vm *vm)
{
    char **watch;
    bool look = false;
    while ((watch = xs_check_watch(vm->xs))) {
        look = look || change_is_sign(watch[XS_WATCH_TOKEN]);
        free(watch);
    }
    if (look)
        change_look(vm);
}

bool xen_model_stands(const struct vm *vm)
{
    return vm->shape.is_hvm && (!vm->replica || vm->loaded) && vm->model.stopped;
}

static enum vm_state op_state(struct vm *vm)
{
    xc_domaininfo_t info;
    struct errmsg e;
    xen_settle(vm);
    xen_drain_watches(vm);
    if (!vm->gone && !xen_info(vm, &info))
        vm->gone = true;
    if (!vm->gone && vm->shape.is_hvm && model_has_ended(vm)) {
        /* What is left has no devices. It must not run when the replica does (promise 3). */
        log_warn("the domain's device model has ended (see /var/log/xen/qemu-dm-*.log): the domain is paused");
        (void)xc_domain_pause(vm->xc, vm->domid);
        vm->gone = true;
    }
    if (vm->gone || vm->shut_down)
        return vm->shut_down ? VM_SHUT_DOWN : VM_GONE;
    if (xen_is_suspended(&info)) {
        /* A suspension that was given up came late, or somebody else's: it must not stay so (promise 4). */
        if (vm->pausing || vm->replica || xen_wake(vm, &e) < 0)
            return VM_PAUSED;
        log_warn("the domain was suspended by nobody's order: resumed");
        return VM_RUNNING;
    }
    if (info.flags & XEN_DOMINF_shutdown) {
        vm->shut_down = shutdown_reason(&info) != SHUTDOWN_crash;
        vm->gone = !vm->shut_down;
        return vm->shut_down ? VM_SHUT_DOWN : VM_GONE;
    }
    if (info.flags & XEN_DOMINF_paused)
        return VM_PAUSED;
    if (xen_model_stands(vm)) { /* an agent died between the guest's resumption and its device model's */
        if (vm->pausing || model_continue(vm, &e) < 0)
            return VM_PAUSED;
        log_warn("the domain's device model stood still by nobody's order: it goes on");
    }
    return VM_RUNNING;
}

static int op_event_fd(const struct vm *vm)
{
    return vm->events;
}

static uint8_t *op_memory(struct vm *vm)
{
    return vm->memory;
}

static void op_info(const struct vm *vm, struct vm_info *out)
{
    const libxl_version_info *version = libxl_get_version_info(vm->ctx);
    *out = (struct vm_info){.pages = vm->span, .nic_count = vm->shape.nic_count, .from_remains = vm->kept};
    const struct shape *s = &vm->shape;
    snprintf(out->note, sizeof out->note, "Xen %d.%d, domain %u, %s%s, %s", version->xen_version_major,
             version->xen_version_minor, vm->domid, s->is_hvm ? "HVM with QEMU " : "PVH", s->hvm.model,
             s->hvm.transparent ? "transparent" : "cooperative");
    for (unsigned i = 0; i < vm->shape.nic_count; i++) {
        struct vm_nic *nic = &out->nics[i];
        memcpy(nic->mac, vm->shape.nics[i].mac, sizeof nic->mac);
        memcpy(nic->bridge, vm->shape.nics[i].bridge, sizeof nic->bridge);
        /* What the guest sends comes in by Xen's interface, or by the tap of the card that is emulated for it. */
        snprintf(nic->ifname, sizeof nic->ifname, "vif%u.%d%s", vm->domid, s->nics[i].devid,
                 s->nics[i].emulated ? "-emu" : "");
    }
    /* The shared info, where the guest has mapped it: its clock, event channels (xen/include/public/xen.h). */
    xc_domaininfo_t domain;
    out->has_own_page = xen_info(vm, &domain) && domain.shared_info_frame < vm->span;
    out->own_page = out->has_own_page ? domain.shared_info_frame : 0;
}

/* ---- end ---- */

void xen_destroy(struct vm *vm)
{
    xc_domaininfo_t info;
    layout_unmap(vm); /* pages that are mapped would outlive the domain */
    bool there = xen_info(vm, &info);
    if (there)
        model_end(vm, vm->domid);
    if (there && libxl_domain_destroy(vm->ctx, vm->domid, NULL) != 0) {
        log_warn("libxl could not destroy domain %u: %s; asking the hypervisor", vm->domid, vm->log.last);
        (void)xc_domain_destroy(vm->xc, vm->domid);
    }
    facts_remove(vm->run_dir);
    xen_detach(vm);
}

/* A domain's memory goes with it: nothing is kept. */
static void op_retire(struct vm *vm, const char *remains)
{
    (void)remains;
    xen_destroy(vm);
}

static int op_clear(const struct vm_spec *spec, struct errmsg *e)
{
    struct facts f;
    xc_domaininfo_t info;
    int known = facts_read(spec->run_dir, &f, e);
    if (known < 0 || (known == 0 && !spec->settings))
        return known;
    struct vm *vm = xen_new(spec, e);
    if (!vm)
        return -1;
    if (known == 0) {
        bool there = libxl_domain_qualifier_to_domid(vm->ctx, json_get_text(spec->settings, "domain", vm->name),
                                                     &vm->domid) == 0;
        xen_detach(vm);
        return there;
    }
    vm->domid = f.domid;
    bool lives = xen_info(vm, &info) && memcmp(info.handle, f.uuid, sizeof f.uuid) == 0;
    if (lives && !f.replica && !spec->doomed) {
        xen_detach(vm);
        return 1;
    }
    bool ours = lives && keep_is_owned(vm);
    if (ours && spec->remains) {
        xen_detach(vm);
        return 2;
    }
    if (!ours && !(lives && !f.replica))
        vm->domid = XEN_NO_DOMAIN;
    xen_destroy(vm);
    return 0;
}

/* xl makes domains. */
static bool op_is_foreign(struct json_object *settings)
{
    (void)settings;
    return true;
}

/* The kernel's NBD client, which it has its disks from, takes no other size while somebody has the device open. */
static int op_disk_grown(struct vm *vm, unsigned disk, uint64_t bytes, struct errmsg *e)
{
    (void)vm, (void)bytes;
    return errmsg_set(e, "disk %u of a Xen domain can't grow while that runs", disk);
}

__attribute__((visibility("default"))) const struct vm_ops hikae_vm_ops = {
    .abi = VM_ABI,
    .name = "xen",
    .drains_disks = false,
    .info = op_info,
    .memory = op_memory,
    .state = op_state,
    .event_fd = op_event_fd,
    .detach = xen_detach,
    .destroy = xen_destroy,
    .retire = op_retire,
    .clear = op_clear,
    .is_foreign = op_is_foreign,
    .launch = xen_launch,
    .attach = xen_attach,
    .describe = xen_describe,
    .arm = xen_arm,
    .populated = xen_populated,
    .pause = xen_pause,
    .state_begin = xen_state_begin,
    .dirty = xen_dirty,
    .dirty_running = xen_dirty,
    .state_end = xen_state_end,
    .resume = xen_resume,
    .disk_grown = op_disk_grown,
    .disarm = xen_disarm,
    .replica_create = xen_replica_create,
    .load = xen_load,
};
