#include "disk/medium.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { ZEROES = 64 << 10 };

static int kernel_write(const struct medium *m, int fd, const void *data, size_t n, uint64_t offset)
{
    const uint8_t *at = data;
    while (n) {
        ssize_t w = pwrite(fd, at, n, (off_t)offset);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            errno = w ? errno : EIO;
            return -1;
        }
        at += w;
        n -= (size_t)w;
        offset += (uint64_t)w;
    }
    (void)m;
    return 0;
}

static int write_zeroes(const struct medium *m, int fd, uint64_t offset, uint64_t n)
{
    static const uint8_t zeroes[ZEROES];
    int result = 0;
    for (uint64_t piece; n && !result; n -= piece, offset += piece) {
        piece = n < ZEROES ? n : ZEROES;
        result = kernel_write(m, fd, zeroes, (size_t)piece, offset);
    }
    return result;
}

/* A hole needs whole blocks of a block device; the kernel refuses others, and some file systems know no holes. */
static int kernel_zero(const struct medium *m, int fd, uint64_t offset, uint64_t n)
{
    if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)n))
        return 0;
    return errno == ENOSPC || errno == EIO ? -1 : write_zeroes(m, fd, offset, n);
}

static int kernel_sync(const struct medium *m, int fd)
{
    (void)m;
    return fdatasync(fd);
}

const struct medium medium_kernel = {kernel_write, kernel_zero, kernel_sync};

int medium_open_direct(int fd)
{
    char path[sizeof "/proc/self/fd/" + 16];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
}

int medium_write_direct(const struct medium *m, int *direct, int fd, const void *data, size_t n, uint64_t offset)
{
    if (*direct >= 0) {
        int result = m->write(m, *direct, data, n, offset);
        if (!result || errno != EINVAL)
            return result;
        close(*direct);
        *direct = -1;
    }
    return m->write(m, fd, data, n, offset);
}

int medium_read(int fd, void *data, size_t n, uint64_t offset)
{
    uint8_t *at = data;
    while (n) {
        ssize_t r = pread(fd, at, n, (off_t)offset);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            errno = r ? errno : EIO;
            return -1;
        }
        at += r;
        n -= (size_t)r;
        offset += (uint64_t)r;
    }
    return 0;
}
