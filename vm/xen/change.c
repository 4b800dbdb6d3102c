/*
 * change: what an admin may do to a domain while it is protected, and what would make the replica another machine: give
 * it more or less memory (xl mem-set), attach and detach devices. xenstore tells of it; the next checkpoint fails with
 * the reason, and before the next replica is made the domain is looked at anew, as when it was found.
 *
 * It must be noticed also because our map of a page holds it: a domain could neither give it back nor get others.
 */
#include "vm/xen/xen.h"

#include "common/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 96 };

#define CHANGE_TOKEN "changed"

static void target_path(char out[PATH_SIZE], const struct vm *vm)
{
    snprintf(out, PATH_SIZE, "/local/domain/%u/memory/target", vm->domid);
}

static void devices_path(char out[PATH_SIZE], const struct vm *vm)
{
    snprintf(out, PATH_SIZE, "/libxl/%u/device", vm->domid);
}

static void append(char *to, size_t size, const char *text)
{
    size_t used = strlen(to);
    snprintf(to + used, size - used, "%s ", text);
}

/* "vif 0 1 console 0 ": kinds of device, and which of each. A list that does not fit is compared as far as it does. */
static void list_devices(const struct vm *vm, char *out, size_t size)
{
    char top[PATH_SIZE], path[2 * PATH_SIZE];
    unsigned kinds = 0, n = 0;
    devices_path(top, vm);
    *out = '\0';
    char **kind = xs_directory(vm->xs, XBT_NULL, top, &kinds);
    for (unsigned i = 0; kind && i < kinds; i++) {
        snprintf(path, sizeof path, "%s/%s", top, kind[i]);
        char **id = xs_directory(vm->xs, XBT_NULL, path, &n);
        if (id && n)
            append(out, size, kind[i]);
        for (unsigned k = 0; id && k < n; k++)
            append(out, size, id[k]);
        free(id);
    }
    free(kind);
}

static void read_target(const struct vm *vm, char *out, size_t size)
{
    char path[PATH_SIZE];
    target_path(path, vm);
    char *value = xs_read(vm->xs, XBT_NULL, path, NULL);
    snprintf(out, size, "%s", value ? value : "");
    free(value);
}

int change_watch(struct vm *vm, struct errmsg *e)
{
    char target[PATH_SIZE], devices[PATH_SIZE];
    target_path(target, vm);
    devices_path(devices, vm);
    if (!vm->watched && (!xs_watch(vm->xs, target, CHANGE_TOKEN) || !xs_watch(vm->xs, devices, CHANGE_TOKEN)))
        return xen_error(vm, e, "xenstore");
    vm->watched = true;
    vm->changed = NULL;
    read_target(vm, vm->target, sizeof vm->target);
    list_devices(vm, vm->devices, sizeof vm->devices);
    return 0;
}

bool change_is_sign(const char *token)
{
    return !strcmp(token, CHANGE_TOKEN);
}

void change_look(struct vm *vm)
{
    char target[sizeof vm->target], devices[sizeof vm->devices];
    xc_domaininfo_t info;
    if (!vm->watched || vm->changed || !xen_info(vm, &info) || info.flags & XEN_DOMINF_shutdown)
        return; /* of one that ends, xl takes the devices away */
    read_target(vm, target, sizeof target);
    list_devices(vm, devices, sizeof devices);
    if (strcmp(target, vm->target) != 0)
        vm->changed = "the domain is to have another amount of memory (xl mem-set)";
    else if (strcmp(devices, vm->devices) != 0)
        vm->changed = "a device of the domain was attached or detached";
    if (vm->changed)
        log_warn("%s", vm->changed);
    change_let_go(vm);
}

void change_let_go(struct vm *vm)
{
    if (vm->changed && !vm->armed)
        layout_unmap(vm);
}
