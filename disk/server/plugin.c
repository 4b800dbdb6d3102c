/*
 * plugin: hikae-disk.so, the disk server as an nbdkit plugin: NBD requests become calls of set.h. Parameters: dir=DIR,
 * where control.sock is made, and disk=PATH, once for each disk, then shared=PATH for those that another host sees as
 * well; exports are named "0", "1", ... holding=1: the shared ones' writes are held from the start.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "disk/owing.h"
#include "disk/server/control.h"
#include "disk/server/noter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define STILL "still"

enum { REQUEST_MAX = 32 << 20, STILL_DISK = DISK_MAX };

static char *dir, *paths[DISK_MAX];
static uint64_t sizes[DISK_MAX]; /* 0: all of the store */
static unsigned path_count, shared_count;
static bool holding;
static struct disk_set *set;
static struct control *control;
static struct noter *noter;
static _Atomic uint32_t *owing;

/* ---- the server's life ---- */

/* nbdkit 1.32 asks to be ended with its parent, which is by now whoever takes orphans: it outlives that one too. */
static void load(void)
{
    prctl(PR_SET_PDEATHSIG, 0);
}

static int config(const char *key, const char *value)
{
    char **to = NULL;
    int64_t bytes;
    bool shared = strcmp(key, "shared") == 0;
    if (strcmp(key, "holding") == 0 && strcmp(value, "1") == 0) {
        holding = true;
        return 0;
    }
    if (strcmp(key, "bytes") == 0 && path_count > 0) {
        bytes = nbdkit_parse_size(value);
        sizes[path_count - 1] = bytes < 0 ? 0 : (uint64_t)bytes;
        return bytes < 0 ? -1 : 0;
    }
    if (strcmp(key, "dir") == 0 && !dir) {
        to = &dir;
    } else if (path_count < DISK_MAX && (shared || (strcmp(key, "disk") == 0 && !shared_count))) {
        to = &paths[path_count++];
        shared_count += shared;
    } else {
        nbdkit_error(
            "%s=%s: write dir=DIR once, then disk=PATH, then shared=PATH, up to %d times, each with bytes=SIZE "
            "behind it or not",
            key, value, DISK_MAX);
        return -1;
    }
    *to = nbdkit_absolute_path(value);
    return *to ? 0 : -1;
}

static int config_complete(void)
{
    if (dir && path_count > 0)
        return 0;
    nbdkit_error("write dir=DIR and disk=PATH or shared=PATH");
    return -1;
}

static int get_ready(void)
{
    struct errmsg e;
    set = disk_set_open((const char *const *)paths, sizes, path_count, shared_count, &e);
    if (!set)
        nbdkit_error("%s", e.text);
    return set ? 0 : -1;
}

static int after_fork(void)
{
    struct errmsg e;
    if (noter_start(&noter, dir, set, &e)) {
        nbdkit_error("%s", e.text);
        return -1;
    }
    disk_set_note_in(set, noter);
    owing = owing_map(dir, &e);
    if (!owing) {
        nbdkit_error("%s", e.text);
        return -1;
    }
    disk_set_note_owing(set, owing);
    control = disk_set_start(set, holding, &e) == 0 ? control_start(dir, set, &e) : NULL;
    if (!control)
        nbdkit_error("%s", e.text);
    return control ? 0 : -1;
}

static void unload(void)
{
    control_stop(control);
    noter_stop(noter); /* before the stores may be another server's */
    disk_set_close(set);
    owing_unmap(owing);
    free(dir);
    for (unsigned i = 0; i < path_count; i++)
        free(paths[i]);
}

/* ---- exports ---- */

static int list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
    (void)readonly, (void)is_tls;
    char name[16];
    for (unsigned i = 0; i < disk_set_count(set); i++) {
        snprintf(name, sizeof name, "%u", i);
        if (nbdkit_add_export(exports, name, NULL) < 0)
            return -1;
    }
    return 0;
}

static const char *default_export(int readonly, int is_tls)
{
    (void)readonly, (void)is_tls;
    return "0";
}

/* A connection's handle is the number of its disk. */
static void *open_export(int readonly)
{
    (void)readonly;
    const char *name = nbdkit_export_name();
    char *end;
    if (!name)
        return NULL;
    if (strcmp(name, STILL) == 0)
        return (void *)(uintptr_t)(STILL_DISK + 1);
    unsigned long disk = strtoul(*name ? name : "0", &end, 10);
    if (*end == '\0' && disk < disk_set_count(set))
        return (void *)(uintptr_t)(disk + 1);
    nbdkit_error("there is no export \"%s\"; there are 0 to %u", name, disk_set_count(set) - 1);
    return NULL;
}

static unsigned disk_of(void *handle)
{
    return (unsigned)(uintptr_t)handle - 1;
}

static bool is_still(void *handle)
{
    return disk_of(handle) == STILL_DISK;
}

static int64_t get_size(void *handle)
{
    if (is_still(handle))
        return DISK_BLOCK;
    return (int64_t)disk_set_backing(set, disk_of(handle))->bytes;
}

static int block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = DISK_BLOCK;
    *maximum = REQUEST_MAX;
    return 0;
}

static int yes(void *handle)
{
    (void)handle;
    return 1;
}

static int is_disk(void *handle)
{
    return !is_still(handle);
}

static int can_fua(void *handle)
{
    return is_still(handle) ? NBDKIT_FUA_NONE : NBDKIT_FUA_NATIVE;
}

static int can_cache(void *handle)
{
    return is_still(handle) ? NBDKIT_CACHE_NONE : NBDKIT_CACHE_NATIVE;
}

static int can_extents(void *handle)
{
    if (is_still(handle) || disk_of(handle) >= disk_set_count(set) - disk_set_shared(set))
        return false; /* of a shared one the store does not have all */
    return !disk_set_backing(set, disk_of(handle))->is_device;
}

/* ---- requests: nbdkit has checked that they are within the disk ---- */

static int answer(int error)
{
    if (error)
        nbdkit_set_error(error);
    return error ? -1 : 0;
}

static int on_pread(void *handle, void *out, uint32_t n, uint64_t offset, uint32_t flags)
{
    (void)flags;
    if (is_still(handle))
        return memset(out, 0, n), 0;
    return answer(disk_set_read(set, disk_of(handle), out, n, offset));
}

static int on_pwrite(void *handle, const void *data, uint32_t n, uint64_t offset, uint32_t flags)
{
    if (is_still(handle))
        return answer(EPERM);
    return answer(disk_set_write(set, disk_of(handle), data, n, offset, flags & NBDKIT_FLAG_FUA));
}

/* EOPNOTSUPP: nbdkit writes zeroes instead, or, if they were to be fast, says so. */
static int on_zero(void *handle, uint32_t n, uint64_t offset, uint32_t flags)
{
    return answer(
        disk_set_zero(set, disk_of(handle), n, offset, flags & NBDKIT_FLAG_MAY_TRIM, flags & NBDKIT_FLAG_FUA));
}

static int on_trim(void *handle, uint32_t n, uint64_t offset, uint32_t flags)
{
    return answer(disk_set_trim(set, disk_of(handle), n, offset, flags & NBDKIT_FLAG_FUA));
}

static int on_flush(void *handle, uint32_t flags)
{
    (void)flags;
    if (!is_still(handle))
        return answer(disk_set_flush(set, disk_of(handle)));
    disk_set_stands_still(set);
    return 0;
}

static int on_cache(void *handle, uint32_t n, uint64_t offset, uint32_t flags)
{
    (void)flags;
    return answer(posix_fadvise(disk_set_backing(set, disk_of(handle))->fd, (off_t)offset, n, POSIX_FADV_WILLNEED));
}

/* Where the store has holes. What is written meanwhile may be told either way. */
static int on_extents(void *handle, uint32_t n, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
    int fd = disk_set_backing(set, disk_of(handle))->fd;
    uint64_t end = offset + n;
    while (offset < end) {
        off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
        if (data < 0 && errno != ENXIO) /* ENXIO: no data from here on */
            return answer(errno);
        uint64_t hole_end = data < 0 ? end : (uint64_t)data;
        if (hole_end > offset &&
            nbdkit_add_extent(extents, offset, hole_end - offset, NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO) < 0)
            return -1;
        offset = hole_end;
        if (offset >= end)
            break;
        off_t hole = lseek(fd, (off_t)offset, SEEK_HOLE);
        if (hole < 0)
            return answer(errno);
        if (nbdkit_add_extent(extents, offset, (uint64_t)hole - offset, 0) < 0)
            return -1;
        offset = (uint64_t)hole;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            break;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "hikae-disk",
    .version = HIKAE_VERSION,
    .longname = "Hikae's disk server",
    .description = "serves a VM's disks; an agent of Hikae follows what is written to them",
    .config_help = "dir=DIR     (required) where control.sock is made\n"
                   "disk=PATH   (required) a file or a block device; again for each further disk\n"
                   "shared=PATH the same, of a disk that another host sees as well; after all others\n"
                   "bytes=SIZE  only so much of the disk before it\n"
                   "holding=1   writes to those are held until an agent says otherwise",
    .load = load,
    .config = config,
    .config_complete = config_complete,
    .get_ready = get_ready,
    .after_fork = after_fork,
    .unload = unload,
    .list_exports = list_exports,
    .default_export = default_export,
    .open = open_export,
    .get_size = get_size,
    .block_size = block_size,
    .can_write = yes,
    .can_flush = yes,
    .can_trim = is_disk,
    .can_zero = is_disk,
    .can_fast_zero = is_disk,
    .can_multi_conn = yes, /* one set for all connections: a flush on any is of all */
    .can_fua = can_fua,
    .can_cache = can_cache,
    .can_extents = can_extents,
    .pread = on_pread,
    .pwrite = on_pwrite,
    .zero = on_zero,
    .trim = on_trim,
    .flush = on_flush,
    .cache = on_cache,
    .extents = on_extents,
    .errno_is_preserved = 1,
};

struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
