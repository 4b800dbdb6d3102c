/*
 * track: see track.h. The kernel's headers of Debian 12 (6.1) lack what Linux 6.7 brought, so it is defined here.
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

void track_init(struct track *t)
{
    *t = (struct track){.userfaultfd = -1, .pagemap = -1};
}

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

int track_check_kernel(struct errmsg *e)
{
    static const char *remedy =
        "Hikae needs Linux 6.7 or later with CONFIG_USERFAULTFD (Debian 13, or 12 with the kernel "
        "from backports)";
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == EPERM)
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return errmsg_set(e, "userfaultfd: %s: %s", strerror(errno), remedy);
    int status = negotiate(fd);
    if (status < 0)
        errmsg_set(e, "this kernel has no asynchronous userfaultfd write protection: %s", remedy);
    close(fd);
    if (status < 0)
        return -1;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return errmsg_set(e, "/proc/self/pagemap: %s", strerror(errno));
    struct pm_scan_arg arg = {
        .size = sizeof arg, .category_mask = PM_PAGE_IS_WRITTEN, .return_mask = PM_PAGE_IS_WRITTEN};
    if (ioctl(pagemap, PM_SCAN, &arg) < 0)
        status = errmsg_set(e, "this kernel has no PAGEMAP_SCAN (%s): %s", strerror(errno), remedy);
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

int track_open(struct track *t, pid_t pid, int pidfd, const struct shared_map *map, bool *injected, struct errmsg *e)
{
    *injected = false;
    t->map = *map;
    t->userfaultfd = take_userfaultfd(pid, pidfd, e);
    if (t->userfaultfd < 0) {
        if (inject_userfaultfd(pid, e) < 0)
            return -1;
        *injected = true;
        t->userfaultfd = take_userfaultfd(pid, pidfd, e);
    }
    if (t->userfaultfd < 0)
        return -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    t->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (t->pagemap < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    t->regions = calloc(REGIONS, sizeof(struct pm_region));
    return t->regions ? 0 : errmsg_set(e, "out of memory");
}

int track_arm(struct track *t, struct errmsg *e)
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
    t->armed = true;
    return 0;
}

static int add_regions(const struct map_piece *piece, const struct pm_region *regions, int n, struct page_ranges *out)
{
    for (int i = 0; i < n; i++) {
        uint64_t offset = regions[i].start - piece->start + piece->offset;
        uint64_t bytes = regions[i].end - regions[i].start;
        if (page_ranges_add(out, offset / VM_PAGE_SIZE, bytes / VM_PAGE_SIZE) < 0)
            return -1;
    }
    return 0;
}

int track_scan(struct track *t, struct page_ranges *out, struct errmsg *e)
{
    if (!t->armed)
        return errmsg_set(e, "dirty tracking is not armed");
    for (size_t i = 0; i < t->map.n; i++) {
        const struct map_piece *piece = &t->map.piece[i];
        for (uint64_t at = piece->start; at < piece->end;) {
            struct pm_scan_arg arg;
            int n = scan_range(t->pagemap, at, piece->end, t->regions, &arg);
            if (n < 0 && errno == EINTR)
                continue; /* nothing was reported, so nothing was protected anew */
            if (n < 0)
                return errmsg_set(e, "scanning guest memory: %s", strerror(errno));
            if (add_regions(piece, t->regions, n, out) < 0)
                return errmsg_set(e, "out of memory for the list of dirty pages");
            at = arg.walk_end;
        }
    }
    return 0;
}

int track_disarm(struct track *t, struct errmsg *e)
{
    t->armed = false;
    for (size_t i = 0; i < t->map.n; i++) {
        struct uffdio_range range = {.start = t->map.piece[i].start,
                                     .len = t->map.piece[i].end - t->map.piece[i].start};
        if (ioctl(t->userfaultfd, UFFDIO_UNREGISTER, &range) < 0)
            return errmsg_set(e, "ending dirty tracking: %s", strerror(errno));
    }
    return 0;
}

void track_close(struct track *t)
{
    if (t->userfaultfd >= 0)
        close(t->userfaultfd);
    if (t->pagemap >= 0)
        close(t->pagemap);
    free(t->regions);
    track_init(t);
}
