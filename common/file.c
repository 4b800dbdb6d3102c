#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_write_fd(int fd, const void *data, size_t n)
{
    const char *at = data;
    while (n) {
        ssize_t w = write(fd, at, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -1;
        at += w;
        n -= (size_t)w;
    }
    return 0;
}

int dir_sync_of(const char *path, struct errmsg *e)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (!slash)
        strcpy(dir, ".");
    else if (!n)
        strcpy(dir, "/");
    else if (n < sizeof(dir))
        *(char *)mempcpy(dir, path, n) = 0;
    else
        return errmsg_set(e, "%s: the path is too long", path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errmsg_set(e, "%s: %s", dir, strerror(errno));
    int r = fsync(fd) < 0 && errno != EINVAL ? errmsg_set(e, "%s: cannot be synced: %s", dir, strerror(errno)) : 0;
    close(fd);
    return r;
}

static int write_new(const char *path, const void *data, size_t n, mode_t mode, struct errmsg *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return errmsg_set(e, "%s: cannot be created: %s", path, strerror(errno));
    int r = fchmod(fd, mode) < 0 || file_write_fd(fd, data, n) < 0 || fsync(fd) < 0 ? -1 : 0;
    int why = errno;
    if (close(fd) < 0 && !r) {
        r = -1;
        why = errno;
    }
    if (!r)
        return 0;
    unlink(path);
    return errmsg_set(e, "%s: cannot be written: %s", path, strerror(why));
}

int file_write_atomic(const char *path, const void *data, size_t n, mode_t mode, struct errmsg *e)
{
    static atomic_uint serial;
    char temp[PATH_MAX];
    if ((size_t)snprintf(temp, sizeof(temp), "%s.%d.%u.tmp", path, getpid(), atomic_fetch_add(&serial, 1)) >=
        sizeof(temp))
        return errmsg_set(e, "%s: the path is too long", path);
    unlink(temp); /* of a process with our id that was killed in here */
    if (write_new(temp, data, n, mode, e))
        return -1;
    if (rename(temp, path) < 0) {
        int why = errno;
        unlink(temp);
        return errmsg_set(e, "%s: cannot be replaced: %s", path, strerror(why));
    }
    return dir_sync_of(path, e);
}

static char *read_fd(int fd, size_t max, size_t *n)
{
    size_t size = 0, room = 4096;
    char *data = malloc(room + 1);
    while (data) {
        ssize_t r = read(fd, data + size, room - size);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            break;
        size += (size_t)r;
        if (r == 0) {
            data[size] = 0;
            *n = size;
            return data;
        }
        if (size > max) {
            errno = EFBIG;
            break;
        }
        if (size == room) {
            char *more = realloc(data, (room *= 2) + 1);
            if (!more)
                break;
            data = more;
        }
    }
    int why = data ? errno : ENOMEM;
    free(data);
    errno = why;
    return NULL;
}

char *file_read_all(const char *path, size_t max, size_t *n, struct errmsg *e)
{
    size_t unused;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *data = fd < 0 ? NULL : read_fd(fd, max, n ? n : &unused);
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (!data) {
        errmsg_set(e, "%s: cannot be read: %s", path, strerror(why));
        errno = why;
    }
    return data;
}

int dir_make(const char *path, mode_t mode, struct errmsg *e)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (!n || n >= sizeof(part))
        return errmsg_set(e, "'%s' is no usable path", path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        *(char *)mempcpy(part, path, i) = 0;
        if (mkdir(part, mode) == 0 || errno == EEXIST)
            continue;
        int why = errno;
        struct stat st; /* an existing part of a read-only tree may say EROFS or EACCES */
        if (stat(part, &st) < 0)
            return errmsg_set(e, "%s: the directory cannot be made: %s", part, strerror(why));
    }
    struct stat st;
    if (stat(path, &st) < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    return S_ISDIR(st.st_mode) ? 0 : errmsg_set(e, "%s: is no directory", path);
}
