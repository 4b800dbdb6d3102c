#include "disk/store_open.h"

#include "common/config.h"
#include "common/file.h"
#include "disk/store_record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

void backings_close(struct backing at[DISKS_MAX], unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        backing_close(&at[i]);
}

int backings_open(struct backing at[DISKS_MAX], const struct store_paths *paths, struct errmsg *e)
{
    for (unsigned i = 0; i < paths->count; i++)
        if (backing_open(&at[i], paths->at[i], false, e)) {
            backings_close(at, i);
            return -1;
        }
    return 0;
}

/* ---- room ---- */

/* Octets that writing `used` of them may take from the file system, given what the file has. */
static uint64_t still_needed(uint64_t used, const struct stat *st)
{
    uint64_t has = (uint64_t)st->st_blocks * 512;
    return used > has ? used - has : 0;
}

struct room { /* of one file system */
    dev_t device;
    uint64_t needed;
};

static uint64_t add_need(struct room rooms[DISKS_MAX], dev_t device, uint64_t needed)
{
    struct room *r = rooms;
    while (r->needed && r->device != device)
        r++;
    r->device = device;
    r->needed += needed;
    return r->needed;
}

static int check_room(const struct config *c, const char *path, const char *dir, uint64_t needed, struct errmsg *e)
{
    struct statvfs fs;
    if (statvfs(dir, &fs))
        return errmsg_set(e, "host %s: %s: %s", c->name, dir, strerror(errno));
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (needed <= room)
        return 0;
    return errmsg_set(e, "host %s has no room for disk %s: %" PRIu64 " MiB more are needed there, %" PRIu64 " are free",
                      c->name, path, (needed >> 20) + 1, room >> 20);
}

/* A sparse file takes what its guest has written: that much must be there now, for all disks together. */
static int check_rooms(const struct config *c, const struct store_paths *paths, const struct store_wanted *w,
                       struct errmsg *e)
{
    struct room rooms[DISKS_MAX + 1] = {0};
    for (unsigned i = 0; i < paths->count; i++) {
        struct stat st;
        const char *there = paths->at[i];
        if (stat(there, &st)) { /* an image that will be made; or it is missing, which is said when it is opened */
            there = c->disk_dir;
            if (stat(there, &st))
                continue;
            st.st_blocks = 0;
        }
        uint64_t needed = S_ISBLK(st.st_mode) ? 0 : still_needed(w->used[i], &st);
        if (needed && check_room(c, paths->at[i], there, add_need(rooms, st.st_dev, needed), e))
            return -1;
    }
    return 0;
}

/* ---- images ---- */

static int image_make(const char *path, uint64_t bytes, struct errmsg *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errmsg_set(e, "disk %s can't be made: %s", path, strerror(errno));
    int bad = ftruncate(fd, (off_t)bytes) || fsync(fd);
    int why = errno;
    close(fd);
    return bad ? errmsg_set(e, "disk %s can't be made: %s", path, strerror(why)) : dir_sync_of(path, e);
}

/* One that is missing is made; one that is smaller is of a disk that was grown since, and grows. */
static int images_make(const struct store_paths *paths, const struct disk_sizes *sizes, struct errmsg *e)
{
    for (unsigned i = 0; i < paths->count; i++) {
        struct stat st;
        bool fits = !stat(paths->at[i], &st) && (uint64_t)st.st_size >= sizes->bytes[i];
        if (!fits && image_make(paths->at[i], sizes->bytes[i], e))
            return -1;
    }
    return 0;
}

static int image_paths(const struct config *c, const char *vm, unsigned count, struct store_paths *out,
                       struct errmsg *e)
{
    *out = (struct store_paths){.count = count};
    for (unsigned i = 0; i < count; i++)
        if (store_image_path(out->at[i], c, vm, i, e))
            return -1;
    return dir_make(c->disk_dir, 0700, e);
}

/* ---- what a primary wants ---- */

static int check_sizes(const struct config *c, const char *vm, const struct backing *at,
                       const struct store_paths *paths, const struct disk_sizes *sizes, struct errmsg *e)
{
    for (unsigned i = 0; i < sizes->count; i++)
        if (at[i].bytes != sizes->bytes[i])
            return errmsg_set(e,
                              "disk %u of VM %s has %" PRIu64 " bytes at its primary, but %s at host %s has %" PRIu64
                              ": make them equal%s%s",
                              i, vm, sizes->bytes[i], paths->at[i], c->name, at[i].bytes,
                              at[i].bytes > sizes->bytes[i] ? "; if they are, on the primary: hikae grow " : "",
                              at[i].bytes > sizes->bytes[i] ? vm : "");
    return 0;
}

int backings_open_wanted(struct backing at[DISKS_MAX], const struct config *c, const char *vm,
                         const struct store_wanted *wanted, struct store_paths *paths, struct errmsg *e)
{
    const struct disk_sizes *sizes = &wanted->sizes;
    bool named = config_vm(c, vm)->disk_count;
    if (named ? store_paths_of_section(c, vm, paths, e) : image_paths(c, vm, sizes->count, paths, e))
        return -1;
    if (paths->count != sizes->count)
        return errmsg_set(e, "VM %s has %u disks at its primary, but `disk` of [vm %s] at host %s names %u", vm,
                          sizes->count, vm, c->name, paths->count);
    if (check_rooms(c, paths, wanted, e) || (!named && images_make(paths, sizes, e)) || backings_open(at, paths, e))
        return -1;
    if (!check_sizes(c, vm, at, paths, sizes, e))
        return 0;
    backings_close(at, paths->count);
    return -1;
}
