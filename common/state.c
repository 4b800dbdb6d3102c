#include "common/state.h"
#include "common/config_parse.h"
#include "common/file.h"
#include "common/jsonget.h"

#include <dirent.h>
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD_FILE_MAX = 4 << 20 };

static int record_path(char out[PATH_MAX], const char *state_dir, const char *name, struct errmsg *e)
{
    if (!config_name_is_valid(name))
        return errmsg_set(e, "'%s' is no VM name", name);
    if (snprintf(out, PATH_MAX, "%s/vms/%s.json", state_dir, name) >= PATH_MAX)
        return errmsg_set(e, "%s: the path is too long", state_dir);
    return 0;
}

void vm_record_clear(struct vm_record *r)
{
    json_object_put(r->settings);
    json_object_put(r->addresses);
    json_object_put(r->spares);
    memset(r, 0, sizeof(*r));
}

static int copy_text(char *out, size_t size, struct json_object *j, const char *key)
{
    const char *text = json_get_text(j, key, NULL);
    if (!text || strlen(text) >= size)
        return -1;
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int from_json(struct vm_record *r, struct json_object *j)
{
    uint64_t interval = json_get_u64(j, "interval_ms", UINT64_MAX);
    r->term = json_get_u64(j, "term", UINT64_MAX);
    if (copy_text(r->name, sizeof(r->name), j, "name") || copy_text(r->backend, sizeof(r->backend), j, "backend") ||
        copy_text(r->peer, sizeof(r->peer), j, "peer") || copy_text(r->role, sizeof(r->role), j, "role") ||
        r->term == UINT64_MAX || interval > UINT_MAX)
        return -1;
    copy_text(r->reason, sizeof(r->reason), j, "reason");
    copy_text(r->run_dir, sizeof(r->run_dir), j, "run_dir");
    copy_text(r->boot, sizeof(r->boot), j, "boot");
    const char *mode = json_get_text(j, "mode", "");
    if (strcmp(mode, "periodic") && strcmp(mode, "on-output"))
        return -1;
    r->mode = strcmp(mode, "periodic") ? TRIGGER_ON_OUTPUT : TRIGGER_PERIODIC;
    r->interval_ms = (unsigned)interval;
    uint64_t open_after = json_get_u64(j, "open_after_ms", 5000);
    if (config_parse_isolated(json_get_text(j, "isolated", "freeze"), &r->isolated) || open_after > UINT_MAX)
        return -1;
    r->open_after_ms = (unsigned)open_after;
    r->disk_sync_rate = json_get_u64(j, "disk_sync_rate", UINT64_MAX);
    r->settings = json_object_get(json_get(j, "settings"));
    r->addresses = json_object_get(json_get(j, "addresses"));
    r->spares = json_object_get(json_get_array(j, "spares"));
    return 0;
}

int vm_record_load(const char *state_dir, const char *name, struct vm_record *r, struct errmsg *e)
{
    char path[PATH_MAX];
    size_t n;
    memset(r, 0, sizeof(*r));
    if (record_path(path, state_dir, name, e))
        return -1;
    char *text = file_read_all(path, RECORD_FILE_MAX, &n, e);
    if (!text)
        return errno == ENOENT ? 1 : -1;
    struct json_object *j = json_parse_object(text, n);
    free(text);
    int bad = !j || from_json(r, j) || strcmp(r->name, name);
    json_object_put(j);
    if (!bad)
        return 0;
    vm_record_clear(r);
    return errmsg_set(e, "%s: is damaged; if VM %s does not run on this host, remove the file and start it again", path,
                      name);
}

/* "": unknown. */
static void read_boot_id(char out[40])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f || fscanf(f, "%39s", out) != 1)
        out[0] = 0;
    if (f)
        fclose(f);
}

bool vm_record_is_of_other_boot(const struct vm_record *r)
{
    char now[40];
    read_boot_id(now);
    return *now && *r->boot && strcmp(now, r->boot);
}

int vm_record_save(const char *state_dir, const struct vm_record *r, struct errmsg *e)
{
    char path[PATH_MAX], dir[PATH_MAX];
    if (record_path(path, state_dir, r->name, e))
        return -1;
    snprintf(dir, sizeof(dir), "%s/vms", state_dir);
    if (dir_make(dir, 0700, e))
        return -1;
    char now[40];
    read_boot_id(now);
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "name", json_object_new_string(r->name));
    json_object_object_add(j, "backend", json_object_new_string(r->backend));
    json_object_object_add(j, "term", json_object_new_uint64(r->term));
    json_object_object_add(j, "peer", json_object_new_string(r->peer));
    json_object_object_add(j, "role", json_object_new_string(r->role));
    json_object_object_add(j, "reason", json_object_new_string(r->reason));
    json_object_object_add(j, "run_dir", json_object_new_string(r->run_dir));
    json_object_object_add(j, "boot", json_object_new_string(*r->boot ? r->boot : now));
    json_object_object_add(j, "mode", json_object_new_string(r->mode == TRIGGER_PERIODIC ? "periodic" : "on-output"));
    json_object_object_add(j, "interval_ms", json_object_new_uint64(r->interval_ms));
    json_object_object_add(j, "isolated", json_object_new_string(config_isolated_name(r->isolated)));
    json_object_object_add(j, "open_after_ms", json_object_new_uint64(r->open_after_ms));
    if (r->disk_sync_rate != UINT64_MAX)
        json_object_object_add(j, "disk_sync_rate", json_object_new_uint64(r->disk_sync_rate));
    if (r->settings)
        json_object_object_add(j, "settings", json_object_get(r->settings));
    if (r->addresses)
        json_object_object_add(j, "addresses", json_object_get(r->addresses));
    if (r->spares)
        json_object_object_add(j, "spares", json_object_get(r->spares));
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PRETTY);
    int result = file_write_atomic(path, text, strlen(text), 0600, e);
    json_object_put(j);
    return result;
}

int vm_record_remove(const char *state_dir, const char *name, struct errmsg *e)
{
    char path[PATH_MAX];
    if (record_path(path, state_dir, name, e))
        return -1;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : errmsg_set(e, "%s: cannot be removed: %s", path, strerror(errno));
    return dir_sync_of(path, e);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **read_names(DIR *d)
{
    size_t n = 0, room = 16;
    char **names = calloc(room, sizeof(*names));
    const struct dirent *entry;
    while (names && d && (entry = readdir(d))) {
        char name[sizeof(entry->d_name)];
        size_t length = strlen(entry->d_name);
        if (length <= 5 || strcmp(entry->d_name + length - 5, ".json"))
            continue;
        *(char *)mempcpy(name, entry->d_name, length - 5) = 0;
        if (!config_name_is_valid(name))
            continue;
        if (n + 2 > room) {
            char **more = reallocarray(names, room *= 2, sizeof(*names));
            if (!more)
                abort();
            names = more;
        }
        if (!(names[n] = strdup(name)))
            abort();
        names[++n] = NULL;
    }
    if (n)
        qsort(names, n, sizeof(*names), by_name);
    return names;
}

char **vm_record_list(const char *state_dir, struct errmsg *e)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s/vms", state_dir);
    DIR *d = opendir(dir);
    if (!d && errno != ENOENT) {
        errmsg_set(e, "%s: cannot be listed: %s", dir, strerror(errno));
        return NULL;
    }
    char **names = read_names(d);
    if (!names)
        errmsg_set(e, "out of memory");
    if (d)
        closedir(d);
    return names;
}

void vm_record_names_free(char **names)
{
    for (char **name = names; name && *name; name++)
        free(*name);
    free(names);
}
