/*
 * facts: RUN_DIR/vm.json, what a restarted agent must know to find a VM that was launched here. Written whole or not at
 * all.
 */
#include "vm/qemu/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void facts_net_path(const char *run_dir, unsigned nic, char out[108])
{
    if (snprintf(out, 108, "%s/net%u.sock", run_dir, nic) >= 108)
        memcpy(out, "", 1); /* template_command refuses long paths before any is used */
}

static struct json_object *to_json(const struct vm *vm)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "name", json_object_new_string(vm->name));
    json_object_object_add(j, "kind", json_object_new_string(vm->replica && !vm->loaded ? "replica" : "running"));
    json_object_object_add(j, "pid", json_object_new_int64(vm->pid));
    json_object_object_add(j, "start_time", json_object_new_int64((int64_t)vm->start_time));
    json_object_object_add(j, "ram", json_object_new_string(vm->ram_path));
    json_object_object_add(j, "qmp", json_object_new_string(vm->qmp_path));
    struct json_object *taps = json_object_new_array();
    for (unsigned i = 0; i < vm->shape.nic_count; i++)
        json_object_array_add(taps, json_object_new_string(vm->ifname[i]));
    json_object_object_add(j, "taps", taps);
    json_object_object_add(j, "shape", template_to_json(&vm->shape));
    return j;
}

static int write_all(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        text += done;
        n -= (size_t)done;
    }
    return fsync(fd);
}

int facts_write(const struct vm *vm, struct errmsg *e)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    snprintf(path, sizeof path, "%s/vm.json", vm->run_dir);
    snprintf(temporary, sizeof temporary, "%s/vm.json.new", vm->run_dir);
    struct json_object *j = to_json(vm);
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int status = fd >= 0 && text ? write_all(fd, text, strlen(text)) : -1;
    if (fd >= 0 && close(fd) < 0)
        status = -1;
    if (status == 0)
        status = rename(temporary, path);
    if (status < 0)
        errmsg_set(e, "%s: %s", path, strerror(errno));
    json_object_put(j);
    return status;
}

enum { QEMU_SERIALS_MAX = 8 };

static bool get_path(struct json_object *j, const char *key, char out[QEMU_PATH_MAX])
{
    struct json_object *value;
    if (!json_object_object_get_ex(j, key, &value) || !json_object_is_type(value, json_type_string))
        return false;
    return snprintf(out, QEMU_PATH_MAX, "%s", json_object_get_string(value)) < QEMU_PATH_MAX;
}

static void get_taps(struct json_object *j, char out[VM_MAX_NICS][16])
{
    struct json_object *taps;
    if (!json_object_object_get_ex(j, "taps", &taps) || !json_object_is_type(taps, json_type_array))
        return; /* of an agent that knew no taps */
    for (size_t i = 0; i < json_object_array_length(taps) && i < VM_MAX_NICS; i++)
        snprintf(out[i], 16, "%.15s", json_object_get_string(json_object_array_get_idx(taps, i)));
}

static int from_json(struct json_object *j, struct facts *f, struct errmsg *e)
{
    struct json_object *pid, *start, *kind, *shape;
    if (!json_object_object_get_ex(j, "pid", &pid) || !json_object_object_get_ex(j, "start_time", &start) ||
        !json_object_object_get_ex(j, "kind", &kind) || !json_object_object_get_ex(j, "shape", &shape) ||
        !get_path(j, "ram", f->ram_path) || !get_path(j, "qmp", f->qmp_path))
        return errmsg_set(e, "a member is missing");
    f->pid = (pid_t)json_object_get_int64(pid);
    f->start_time = (unsigned long long)json_object_get_int64(start);
    get_taps(j, f->ifname);
    f->replica = strcmp(json_object_get_string(kind), "replica") == 0;
    return template_from_json(&f->shape, shape, FROM_FACTS, NULL, e);
}

int facts_read(const char *run_dir, struct facts *f, struct errmsg *e)
{
    char path[PATH_MAX];
    *f = (struct facts){0};
    snprintf(path, sizeof path, "%s/vm.json", run_dir);
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    struct json_object *j = json_object_from_file(path);
    struct errmsg why = {"it is no JSON"};
    int status = j ? from_json(j, f, &why) : -1;
    json_object_put(j);
    if (status < 0)
        return errmsg_set(e, "%s: %s: if the VM does not run, remove this file", path, why.text);
    return 1;
}

bool facts_alive(const struct facts *f)
{
    return f->pid > 0 && f->start_time != 0 && process_start_time(f->pid) == f->start_time;
}

void facts_clean(const char *run_dir, const char *ram_path, unsigned nic_count)
{
    char path[PATH_MAX];
    static const char *const names[] = {"qmp.sock", "qemu.log", "vm.json.new", "vm.json"};
    if (*ram_path)
        unlink(ram_path);
    for (unsigned i = 0; i < nic_count; i++) {
        snprintf(path, sizeof path, "%s/net%u.sock", run_dir, i);
        unlink(path);
    }
    for (unsigned i = 0; i < QEMU_SERIALS_MAX; i++) { /* a replica's; those of a launched VM lie where the admin says */
        snprintf(path, sizeof path, "%s/serial%u.log", run_dir, i);
        unlink(path);
    }
    /* vm.json last: while it is there, a restarted agent can finish this. */
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", run_dir, names[i]);
        unlink(path);
    }
}
