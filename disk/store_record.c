#include "disk/store_record.h"

#include "common/config.h"
#include "common/file.h"
#include "common/jsonget.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_MAX = 64 << 10 };

static int print_path(char out[STORE_PATH_MAX], int n, struct errmsg *e)
{
    return n < STORE_PATH_MAX ? 0 : errmsg_set(e, "%s...: the path is too long", out);
}

int store_state_path(char out[STORE_PATH_MAX], const struct config *c, const char *vm, const char *suffix,
                     struct errmsg *e)
{
    return print_path(out, snprintf(out, STORE_PATH_MAX, "%s/disks/%s.%s", c->state_dir, vm, suffix), e);
}

int store_image_path(char out[STORE_PATH_MAX], const struct config *c, const char *vm, unsigned disk, struct errmsg *e)
{
    return print_path(out, snprintf(out, STORE_PATH_MAX, "%s/%s-%u.img", c->disk_dir, vm, disk), e);
}

int store_paths_of_section(const struct config *c, const char *vm, struct store_paths *out, struct errmsg *e)
{
    const struct config_vm *section = config_vm(c, vm);
    *out = (struct store_paths){.count = section->disk_count};
    for (unsigned i = 0; i < out->count; i++)
        if (print_path(out->at[i], snprintf(out->at[i], STORE_PATH_MAX, "%s", section->disks[i]), e))
            return -1;
    return 0;
}

bool store_paths_are_equal(const struct store_paths *a, const struct store_paths *b)
{
    for (unsigned i = 0; i < a->count && i < b->count; i++)
        if (strcmp(a->at[i], b->at[i]))
            return false;
    return a->count == b->count;
}

static int read_record(const char *path, const char *text, size_t n, struct store_record *r, struct errmsg *e)
{
    struct json_object *j = json_parse_object(text, n), *disks = json_get_array(j, "disks");
    const char *state = json_get_text(j, "state", "");
    size_t count = disks ? json_object_array_length(disks) : 0;
    bool good = (!strcmp(state, "syncing") || !strcmp(state, "consistent")) && disks && count <= DISKS_MAX;
    r->exists = true;
    r->syncing = strcmp(state, "consistent") != 0;
    for (size_t i = 0; i < count && good; i++) {
        const char *at = json_object_get_string(json_object_array_get_idx(disks, i));
        good = at && strlen(at) < STORE_PATH_MAX;
        if (good)
            strcpy(r->paths.at[r->paths.count++], at);
    }
    json_object_put(j);
    return good ? 0
                : errmsg_set(e,
                             "%s is damaged: what the VM's disks here hold is not known; see whether they can be "
                             "used, then remove it",
                             path);
}

int store_record_load(const struct config *c, const char *vm, struct store_record *r, struct errmsg *e)
{
    char path[STORE_PATH_MAX];
    size_t n;
    *r = (struct store_record){0};
    if (store_state_path(path, c, vm, "json", e))
        return -1;
    char *text = file_read_all(path, RECORD_MAX, &n, e);
    if (!text)
        return errno == ENOENT ? 0 : -1;
    int result = read_record(path, text, n, r, e);
    free(text);
    return result;
}

int store_record_save(const char *path, const struct store_record *r, struct errmsg *e)
{
    struct json_object *j = json_object_new_object(), *disks = json_object_new_array();
    json_object_object_add(j, "state", json_object_new_string(r->syncing ? "syncing" : "consistent"));
    for (unsigned i = 0; i < r->paths.count; i++)
        json_object_array_add(disks, json_object_new_string(r->paths.at[i]));
    json_object_object_add(j, "disks", disks);
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN);
    int result = file_write_atomic(path, text, strlen(text), 0600, e);
    json_object_put(j);
    return result;
}

int store_paths(const struct config *c, const char *vm, struct store_paths *out, struct errmsg *e)
{
    struct store_record r;
    if (config_vm(c, vm)->disk_count)
        return store_paths_of_section(c, vm, out, e);
    int result = store_record_load(c, vm, &r, e);
    *out = r.paths;
    return result;
}
