#include "disk/server_notes.h"

#include "common/file.h"
#include "common/jsonget.h"
#include "disk/server/backing.h"

#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOTES_MAX = DISK_MAX * PATH_MAX * 2 };

static void path_of(const char *dir, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/disks.json", dir);
}

void server_notes_clear(struct server_notes *s)
{
    for (unsigned i = 0; i < s->n; i++)
        free(s->path[i]);
    s->n = 0;
}

static int add(struct server_notes *s, const char *path, uint64_t bytes, struct errmsg *e)
{
    if (s->n == DISK_MAX)
        return errmsg_set(e, "a VM has at most %d disks", DISK_MAX);
    char *whole = realpath(path, NULL);
    if (!whole && errno == ENOENT)
        return errmsg_set(e, "disk %s does not exist: make it (truncate -s SIZE %s; lvcreate) or correct `disk`", path,
                          path);
    if (!whole)
        return errmsg_set(e, "disk %s: %s", path, strerror(errno));
    for (unsigned i = 0; i < s->n; i++)
        if (strcmp(s->path[i], whole) == 0) {
            free(whole);
            return errmsg_set(e, "disk %s is named twice", path);
        }
    s->bytes[s->n] = bytes;
    s->path[s->n++] = whole;
    return 0;
}

/* What can't be measured is for the server to refuse, in better words. */
int server_notes_add(struct server_notes *s, const char *path, struct errmsg *e)
{
    uint64_t bytes;
    return add(s, path, backing_size_of(path, &bytes) < 0 ? 0 : bytes, e);
}

int server_notes_write(const char *dir, const struct server_notes *s, struct errmsg *e)
{
    char path[PATH_MAX];
    struct json_object *j = json_object_new_object(), *list = json_object_new_array(), *sizes = json_object_new_array();
    for (unsigned i = 0; i < s->n; i++) {
        json_object_array_add(list, json_object_new_string(s->path[i]));
        json_object_array_add(sizes, json_object_new_uint64(s->bytes[i]));
    }
    json_object_object_add(j, "disks", list);
    json_object_object_add(j, "bytes", sizes);
    json_object_object_add(j, "shared", json_object_new_int((int)s->shared));
    const char *text = json_object_to_json_string(j);
    path_of(dir, path);
    int status = file_write_atomic(path, text, strlen(text), 0600, e);
    json_object_put(j);
    return status;
}

int server_notes_read(const char *dir, struct server_notes *s, struct errmsg *e)
{
    char path[PATH_MAX];
    size_t n;
    path_of(dir, path);
    char *text = file_read_all(path, NOTES_MAX, &n, e);
    if (!text)
        return -1;
    struct json_object *j = json_parse_object(text, n), *list = json_get_array(j, "disks"),
                       *sizes = json_get_array(j, "bytes");
    int status = list && json_object_array_length(list) > 0
                     ? 0
                     : errmsg_set(e, "%s does not name the VM's disks: stop the VM and start it again", path);
    for (size_t i = 0; status == 0 && i < json_object_array_length(list); i++) {
        bool known = sizes && i < json_object_array_length(sizes);
        status = add(s, json_object_get_string(json_object_array_get_idx(list, i)),
                     known ? json_object_get_uint64(json_object_array_get_idx(sizes, i)) : 0, e);
    }
    s->shared = (unsigned)json_get_u64(j, "shared", 0);
    if (status == 0 && s->shared > s->n)
        status = errmsg_set(e, "%s names more shared disks than disks: stop the VM and start it again", path);
    json_object_put(j);
    free(text);
    return status;
}
