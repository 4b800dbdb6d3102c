/*
 * facts: RUN_DIR/domain.json. A domain is named by its number and its UUID: numbers come again after a reboot.
 */
#include "vm/xen/xen.h"

#include "common/file.h"
#include "common/jsonget.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FACTS_MAX = 4096, PATH_SIZE = XEN_RUN_DIR_MAX + 16 };

static void facts_path(char out[PATH_SIZE], const char *run_dir)
{
    snprintf(out, PATH_SIZE, "%s/domain.json", run_dir);
}

int facts_write(const struct vm *vm, struct errmsg *e)
{
    char path[PATH_SIZE], uuid[37];
    libxl_uuid bytes;
    memcpy(bytes.uuid, vm->shape.uuid, sizeof bytes.uuid);
    facts_path(path, vm->run_dir);
    snprintf(uuid, sizeof uuid, LIBXL_UUID_FMT, LIBXL_UUID_BYTES(bytes));
    struct json_object *j = json_object_new_object(), *list;
    json_object_object_add(j, "name", json_object_new_string(vm->name));
    json_object_object_add(j, "kind", json_object_new_string(vm->replica && !vm->loaded ? "replica" : "running"));
    json_object_object_add(j, "domid", json_object_new_int64(vm->domid));
    json_object_object_add(j, "uuid", json_object_new_string(uuid));
    json_object_object_add(j, "emulated", list = json_object_new_array());
    for (unsigned i = 0; i < vm->shape.nic_count; i++)
        json_object_array_add(list, json_object_new_boolean(vm->shape.nics[i].emulated));
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY);
    int status = file_write_atomic(path, text, strlen(text), 0600, e);
    json_object_put(j);
    return status;
}

int facts_read(const char *run_dir, struct facts *f, struct errmsg *e)
{
    char path[PATH_SIZE];
    size_t n;
    facts_path(path, run_dir);
    char *text = file_read_all(path, FACTS_MAX, &n, e);
    if (!text)
        return errno == ENOENT ? 0 : -1;
    struct json_object *j = json_parse_object(text, n);
    libxl_uuid uuid;
    bool valid = libxl_uuid_from_string(&uuid, json_get_text(j, "uuid", "")) == 0 && json_get(j, "domid");
    if (valid) {
        f->domid = (uint32_t)json_get_u64(j, "domid", XEN_NO_DOMAIN);
        memcpy(f->uuid, libxl_uuid_bytearray(&uuid), sizeof f->uuid);
        struct json_object *list = json_get_array(j, "emulated");
        f->nic_count = 0;
        for (size_t i = 0; list && i < json_object_array_length(list) && i < VM_MAX_NICS; i++)
            f->emulated[f->nic_count++] = json_object_get_boolean(json_object_array_get_idx(list, i));
        f->replica = strcmp(json_get_text(j, "kind", ""), "replica") == 0;
    }
    json_object_put(j);
    free(text);
    return valid ? 1 : errmsg_set(e, "%s is damaged: if the domain does not run (xl list), remove the file", path);
}

void facts_remove(const char *run_dir)
{
    char path[PATH_SIZE];
    facts_path(path, run_dir);
    unlink(path);
}
