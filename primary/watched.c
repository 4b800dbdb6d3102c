#include "primary/watched.h"
#include "common/watch.h"
#include "vm/process.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Copying the dirty pages is the one long step between two calls of a checkpoint: a ms for 64 pages is slow. */
enum { PAGES_PER_MS = 64 };

static struct watch_page nobody_looks, *page = &nobody_looks;
static const struct vm_ops *backend;
static unsigned pauses_to_stall;
static ev_timer heart;

void watched_path(char *out, size_t size, const char *run_dir, const char *vm)
{
    snprintf(out, size, "%s/vms/%s.watch", run_dir, vm);
}

/* A sign of life; the step that begins may take so long. */
static void step(unsigned patience_ms)
{
    atomic_store(&page->patience_ms, patience_ms);
    atomic_fetch_add(&page->beat, 1);
}

static void set_paused(bool paused)
{
    atomic_store(&page->paused, paused);
}

void watched_allow(unsigned ms)
{
    step(ms);
}

bool watched_is_paused(void)
{
    return atomic_load(&page->paused);
}

static void on_heart(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)t, (void)events;
    step(0);
}

/* Its blocks are had beforehand: a full file system must not become a SIGBUS. */
static void *map_page(const char *path, struct errmsg *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int error = fd < 0 ? errno : posix_fallocate(fd, 0, sizeof(struct watch_page));
    void *at = error ? MAP_FAILED : mmap(NULL, sizeof(struct watch_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!error && at == MAP_FAILED)
        error = errno;
    if (fd >= 0)
        close(fd);
    if (!error)
        return at;
    errmsg_set(e, "%s: %s: a worker that is stuck will not be noticed", path, strerror(error));
    return NULL;
}

int watched_begin(struct ev_loop *loop, const char *run_dir, const char *vm, struct errmsg *e)
{
    char path[400];
    watched_path(path, sizeof path, run_dir, vm);
    struct watch_page *mine = map_page(path, e);
    if (!mine)
        return -1;
    atomic_store(&mine->pid, 0); /* what is there is our predecessor's */
    mine->magic = WATCH_MAGIC;
    atomic_store(&mine->start_time, process_start_time(getpid()));
    atomic_store(&mine->paused, 0);
    atomic_store(&mine->patience_ms, 0);
    atomic_store(&mine->pid, (uint32_t)getpid());
    page = mine;
    ev_timer_init(&heart, on_heart, 0., WATCH_LOOK_MS / 1000.);
    ev_timer_start(loop, &heart);
    return 0;
}

void watched_end(struct ev_loop *loop)
{
    ev_timer_stop(loop, &heart);
    if (page == &nobody_looks)
        return;
    atomic_store(&page->pid, 0);
    munmap(page, sizeof *page);
    page = &nobody_looks;
}

/* ---- the filter ---- */

static int done(int result)
{
    step(0);
    return result;
}

static void destroy(struct vm *vm)
{
    step(VM_SETUP_MS);
    backend->destroy(vm);
    set_paused(false);
    step(0);
}

static int clear(const struct vm_spec *spec, struct errmsg *e)
{
    step(VM_SETUP_MS);
    return done(backend->clear(spec, e));
}

static int launch(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    step(VM_SETUP_MS);
    return done(backend->launch(spec, out, e));
}

/* What is found may stand still since our predecessor's time; it is resumed next. */
static int attach(const struct vm_spec *spec, struct vm **out, struct errmsg *e)
{
    set_paused(true);
    step(VM_SETUP_MS);
    int result = backend->attach(spec, out, e);
    if (result)
        set_paused(false);
    return done(result);
}

static int describe(struct vm *vm, struct json_object **out, struct errmsg *e)
{
    step(VM_SETUP_MS);
    return done(backend->describe(vm, out, e));
}

static int arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e)
{
    set_paused(true); /* it is, for a moment */
    step(VM_SETUP_MS);
    int result = backend->arm(vm, initial, e);
    set_paused(false);
    return done(result);
}

static int populated(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    step(VM_SETUP_MS);
    return done(backend->populated(vm, out, e));
}

static int pause_vm(struct vm *vm, struct errmsg *e)
{
    set_paused(true);
    step(VM_CALL_MS);
    int result = backend->pause(vm, e);
    if (pauses_to_stall && --pauses_to_stall == 0)
        raise(SIGSTOP);
    return done(result);
}

static int state_begin(struct vm *vm, struct errmsg *e)
{
    step(VM_CALL_MS);
    return done(backend->state_begin(vm, e));
}

static int dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    step(VM_CALL_MS);
    int result = backend->dirty(vm, out, e);
    step((unsigned)(out->pages / PAGES_PER_MS)); /* they are copied next */
    return result;
}

static int dirty_running(struct vm *vm, struct page_ranges *out, struct errmsg *e)
{
    set_paused(true); /* meanwhile, by most backends */
    step(3 * VM_CALL_MS);
    int result = backend->dirty_running(vm, out, e);
    if (!result)
        set_paused(false);
    return done(result);
}

static int state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e)
{
    step(VM_CALL_MS);
    return done(backend->state_end(vm, out, e));
}

static int resume(struct vm *vm, struct errmsg *e)
{
    step(VM_CALL_MS);
    int result = backend->resume(vm, e);
    if (!result)
        set_paused(false);
    return done(result);
}

static int disk_grown(struct vm *vm, unsigned disk, uint64_t bytes, struct errmsg *e)
{
    step(VM_CALL_MS);
    return done(backend->disk_grown(vm, disk, bytes, e));
}

static int disarm(struct vm *vm, struct errmsg *e)
{
    step(VM_SETUP_MS);
    return done(backend->disarm(vm, e));
}

const struct vm_ops *watched_vm(const struct vm_ops *of, unsigned stall_at)
{
    static struct vm_ops filter;
    backend = of;
    pauses_to_stall = stall_at;
    filter = *of; /* what never blocks goes straight through */
    filter.destroy = destroy;
    filter.clear = clear;
    filter.launch = launch;
    filter.attach = attach;
    filter.describe = describe;
    filter.arm = arm;
    filter.populated = populated;
    filter.pause = pause_vm;
    filter.state_begin = state_begin;
    filter.dirty = dirty;
    filter.dirty_running = dirty_running;
    filter.state_end = state_end;
    filter.resume = resume;
    filter.disk_grown = disk_grown;
    filter.disarm = disarm;
    return &filter;
}
