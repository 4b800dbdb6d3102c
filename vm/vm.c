/*
 * vm: the helpers that every backend and both agents share (page ranges, byte buffers) and the loader of backends. It
 * knows no hypervisor.
 */
#include "vm/vm.h"

#include "common/module.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int page_ranges_add(struct page_ranges *r, uint64_t first, uint64_t count)
{
    if (count == 0)
        return 0;
    if (r->n > 0 && r->at[r->n - 1].first + r->at[r->n - 1].count == first) {
        r->at[r->n - 1].count += count;
        r->pages += count;
        return 0;
    }
    if (r->n == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 64;
        struct page_range *at = reallocarray(r->at, capacity, sizeof *at);
        if (!at)
            return -1;
        r->at = at;
        r->capacity = capacity;
    }
    r->at[r->n++] = (struct page_range){first, count};
    r->pages += count;
    return 0;
}

void page_ranges_clear(struct page_ranges *r)
{
    r->n = 0;
    r->pages = 0;
}

void page_ranges_free(struct page_ranges *r)
{
    free(r->at);
    *r = (struct page_ranges){0};
}

int vm_blob_append(struct vm_blob *b, const void *data, size_t n)
{
    if (n == 0)
        return 0;
    if (n > SIZE_MAX / 2 - b->size)
        return -1;
    if (b->size + n > b->capacity) {
        size_t capacity = b->capacity ? b->capacity : 4096;
        while (capacity < b->size + n)
            capacity *= 2;
        uint8_t *grown = realloc(b->data, capacity);
        if (!grown)
            return -1;
        b->data = grown;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, n);
    b->size += n;
    return 0;
}

void vm_blob_free(struct vm_blob *b)
{
    free(b->data);
    *b = (struct vm_blob){0};
}

int vm_dirty_paused(const struct vm_ops *ops, struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    int result = ops->pause(vm, e);
    if (!result)
        result = ops->dirty(vm, out, e);
    /* In any case: a pause that was given up may be carried out later all the same. */
    struct errmsg second;
    if (ops->resume(vm, result ? &second : e))
        result = -1;
    return result;
}

static bool is_module_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n > 0 && n < 32 && name[n] == '\0';
}

const struct vm_ops *vm_backend(const char *name, struct errmsg *e)
{
    char file[64], path[PATH_MAX];
    if (!is_module_name(name)) {
        errmsg_set(e, "backend \"%s\": a backend's name is made of a-z, 0-9 and '-', e.g. qemu", name);
        return NULL;
    }
    snprintf(file, sizeof file, "hikae-vm-%s.so", name);
    if (module_path(file, path, sizeof path) < 0) {
        errmsg_set(e, "backend %s: HIKAE_MODULE_DIR is too long", name);
        return NULL;
    }
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        errmsg_set(e, "backend %s: %s; is its package installed, or HIKAE_MODULE_DIR right?", name, dlerror());
        return NULL;
    }
    const struct vm_ops *ops = dlsym(module, "hikae_vm_ops");
    if (!ops) {
        errmsg_set(e, "backend %s: %s is no Hikae backend (it has no hikae_vm_ops)", name, path);
        return NULL;
    }
    if (ops->abi != VM_ABI) {
        errmsg_set(e, "backend %s: %s was built for interface %u, this program has %u; install both from one release",
                   name, path, ops->abi, (unsigned)VM_ABI);
        return NULL;
    }
    return ops;
}
