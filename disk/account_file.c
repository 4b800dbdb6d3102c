#include "disk/account_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct account_file {
    struct account *account;
    uint8_t *memory;
    size_t n;
};

static int sync_memory(void *arg, size_t offset, size_t n)
{
    const struct account_file *f = arg;
    size_t page = 4096, from = offset / page * page;
    return msync(f->memory + from, offset + n - from, MS_SYNC);
}

/* It differs from one start of the host to the next. */
static void read_boot(uint8_t out[ACCOUNT_ID])
{
    char text[64] = "";
    size_t n = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    memset(out, 0, ACCOUNT_ID);
    for (const char *at = f ? fgets(text, sizeof text, f) : NULL; at && *at && n < 2 * (size_t)ACCOUNT_ID; at++) {
        const char *digits = "0123456789abcdef", *digit = strchr(digits, *at);
        if (!digit)
            continue;
        out[n / 2] = (uint8_t)(out[n / 2] << 4 | (digit - digits));
        n++;
    }
    if (f)
        fclose(f);
}

static int fail(struct errmsg *e, const char *path)
{
    return errmsg_set(e, "the account of what is written to the VM's disks, %s: %s", path, strerror(errno));
}

/* One of another size is of other disks. A server may have it mapped still: it is not touched, but replaced. */
static int open_fitting(const char *path, size_t n)
{
    struct stat s;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && !fstat(fd, &s) && ((size_t)s.st_size == n || !s.st_size))
        return fd;
    if (fd >= 0)
        close(fd);
    return fd < 0 || (unlink(path) && errno != ENOENT) ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static int map(struct account_file *f, int fd, const char *path, struct errmsg *e)
{
    errno = posix_fallocate(fd, 0, (off_t)f->n);
    if (errno || fsync(fd))
        return fail(e, path);
    void *at = mmap(NULL, f->n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return fail(e, path);
    f->memory = at;
    return 0;
}

static int attach(struct account_file *f, const struct account_disks *d, const char *path, struct errmsg *e)
{
    uint8_t boot[ACCOUNT_ID];
    read_boot(boot);
    f->account = account_attach(f->memory, d, boot, sync_memory, f);
    return f->account ? 0 : fail(e, path);
}

struct account_file *account_file_open(const char *path, const struct account_disks *d, struct errmsg *e)
{
    struct account_file *f = calloc(1, sizeof *f);
    int fd = f ? open_fitting(path, account_octets(d)) : -1;
    if (fd < 0) {
        fail(e, path);
        free(f);
        return NULL;
    }
    f->n = account_octets(d);
    int result = flock(fd, LOCK_EX) ? fail(e, path) : map(f, fd, path, e) ? -1 : attach(f, d, path, e);
    flock(fd, LOCK_UN); /* who attaches is alone, who has attached is not; the mapping would keep the lock */
    close(fd);
    if (!result)
        return f;
    account_file_close(f);
    return NULL;
}

void account_file_close(struct account_file *f)
{
    if (!f)
        return;
    account_detach(f->account);
    if (f->memory)
        munmap(f->memory, f->n);
    free(f);
}

struct account *account_of(struct account_file *f)
{
    return f->account;
}
