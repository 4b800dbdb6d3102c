/*
 * track_scan: asynchronous userfaultfd write protection and PAGEMAP_SCAN. The kernel's headers of Debian 12 (6.1) lack
 * what Linux 6.7 brought, so it is defined here.
 *
 * A userfaultfd belongs to the address space of the process that made it, whoever calls its ioctls. So only its making
 * has to happen in that process (preload.c, inject.c).
 */
#include "vm/qemu/track.h"

#include "vm/qemu/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* linux/fs.h of 6.7 */
struct pm_region {
    uint64_t start, end, categories;
};
struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PM_SCAN            _IOWR('f', 16, struct pm_scan_arg)
#define PM_WP_MATCHING     (1 << 0)
#define PM_CHECK_WPASYNC   (1 << 1)
#define PM_PAGE_IS_WRITTEN (1 << 1)

enum { REGIONS = 8192 };

static const uint64_t wanted_features =
    UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

/* 0: it has our features (now). -1 with errno: EINVAL may also mean that it was set up before. */
static int negotiate(int fd)
{
    struct uffdio_api api = {.api = UFFD_API, .features = wanted_features};
    return ioctl(fd, UFFDIO_API, &api);
}

static int scan_range(int pagemap, uint64_t start, uint64_t end, struct pm_region *regions, struct pm_scan_arg *arg)
{
    *arg = (struct pm_scan_arg){.size = sizeof *arg,
                                .flags = PM_WP_MATCHING | PM_CHECK_WPASYNC,
                                .start = start,
                                .end = end,
                                .vec = (uintptr_t)regions,
                                .vec_len = REGIONS,
                                .category_mask = PM_PAGE_IS_WRITTEN,
                                .return_mask = PM_PAGE_IS_WRITTEN};
    return ioctl(pagemap, PM_SCAN, arg);
}

static int check_kernel(struct errmsg *e)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EPERM)
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return errmsg_set(e, "userfaultfd: %s", strerror(errno));
    int status = negotiate(fd);
    if (status < 0)
        errmsg_set(e, "no asynchronous userfaultfd write protection");
    close(fd);
    if (status < 0)
        return -1;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return errmsg_set(e, "/proc/self/pagemap: %s", strerror(errno));
    struct pm_scan_arg arg = {
        .size = sizeof arg, .category_mask = PM_PAGE_IS_WRITTEN, .return_mask = PM_PAGE_IS_WRITTEN};
    if (ioctl(pagemap, PM_SCAN, &arg) < 0)
        status = errmsg_set(e, "no PAGEMAP_SCAN (%s)", strerror(errno));
    close(pagemap);
    return status;
}

/* Was this userfaultfd set up with our features, by an agent before us? Told by its fdinfo "API: aa:FEATURES:ALL". */
static bool has_our_features(pid_t pid, int theirs)
{
    char path[64], line[128];
    unsigned long long features = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)pid, theirs);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "API: %*x:%llx", &features) == 1)
            break;
    if (f)
        fclose(f);
    return (features & wanted_features) == wanted_features;
}

/* A userfaultfd of `pid`, which QEMU itself does not use, as a descriptor of ours. */
static int take_userfaultfd(pid_t pid, int pidfd, struct errmsg *e)
{
    errmsg_set(e, "there is no userfaultfd in process %d", (int)pid);
    for (int fd = -1; (fd = proc_next_userfaultfd(pid, fd)) >= 0;) {
        int ours = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
        if (ours < 0) {
            errmsg_set(e, "taking the userfaultfd of process %d: %s: the agent needs the same user or CAP_SYS_PTRACE",
                       (int)pid, strerror(errno));
            continue;
        }
        if (negotiate(ours) == 0 || has_our_features(pid, fd))
            return ours;
        close(ours);
        errmsg_set(e, "the userfaultfd in process %d lacks WP_ASYNC: another program tracks this VM", (int)pid);
    }
    return -1;
}

/* Takes a userfaultfd that exists there, else has one made by ptrace injection. */
static int open_scan(struct track *t, int pidfd, struct errmsg *e)
{
    t->note = "userfaultfd by preload";
    t->userfaultfd = take_userfaultfd(t->pid, pidfd, e);
    if (t->userfaultfd < 0) {
        if (inject_userfaultfd(t->pid, e) < 0)
            return -1;
        t->note = "userfaultfd by ptrace";
        t->userfaultfd = take_userfaultfd(t->pid, pidfd, e);
    }
    if (t->userfaultfd < 0 || (t->pagemap = track_open_proc(t, "pagemap", O_RDONLY, e)) < 0)
        return -1;
    t->buffer = calloc(REGIONS, sizeof(struct pm_region));
    return t->buffer ? 0 : errmsg_set(e, "out of memory");
}

static int arm(struct track *t, struct errmsg *e)
{
    for (size_t i = 0; i < t->map.n; i++) {
        struct uffdio_range range = {.start = t->map.piece[i].start,
                                     .len = t->map.piece[i].end - t->map.piece[i].start};
        struct uffdio_register reg = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
        if (ioctl(t->userfaultfd, UFFDIO_REGISTER, &reg) < 0)
            return errmsg_set(e, "registering guest memory for dirty tracking: %s%s", strerror(errno),
                              errno == EBUSY ? ": another program tracks this VM" : "");
        struct uffdio_writeprotect protect = {.range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
        if (ioctl(t->userfaultfd, UFFDIO_WRITEPROTECT, &protect) < 0)
            return errmsg_set(e, "protecting guest memory for dirty tracking: %s", strerror(errno));
    }
    return 0;
}

static int scan(struct track *t, struct page_ranges *out, struct errmsg *e)
{
    struct pm_region *regions = t->buffer;
    for (size_t i = 0; i < t->map.n; i++) {
        const struct map_piece *piece = &t->map.piece[i];
        for (uint64_t at = piece->start; at < piece->end;) {
            struct pm_scan_arg arg;
            int n = scan_range(t->pagemap, at, piece->end, regions, &arg);
            if (n < 0 && errno == EINTR)
                continue; /* nothing was reported, so nothing was protected anew */
            if (n < 0)
                return errmsg_set(e, "scanning guest memory: %s", strerror(errno));
            for (int j = 0; j < n; j++)
                if (track_add(piece, regions[j].start, regions[j].end, out, e) < 0)
                    return -1;
            at = arg.walk_end;
        }
    }
    return 0;
}

static int disarm(struct track *t, struct errmsg *e)
{
    for (size_t i = 0; i < t->map.n; i++) {
        struct uffdio_range range = {.start = t->map.piece[i].start,
                                     .len = t->map.piece[i].end - t->map.piece[i].start};
        if (ioctl(t->userfaultfd, UFFDIO_UNREGISTER, &range) < 0)
            return errmsg_set(e, "ending dirty tracking: %s", strerror(errno));
    }
    return 0;
}

static void close_scan(struct track *t)
{
    free(t->buffer);
}

const struct track_method track_method_scan = {.name = "scan",
                                               .is_atomic = true,
                                               .check_kernel = check_kernel,
                                               .open = open_scan,
                                               .arm = arm,
                                               .scan = scan,
                                               .disarm = disarm,
                                               .close = close_scan};
