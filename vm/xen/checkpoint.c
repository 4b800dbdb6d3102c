/*
 * checkpoint: what is done to a running domain at each checkpoint and before the first.
 *
 * Cooperative: the guest is asked through xenstore to suspend itself, as for a migration. It stands still of its own
 * accord, with its devices' rings quiet and its own records of event channels ready to be made anew: the only state
 * from which a copy of it elsewhere runs. Here it is told that nothing came of it (fast resume) and goes on.
 *
 * Transparent (HVM without Xen's drivers): the hypervisor suspends the guest, which notices nothing. A mere pause would
 * not do: a request to the device model may be in flight then, which no context carries; the suspension waits for it.
 *
 * In both, an HVM domain's device model is stopped as long as the guest stands still, and its state is part of the
 * domain's.
 */
#include "vm/xen/xen.h"

#include "vm/xen/bitmap.h"
#include "vm/xen/state.h"

#include <xen/hvm/params.h>
#include <xenguest.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

/* LOOK_MS: the watch tells at once; this is for one that was lost. */
enum { SUSPEND_MS = VM_CALL_MS, LOOK_MS = 50, FORCED_LOOK_NS = 100000, FOREIGN_MS = 500, FOREIGN_LOOK_NS = 2000000 };

static const uint8_t initial_magic[8] = "HkXenI1";

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int log_dirty(struct vm *vm, unsigned operation, struct errmsg *e)
{
    return xc_shadow_control(vm->xc, vm->domid, operation, NULL, 0) < 0 ? xen_error(vm, e, "log-dirty mode") : 0;
}

/* What a replica needs besides: the special pages. */
static int save_initial(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    const struct shape *s = &vm->shape;
    size_t bytes = (size_t)s->special_count * VM_PAGE_SIZE;
    uint8_t *pages = malloc(bytes + 1);
    int status = pages ? layout_specials(vm, pages, false, e) : errmsg_set(e, "out of memory");
    if (status == 0 &&
        (vm_blob_append(initial, initial_magic, sizeof initial_magic) < 0 || vm_blob_append(initial, pages, bytes) < 0))
        status = errmsg_set(e, "out of memory");
    free(pages);
    return status;
}

int xen_arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    if (save_initial(vm, initial, e) < 0 || (vm->shape.is_hvm && model_track(vm, true, e) < 0))
        return -1;
    /* An agent that died may have left it on; this counts from now. */
    (void)xc_shadow_control(vm->xc, vm->domid, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0);
    if (log_dirty(vm, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, e) < 0)
        return -1;
    vm->armed = true;
    return 0;
}

int xen_disarm(struct vm *vm, struct errmsg *e)
{
    if (!vm->armed)
        return 0;
    vm->armed = false;
    change_let_go(vm);
    xc_domaininfo_t info;
    if (!xen_info(vm, &info))
        return 0;
    int model = vm->shape.is_hvm ? model_track(vm, false, e) : 0;
    return log_dirty(vm, XEN_DOMCTL_SHADOW_OP_OFF, e) < 0 || model < 0 ? -1 : 0;
}

int xen_populated(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    for (size_t i = 0; i < vm->shape.ram.n; i++)
        if (page_ranges_add(out, vm->shape.ram.at[i].first, vm->shape.ram.at[i].count) < 0)
            return errmsg_set(e, "out of memory for the list of pages");
    return 0;
}

/* ---- suspend ---- */

static const char suspend_request[] = "suspend";

static void request_path(char out[64], const struct vm *vm)
{
    snprintf(out, 64, "/local/domain/%u/control/shutdown", vm->domid);
}

/* 1: it is asked; 0: somebody else has asked it for something (xl shutdown) and it has not seen that yet; -1. */
static int ask_once(struct vm *vm, bool over, struct errmsg *e)
{
    char path[64];
    unsigned n;
    request_path(path, vm);
    xs_transaction_t t = xs_transaction_start(vm->xs);
    char *is = t == XBT_NULL ? NULL : xs_read(vm->xs, t, path, &n);
    bool free_to_ask = over || !is || !*is || strcmp(is, suspend_request) == 0;
    free(is);
    if (t == XBT_NULL || (free_to_ask && !xs_write(vm->xs, t, path, suspend_request, sizeof suspend_request - 1))) {
        if (t != XBT_NULL)
            (void)xs_transaction_end(vm->xs, t, true);
        return xen_error(vm, e, "xenstore");
    }
    if (xs_transaction_end(vm->xs, t, !free_to_ask))
        return free_to_ask;
    return errno == EAGAIN ? 0 : xen_error(vm, e, "xenstore");
}

static void say_that_it_waits(const struct vm *vm)
{
    if (vm->told.waits)
        vm->told.waits(vm->told.arg);
}

/* The guest takes a request away as soon as it has seen it. One that stays is for something that it can't do. */
static int ask(struct vm *vm, struct errmsg *e)
{
    int64_t deadline = now_ms() + FOREIGN_MS;
    int asked = ask_once(vm, false, e);
    while (asked == 0) {
        nanosleep(&(struct timespec){.tv_nsec = FOREIGN_LOOK_NS}, NULL);
        say_that_it_waits(vm);
        asked = ask_once(vm, now_ms() > deadline, e);
    }
    return asked < 0 ? -1 : 0;
}

static void take_back(struct vm *vm)
{
    char path[64];
    request_path(path, vm);
    (void)xs_write(vm->xs, XBT_NULL, path, "", 0);
}

/* 1: it is suspended; 0: not yet; -1: it will never be. */
static int look(struct vm *vm, struct errmsg *e)
{
    xc_domaininfo_t info;
    if (!xen_info(vm, &info)) {
        vm->gone = true;
        return errmsg_set(e, "the domain is gone");
    }
    if (xen_is_suspended(&info))
        return 1;
    if (!(info.flags & XEN_DOMINF_shutdown))
        return 0;
    vm->shut_down = true;
    return errmsg_set(e, "the guest has shut down");
}

static int suspend_by_guest(struct vm *vm, struct errmsg *e)
{
    int64_t deadline = now_ms() + SUSPEND_MS;
    xen_settle(vm);
    int done = look(vm, e);
    if (done == 0 && ask(vm, e) < 0)
        done = -1;
    while (done == 0 && now_ms() < deadline) {
        struct pollfd watch = {.fd = xs_fileno(vm->xs), .events = POLLIN};
        say_that_it_waits(vm); /* at once: what it has to end before that may wait for it */
        if (poll(&watch, 1, LOOK_MS) > 0)
            xen_drain_watches(vm);
        done = look(vm, e);
    }
    if (done != 0)
        return done < 0 ? -1 : 0;
    take_back(vm); /* if it has seen the request it will suspend all the same: `state` wakes it */
    return errmsg_set(e, "the guest does not suspend itself within %d s", SUSPEND_MS / 1000);
}

static int suspend_by_force(struct vm *vm, struct errmsg *e)
{
    int64_t deadline = now_ms() + SUSPEND_MS;
    int done = look(vm, e);
    if (done == 0 && xc_domain_shutdown(vm->xc, vm->domid, SHUTDOWN_suspend) < 0)
        return xen_error(vm, e, "suspending the domain");
    while (done == 0 && now_ms() < deadline) {
        done = look(vm, e);
        if (done == 0) /* until its device model has answered what the guest has asked it */
            nanosleep(&(struct timespec){.tv_nsec = FORCED_LOOK_NS}, NULL);
    }
    if (done != 0)
        return done < 0 ? -1 : 0;
    vm->model.doubted = true;
    return errmsg_set(e, "the domain is not suspended within %d s: does its device model hang?", SUSPEND_MS / 1000);
}

int xen_pause(struct vm *vm, struct errmsg *e)
{
    xen_drain_watches(vm);
    if (vm->changed)
        return errmsg_set(e, "%s", vm->changed);
    vm->pausing = true;
    drives_write_back(vm);
    int status = vm->shape.hvm.transparent ? suspend_by_force(vm, e) : suspend_by_guest(vm, e);
    if (status == 0 && vm->told.stopped)
        vm->told.stopped(vm->told.arg);
    if (status == 0)
        status = drives_settle(vm, e);
    if (status == 0 && vm->shape.is_hvm)
        status = model_stop(vm, e);
    if (status < 0)
        vm->pausing = false;
    return status;
}

/* Its device model first: while that stands still Xen asks it nothing, and what the guest writes to a device is lost.
 * The guest goes on in any case; but with disks behind its device model it must not, and waits until it is asked for
 * again. */
int xen_wake(struct vm *vm, struct errmsg *e)
{
    if (vm->told.goes_on)
        vm->told.goes_on(vm->told.arg);
    int model = vm->shape.is_hvm ? model_continue(vm, e) : 0;
    if (model < 0 && vm->shape.disk_count)
        return -1;
    bool asked = !vm->shape.hvm.transparent; /* then it is told that it is where it was */
    if (xc_domain_resume(vm->xc, vm->domid, asked) < 0)
        return xen_error(vm, e, "resuming the domain");
    /* A round trip to xenstored, which has to share the processors with a guest that has just woken up: later. */
    vm->resumed = true;
    (void)eventfd_write(vm->wakeup, 1);
    return model;
}

void xen_settle(struct vm *vm)
{
    eventfd_t ignored;
    if (!vm->resumed)
        return;
    (void)eventfd_read(vm->wakeup, &ignored);
    (void)xs_resume_domain(vm->xs, vm->domid);
    vm->resumed = false;
}

int xen_resume(struct vm *vm, struct errmsg *e)
{
    xc_domaininfo_t info;
    if (vm->replica && !vm->loaded)
        return errmsg_set(e, "a replica without state can't run");
    vm->pausing = false;
    if (!xen_info(vm, &info))
        return errmsg_set(e, "the domain is gone");
    if (xen_is_suspended(&info)) {
        if (xen_wake(vm, e) < 0)
            return -1;
    } else if ((xen_model_stands(vm) || vm->model.doubted) && model_continue(vm, e) < 0) {
        return -1; /* the domain does not run, whatever the hypervisor says of it */
    }
    vm->model.doubted = false;
    if (info.flags & XEN_DOMINF_paused && xc_domain_unpause(vm->xc, vm->domid) < 0)
        return xen_error(vm, e, "unpausing the domain");
    return 0;
}

/* ---- what it holds ---- */

int xen_dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    xc_shadow_op_stats_t stats;
    long long got = xc_logdirty_control(vm->xc, vm->domid, XEN_DOMCTL_SHADOW_OP_CLEAN, &vm->dirty, vm->span, 0, &stats);
    if (got < 0 || (uint64_t)got != vm->span)
        return xen_error(vm, e, "reading the dirty bitmap");
    return bitmap_ranges(vm->dirty.hbuf, &vm->shape.ram, out) < 0 ? errmsg_set(e, "out of memory for the list of pages")
                                                                  : 0;
}

int xen_state_begin(struct vm *vm, struct errmsg *e)
{
    vm->context.size = 0;
    return vm->shape.is_hvm ? xen_context(vm, &vm->context, e) : 0;
}

static int append_context(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    if (!vm->shape.is_hvm)
        return xen_context(vm, out, e);
    return vm_blob_append(out, vm->context.data, vm->context.size) < 0
               ? errmsg_set(e, "out of memory for the domain's context")
               : 0;
}

int xen_state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    size_t head = state_begin(out);
    if (head == STATE_FAILED)
        return errmsg_set(e, "out of memory for the domain's context");
    if (append_context(vm, out, e) < 0)
        return -1;
    state_context_ends(out, head);
    return vm->shape.is_hvm ? model_save_end(vm, out, e) : 0;
}

/* ---- failover ---- */

static int check(const struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state,
                 struct state_parts *parts, struct errmsg *e)
{
    if (!vm->replica || vm->loaded)
        return errmsg_set(e, "state can be loaded into a replica only, and only once");
    if (initial->size != sizeof initial_magic + (size_t)vm->shape.special_count * VM_PAGE_SIZE ||
        memcmp(initial->data, initial_magic, sizeof initial_magic) != 0 ||
        !state_take_apart(state, vm->shape.is_hvm, parts))
        return errmsg_set(e, "the state to load is not that of a Xen domain");
    return 0;
}

static int load(struct vm *vm, uint8_t *specials, const struct state_parts *parts, struct errmsg *e)
{
    static const unsigned rings[] = {HVM_PARAM_STORE_PFN, HVM_PARAM_CONSOLE_PFN};
    if (layout_specials(vm, specials, true, e) < 0)
        return -1;
    /* The guest finds both as on the day it was made, and its end of them too. */
    for (size_t i = 0; i < sizeof rings / sizeof rings[0]; i++) {
        uint64_t gfn = shape_param(&vm->shape, rings[i]);
        if (gfn && xc_clear_domain_page(vm->xc, vm->domid, gfn) < 0)
            return xen_error(vm, e, "clearing a ring page");
    }
    if (vm->shape.is_hvm && model_load(vm, parts->model, parts->model_size, e) < 0)
        return -1;
    if (xc_domain_hvm_setcontext(vm->xc, vm->domid, parts->context, parts->context_size) < 0)
        return xen_error(vm, e, "setting the domain's context");
    return 0;
}

int xen_load(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e)
{
    struct state_parts parts = {0};
    if (check(vm, initial, state, &parts, e) < 0 || keep_load(vm, e) < 0 ||
        load(vm, initial->data + sizeof initial_magic, &parts, e) < 0)
        return -1;
    /* The guest has said so on the host it comes from, and won't again. */
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/control/feature-suspend", vm->domid);
    if (!vm->shape.hvm.transparent && !xs_write(vm->xs, XBT_NULL, path, "1", 1))
        return xen_error(vm, e, "xenstore");
    vm->loaded = true;
    return facts_write(vm, e);
}
