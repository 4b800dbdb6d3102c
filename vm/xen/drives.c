/*
 * drives: the disks of a guest without Xen's drivers, by way of its device model. libxl has QEMU open them with a
 * cache: dom0's page cache, since the kernel does no direct I/O on the guest's pages, which are foreign to dom0. So
 * what the guest knows to be written is not in the disk server before QEMU has stopped, which writes all of it.
 */
#include "vm/xen/xen.h"

#include "common/jsonget.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STATS "query-blockstats"

static int query(struct vm *vm, const char *command, int64_t deadline, struct json_object **disks, struct errmsg *e)
{
    return qmp_call(&vm->model.qmp, command, NULL, disks, deadline, e);
}

int drives_find(struct vm *vm, struct errmsg *e)
{
    struct model *m = &vm->model;
    struct json_object *disks;
    m->drive_count = 0;
    if (!vm->shape.hvm.transparent || !vm->shape.disk_count)
        return 0;
    if (query(vm, "query-block", qmp_now_ms() + VM_CALL_MS, &disks, e) < 0)
        return -1;
    for (size_t i = 0; i < json_object_array_length(disks) && m->drive_count < DRIVES_MAX; i++) {
        struct json_object *inserted = json_get(json_object_array_get_idx(disks, i), "inserted");
        const char *file = json_get_text(inserted, "file", NULL); /* a drive without a CD has none */
        if (file && strlen(file) < sizeof m->drives[0])
            strcpy(m->drives[m->drive_count++], file);
    }
    json_object_put(disks);
    return 0;
}

/* The device's own flush is none of this: it is the guest's to ask for. */
void drives_write_back(const struct vm *vm)
{
    enum { ALL = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER };
    for (unsigned i = 0; i < vm->model.drive_count; i++) {
        int fd = open(vm->model.drives[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue; /* `stop` writes it, and is told why it can't */
        (void)sync_file_range(fd, 0, 0, ALL);
        close(fd);
    }
}

void drives_prepare(struct vm *vm)
{
    qmp_prepare(&vm->model.qmp, STATS, NULL);
}

/* How many pieces of the guest's trims are done. */
static int count_trimmed(struct vm *vm, int64_t deadline, uint64_t *n, struct errmsg *e)
{
    struct json_object *disks;
    *n = 0;
    if (query(vm, STATS, deadline, &disks, e) < 0)
        return -1;
    for (size_t i = 0; i < json_object_array_length(disks); i++) {
        struct json_object *stats = json_get(json_object_array_get_idx(disks, i), "stats");
        *n += json_get_u64(stats, "unmap_operations", 0) + json_get_u64(stats, "failed_unmap_operations", 0);
    }
    json_object_put(disks);
    return 0;
}

int drives_settle(struct vm *vm, struct errmsg *e)
{
    int64_t deadline = qmp_now_ms() + VM_CALL_MS;
    uint64_t before, now;
    if (!vm->model.drive_count)
        return 0;
    if (count_trimmed(vm, deadline, &now, e) < 0)
        return -1;
    do {
        before = now;
        if (count_trimmed(vm, deadline, &now, e) < 0)
            return -1;
    } while (now != before);
    return 0;
}
