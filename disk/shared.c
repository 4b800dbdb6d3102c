#include "disk/shared.h"

#include "common/config.h"
#include "common/file.h"
#include "common/log.h"
#include "disk/identity.h"
#include "disk/journal.h"
#include "disk/server/backing.h"
#include "disk/store.h"
#include "disk/store_record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { JOURNAL_WAIT_MS = 5000 };

int disk_paths(const struct config *c, const char *vm, const struct store_paths *stores, struct disk_paths *out,
               struct errmsg *e)
{
    const struct config_vm *v = config_vm(c, vm);
    unsigned n = stores->count + v->shared_count;
    if (n > DISKS_MAX)
        return errmsg_set(e, "VM %s has %u disks here, at most %d are possible", vm, n, (int)DISKS_MAX);
    out->shared = v->shared_count;
    for (out->n = 0; out->n < stores->count; out->n++)
        out->at[out->n] = stores->at[out->n];
    for (unsigned i = 0; i < v->shared_count; i++)
        out->at[out->n++] = v->shared_disks[i];
    return 0;
}

/* ---- are they the primary's? ---- */

static int check_identity(const struct config *c, const char *path, unsigned disk, const char *theirs,
                          const struct backing *b, struct errmsg *e)
{
    char ours[DISK_IDENTITY_MAX];
    disk_identity(b->device, b->inode, ours);
    if (strcmp(ours, theirs) != 0)
        return errmsg_set(
            e,
            "disk %u is shared, but %s at host %s is another one than its primary's: it is %s here and %s "
            "there",
            disk, path, c->name, *ours ? ours : "a device without a name", *theirs ? theirs : "none");
    if (!*ours)
        log_warn(
            "disk %u (%s) has no name by which to tell that its primary has the same one: only sizes were compared",
            disk, path);
    return 0;
}

static int check_one(const struct config *c, const char *path, unsigned disk, uint64_t bytes, const char *identity,
                     struct errmsg *e)
{
    struct backing b;
    struct errmsg why;
    if (backing_open(&b, path, true, &why))
        return errmsg_set(e, "host %s: %.400s", c->name, why.text);
    int result = check_identity(c, path, disk, identity, &b, e);
    if (!result && b.bytes != bytes)
        result = errmsg_set(e,
                            "disk %u is shared and has %" PRIu64 " bytes at its primary, but %s at host %s has %" PRIu64
                            ": is it the same, or does one host not know yet that it was grown?",
                            disk, bytes, path, c->name, b.bytes);
    backing_close(&b);
    return result;
}

int shared_check(const struct config *c, const char *vm, const struct shared_wanted *wanted, struct errmsg *e)
{
    const struct config_vm *v = config_vm(c, vm);
    if (wanted->count != v->shared_count)
        return errmsg_set(e,
                          "VM %s has %u shared disks at its primary, but `shared_disk` of [vm %s] at host %s names %u",
                          vm, wanted->count, vm, c->name, v->shared_count);
    for (unsigned i = 0; i < wanted->count; i++)
        if (check_one(c, v->shared_disks[i], wanted->first + i, wanted->bytes[i], wanted->identity[i], e))
            return -1;
    return 0;
}

/* ---- the journal ---- */

static int path_of(char out[STORE_PATH_MAX], const struct config *c, const char *vm, uint64_t term, struct errmsg *e)
{
    char suffix[40] = "shared";
    if (term)
        snprintf(suffix, sizeof suffix, "shared-%" PRIu64, term);
    return store_state_path(out, c, vm, suffix, e);
}

static void remove_old(const char *path)
{
    log_warn("%s was never brought to the VM's shared disks, and is of no use any more", path);
    unlink(path);
}

void shared_drop(const struct config *c, const char *vm)
{
    char path[STORE_PATH_MAX], old[STORE_PATH_MAX + 256];
    struct errmsg ignored;
    if (path_of(path, c, vm, 0, &ignored))
        return;
    unlink(path);
    char *name = strrchr(path, '/');
    *name++ = '\0';
    DIR *dir = opendir(path);
    for (struct dirent *d; dir && (d = readdir(dir));) {
        const char *term = d->d_name + strlen(name) + 1;
        bool ours = !strncmp(d->d_name, name, strlen(name)) && term[-1] == '-' && *term;
        if (!ours || term[strspn(term, "0123456789")])
            continue; /* perhaps another VM's, whose name begins likewise */
        snprintf(old, sizeof old, "%s/%s", path, d->d_name);
        remove_old(old);
    }
    if (dir)
        closedir(dir);
}

struct journal *shared_journal(const struct config *c, const char *vm, const struct medium *m, struct errmsg *e)
{
    char path[STORE_PATH_MAX], dir[STORE_PATH_MAX];
    shared_drop(c, vm);
    if (path_of(path, c, vm, 0, e))
        return NULL;
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
    return dir_make(dir, 0700, e) ? NULL : journal_open(path, m, JOURNAL_WAIT_MS, e);
}

int shared_granted(const struct config *c, const char *vm, uint64_t term, struct errmsg *e)
{
    char from[STORE_PATH_MAX], to[STORE_PATH_MAX];
    if (path_of(from, c, vm, 0, e) || path_of(to, c, vm, term, e))
        return -1;
    if (rename(from, to) && errno != ENOENT) /* it was done before, or all of it is on the disks by now */
        return errmsg_set(e, "%s can't be renamed to %s: %s", from, to, strerror(errno));
    return dir_sync_of(to, e);
}

/* ---- bringing it to the disks ---- */

struct applying {
    const struct medium *medium;
    const struct config_vm *vm;
    unsigned first, count;
    int fds[DISKS_MAX];
    struct disk_sizes sizes; /* by number; those that are not shared have none */
    uint8_t room[DISK_DATA_MAX];
};

static int apply_one(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    struct applying *a = arg;
    struct disk_extent x;
    struct proto_error why;
    if (disk_read(payload, n, &a->sizes, &x, &why))
        return errmsg_set(e, "%s", why.text);
    const uint8_t *data = x.encoding == DISK_AS_ZEROES ? NULL : disk_decode(&x, a->room, &why);
    if (!data && x.encoding != DISK_AS_ZEROES)
        return errmsg_set(e, "%s", why.text);
    int fd = a->fds[x.disk - a->first];
    if (data ? a->medium->write(a->medium, fd, data, x.length, x.offset)
             : a->medium->zero(a->medium, fd, x.offset, x.length))
        return errmsg_set(e, "disk %s can't be written: %s", a->vm->shared_disks[x.disk - a->first], strerror(errno));
    return 0;
}

/* What the kernel has read of it is from before another host wrote to it. */
static void forget_cached(int fd)
{
    if (ioctl(fd, BLKFLSBUF, 0) < 0)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int open_disks(struct applying *a, struct errmsg *e)
{
    a->sizes.count = a->first + a->vm->shared_count;
    if (a->sizes.count > DISKS_MAX)
        return errmsg_set(e, "a VM has at most %d disks", (int)DISKS_MAX);
    for (; a->count < a->vm->shared_count; a->count++) {
        const char *path = a->vm->shared_disks[a->count];
        int fd = open(path, O_RDWR | O_CLOEXEC);
        off_t bytes = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
        if (fd >= 0 && bytes < 0)
            close(fd);
        if (bytes < 0)
            return errmsg_set(e, "disk %s: %s", path, strerror(errno));
        forget_cached(fd);
        a->fds[a->count] = fd;
        a->sizes.bytes[a->first + a->count] = (uint64_t)bytes;
    }
    return 0;
}

static int replay(struct applying *a, const char *path, struct errmsg *e)
{
    uint64_t epochs = 0;
    if (access(path, F_OK))
        return 0;
    struct journal *j = journal_open(path, a->medium, JOURNAL_WAIT_MS, e);
    if (!j)
        return -1;
    int result = journal_replay(j, apply_one, a, &epochs, e) == JOURNAL_REPLAYED ? 0 : -1;
    for (unsigned i = 0; i < a->count && !result; i++)
        if (a->medium->sync(a->medium, a->fds[i]))
            result = errmsg_set(e, "disk %s can't be synced: %s", a->vm->shared_disks[i], strerror(errno));
    if (!result)
        result = journal_void(j, e) ? -1 : journal_remove(j, e);
    journal_close(j);
    if (epochs && !result)
        log_info("what %" PRIu64 " committed epochs wrote to the VM's shared disks is on them", epochs);
    return result;
}

int shared_apply(const struct config *c, const char *vm, uint64_t term, const struct medium *m, struct errmsg *e)
{
    struct store_paths stores;
    char path[STORE_PATH_MAX];
    const struct config_vm *v = config_vm(c, vm);
    if (!v->shared_count)
        return 0;
    if (store_paths(c, vm, &stores, e) || path_of(path, c, vm, term, e))
        return -1;
    struct applying *a = calloc(1, sizeof *a);
    if (!a)
        return errmsg_set(e, "no memory to bring what was committed to the VM's shared disks");
    a->medium = m;
    a->vm = v;
    a->first = stores.count;
    int result = open_disks(a, e) || (term && replay(a, path, e)) ? -1 : 0; /* without one it was never granted */
    for (unsigned i = 0; i < a->count; i++)
        close(a->fds[i]);
    free(a);
    return result;
}
