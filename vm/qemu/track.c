/*
 * track: see track.h.
 */
#include "vm/qemu/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct track_method *const methods[] = {&track_method_scan, &track_method_softdirty};
enum { METHODS = sizeof methods / sizeof methods[0] };

void track_init(struct track *t)
{
    *t = (struct track){.userfaultfd = -1, .pagemap = -1, .clear_refs = -1, .note = ""};
}

const struct track_method *track_choose(struct errmsg *e)
{
    struct errmsg why[METHODS];
    for (size_t i = 0; i < METHODS; i++)
        if (methods[i]->check_kernel(&why[i]) == 0)
            return methods[i];
    errmsg_set(e,
               "this kernel can't track the guest's memory: %.120s; %.160s. Hikae needs Linux 6.7 or later with "
               "CONFIG_USERFAULTFD, or 6.1 or later with CONFIG_MEM_SOFT_DIRTY: those of Debian 12 and 13 are",
               why[0].text, why[1].text);
    return NULL;
}

int track_open(struct track *t, pid_t pid, int pidfd, const struct shared_map *map, struct errmsg *e)
{
    if (!t->method)
        t->method = track_choose(e);
    if (!t->method)
        return -1;
    t->pid = pid;
    t->map = *map;
    return t->method->open(t, pidfd, e);
}

int track_arm(struct track *t, struct errmsg *e)
{
    if (t->method->arm(t, e) < 0)
        return -1;
    t->armed = true;
    return 0;
}

int track_scan(struct track *t, struct page_ranges *out, struct errmsg *e)
{
    return t->armed ? t->method->scan(t, out, e) : errmsg_set(e, "dirty tracking is not armed");
}

int track_disarm(struct track *t, struct errmsg *e)
{
    t->armed = false;
    return t->method->disarm(t, e);
}

void track_close(struct track *t)
{
    const int fds[] = {t->userfaultfd, t->pagemap, t->clear_refs};
    if (t->method)
        t->method->close(t);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    track_init(t);
}

int track_open_proc(const struct track *t, const char *file, int flags, struct errmsg *e)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)t->pid, file);
    int fd = open(path, flags | O_CLOEXEC);
    return fd >= 0 ? fd : errmsg_set(e, "%s: %s", path, strerror(errno));
}

int track_add(const struct map_piece *piece, uint64_t start, uint64_t end, struct page_ranges *out, struct errmsg *e)
{
    uint64_t offset = start - piece->start + piece->offset;
    if (page_ranges_add(out, offset / VM_PAGE_SIZE, (end - start) / VM_PAGE_SIZE) < 0)
        return errmsg_set(e, "out of memory for the list of dirty pages");
    return 0;
}
