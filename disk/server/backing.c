#include "disk/server/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void identify(const struct stat *s, uint64_t *device, uint64_t *inode)
{
    bool is_device = S_ISBLK(s->st_mode);
    *device = is_device ? s->st_rdev : s->st_dev;
    *inode = is_device ? 0 : s->st_ino;
}

int backing_identify(const char *path, uint64_t *device, uint64_t *inode)
{
    struct stat s;
    if (stat(path, &s) < 0)
        return -1;
    identify(&s, device, inode);
    return 0;
}

static int explain_open(const char *path, struct errmsg *e)
{
    switch (errno) {
    case ENOENT:
        return errmsg_set(e, "disk %s does not exist: make it (truncate -s SIZE %s; lvcreate) or correct `disk`", path,
                          path);
    case EROFS:
    case EACCES:
    case EPERM:
        return errmsg_set(e, "disk %s is read-only (%s)", path, strerror(errno));
    case EBUSY:
        return errmsg_set(e, "disk %s is in use: mounted, or part of something else (lsblk %s)", path, path);
    default:
        return errmsg_set(e, "disk %s: %s", path, strerror(errno));
    }
}

/* A device may be opened for writing and yet be read-only: its writes would fail. */
static int check_writable(const struct backing *b, const char *path, struct errmsg *e)
{
    int read_only = 0;
    if (b->is_device && ioctl(b->fd, BLKROGET, &read_only) == 0 && read_only)
        return errmsg_set(e, "disk %s is read-only (blockdev --setrw %s)", path, path);
    return 0;
}

static int lock(int fd, const char *path, bool shared, struct errmsg *e)
{
    struct flock all = {.l_type = shared ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0 && fcntl(fd, F_OFD_SETLK, &all) == 0)
        return 0;
    if (errno == EWOULDBLOCK || errno == EACCES)
        return errmsg_set(e, "disk %s is in use by another process (fuser -v %s)", path, path);
    return errmsg_set(e, "locking disk %s: %s", path, strerror(errno));
}

int backing_size(int fd, uint64_t *bytes)
{
    struct stat s;
    if (fstat(fd, &s) < 0)
        return -1;
    *bytes = (uint64_t)s.st_size;
    return S_ISBLK(s.st_mode) ? ioctl(fd, BLKGETSIZE64, bytes) : 0;
}

int backing_size_of(const char *path, uint64_t *bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int status = fd < 0 ? -1 : backing_size(fd, bytes), error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return status;
}

static int measure(struct backing *b, const char *path, uint64_t bytes, struct errmsg *e)
{
    if (backing_size(b->fd, &b->bytes) < 0)
        return errmsg_set(e, "the size of disk %s: %s", path, strerror(errno));
    if (bytes && b->bytes < bytes)
        return errmsg_set(e, "disk %s has shrunk: it has %llu bytes, and %llu in the VM", path,
                          (unsigned long long)b->bytes, (unsigned long long)bytes);
    if (bytes)
        b->bytes = bytes;
    if (b->bytes == 0 || b->bytes % DISK_BLOCK)
        return errmsg_set(e, "disk %s has %llu bytes: it must be a multiple of %d, and not 0; the next one is %llu",
                          path, (unsigned long long)b->bytes, DISK_BLOCK,
                          (unsigned long long)(b->bytes / DISK_BLOCK + 1) * DISK_BLOCK);
    return 0;
}

static int check_kind(const char *path, const struct stat *s, struct errmsg *e)
{
    if (!S_ISREG(s->st_mode) && !S_ISBLK(s->st_mode))
        return errmsg_set(e, "disk %s is %s: it must be a file or a block device", path,
                          S_ISDIR(s->st_mode) ? "a directory" : "something else");
    if (S_ISREG(s->st_mode) && !(s->st_mode & 0222)) /* root may write to it all the same, but somebody wants it kept */
        return errmsg_set(e, "disk %s is read-only: nobody may write to it (chmod u+w %s)", path, path);
    return 0;
}

int backing_open(struct backing *b, const char *path, bool shared, struct errmsg *e)
{
    return backing_open_part(b, path, shared, 0, e);
}

int backing_open_part(struct backing *b, const char *path, bool shared, uint64_t bytes, struct errmsg *e)
{
    struct stat s;
    *b = (struct backing){.fd = -1};
    if (stat(path, &s) < 0)
        return explain_open(path, e);
    if (check_kind(path, &s, e) < 0)
        return -1;
    b->is_device = S_ISBLK(s.st_mode);
    b->fd = open(path, O_RDWR | O_CLOEXEC | (b->is_device ? O_EXCL : 0));
    if (b->fd < 0)
        return explain_open(path, e);
    int status = fstat(b->fd, &s) < 0 ? explain_open(path, e) : lock(b->fd, path, shared, e);
    identify(&s, &b->device, &b->inode);
    if (status == 0)
        status = check_writable(b, path, e);
    if (status == 0)
        status = measure(b, path, bytes, e);
    if (status < 0)
        backing_close(b);
    return status;
}

void backing_close(struct backing *b)
{
    if (b->fd >= 0)
        close(b->fd);
    b->fd = -1;
}
