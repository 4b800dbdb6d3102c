/*
 * model: an HVM domain's device model: a QEMU beside the domain that is the devices of its machine. It has a state of
 * its own, writes into the guest's memory (DMA) and must stand still while both are captured.
 *
 * libxl gives each device model two monitors and keeps the first to itself; the second is for statistics (xentop), and
 * ours while we are attached.
 */
#include "vm/xen/xen.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RETRY_NS = 20 * 1000000 };

static int64_t soon(void)
{
    return qmp_now_ms() + VM_CALL_MS;
}

static void on_event(void *arg, const char *event, struct json_object *data)
{
    struct vm *vm = arg;
    qmp_migration_event(&vm->model.migration, event, data);
}

void model_init(struct vm *vm)
{
    vm->model.qmp = (struct qmp){.fd = -1, .eof = true, .event = on_event, .arg = vm};
    vm->model.saved = (struct qmp_state){.fd = -1, .read_fd = -1};
}

void model_close(struct vm *vm)
{
    qmp_state_close(&vm->model.saved);
    qmp_close(&vm->model.qmp);
}

void model_path(uint32_t domid, char out[MODEL_PATH_MAX])
{
    snprintf(out, MODEL_PATH_MAX, "/var/run/xen/qmp-libxenstat-%u", domid);
}

/* A replica's state can be loaded by the same version only. */
static void read_version(struct vm *vm)
{
    struct json_object *qmp, *version, *qemu, *v;
    int part[3] = {0};
    static const char *const keys[] = {"major", "minor", "micro"};
    if (json_object_object_get_ex(vm->model.qmp.greeting, "QMP", &qmp) &&
        json_object_object_get_ex(qmp, "version", &version) && json_object_object_get_ex(version, "qemu", &qemu))
        for (int i = 0; i < 3; i++)
            part[i] = json_object_object_get_ex(qemu, keys[i], &v) ? json_object_get_int(v) : 0;
    snprintf(vm->shape.hvm.model, sizeof vm->shape.hvm.model, "%d.%d.%d", part[0], part[1], part[2]);
}

int model_open(struct vm *vm, struct errmsg *e)
{
    char path[MODEL_PATH_MAX];
    int64_t deadline = soon();
    int reason;
    model_path(vm->domid, path);
    while (qmp_open(&vm->model.qmp, path, deadline, &reason, e) < 0) {
        if ((reason != ENOENT && reason != ECONNREFUSED && reason != EAGAIN) || qmp_now_ms() > deadline)
            return -1;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    read_version(vm);
    return qmp_state_open(&vm->model.saved, &vm->model.qmp, deadline, e);
}

int model_track(struct vm *vm, bool on, struct errmsg *e)
{
    return qmp_call(&vm->model.qmp, "xen-set-global-dirty-log", on ? "{\"enable\":true}" : "{\"enable\":false}", NULL,
                    soon(), e);
}

int model_stop(struct vm *vm, struct errmsg *e)
{
    return qmp_call(&vm->model.qmp, "stop", NULL, NULL, soon(), e);
}

int model_continue(struct vm *vm, struct errmsg *e)
{
    return qmp_call(&vm->model.qmp, "cont", NULL, NULL, soon(), e);
}

int model_save_begin(struct vm *vm, struct errmsg *e)
{
    return qmp_state_begin(&vm->model.saved, &vm->model.qmp, soon(), e);
}

int model_save_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    return qmp_state_end(&vm->model.saved, &vm->model.qmp, out, soon(), e);
}

int model_load(struct vm *vm, uint8_t *state, size_t n, struct errmsg *e)
{
    static const char events[] = "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}";
    struct vm_blob piece = {.data = state, .size = n};
    if (!qmp_is_stream(state, n))
        return errmsg_set(e, "the device state to load is no QEMU stream");
    int fd = qmp_stream_file(&piece, 1, e);
    if (fd < 0)
        return -1;
    int64_t deadline = qmp_now_ms() + VM_SETUP_MS;
    int status = qmp_call(&vm->model.qmp, "migrate-set-capabilities", events, NULL, deadline, e);
    if (status == 0)
        status = qmp_migrate(&vm->model.qmp, &vm->model.migration, "migrate-incoming", fd, deadline, e);
    close(fd);
    struct errmsg why = *e;
    return status == 0
               ? 0
               : errmsg_set(e, "%s (see /var/log/xen/qemu-dm-%s" XEN_REPLICA_SUFFIX ".log)", why.text, vm->name);
}
