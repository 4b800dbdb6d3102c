#include "disk/owing.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int open_in(const char *dir, int flags)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/" OWING_NAME, dir);
    return open(path, flags | O_CLOEXEC, 0600);
}

_Atomic uint32_t *owing_map(const char *dir, struct errmsg *e)
{
    enum { ALL = PROT_READ | PROT_WRITE };
    int fd = open_in(dir, O_RDWR | O_CREAT);
    void *at = fd < 0 || (errno = posix_fallocate(fd, 0, sizeof(uint32_t)))
                   ? MAP_FAILED
                   : mmap(NULL, sizeof(uint32_t), ALL, MAP_SHARED, fd, 0);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (at != MAP_FAILED)
        return at;
    errmsg_set(e, "%s/" OWING_NAME ": %s", dir, strerror(error));
    return NULL;
}

void owing_unmap(_Atomic uint32_t *owing)
{
    if (owing)
        munmap((void *)(uintptr_t)owing, sizeof(uint32_t));
}

bool owing_is_noted(const char *dir)
{
    uint32_t owed = 0;
    int fd = open_in(dir, O_RDONLY);
    if (fd < 0)
        return false;
    bool is = read(fd, &owed, sizeof owed) == sizeof owed && owed;
    close(fd);
    return is;
}
