/* config_lookup: questions to a configuration that has been read. */
#include "common/config_whole.h"

#include <fnmatch.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

void *config_need(void *p)
{
    if (!p)
        abort();
    return p;
}

void config_vm_defaults(struct config_vm *vm, const char *name)
{
    *vm = (struct config_vm){
        .name = config_need(strdup(name)),
        .backend = config_need(strdup("qemu")),
        .settings = config_need(json_object_new_object()),
        .mode = TRIGGER_ON_OUTPUT,
        .interval_ms = 20,
        .max_interval_ms = 200,
        .min_interval_ms = 1,
        .buffer_bytes = 16 << 20,
        .delta_cache_bytes = 128 << 20,
        .isolated = ISOLATED_FREEZE,
        .open_after_ms = 5000,
    };
}

void config_vm_add_disk(struct config_vm *vm, const char *path, bool shared)
{
    char ***list = shared ? &vm->shared_disks : &vm->disks;
    unsigned *count = shared ? &vm->shared_count : &vm->disk_count;
    *list = config_need(reallocarray(*list, *count + 1, sizeof **list));
    (*list)[(*count)++] = config_need(strdup(path));
}

void config_vm_clear(struct config_vm *vm)
{
    free(vm->name);
    free(vm->backend);
    free(vm->fence);
    free(vm->spares);
    for (unsigned i = 0; i < vm->disk_count; i++)
        free(vm->disks[i]);
    for (unsigned i = 0; i < vm->shared_count; i++)
        free(vm->shared_disks[i]);
    free(vm->disks);
    free(vm->shared_disks);
    json_object_put(vm->settings);
}

const struct config_peer *config_peer_by_name(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->peer_count; i++)
        if (!strcmp(c->peers[i].name, name))
            return &c->peers[i];
    return NULL;
}

const struct config_peer *config_peer_by_fingerprint(const struct config *c, const char *hex)
{
    for (size_t i = 0; i < c->peer_count; i++)
        if (!strcasecmp(c->peers[i].fingerprint, hex))
            return &c->peers[i];
    return NULL;
}

static const struct config_vm *find_vm(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->vm_count; i++)
        if (!strcmp(c->vms[i].name, name))
            return &c->vms[i];
    return NULL;
}

const struct config_vm *config_vm(const struct config *c, const char *name)
{
    const struct config_vm *defined = find_vm(c, name);
    if (defined)
        return defined;
    struct whole *w = (struct whole *)c; /* what config_load made was never const */
    for (size_t i = 0; i < w->default_count; i++)
        if (!strcmp(w->defaults[i]->name, name))
            return w->defaults[i];
    w->defaults = config_need(reallocarray(w->defaults, w->default_count + 1, sizeof(*w->defaults)));
    struct config_vm *vm = config_need(malloc(sizeof(*vm)));
    config_vm_defaults(vm, name);
    w->defaults[w->default_count++] = vm;
    return vm;
}

bool config_vm_is_defined(const struct config *c, const char *name)
{
    return find_vm(c, name) != NULL;
}

struct json_object *config_words(const char *text)
{
    struct json_object *all = config_need(json_object_new_array());
    char *words = config_need(strdup(text ? text : "")), *rest;
    for (char *word = strtok_r(words, " \t,", &rest); word; word = strtok_r(NULL, " \t,", &rest))
        json_object_array_add(all, config_need(json_object_new_string(word)));
    free(words);
    return all;
}

bool config_peer_may_send(const struct config_peer *peer, const char *vm)
{
    char *patterns = config_need(strdup(peer->accept)), *rest;
    bool may = false;
    for (char *pattern = strtok_r(patterns, " \t,", &rest); pattern && !may; pattern = strtok_r(NULL, " \t,", &rest))
        may = fnmatch(pattern, vm, 0) == 0;
    free(patterns);
    return may;
}

bool config_has_arbiter(const struct config *c)
{
    return !c->arbiter || strcmp(c->arbiter, "none") != 0;
}
