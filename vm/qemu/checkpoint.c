/*
 * checkpoint: what is done to a running VM at each checkpoint, once before the first, and to a replica at failover.
 *
 * The stream that a replica loads is the initial RAM sections of one ordinary migration (x-ignore-shared: names and
 * sizes of RAM blocks, and the content of ROMs, but no guest memory), followed by the device state that
 * xen-save-devices-state wrote, less that one's own 8 bytes of header.
 */
#include "vm/qemu/qemu.h"

#include "netbuf/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SECTION_FULL = 4, RETRY_NS = 200000 };

static int64_t soon(void)
{
    return qmp_now_ms() + QEMU_DEADLINE_MS;
}

void qemu_say_stopped(const struct vm *vm)
{
    if (vm->told.stopped)
        vm->told.stopped(vm->told.arg);
}

/* From one checkpoint to the next it is known what QEMU is told next. */
static bool is_cycling(const struct vm *vm)
{
    return vm->track.armed && vm->saved.fd >= 0;
}

/* QEMU says STOP when its vCPUs stand still, and then drains their I/O before it answers. */
int qemu_pause(struct vm *vm, struct errmsg *e)
{
    qmp_drain(&vm->qmp); /* of somebody else who has stopped it, and may have let it go on */
    if (!vm->running)
        qemu_say_stopped(vm);
    vm->pausing = true;
    unsigned stopping = qmp_send(&vm->qmp, "stop", NULL, -1, soon(), e);
    if (stopping && is_cycling(vm))
        qmp_state_prepare(&vm->saved, &vm->qmp);
    int result = stopping ? qmp_wait(&vm->qmp, stopping, NULL, soon(), e) : -1;
    vm->pausing = false;
    if (result < 0)
        return -1;
    return vm->shut_down ? errmsg_set(e, "the guest has shut down") : 0;
}

int qemu_connect_taps(struct vm *vm, struct errmsg *e)
{
    for (unsigned i = 0; vm->ours && !vm->taps_are_up && i < vm->shape.nic_count; i++)
        if (*vm->ifname[i] && tap_connect(vm->ifname[i], vm->shape.nics[i].bridge, e) < 0)
            return -1;
    vm->taps_are_up = true;
    return 0;
}

/* The LAN shall know where the guest is now. QEMU has told it when the state was loaded, but nobody heard that. A
 * guest whose driver can, as Linux's, tells its addresses by itself when it runs. */
static void announce(struct vm *vm)
{
    struct errmsg ignored;
    bool plugged = false;
    for (unsigned i = 0; i < vm->shape.nic_count; i++)
        plugged |= *vm->ifname[i];
    if (vm->announce && plugged)
        (void)qmp_call(&vm->qmp, "announce-self", "{\"initial\":50,\"max\":550,\"rounds\":5,\"step\":100}", NULL,
                       soon(), &ignored);
    vm->announce = false;
}

int qemu_resume(struct vm *vm, struct errmsg *e)
{
    if (vm->replica && !vm->loaded)
        return errmsg_set(e, "a replica without state can't run");
    struct errmsg why;
    (void)qemu_connect_taps(vm,
                            &why); /* a VM that can't be reached runs nevertheless; tried again at the next resume */
    int64_t deadline = soon();
    if (vm->told.goes_on)
        vm->told.goes_on(vm->told.arg);
    while (qmp_call(&vm->qmp, "cont", NULL, NULL, deadline, &why) < 0) {
        /* For a moment after a migration has completed. */
        if (!strstr(why.text, "not finalized") || qmp_now_ms() > deadline)
            return errmsg_set(e, "resuming: %s", why.text);
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    announce(vm);
    if (is_cycling(vm))
        qmp_prepare(&vm->qmp, "stop", NULL);
    return 0;
}

static int begin_saving(struct vm *vm, struct errmsg *e)
{
    if (qmp_state_begin(&vm->saved, &vm->qmp, soon(), e) < 0)
        return -1;
    if (is_cycling(vm))
        qmp_prepare(&vm->qmp, "cont", NULL);
    return 0;
}

/* Saving the state goes on beside the scan, unless that asks for a QEMU that does nothing at all. */
int qemu_state_begin(struct vm *vm, struct errmsg *e)
{
    vm->save_later = vm->track.armed && !vm->track.method->is_atomic;
    return vm->save_later ? 0 : begin_saving(vm, e);
}

static int begin_now(struct vm *vm, struct errmsg *e)
{
    bool begin = vm->save_later;
    vm->save_later = false;
    return begin ? begin_saving(vm, e) : 0;
}

int qemu_state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    if (begin_now(vm, e) < 0) /* nobody has scanned */
        return -1;
    return qmp_state_end(&vm->saved, &vm->qmp, out, soon(), e);
}

int qemu_dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    return track_scan(&vm->track, out, e) < 0 ? -1 : begin_now(vm, e);
}

int qemu_populated(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    off_t end = (off_t)vm->shape.memory, at = 0;
    while (at < end) {
        off_t data = lseek(vm->ram_fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0;
        off_t hole = data < 0 ? -1 : lseek(vm->ram_fd, data, SEEK_HOLE);
        if (hole < 0)
            return errmsg_set(e, "looking for data in guest memory: %s", strerror(errno));
        if (hole > end)
            hole = end;
        uint64_t first = (uint64_t)data / VM_PAGE_SIZE, last = ((uint64_t)hole + VM_PAGE_SIZE - 1) / VM_PAGE_SIZE;
        if (data < end && page_ranges_add(out, first, last - first) < 0)
            return errmsg_set(e, "out of memory for the list of pages");
        at = hole;
    }
    return 0;
}

static int set_capabilities(struct vm *vm, bool on, int64_t deadline, struct errmsg *e)
{
    char arguments[160];
    snprintf(arguments, sizeof arguments,
             "{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":%s},{\"capability\":\"events\","
             "\"state\":%s}]}",
             on ? "true" : "false", on ? "true" : "false");
    return qmp_call(&vm->qmp, "migrate-set-capabilities", arguments, NULL, deadline, e);
}

/* Cuts off what follows the RAM sections: the first device's section, which is the timer's. */
static int cut_initial(struct vm_blob *blob, size_t start, struct errmsg *e)
{
    static const uint8_t timer[] = {5, 't', 'i', 'm', 'e', 'r'};
    const uint8_t *data = blob->data + start;
    size_t n = blob->size - start;
    if (qmp_is_stream(data, n))
        for (size_t i = QMP_STREAM_HEADER; i + 5 + sizeof timer <= n; i++)
            if (data[i] == SECTION_FULL && memcmp(data + i + 5, timer, sizeof timer) == 0) {
                blob->size = start + i;
                return 0;
            }
    return errmsg_set(e, "QEMU's migration stream has no section \"timer\": this version of QEMU is not supported");
}

static int save_initial(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    size_t start = initial->size;
    int fd = memfd_create("hikae-initial", MFD_CLOEXEC);
    if (fd < 0)
        return errmsg_set(e, "memfd: %s", strerror(errno));
    int status = set_capabilities(vm, true, soon(), e);
    if (status == 0)
        status = qmp_migrate(&vm->qmp, &vm->migration, "migrate", fd, soon(), e);
    if (status == 0)
        status = qmp_file_append(fd, initial, e);
    if (status == 0)
        status = cut_initial(initial, start, e);
    close(fd);
    return status;
}

int qemu_arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    int status = qemu_pause(vm, e);
    if (status == 0)
        status = save_initial(vm, initial, e);
    if (status == 0)
        status = track_arm(&vm->track, e);
    /* Whatever happened, the guest must go on; a pause that was given up may be carried out later all the same. */
    struct errmsg why = {""};
    int resumed = qemu_resume(vm, &why);
    if (status == 0 && resumed < 0)
        status = errmsg_set(e, "%s", why.text);
    /* Those are no business of whoever else migrates this VM. */
    (void)set_capabilities(vm, false, soon(), &why);
    return status;
}

int qemu_disarm(struct vm *vm, struct errmsg *e)
{
    return vm->track.armed ? track_disarm(&vm->track, e) : 0;
}

int qemu_load(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e)
{
    if (!vm->replica || vm->loaded)
        return errmsg_set(e, "state can be loaded into a replica only, and only once");
    if (!qmp_is_stream(initial->data, initial->size) || !qmp_is_stream(state->data, state->size))
        return errmsg_set(e, "the state to load is no QEMU stream");
    struct vm_blob pieces[] = {*initial,
                               {.data = state->data + QMP_STREAM_HEADER, .size = state->size - QMP_STREAM_HEADER}};
    int fd = qmp_stream_file(pieces, sizeof pieces / sizeof pieces[0], e), status = fd < 0 ? -1 : 0;
    if (status == 0 && qmp_migrate(&vm->qmp, &vm->migration, "migrate-incoming", fd, soon(), e) < 0) {
        char log[PATH_MAX];
        snprintf(log, sizeof log, "%s/qemu.log", vm->run_dir);
        process_explain(log, e);
        status = -1;
    }
    if (fd >= 0)
        close(fd);
    if (status < 0)
        return -1;
    vm->loaded = vm->announce = true;
    return facts_write(vm, e);
}
