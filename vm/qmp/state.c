/*
 * state: see state.h.
 */
#include "vm/qmp/state.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SAVE "xen-save-devices-state"

static const uint8_t stream_magic[4] = {'Q', 'E', 'V', 'M'};

/* ---- saving ---- */

int qmp_state_open(struct qmp_state *s, struct qmp *q, int64_t deadline, struct errmsg *e)
{
    char path[64];
    struct json_object *result, *id;
    s->read_fd = memfd_create("hikae-state", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->read_fd);
    /* QEMU looks for a descriptor of exactly the access mode it wants. */
    s->fd = s->read_fd < 0 ? -1 : open(path, O_WRONLY | O_CLOEXEC);
    if (s->fd < 0)
        return errmsg_set(e, "memfd: %s", strerror(errno));
    unsigned sent = qmp_send(q, "add-fd", NULL, s->fd, deadline, e);
    if (!sent || qmp_wait(q, sent, &result, deadline, e) < 0)
        return -1;
    s->fdset = json_object_object_get_ex(result, "fdset-id", &id) ? json_object_get_int64(id) : -1;
    json_object_put(result);
    return 0;
}

void qmp_state_close(struct qmp_state *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->read_fd >= 0)
        close(s->read_fd);
    s->fd = s->read_fd = -1;
    s->save_id = 0;
}

struct save_command {
    char arguments[96];
};

static struct save_command save_command(const struct qmp_state *s)
{
    struct save_command c;
    snprintf(c.arguments, sizeof c.arguments, "{\"filename\":\"/dev/fdset/%lld\",\"live\":false}", s->fdset);
    return c;
}

void qmp_state_prepare(const struct qmp_state *s, struct qmp *q)
{
    qmp_prepare(q, SAVE, save_command(s).arguments);
}

int qmp_state_begin(struct qmp_state *s, struct qmp *q, int64_t deadline, struct errmsg *e)
{
    /* The offset is shared with QEMU's duplicates of this descriptor. */
    if (lseek(s->fd, 0, SEEK_SET) < 0 || ftruncate(s->fd, 0) < 0)
        return errmsg_set(e, "memfd: %s", strerror(errno));
    s->save_id = qmp_send(q, SAVE, save_command(s).arguments, -1, deadline, e);
    return s->save_id ? 0 : -1;
}

bool qmp_is_stream(const uint8_t *data, size_t n)
{
    return n > QMP_STREAM_HEADER && memcmp(data, stream_magic, sizeof stream_magic) == 0;
}

int qmp_state_end(struct qmp_state *s, struct qmp *q, struct vm_blob *out, int64_t deadline, struct errmsg *e)
{
    size_t before = out->size;
    if (!s->save_id)
        return errmsg_set(e, "no saving of the device state is under way");
    unsigned id = s->save_id;
    s->save_id = 0;
    if (qmp_wait(q, id, NULL, deadline, e) < 0 || qmp_file_append(s->read_fd, out, e) < 0)
        return -1;
    return qmp_is_stream(out->data + before, out->size - before)
               ? 0
               : errmsg_set(e, "QEMU saved a state of unknown format");
}

/* ---- migration ---- */

void qmp_migration_event(struct qmp_migration *m, const char *event, struct json_object *data)
{
    struct json_object *value;
    if (strcmp(event, "MIGRATION") != 0 || !json_object_object_get_ex(data, "status", &value))
        return;
    m->failed = strcmp(json_object_get_string(value), "failed") == 0;
    m->done = m->failed || strcmp(json_object_get_string(value), "completed") == 0;
}

/* Hands a descriptor to QEMU under the name "hikae". */
static int give_fd(struct qmp *q, int fd, int64_t deadline, struct errmsg *e)
{
    unsigned id = qmp_send(q, "getfd", "{\"fdname\":\"hikae\"}", fd, deadline, e);
    return id ? qmp_wait(q, id, NULL, deadline, e) : -1;
}

int qmp_migrate(struct qmp *q, struct qmp_migration *m, const char *command, int fd, int64_t deadline, struct errmsg *e)
{
    *m = (struct qmp_migration){0};
    if (give_fd(q, fd, deadline, e) < 0 || qmp_call(q, command, "{\"uri\":\"fd:hikae\"}", NULL, deadline, e) < 0 ||
        qmp_wait_flag(q, &m->done, deadline, command, e) < 0)
        return -1;
    return m->failed ? errmsg_set(e, "QEMU: %s failed", command) : 0;
}

/* ---- files ---- */

int qmp_file_append(int fd, struct vm_blob *out, struct errmsg *e)
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

static int write_all(int fd, const uint8_t *data, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, data, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        data += done;
        n -= (size_t)done;
    }
    return 0;
}

int qmp_stream_file(const struct vm_blob *pieces, size_t n, struct errmsg *e)
{
    int fd = memfd_create("hikae-load", MFD_CLOEXEC);
    bool failed = fd < 0;
    for (size_t i = 0; !failed && i < n; i++)
        failed = write_all(fd, pieces[i].data, pieces[i].size) < 0;
    if (!failed && lseek(fd, 0, SEEK_SET) == 0)
        return fd;
    errmsg_set(e, "memfd: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}
