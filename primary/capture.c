#include "primary/capture.h"

#include "disk/client.h"
#include "netbuf/outlet.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

int64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The first touch of a page costs more than its copy, so memory for pages is populated when it is made; but not in the
 * pause, where only what is needed is touched. */
static void *make_room(size_t bytes, int populate)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | populate, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int reserve(struct capture *c, size_t pages, int populate, struct errmsg *e)
{
    if (pages <= c->capacity)
        return 0;
    uint8_t *memory = make_room(pages * VM_PAGE_SIZE, populate);
    uint64_t *gfns = make_room(pages * sizeof *gfns, populate);
    if (!memory || !gfns) {
        if (memory)
            munmap(memory, pages * VM_PAGE_SIZE);
        if (gfns)
            munmap(gfns, pages * sizeof *gfns);
        return errmsg_set(e, "no memory to copy %zu dirty pages", pages);
    }
    if (c->capacity) {
        munmap(c->pages, c->capacity * VM_PAGE_SIZE);
        munmap(c->gfns, c->capacity * sizeof *c->gfns);
    }
    c->pages = memory;
    c->gfns = gfns;
    c->capacity = pages;
    return 0;
}

struct capture *capture_new(size_t pages, struct errmsg *e)
{
    struct capture *c = calloc(1, sizeof *c);
    if (!c) {
        errmsg_set(e, "no memory");
        return NULL;
    }
    if (reserve(c, pages, MAP_POPULATE, e)) {
        free(c);
        return NULL;
    }
    return c;
}

void capture_free(struct capture *c)
{
    if (!c)
        return;
    munmap(c->pages, c->capacity * VM_PAGE_SIZE);
    munmap(c->gfns, c->capacity * sizeof *c->gfns);
    vm_blob_free(&c->state);
    free(c);
}

void capture_make_room(struct capture *c, size_t pages)
{
    struct errmsg ignored; /* then there is room in the pause, or the checkpoint fails */
    (void)reserve(c, pages, MAP_POPULATE, &ignored);
}

static int copy_pages(struct capture *c, const struct page_ranges *dirty, const uint8_t *memory, struct errmsg *e)
{
    /* Twice what is needed: the next epoch of such a guest won't have to grow it in its pause. */
    if (dirty->pages > c->capacity && reserve(c, 2 * dirty->pages, 0, e))
        return -1;
    for (size_t i = 0; i < dirty->n; i++) {
        const struct page_range *r = &dirty->at[i];
        memcpy(c->pages + c->n * VM_PAGE_SIZE, memory + r->first * VM_PAGE_SIZE, r->count * VM_PAGE_SIZE);
        for (uint64_t p = 0; p < r->count; p++)
            c->gfns[c->n++] = r->first + p;
    }
    return 0;
}

static void drain(const struct capture_source *from)
{
    for (unsigned i = 0; i < from->outlet_count; i++)
        outlet_drain(from->outlets[i]);
}

static int barrier(const struct capture_source *from, uint64_t epoch, struct errmsg *e)
{
    drain(from);
    for (unsigned i = 0; i < from->outlet_count; i++) {
        outlet_hold(from->outlets[i]);
        if (outlet_barrier(from->outlets[i], epoch))
            return errmsg_set(e, "the barrier behind the VM's output can't be set");
    }
    return 0;
}

/* ns since *mark, which moves to now. */
static int64_t lap(int64_t *mark)
{
    int64_t now = clock_now(), ns = now - *mark;
    *mark = now;
    return ns;
}

static int take(const struct capture_source *from, bool copy, struct page_ranges *dirty, struct capture *c,
                int64_t *mark, struct errmsg *e)
{
    const struct vm_ops *ops = from->ops;
    struct vm *vm = from->vm;
    struct capture_times *t = &c->times;
    c->state.size = 0;
    c->n = 0;
    if (ops->state_begin(vm, e))
        return -1;
    drain(from); /* while the VM's process saves its state */
    t->net = lap(mark);
    page_ranges_clear(dirty);
    if (ops->dirty(vm, dirty, e))
        return -1;
    t->scan = lap(mark);
    if (copy && copy_pages(c, dirty, ops->memory(vm), e))
        return -1;
    t->copy = lap(mark);
    if (ops->state_end(vm, &c->state, e))
        return -1;
    t->state = lap(mark);
    if (barrier(from, c->epoch, e))
        return -1;
    t->net += lap(mark);
    return 0;
}

/* A pause that was given up may be carried out later all the same. */
static int undo_pause(const struct capture_source *from, struct capture *c)
{
    struct errmsg second;
    c->stuck = from->ops->resume(from->vm, &second) < 0;
    return -1;
}

int capture_checkpoint(const struct capture_source *from, uint64_t epoch, bool last, struct page_ranges *scratch,
                       struct capture *c, struct errmsg *e)
{
    c->epoch = epoch;
    c->stuck = false;
    c->times = (struct capture_times){.paused_at = clock_now()};
    int64_t mark = c->times.paused_at;
    if (from->disks) {
        disk_hold(from->disks); /* what is written in this epoch, or the next one if this is the first, is output */
        disk_set_pausing(from->disks, true);
    }
    if (from->ops->pause(from->vm, e)) {
        if (from->disks)
            disk_set_pausing(from->disks, false);
        return undo_pause(from, c);
    }
    c->disk_mark = 0;
    if (from->disks) /* its I/O is drained: what it has written is in the log, and nothing else */
        c->disk_mark = disk_mark(from->disks);
    c->times.stop = lap(&mark);
    int result = from->disks && !disk_is_whole(from->disks)
                     ? errmsg_set(e, "the VM's disk server has ended, and with it the log of what the VM wrote")
                     : take(from, !last, scratch, c, &mark, e);
    struct errmsg second;
    if (from->disks) /* not before: saving its state flushes once more */
        disk_set_pausing(from->disks, false);
    mark = clock_now();
    if ((!last || result) && from->ops->resume(from->vm, result ? &second : e)) {
        c->stuck = true;
        result = -1;
    }
    c->times.resume = lap(&mark);
    c->times.total = mark - c->times.paused_at;
    return result;
}
