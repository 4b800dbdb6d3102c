/*
 * create: libxl making a domain. It works while we wait for its events, because of HVM domains: of a device model
 * libxl waits to be told, in xenstore, that it runs. One that waits for a state that comes at failover does not say
 * so; we do, as soon as it answers.
 */
#include "vm/xen/xen.h"

#include <libxl_utils.h>

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { LOOK_MS = 50, FDS_MAX = 64 };

/* True: libxl has been told. */
static bool speak_for_model(struct vm *vm, const char *name)
{
    char path[MODEL_PATH_MAX];
    struct errmsg ignored; /* libxl itself finds out if the model has ended */
    uint32_t domid;
    if (libxl_name_to_domid(vm->ctx, name, &domid) != 0)
        return false;
    model_path(domid, path);
    if (access(path, F_OK) != 0)
        return false;
    vm->domid = domid;
    model_close(vm);
    if (model_open(vm, &ignored) < 0)
        return false;
    snprintf(path, sizeof path, "/local/domain/0/device-model/%u/state", domid);
    return xs_write(vm->xs, XBT_NULL, path, "running", strlen("running"));
}

/* Lets libxl work until something happens, or for LOOK_MS. */
static void work(struct vm *vm)
{
    struct pollfd fds[FDS_MAX];
    struct timeval now;
    int n = FDS_MAX, timeout = LOOK_MS;
    gettimeofday(&now, NULL);
    if (libxl_osevent_beforepoll(vm->ctx, &n, fds, &timeout, now) != 0)
        n = 0;
    (void)poll(fds, (nfds_t)n, timeout < 0 || timeout > LOOK_MS ? LOOK_MS : timeout);
    gettimeofday(&now, NULL);
    libxl_osevent_afterpoll(vm->ctx, n, fds, now);
}

/* libxl's result. All that it does has a deadline of its own. */
static int wait_created(struct vm *vm, const char *name)
{
    bool told = !vm->shape.is_hvm;
    for (;;) {
        libxl_event *event;
        if (libxl_event_check(vm->ctx, &event, LIBXL_EVENTMASK_ALL, NULL, NULL) == 0) {
            bool done = event->type == LIBXL_EVENT_TYPE_OPERATION_COMPLETE;
            int rc = event->u.operation_complete.rc;
            libxl_event_free(vm->ctx, event);
            if (done)
                return rc;
        }
        if (!told)
            told = speak_for_model(vm, name);
        work(vm);
    }
}

int create_domain(struct vm *vm, libxl_domain_config *c, int stream, struct errmsg *e)
{
    libxl_domain_restore_params params;
    libxl_asyncop_how how = {.callback = NULL};
    uint32_t domid = XEN_NO_DOMAIN;
    xen_forget_errors(vm);
    libxl_domain_restore_params_init(&params);
    params.checkpointed_stream = LIBXL_CHECKPOINTED_STREAM_NONE;
    params.stream_version = 2;
    int rc = libxl_domain_create_restore(vm->ctx, c, &domid, stream, -1, &params, &how, NULL);
    if (rc == 0)
        rc = wait_created(vm, c->c_info.name);
    libxl_domain_restore_params_dispose(&params);
    vm->domid = rc == 0 ? domid : XEN_NO_DOMAIN; /* libxl has removed what it could not finish */
    return rc == 0 ? 0 : xen_error(vm, e, "making the replica's domain");
}
