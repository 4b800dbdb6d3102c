/*
 * checkpoint: what is done to a running VM at each checkpoint, once before the first, and to a replica at failover.
 *
 * The stream that a replica loads is the initial RAM sections of one ordinary migration (x-ignore-shared: names and
 * sizes of RAM blocks, and the content of ROMs, but no guest memory), followed by the device state that
 * xen-save-devices-state wrote, less that one's own 8 bytes of header.
 */
#include "vm/qemu/qemu.h"

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

enum { STREAM_HEADER = 8, SECTION_FULL = 4, RETRY_NS = 200000 };
static const uint8_t stream_magic[4] = {'Q', 'E', 'V', 'M'};

static int64_t soon(void)
{
    return qmp_now_ms() + QEMU_DEADLINE_MS;
}

int qemu_pause(struct vm *vm, struct errmsg *e)
{
    if (qmp_call(&vm->qmp, "stop", NULL, NULL, soon(), e) < 0)
        return -1;
    return vm->shut_down ? errmsg_set(e, "the guest has shut down") : 0;
}

int qemu_resume(struct vm *vm, struct errmsg *e)
{
    if (vm->replica && !vm->loaded)
        return errmsg_set(e, "a replica without state can't run");
    int64_t deadline = soon();
    struct errmsg why;
    while (qmp_call(&vm->qmp, "cont", NULL, NULL, deadline, &why) < 0) {
        /* For a moment after a migration has completed. */
        if (!strstr(why.text, "not finalized") || qmp_now_ms() > deadline)
            return errmsg_set(e, "resuming: %s", why.text);
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    return 0;
}

int qemu_state_begin(struct vm *vm, struct errmsg *e)
{
    char arguments[96];
    /* The offset is shared with QEMU's duplicates of this descriptor. */
    if (lseek(vm->state_fd, 0, SEEK_SET) < 0 || ftruncate(vm->state_fd, 0) < 0)
        return errmsg_set(e, "memfd: %s", strerror(errno));
    snprintf(arguments, sizeof arguments, "{\"filename\":\"/dev/fdset/%lld\",\"live\":false}", vm->fdset);
    vm->save_id = qmp_send(&vm->qmp, "xen-save-devices-state", arguments, -1, soon(), e);
    return vm->save_id ? 0 : -1;
}

/* Appends the whole of a file. */
static int append_file(int fd, struct vm_blob *out, struct errmsg *e)
{
    uint8_t buffer[65536];
    off_t at = 0;
    for (;;) {
        ssize_t n = pread(fd, buffer, sizeof buffer, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errmsg_set(e, "reading QEMU's state: %s", strerror(errno));
        if (n == 0)
            return 0;
        if (vm_blob_append(out, buffer, (size_t)n) < 0)
            return errmsg_set(e, "out of memory for QEMU's state");
        at += n;
    }
}

static bool has_magic(const uint8_t *data, size_t n)
{
    return n > STREAM_HEADER && memcmp(data, stream_magic, sizeof stream_magic) == 0;
}

int qemu_state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    size_t before = out->size;
    if (!vm->save_id)
        return errmsg_set(e, "no saving of the device state is under way");
    unsigned id = vm->save_id;
    vm->save_id = 0;
    if (qmp_wait(&vm->qmp, id, NULL, soon(), e) < 0 || append_file(vm->state_read_fd, out, e) < 0)
        return -1;
    return has_magic(out->data + before, out->size - before) ? 0
                                                             : errmsg_set(e, "QEMU saved a state of unknown format");
}

int qemu_dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    return track_scan(&vm->track, out, e);
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

/* Hands a descriptor to QEMU under the name "hikae". */
static int give_fd(struct vm *vm, int fd, int64_t deadline, struct errmsg *e)
{
    unsigned id = qmp_send(&vm->qmp, "getfd", "{\"fdname\":\"hikae\"}", fd, deadline, e);
    return id ? qmp_wait(&vm->qmp, id, NULL, deadline, e) : -1;
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

/* Runs `command` (migrate or migrate-incoming) on fd and waits for its end. */
static int migrate(struct vm *vm, const char *command, int fd, struct errmsg *e)
{
    int64_t deadline = soon();
    vm->migration_done = vm->migration_failed = false;
    if (give_fd(vm, fd, deadline, e) < 0 ||
        qmp_call(&vm->qmp, command, "{\"uri\":\"fd:hikae\"}", NULL, deadline, e) < 0 ||
        qmp_wait_flag(&vm->qmp, &vm->migration_done, deadline, command, e) < 0)
        return -1;
    return vm->migration_failed ? errmsg_set(e, "QEMU: %s failed", command) : 0;
}

/* Cuts off what follows the RAM sections: the first device's section, which is the timer's. */
static int cut_initial(struct vm_blob *blob, size_t start, struct errmsg *e)
{
    static const uint8_t timer[] = {5, 't', 'i', 'm', 'e', 'r'};
    const uint8_t *data = blob->data + start;
    size_t n = blob->size - start;
    if (has_magic(data, n))
        for (size_t i = STREAM_HEADER; i + 5 + sizeof timer <= n; i++)
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
        status = migrate(vm, "migrate", fd, e);
    if (status == 0)
        status = append_file(fd, initial, e);
    if (status == 0)
        status = cut_initial(initial, start, e);
    close(fd);
    return status;
}

int qemu_arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    if (qemu_pause(vm, e) < 0)
        return -1;
    int status = save_initial(vm, initial, e);
    if (status == 0)
        status = track_arm(&vm->track, e);
    /* Whatever happened, the guest must go on. */
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

static int write_all(int fd, const uint8_t *data, size_t n, struct errmsg *e)
{
    while (n > 0) {
        ssize_t done = write(fd, data, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return errmsg_set(e, "memfd: %s", strerror(errno));
        data += done;
        n -= (size_t)done;
    }
    return 0;
}

int qemu_load(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e)
{
    if (!vm->replica || vm->loaded)
        return errmsg_set(e, "state can be loaded into a replica only, and only once");
    if (!has_magic(initial->data, initial->size) || !has_magic(state->data, state->size))
        return errmsg_set(e, "the state to load is no QEMU stream");
    int fd = memfd_create("hikae-load", MFD_CLOEXEC);
    if (fd < 0)
        return errmsg_set(e, "memfd: %s", strerror(errno));
    int status = write_all(fd, initial->data, initial->size, e);
    if (status == 0)
        status = write_all(fd, state->data + STREAM_HEADER, state->size - STREAM_HEADER, e);
    if (status == 0 && lseek(fd, 0, SEEK_SET) < 0)
        status = errmsg_set(e, "memfd: %s", strerror(errno));
    if (status == 0 && migrate(vm, "migrate-incoming", fd, e) < 0) {
        char log[PATH_MAX];
        snprintf(log, sizeof log, "%s/qemu.log", vm->run_dir);
        process_explain(log, e);
        status = -1;
    }
    close(fd);
    if (status < 0)
        return -1;
    vm->loaded = true;
    return facts_write(vm, e);
}
