/*
 * model: an HVM domain's device model: a QEMU beside the domain that is the devices of its machine. It has a state of
 * its own, writes into the guest's memory (DMA) and must stand still while both are captured.
 *
 * libxl gives each device model two monitors and keeps the first to itself; the second is for statistics (xentop), and
 * ours while we are attached.
 */
#include "vm/xen/xen.h"

#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>

enum { RETRY_NS = 20 * 1000000, LOOK_MS = 500, END_MS = 5000 };

static int64_t soon(void)
{
    return qmp_now_ms() + VM_CALL_MS;
}

static void on_event(void *arg, const char *event, struct json_object *data)
{
    struct vm *vm = arg;
    if (strcmp(event, "STOP") == 0)
        vm->model.stopped = true;
    else if (strcmp(event, "RESUME") == 0)
        vm->model.stopped = false;
    else
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

/* One attempt; errno of one that found nobody is in *reason. */
static int connect_once(struct vm *vm, int64_t deadline, int *reason, struct errmsg *e)
{
    struct model *m = &vm->model;
    struct json_object *status, *running;
    char path[MODEL_PATH_MAX];
    model_path(vm->domid, path);
    if (qmp_open(&m->qmp, path, deadline, reason, e) < 0 ||
        qmp_call(&m->qmp, "query-status", NULL, &status, deadline, e) < 0)
        return -1;
    m->stopped = json_object_object_get_ex(status, "running", &running) && !json_object_get_boolean(running);
    json_object_put(status);
    read_version(vm);
    return qmp_state_open(&m->saved, &m->qmp, deadline, e);
}

int model_open(struct vm *vm, struct errmsg *e)
{
    int64_t deadline = soon();
    int reason;
    while (connect_once(vm, deadline, &reason, e) < 0) {
        model_close(vm);
        if ((reason != ENOENT && reason != ECONNREFUSED && reason != EAGAIN) || qmp_now_ms() > deadline)
            return -1;
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    return 0;
}

bool model_has_ended(struct vm *vm)
{
    struct model *m = &vm->model;
    struct errmsg ignored;
    int reason;
    qmp_drain(&m->qmp);
    if (!m->qmp.eof)
        return false;
    model_close(vm);
    return connect_once(vm, qmp_now_ms() + LOOK_MS, &reason, &ignored) < 0 &&
           (reason == ECONNREFUSED || reason == ENOENT);
}

int model_track(struct vm *vm, bool on, struct errmsg *e)
{
    return qmp_call(&vm->model.qmp, "xen-set-global-dirty-log", on ? "{\"enable\":true}" : "{\"enable\":false}", NULL,
                    soon(), e);
}

static int stop_at_disks(struct model *m, int64_t deadline, struct errmsg *e)
{
    unsigned stopping = qmp_send(&m->qmp, "stop", NULL, -1, deadline, e);
    if (!stopping)
        return -1;
    qmp_state_prepare(&m->saved, &m->qmp);
    return qmp_wait(&m->qmp, stopping, NULL, deadline, e);
}

/* QEMU handles one thing after the other. Once it has said that it has stopped it is saving, and what the guest asks of
 * it waits until it has saved. It says so before it has waited for what it does at the guest's disks; the answer to
 * `stop` comes after that. */
int model_stop(struct vm *vm, struct errmsg *e)
{
    struct model *m = &vm->model;
    int64_t deadline = soon();
    if (vm->shape.disk_count && stop_at_disks(m, deadline, e) < 0)
        return -1;
    if (qmp_state_begin(&m->saved, &m->qmp, deadline, e) < 0)
        return -1;
    qmp_prepare(&m->qmp, "cont", NULL);
    return qmp_wait_flag(&m->qmp, &m->stopped, deadline, "stopping", e);
}

/* What it will be told first at the next checkpoint. */
static void prepare_next(struct vm *vm)
{
    struct model *m = &vm->model;
    if (m->drive_count)
        drives_prepare(vm);
    else if (vm->shape.disk_count)
        qmp_prepare(&m->qmp, "stop", NULL);
    else
        qmp_state_prepare(&m->saved, &m->qmp);
}

int model_continue(struct vm *vm, struct errmsg *e)
{
    if (qmp_call(&vm->model.qmp, "cont", NULL, NULL, soon(), e) < 0)
        return -1;
    prepare_next(vm);
    return 0;
}

/* Is this process what libxl has noted it to be? Its number may have gone to another one. */
static bool is_model_of(pid_t pid, uint32_t domid)
{
    char path[40], words[8192], wanted[40];
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    size_t n = (size_t)snprintf(wanted, sizeof wanted, "-xen-domid%c%u", '\0', domid) + 1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, words, sizeof words);
    if (fd >= 0)
        close(fd);
    return got > 0 && memmem(words, (size_t)got, wanted, n);
}

void model_end(const struct vm *vm, uint32_t domid)
{
    char path[64];
    snprintf(path, sizeof path, "/local/domain/%u/image/device-model-pid", domid);
    char *noted = xs_read(vm->xs, XBT_NULL, path, NULL);
    pid_t pid = noted ? atoi(noted) : 0;
    free(noted);
    struct pollfd end = {.fd = pid > 0 ? pidfd_open(pid, 0) : -1, .events = POLLIN};
    if (end.fd < 0)
        return;
    if (is_model_of(pid, domid) && pidfd_send_signal(end.fd, SIGKILL, NULL, 0) == 0 && poll(&end, 1, END_MS) != 1)
        log_warn("the domain's device model (process %d) does not end", (int)pid);
    close(end.fd);
}

int model_save_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    return qmp_state_end(&vm->model.saved, &vm->model.qmp, out, soon(), e);
}

int model_prepare(struct vm *vm, struct errmsg *e)
{
    static const char events[] = "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}";
    return qmp_call(&vm->model.qmp, "migrate-set-capabilities", events, NULL, soon(), e);
}

int model_load(struct vm *vm, uint8_t *state, size_t n, struct errmsg *e)
{
    struct vm_blob piece = {.data = state, .size = n};
    if (!qmp_is_stream(state, n))
        return errmsg_set(e, "the device state to load is no QEMU stream");
    int fd = qmp_stream_file(&piece, 1, e);
    if (fd < 0)
        return -1;
    int64_t deadline = qmp_now_ms() + VM_SETUP_MS;
    int status = qmp_migrate(&vm->model.qmp, &vm->model.migration, "migrate-incoming", fd, deadline, e);
    close(fd);
    struct errmsg why = *e;
    return status == 0
               ? 0
               : errmsg_set(e, "%s (see /var/log/xen/qemu-dm-%s" XEN_REPLICA_SUFFIX ".log)", why.text, vm->name);
}
