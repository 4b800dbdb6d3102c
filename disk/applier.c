#include "disk/applier.h"

#include "disk/compare.h"
#include "disk/journal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { FLUSH_AFTER_S = 1, BEGIN_FLUSH_MS = 100, SYNC_EACH = 64 << 20 };

enum order { ORDER_WRITE, ORDER_END_SYNC, ORDER_COMMIT, ORDER_CHECK, ORDER_SEAL, ORDER_QUIT };

struct octets {
    uint8_t *at;
    size_t n;
};

struct job {
    struct job *next;
    enum order order;
    uint64_t epoch, bytes;
    struct staging *writes;
    struct check_head head;
    struct octets check; /* CHECK; then its answer */
};

struct applier {
    struct stores *stores;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t more;
    struct job *head, **tail;
    struct job *answers, **answers_tail; /* checks that are done */
    bool in_a_hurry;                     /* nothing is compared any more */
    struct applier_progress progress;
    int changed; /* eventfd */
    /* the thread's own */
    uint64_t written, synced; /* octets; of the first epoch, how many of them are durable */
    bool syncing;             /* amid the first epoch */
    bool dirty;               /* something was written since the stores were made durable */
    struct timespec dirtied;  /* when, CLOCK_MONOTONIC */
    struct timespec begun;    /* when they were last begun to be written out */
};

static void job_free(struct job *job)
{
    if (job->writes)
        staging_free(job->writes);
    free(job->check.at);
    free(job);
}

/* ---- the thread: what it does ---- */

static void note_written(struct applier *a)
{
    if (!a->dirty)
        clock_gettime(CLOCK_MONOTONIC, &a->dirtied);
    a->dirty = true;
}

struct walk {
    struct applier *a;
    struct errmsg *e;
};

static int write_one(const uint8_t *payload, size_t n, void *arg)
{
    const struct walk *w = arg;
    struct disk_extent x;
    struct proto_error never;
    if (!disk_read(payload, n, stores_sizes(w->a->stores), &x, &never))
        w->a->written += x.length;
    return stores_write(w->a->stores, payload, n, w->e);
}

static int journal_one(const uint8_t *payload, size_t n, void *arg)
{
    const struct walk *w = arg;
    return journal_add(stores_journal(w->a->stores), payload, n, w->e);
}

static int write_all(struct applier *a, struct job *job, struct errmsg *e)
{
    struct walk w = {a, e};
    note_written(a);
    return staging_each(job->writes, write_one, &w, e);
}

/* A failover waits until all is durable: at no time is there much that is not on its way. Of a guest that wrote 20 MB/s
 * in 4 KiB pieces that wait was 400 ms without this, 9 ms with it. */
static void begin_flush(struct applier *a)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ms = (now.tv_sec - a->begun.tv_sec) * 1000 + (now.tv_nsec - a->begun.tv_nsec) / 1000000;
    if (ms < BEGIN_FLUSH_MS)
        return;
    stores_begin_flush(a->stores);
    a->begun = now;
}

/* The stores are marked before the first of it touches them. That epoch is acknowledged when all of it is durable, with
 * the primary's output held by then: so there is never much that is not. */
static int write_first(struct applier *a, struct job *job, struct errmsg *e)
{
    if (!a->syncing && stores_begin_sync(a->stores, e))
        return -1;
    a->syncing = true;
    if (write_all(a, job, e) || stores_write_end(a->stores, e))
        return -1;
    begin_flush(a);
    if (a->written - a->synced < SYNC_EACH)
        return 0;
    a->synced = a->written;
    return stores_sync(a->stores, e);
}

static int flush(struct applier *a, struct errmsg *e)
{
    a->dirty = false;
    return stores_flush(a->stores, e);
}

/* Those that wait are made durable by one sync; not before all of them are, is the first of them written. */
static int commit_all(struct applier *a, struct job *jobs, struct errmsg *e)
{
    struct journal *j = stores_journal(a->stores);
    struct walk w = {a, e};
    for (struct job *job = jobs; job; job = job->next) {
        journal_begin(j, job->epoch);
        if (staging_each(job->writes, journal_one, &w, e) || journal_end(j, e))
            return -1;
    }
    if (journal_sync(j, e))
        return -1;
    for (struct job *job = jobs; job; job = job->next)
        if (write_all(a, job, e))
            return -1;
    if (stores_write_end(a->stores, e))
        return -1;
    begin_flush(a);
    return journal_bytes(j) < JOURNAL_ROOM ? 0 : flush(a, e);
}

static int check(struct applier *a, struct job *job, struct errmsg *e)
{
    struct octets answer;
    unsigned disk = job->head.disk;
    answer.at = compare_blocks(stores_fd(a->stores, disk), stores_paths(a->stores)->at[disk], &job->head, job->check.at,
                               job->check.n, &answer.n);
    if (!answer.at)
        return errmsg_set(e, "no memory to compare the VM's disks");
    free(job->check.at);
    job->check = answer;
    return 0;
}

static int do_jobs(struct applier *a, struct job *jobs, struct errmsg *e)
{
    switch (jobs->order) {
    case ORDER_WRITE:
        return write_first(a, jobs, e);
    case ORDER_END_SYNC:
        a->syncing = a->dirty = false;
        return stores_end_sync(a->stores, e);
    case ORDER_COMMIT:
        return commit_all(a, jobs, e);
    case ORDER_CHECK:
        return check(a, jobs, e);
    case ORDER_SEAL:
        return stores_seal(a->stores, e);
    case ORDER_QUIT:
        break;
    }
    return journal_bytes(stores_journal(a->stores)) ? flush(a, e) : 0;
}

/* ---- the thread: its orders ---- */

/* With the lock. The first job, or all that can be done together with it. */
static struct job *take_jobs(struct applier *a)
{
    struct job *jobs = a->head, *last = jobs;
    while (jobs->order == ORDER_COMMIT && last->next && last->next->order == ORDER_COMMIT)
        last = last->next;
    a->head = last->next;
    if (!a->head)
        a->tail = &a->head;
    last->next = NULL;
    return jobs;
}

/* With the lock. false: nothing came, and what was written is due to be made durable. */
static bool wait_for_jobs(struct applier *a)
{
    struct timespec due = {a->dirtied.tv_sec + FLUSH_AFTER_S, a->dirtied.tv_nsec};
    while (!a->head) {
        int why = a->dirty ? pthread_cond_timedwait(&a->more, &a->lock, &due) : pthread_cond_wait(&a->more, &a->lock);
        if (why == ETIMEDOUT && !a->head)
            return false;
    }
    return true;
}

static void tell(struct applier *a)
{
    eventfd_write(a->changed, 1);
}

/* With the lock. */
static void note_failure(struct applier *a, const struct errmsg *why)
{
    a->progress.failed = true;
    a->progress.why = *why;
    tell(a);
}

/* With the lock. */
static void keep_answer(struct applier *a, struct job *job)
{
    job->next = NULL;
    *a->answers_tail = job;
    a->answers_tail = &job->next;
}

/* With the lock. */
static void note_done(struct applier *a, struct job *jobs)
{
    struct applier_progress *p = &a->progress;
    for (struct job *next; jobs; jobs = next) {
        next = jobs->next;
        p->queued -= jobs->bytes;
        if (!p->failed) {
            p->epoch = jobs->epoch ? jobs->epoch : p->epoch;
            p->sealed |= jobs->order == ORDER_SEAL;
        }
        if (jobs->order == ORDER_CHECK && !p->failed && !a->in_a_hurry)
            keep_answer(a, jobs);
        else
            job_free(jobs);
    }
    p->written = a->written;
    p->unflushed = p->sealed ? 0 : journal_bytes(stores_journal(a->stores));
    tell(a);
}

static void flush_in_peace(struct applier *a)
{
    struct errmsg e;
    bool failed = a->progress.failed;
    pthread_mutex_unlock(&a->lock);
    int result = failed ? 0 : flush(a, &e);
    pthread_mutex_lock(&a->lock);
    if (result)
        note_failure(a, &e);
    a->progress.unflushed = journal_bytes(stores_journal(a->stores));
}

static void *run(void *arg)
{
    struct applier *a = arg;
    bool quit = false;
    pthread_mutex_lock(&a->lock);
    while (!quit) {
        if (!wait_for_jobs(a)) {
            flush_in_peace(a);
            continue;
        }
        struct job *jobs = take_jobs(a);
        struct errmsg e;
        bool skip = a->progress.failed || a->progress.sealed || (jobs->order == ORDER_CHECK && a->in_a_hurry);
        quit = jobs->order == ORDER_QUIT;
        pthread_mutex_unlock(&a->lock);
        int result = skip ? 0 : do_jobs(a, jobs, &e);
        pthread_mutex_lock(&a->lock);
        if (result)
            note_failure(a, &e);
        note_done(a, jobs);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* ---- the caller's side ---- */

static void init_lock(struct applier *a)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&a->more, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&a->lock, NULL);
}

struct applier *applier_start(struct stores *s, struct errmsg *e)
{
    struct applier *a = calloc(1, sizeof *a);
    if (!a) {
        errmsg_set(e, "no memory for the VM's disks");
        return NULL;
    }
    a->stores = s;
    a->tail = &a->head;
    a->answers_tail = &a->answers;
    init_lock(a);
    a->changed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int why = a->changed < 0 ? errno : pthread_create(&a->thread, NULL, run, a);
    if (!why)
        return a;
    errmsg_set(e, "the thread that writes the VM's disks can't be started: %s", strerror(why));
    if (a->changed >= 0)
        close(a->changed);
    free(a);
    return NULL;
}

static void order_job(struct applier *a, const struct job *wanted)
{
    struct job *job = malloc(sizeof *job);
    if (!job)
        abort(); /* a few octets: the process is lost anyway, and the disks must not miss what was acknowledged */
    *job = *wanted;
    pthread_mutex_lock(&a->lock);
    *a->tail = job;
    a->tail = &job->next;
    a->progress.queued += job->bytes;
    a->in_a_hurry |= job->order == ORDER_SEAL || job->order == ORDER_QUIT;
    pthread_cond_signal(&a->more);
    pthread_mutex_unlock(&a->lock);
}

static void order(struct applier *a, enum order order, uint64_t epoch, struct staging *writes)
{
    order_job(a, &(struct job){
                     .order = order, .epoch = epoch, .writes = writes, .bytes = writes ? staging_bytes(writes) : 0});
}

void applier_write(struct applier *a, struct staging *writes)
{
    order(a, ORDER_WRITE, 0, writes);
}

void applier_end_sync(struct applier *a, uint64_t epoch)
{
    order(a, ORDER_END_SYNC, epoch, NULL);
}

void applier_commit(struct applier *a, uint64_t epoch, struct staging *writes)
{
    order(a, ORDER_COMMIT, epoch, writes);
}

void applier_check(struct applier *a, const struct check_head *head, const uint8_t *payload, size_t n)
{
    struct job job = {.order = ORDER_CHECK, .head = *head, .check = {malloc(n), n}};
    if (!job.check.at)
        abort();
    memcpy(job.check.at, payload, n);
    order_job(a, &job);
}

uint8_t *applier_answer(struct applier *a, size_t *n)
{
    pthread_mutex_lock(&a->lock);
    struct job *job = a->answers;
    if (job)
        a->answers = job->next;
    if (!a->answers)
        a->answers_tail = &a->answers;
    pthread_mutex_unlock(&a->lock);
    if (!job)
        return NULL;
    uint8_t *payload = job->check.at;
    *n = job->check.n;
    job->check.at = NULL;
    job_free(job);
    return payload;
}

void applier_seal(struct applier *a)
{
    order(a, ORDER_SEAL, 0, NULL);
}

void applier_progress(struct applier *a, struct applier_progress *out)
{
    pthread_mutex_lock(&a->lock);
    *out = a->progress;
    pthread_mutex_unlock(&a->lock);
}

void applier_news(struct applier *a, struct applier_progress *out)
{
    eventfd_t ignored;
    eventfd_read(a->changed, &ignored); /* first: what comes from here on is told again */
    applier_progress(a, out);
}

int applier_fd(const struct applier *a)
{
    return a->changed;
}

void applier_free(struct applier *a)
{
    if (!a)
        return;
    order(a, ORDER_QUIT, 0, NULL);
    pthread_join(a->thread, NULL);
    for (struct job *job = a->answers, *next; job; job = next) {
        next = job->next;
        job_free(job);
    }
    pthread_cond_destroy(&a->more);
    pthread_mutex_destroy(&a->lock);
    close(a->changed);
    free(a);
}
