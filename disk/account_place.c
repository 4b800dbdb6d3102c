#include "disk/account_place.h"

#include "common/config.h"
#include "common/file.h"
#include "common/log.h"
#include "disk/server/backing.h"
#include "disk/socket.h"
#include "disk/store_record.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int identify(const struct store_paths *paths, struct account_disks *d, struct errmsg *e)
{
    d->count = paths->count;
    for (unsigned i = 0; i < paths->count; i++) {
        if (backing_size_of(paths->at[i], &d->at[i].bytes) ||
            backing_identify(paths->at[i], &d->at[i].device, &d->at[i].inode))
            return errmsg_set(e, "disk %s: %s", paths->at[i], strerror(errno));
    }
    return 0;
}

/* The directory is there, so that what it has can be found after a loss of the host. */
static int make_dir(const char *path, struct errmsg *e)
{
    char dir[STORE_PATH_MAX];
    *(char *)mempcpy(dir, path, (size_t)(strrchr(path, '/') - path)) = 0;
    return dir_make(dir, 0700, e);
}

static int make(const struct config *c, const char *vm, const struct store_paths *paths, char path[STORE_PATH_MAX],
                struct errmsg *e)
{
    struct account_disks d;
    if (store_state_path(path, c, vm, "account", e) || make_dir(path, e) || identify(paths, &d, e))
        return -1;
    struct account_file *f = account_file_open(path, &d, e);
    if (!f)
        return -1;
    account_file_close(f);
    return dir_sync_of(path, e);
}

int account_place(const struct config *c, const char *vm, const char *dir, const struct store_paths *paths,
                  struct errmsg *e)
{
    char path[STORE_PATH_MAX], link[PATH_MAX], there[PATH_MAX];
    snprintf(link, sizeof link, "%s/account", dir);
    if (unlink(link) && errno != ENOENT)
        return errmsg_set(e, "%s: %s", link, strerror(errno));
    if (make(c, vm, paths, path, e) || dir_make(dir, 0700, e))
        return -1;
    return !realpath(path, there) || symlink(there, link) ? errmsg_set(e, "%s: %s", link, strerror(errno)) : 0;
}

static bool is_changed(const struct account *a, const struct store_paths *paths)
{
    int64_t then[DISK_MAX];
    bool changed = false, closed = account_is_closed(a, then);
    for (unsigned i = 0; i < paths->count && closed && !changed; i++) {
        struct stat s;
        changed = stat(paths->at[i], &s) ||
                  (S_ISREG(s.st_mode) && (int64_t)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec != then[i]);
    }
    return changed;
}

int account_distrust_changed(const struct config *c, const char *vm, const struct store_paths *paths, struct errmsg *e)
{
    struct account_disks d;
    char path[STORE_PATH_MAX];
    if (store_state_path(path, c, vm, "account", e) || identify(paths, &d, e))
        return -1;
    struct account_file *f = account_file_open(path, &d, e);
    if (!f)
        return -1;
    uint8_t generation[ACCOUNT_ID];
    bool changed = account_generation(account_of(f), generation) && is_changed(account_of(f), paths);
    int result = changed && account_begin(account_of(f), NULL) ? errmsg_set(e, "%s: %s", path, strerror(errno)) : 0;
    account_file_close(f);
    if (changed)
        log_warn("disk %s was changed since the VM ran from it: the next sync compares all of the disks", paths->at[0]);
    return result;
}

struct account_file *account_served(const struct config *c, const char *vm, const char *dir, struct errmsg *e)
{
    struct disk_hello hello;
    struct ucred peer = {.pid = 0};
    socklen_t n = sizeof peer;
    char path[STORE_PATH_MAX];
    int fd = store_state_path(path, c, vm, "account", e) ? -1 : disk_socket_connect(dir, &hello, e);
    if (fd < 0)
        return NULL;
    int unknown = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n);
    close(fd);
    struct account_disks d = {.count = hello.count - hello.shared}; /* the others are the other host's as well */
    for (unsigned i = 0; i < d.count; i++) {
        d.at[i].bytes = hello.disk[i].bytes;
        d.at[i].device = hello.disk[i].device;
        d.at[i].inode = hello.disk[i].inode;
    }
    struct account_file *f = access(path, F_OK) ? NULL : account_file_open(path, &d, e);
    if (f && !unknown && account_marker(account_of(f)) == peer.pid)
        return f;
    account_file_close(f);
    errmsg_set(e, "the disk server of the VM keeps no account of what it writes");
    return NULL;
}

int account_remove(const struct config *c, const char *vm, struct errmsg *e)
{
    char path[STORE_PATH_MAX];
    if (store_state_path(path, c, vm, "account", e))
        return -1;
    if (unlink(path))
        return errno == ENOENT ? 0 : errmsg_set(e, "%s: %s", path, strerror(errno));
    return dir_sync_of(path, e);
}
