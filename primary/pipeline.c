#include "primary/pipeline.h"
#include "common/token_bucket.h"
#include "disk/client.h"
#include "primary/encoder.h"
#include "primary/looks.h"
#include "proto/disk.h"
#include "proto/page.h"

#include <errno.h>
#include <ev.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Pages of a round after which what is there is handed out, however little it was compressed to. */
enum { SPAN_PAGES = 128, FAILURE_MAX = 128, MOMENT_NS = 5000000 };

struct job {
    struct job *next;
    uint64_t epoch;
    struct capture *capture; /* an epoch, else a round */
    bool has_initial;
    struct vm_blob initial;    /* may be empty */
    struct page_ranges ranges; /* of a round */
    bool once;
    struct resync_span *span; /* instead of ranges */
    int disk_fd;              /* the span is one of a disk; -1: of memory */
    unsigned disk;
    uint64_t disk_mark; /* 0: no disks */
    bool disks_only;    /* no round: the log of the disks up to the mark */
    struct look *look;  /* one to be taken; NULL: it was */
    uint64_t seed;
    struct page_set *populated; /* with a look at memory; NULL: as it was */
    struct looked looked;       /* number not 0: what came of it */
};

struct pipeline {
    struct ev_loop *loop;
    struct pipeline_config config;
    struct pipeline_handlers handlers;
    void *arg;
    struct encoder *encoder;
    pthread_t thread;
    ev_async wake;
    _Atomic uint64_t pages_done, pages_sent, disk_blocks_done, disk_sync_rate;
    /* the thread's: */
    struct token_bucket disk_sync;
    bool is_broken; /* what is left to do is let be */
    struct looks *looks;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    bool ending;
    struct job *jobs, **jobs_tail;
    struct job *done, **done_tail;
    struct pipeline_chunk *output, **output_tail;
    size_t output_bytes;
    char failure[FAILURE_MAX]; /* "": none, or it was told */
};

static void job_free(struct job *j)
{
    capture_free(j->capture);
    vm_blob_free(&j->initial);
    page_ranges_free(&j->ranges);
    resync_span_free(j->span);
    look_free(j->look);
    page_set_free(j->populated);
    free(j);
}

/* ---- encoder thread ---- */

static void emit(struct pipeline_chunk *chunk, void *arg)
{
    struct pipeline *p = arg;
    pthread_mutex_lock(&p->lock);
    while (p->output_bytes >= PIPELINE_OUTPUT_MAX && !p->ending)
        pthread_cond_wait(&p->changed, &p->lock);
    *p->output_tail = chunk;
    p->output_tail = &chunk->next;
    p->output_bytes += chunk->n;
    pthread_mutex_unlock(&p->lock);
    ev_async_send(p->loop, &p->wake);
}

static bool is_ending(struct pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    bool ending = p->ending;
    pthread_mutex_unlock(&p->lock);
    return ending;
}

/* Reads the guest's memory while it runs. A page that changes under our hands is dirty and will come again before the
 * epoch ends; but it must be read once only, since the encoder looks at it several times. */
static int encode_round(struct pipeline *p, const struct job *j)
{
    uint8_t page[PROTO_PAGE_SIZE];
    for (size_t i = 0; i < j->ranges.n; i++) {
        const struct page_range *r = &j->ranges.at[i];
        for (uint64_t gfn = r->first; gfn < r->first + r->count; gfn++) {
            memcpy(page, p->config.memory + gfn * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE);
            if (encoder_page(p->encoder, j->epoch, gfn, page, !j->once) || looks_page(p->looks, gfn, page))
                return -1;
            uint64_t done = atomic_fetch_add_explicit(&p->pages_done, 1, memory_order_relaxed);
            if (done % SPAN_PAGES == 0 && encoder_flush(p->encoder)) /* the replica takes these while we go on */
                return -1;
        }
        if (is_ending(p))
            return 0;
    }
    return encoder_flush(p->encoder);
}

/* The stream can't go on: nothing more of it is made, so no epoch that lacks something is ever closed (promise 2). */
static void fail(struct pipeline *p, const char *what, int error)
{
    p->is_broken = true;
    pthread_mutex_lock(&p->lock);
    snprintf(p->failure, sizeof p->failure, "%s%s%s", what, error ? ": " : "", error ? strerror(error) : "");
    pthread_mutex_unlock(&p->lock);
}

/* ---- encoder thread: looks ---- */

static int take_look(struct pipeline *p, struct job *j)
{
    struct look *l = j->look;
    bool of_memory = l->disk == CHECK_MEMORY;
    if (of_memory ? looks_take_memory(p->looks, l, p->config.memory, &j->populated) : look_at(l, j->disk_fd))
        return -1;
    j->looked = (struct looked){l->number, l->first, l->end, l->disk, l->repair, !l->data, l->error};
    if (l->error)
        return 0;
    l->read_at = clock_now();
    looks_add(p->looks, l, j->seed);
    j->look = NULL;
    return 0;
}

/* ---- encoder thread: disks ---- */

/* What the guest has written, in its order. */
static int encode_disks(struct pipeline *p, uint64_t epoch, uint64_t mark)
{
    struct disk_write d;
    int got = 0;
    while (mark && !is_ending(p) && (got = disk_next(p->config.disks, mark, &d)) > 0) {
        int result = 0;
        if (d.kind == DISK_ERROR) {
            fail(p, "the store of a disk has failed", d.error);
            return 0;
        }
        if (d.kind == DISK_DATA)
            result = encoder_disk(p->encoder, epoch, d.disk, d.offset, d.data, (uint32_t)d.length);
        else if (d.kind == DISK_ZERO)
            result = encoder_disk_zeroes(p->encoder, epoch, d.disk, d.offset, d.length);
        if (result || looks_write(p->looks, &d))
            return -1;
        disk_release(p->config.disks);
    }
    if (got < 0)
        fail(p, "the VM wrote more to its disks than could be kept until it stood still", 0);
    return 0;
}

static uint64_t log_end(const struct pipeline *p)
{
    return p->config.disks ? disk_mark(p->config.disks) : 0;
}

struct sending {
    struct encoder *encoder;
    uint64_t epoch;
    int disk_fd;
    unsigned disk;
    int error;           /* of reading the store */
    uint64_t run, count; /* blocks of the region under way that are to be sent in one record */
    const uint8_t *data;
};

static int send_page(uint64_t gfn, const uint8_t *page, void *arg)
{
    const struct sending *s = arg;
    return encoder_page(s->encoder, s->epoch, gfn, page, false);
}

static int send_run(struct sending *s)
{
    uint64_t n = s->count;
    s->count = 0;
    return encoder_disk(s->encoder, s->epoch, s->disk, s->run * DISK_BLOCK_SIZE, s->data, n * DISK_BLOCK_SIZE);
}

static int send_block(uint64_t block, const uint8_t *data, void *arg)
{
    struct sending *s = arg;
    if (s->count && block != s->run + s->count && send_run(s))
        return -1;
    if (!s->count) {
        s->run = block;
        s->data = data;
    }
    s->count++;
    return 0;
}

static int read_blocks(uint64_t first, uint64_t count, uint8_t *out, void *arg)
{
    struct sending *s = arg;
    for (size_t done = 0, n = count * DISK_BLOCK_SIZE; done < n;) {
        ssize_t got = pread(s->disk_fd, out + done, n - done, (off_t)(first * DISK_BLOCK_SIZE + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            s->error = got ? errno : ENODATA; /* it has become shorter */
            return -1;
        }
        done += (size_t)got;
    }
    return 0;
}

/* Is it too soon to read more of the disks? Then it has waited for a moment, and no longer: the log fills meanwhile. */
static bool hold_back(struct pipeline *p)
{
    int64_t wait = token_bucket_wait(&p->disk_sync, atomic_load(&p->disk_sync_rate), clock_now());
    if (wait > MOMENT_NS)
        wait = MOMENT_NS;
    if (wait)
        nanosleep(&(struct timespec){.tv_nsec = wait}, NULL);
    return wait;
}

/* One region, unless the rate forbids it for now. */
static int resync_step(struct pipeline *p, struct resync_walk *w, bool of_disk, struct sending *to)
{
    if (!of_disk)
        return resync_walk_step(w, send_page, to);
    if (hold_back(p))
        return 1;
    int more = resync_walk_step(w, send_block, to);
    token_bucket_take(&p->disk_sync, w->read * DISK_BLOCK_SIZE);
    atomic_fetch_add_explicit(&p->disk_blocks_done, w->compared, memory_order_relaxed);
    return more;
}

static int encode_resync(struct pipeline *p, const struct job *j)
{
    struct sending to = {.encoder = p->encoder, .epoch = j->epoch, .disk_fd = j->disk_fd, .disk = j->disk};
    struct resync_walk w;
    bool of_disk = j->disk_fd >= 0;
    int more =
        (of_disk ? resync_walk_begin(&w, j->span, read_blocks, &to, true)
                 : resync_walk_begin(&w, j->span, resync_read_memory, (void *)(uintptr_t)p->config.memory, false))
            ? -1
            : 1;
    while (more > 0 && !is_ending(p)) {
        /* A span of a disk may take minutes, in which the guest's writes would fill the log. */
        if (of_disk && encode_disks(p, j->epoch, log_end(p)))
            more = -1;
        else
            more = resync_step(p, &w, of_disk, &to);
        if (more >= 0 && send_run(&to)) /* before the next region is read over it */
            more = -1;
        atomic_fetch_add_explicit(&p->pages_done, w.compared, memory_order_relaxed);
        atomic_fetch_add_explicit(&p->pages_sent, w.sent, memory_order_relaxed);
        w.compared = w.sent = w.read = 0;
    }
    resync_walk_end(&w);
    if (more < 0 && to.error) {
        fail(p, "the store of a disk can't be read", to.error);
        return 0;
    }
    return more < 0 ? -1 : encoder_flush(p->encoder);
}

/* What was written to shared disks before any of it was held: a replica can start from the first epoch on, and this
 * host's memory is no place for it. */
static void sync_shared(struct pipeline *p)
{
    for (unsigned i = p->config.first_shared; i < p->config.disk_count && !p->is_broken; i++)
        if (fdatasync(p->config.disk_fds[i]))
            fail(p, "a shared disk can't be synced", errno);
}

/* As in a walk: the log first, so nothing older follows what it has brought. */
static int send_blocks(struct pipeline *p, const struct job *j, struct sending *to, uint64_t first, uint64_t count)
{
    uint8_t data[DISK_REGION_BLOCKS * DISK_BLOCK_SIZE];
    do { /* it fills meanwhile */
        if (encode_disks(p, j->epoch, log_end(p)))
            return -1;
    } while (!p->is_broken && !is_ending(p) && hold_back(p));
    if (p->is_broken || is_ending(p))
        return 0;
    if (read_blocks(first, count, data, to))
        return -1;
    token_bucket_take(&p->disk_sync, count * DISK_BLOCK_SIZE);
    atomic_fetch_add_explicit(&p->disk_blocks_done, count, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->pages_done, count, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->pages_sent, count, memory_order_relaxed);
    return encoder_disk(p->encoder, j->epoch, j->disk, first * DISK_BLOCK_SIZE, data, count * DISK_BLOCK_SIZE);
}

static int encode_blocks(struct pipeline *p, const struct job *j)
{
    struct sending to = {.encoder = p->encoder, .epoch = j->epoch, .disk_fd = j->disk_fd, .disk = j->disk};
    int result = 0;
    for (size_t i = 0; i < j->ranges.n && !result; i++) {
        uint64_t at = j->ranges.at[i].first, end = at + j->ranges.at[i].count;
        for (uint64_t n; at < end && !result && !p->is_broken && !is_ending(p); at += n) {
            n = end - at < DISK_REGION_BLOCKS ? end - at : DISK_REGION_BLOCKS;
            result = send_blocks(p, j, &to, at, n);
        }
    }
    if (result && to.error) {
        fail(p, "the store of a disk can't be read", to.error);
        return 0;
    }
    return result;
}

static int encode_epoch(struct pipeline *p, const struct job *j)
{
    const struct capture *c = j->capture;
    if (encode_disks(p, j->epoch, c->disk_mark))
        return -1;
    if (j->has_initial)
        sync_shared(p);
    if (p->is_broken)
        return 0;
    for (size_t i = 0; i < c->n; i++)
        if (looks_page(p->looks, c->gfns[i], c->pages + i * PROTO_PAGE_SIZE))
            return -1;
    if (looks_repair(p->looks, p->encoder, c))
        return -1;
    for (size_t i = 0; i < c->n; i++)
        if (encoder_page(p->encoder, j->epoch, c->gfns[i], c->pages + i * PROTO_PAGE_SIZE, true))
            return -1;
    if (j->has_initial && encoder_blob(p->encoder, j->epoch, DEVICE_INITIAL, &j->initial))
        return -1;
    if (encoder_blob(p->encoder, j->epoch, DEVICE_STATE, &c->state))
        return -1;
    return encoder_commit(p->encoder, j->epoch) || looks_check(p->looks, p->encoder, c) ? -1 : 0;
}

static int encode_job(struct pipeline *p, struct job *j)
{
    if (p->is_broken)
        return 0;
    if (j->look)
        return take_look(p, j);
    if (j->capture)
        return encode_epoch(p, j);
    if (j->disks_only)
        return encode_disks(p, j->epoch, j->disk_mark) || encoder_flush(p->encoder) ? -1 : 0;
    if (!j->span && j->disk_fd >= 0)
        return encode_blocks(p, j);
    return j->span ? encode_resync(p, j) : encode_round(p, j);
}

static struct job *next_job(struct pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->jobs && !p->ending)
        pthread_cond_wait(&p->changed, &p->lock);
    struct job *j = p->ending ? NULL : p->jobs;
    if (j) {
        p->jobs = j->next;
        if (!p->jobs)
            p->jobs_tail = &p->jobs;
        j->next = NULL;
    }
    pthread_mutex_unlock(&p->lock);
    return j;
}

static void *run(void *arg)
{
    struct pipeline *p = arg;
    for (struct job *j; (j = next_job(p));) {
        if (encode_job(p, j))
            abort(); /* out of memory: the worker starts anew, the guest is not touched */
        pthread_mutex_lock(&p->lock);
        *p->done_tail = j;
        p->done_tail = &j->next;
        pthread_mutex_unlock(&p->lock);
        ev_async_send(p->loop, &p->wake);
    }
    return NULL;
}

/* ---- loop thread ---- */

static struct job *take_done(struct pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    struct job *all = p->done;
    p->done = NULL;
    p->done_tail = &p->done;
    pthread_mutex_unlock(&p->lock);
    return all;
}

static void take_failure(struct pipeline *p, char out[FAILURE_MAX])
{
    pthread_mutex_lock(&p->lock);
    memcpy(out, p->failure, FAILURE_MAX);
    p->failure[0] = 0;
    pthread_mutex_unlock(&p->lock);
}

static void on_wake(struct ev_loop *loop, ev_async *w, int events)
{
    (void)loop, (void)events;
    struct pipeline *p = w->data;
    struct pipeline_handlers h = p->handlers;
    void *arg = p->arg;
    for (struct job *j = take_done(p), *next; j; j = next) {
        next = j->next;
        struct capture *c = j->capture;
        bool silent = j->disks_only || j->look;
        struct looked looked = j->looked;
        j->capture = NULL;
        job_free(j);
        if (c)
            h.captured(c, arg);
        else if (looked.number)
            h.looked(&looked, arg);
        else if (!silent)
            h.round_done(arg);
    }
    char failure[FAILURE_MAX];
    take_failure(p, failure);
    if (*failure)
        h.failed(failure, arg);
    else
        h.output(arg); /* last: either may free the pipeline */
}

static void submit(struct pipeline *p, struct job *j)
{
    pthread_mutex_lock(&p->lock);
    *p->jobs_tail = j;
    p->jobs_tail = &j->next;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static struct job *job_new(uint64_t epoch)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        abort();
    j->epoch = epoch;
    j->disk_fd = -1;
    return j;
}

void pipeline_round(struct pipeline *p, uint64_t epoch, struct page_ranges *ranges, bool once)
{
    struct job *j = job_new(epoch);
    j->ranges = *ranges;
    *ranges = (struct page_ranges){0};
    j->once = once;
    submit(p, j);
}

void pipeline_resync(struct pipeline *p, uint64_t epoch, struct resync_span *span)
{
    struct job *j = job_new(epoch);
    j->span = span;
    submit(p, j);
}

void pipeline_resync_disk(struct pipeline *p, uint64_t epoch, unsigned disk, int fd, struct resync_span *span)
{
    struct job *j = job_new(epoch);
    j->span = span;
    j->disk = disk;
    j->disk_fd = fd;
    submit(p, j);
}

void pipeline_send_disk(struct pipeline *p, uint64_t epoch, unsigned disk, int fd, struct page_ranges *blocks)
{
    struct job *j = job_new(epoch);
    j->ranges = *blocks;
    *blocks = (struct page_ranges){0};
    j->disk = disk;
    j->disk_fd = fd;
    submit(p, j);
}

void pipeline_disks(struct pipeline *p, uint64_t epoch, uint64_t mark)
{
    struct job *j = job_new(epoch);
    j->disks_only = true;
    j->disk_mark = mark;
    submit(p, j);
}

void pipeline_look(struct pipeline *p, int fd, uint64_t seed, struct look *look)
{
    struct job *j = job_new(0);
    j->look = look;
    j->disk_fd = fd;
    j->seed = seed;
    submit(p, j);
}

void pipeline_look_memory(struct pipeline *p, uint64_t seed, struct look *look, struct page_set *populated)
{
    struct job *j = job_new(0);
    j->look = look;
    j->seed = seed;
    j->populated = populated;
    submit(p, j);
}

uint8_t *pipeline_notes(struct pipeline *p, uint64_t number)
{
    return looks_notes(p->looks, number);
}

void pipeline_epoch(struct pipeline *p, struct capture *c, const struct vm_blob *initial)
{
    struct job *j = job_new(c->epoch);
    j->capture = c;
    j->has_initial = initial;
    if (initial && vm_blob_append(&j->initial, initial->data, initial->size))
        abort();
    submit(p, j);
}

struct pipeline_chunk *pipeline_take(struct pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    struct pipeline_chunk *c = p->output;
    if (c) {
        p->output = c->next;
        if (!p->output)
            p->output_tail = &p->output;
        p->output_bytes -= c->n;
        pthread_cond_signal(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
    return c;
}

void pipeline_set_disk_sync_rate(struct pipeline *p, uint64_t rate)
{
    atomic_store(&p->disk_sync_rate, rate);
}

uint64_t pipeline_disk_blocks_done(struct pipeline *p)
{
    return atomic_load_explicit(&p->disk_blocks_done, memory_order_relaxed);
}

uint64_t pipeline_pages_done(struct pipeline *p)
{
    return atomic_load_explicit(&p->pages_done, memory_order_relaxed);
}

uint64_t pipeline_pages_sent(struct pipeline *p)
{
    return atomic_load_explicit(&p->pages_sent, memory_order_relaxed);
}

struct pipeline *pipeline_new(struct ev_loop *loop, const struct pipeline_config *c, const struct pipeline_handlers *h,
                              void *arg, struct errmsg *e)
{
    struct pipeline *p = calloc(1, sizeof *p);
    struct encoder *encoder = p ? encoder_new(c, emit, p) : NULL;
    struct looks *looks = looks_new();
    if (!encoder || !looks) {
        encoder_free(encoder);
        looks_free(looks);
        free(p);
        errmsg_set(e, "no memory for the encoder");
        return NULL;
    }
    p->loop = loop;
    p->config = *c;
    p->disk_sync_rate = c->disk_sync_rate;
    p->handlers = *h;
    p->arg = arg;
    p->encoder = encoder;
    p->looks = looks;
    p->jobs_tail = &p->jobs;
    p->done_tail = &p->done;
    p->output_tail = &p->output;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    ev_async_init(&p->wake, on_wake);
    p->wake.data = p;
    ev_async_start(loop, &p->wake);
    sigset_t all, old; /* signals are the loop's business */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&p->thread, NULL, run, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!failed)
        return p;
    ev_async_stop(loop, &p->wake);
    looks_free(looks);
    encoder_free(encoder);
    free(p);
    errmsg_set(e, "can't start the encoder's thread");
    return NULL;
}

void pipeline_free(struct pipeline *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    ev_async_stop(p->loop, &p->wake);
    for (struct pipeline_chunk *c; (c = pipeline_take(p));)
        free(c);
    *p->jobs_tail = p->done;
    for (struct job *j = p->jobs, *next; j; j = next) {
        next = j->next;
        job_free(j);
    }
    looks_free(p->looks);
    encoder_free(p->encoder);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p);
}
