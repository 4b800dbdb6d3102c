/*
 * verify: `hikae verify-disk` and `hikae verify-memory`: both hosts' disks, or memory, of a protected VM are compared
 * while it runs. Which piece comes next and what the answers come to is verification.h's; here looks go into the
 * pipeline, which makes CHECK records of them (look.h), and what the secondary answers comes back. A bounded number of
 * looks is under way, so that neither epochs nor the other host's disks wait for long.
 */
#include "common/log.h"
#include "disk/client.h"
#include "primary/verification.h"
#include "primary/worker.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* Unanswered at a time: looks, and blocks that were read for them. */
enum { LOOKS_MAX = 64, DATA_BLOCKS_MAX = 4096 };

struct asked {
    struct check_head head;
    bool repair, is_hole;
};

struct verify {
    struct verification *plan;
    bool running, looking;
    bool of_memory;     /* else of the disks */
    const char *result; /* NULL: none yet */
    char error[320];    /* of "failed" */
    uint64_t seed;
    uint64_t since;                /* number of its first look */
    struct verification_step step; /* that is looked at */
    int fds[DISKS_MAX];
    /* of the connection */
    uint64_t last; /* number of the last look */
    struct asked asked[LOOKS_MAX];
    unsigned first, n;
    uint64_t data_blocks; /* in them */
};

_Static_assert(LOOKS_MAX <= (int)CHECK_UNANSWERED_MAX, "the secondary allows so many");

static const char *object(const struct verify *v)
{
    return v->of_memory ? "memory" : "disks";
}

static void close_stores(struct verify *v)
{
    for (unsigned i = 0; i < DISKS_MAX; i++) {
        if (v->fds[i] >= 0)
            close(v->fds[i]);
        v->fds[i] = -1;
    }
}

static void finish(struct worker *w, const char *result, const char *error)
{
    struct verify *v = w->verify;
    struct verification_counts c;
    verification_counts(v->plan, &c);
    v->running = false;
    v->result = result;
    snprintf(v->error, sizeof v->error, "%s", error);
    if (!v->looking)
        close_stores(v); /* else the pipeline reads one of them still */
    log_info("comparing the %s with %s's: %s%s%s; %" PRIu64 " of %" PRIu64 " blocks compared, %" PRIu64
             " differ, %" PRIu64 " repaired",
             object(v), w->peer, result, *error ? ": " : "", error, c.compared, c.total, c.differing, c.repaired);
    report_now(w);
}

/* What was looked at is told behind the next epoch: that shall not be long in coming. */
static void hurry_epoch(struct worker *w)
{
    w->checkpoint.trigger.output = true;
    checkpoint_arm(w);
}

/* Answers have one order, but a disk may have been compared later than memory that was asked about after it. */
static bool waits_for_older(const struct verify *v)
{
    return v->n && (v->asked[v->first].head.disk == CHECK_MEMORY) != v->of_memory;
}

/* What is read of the memory: to look at a page that was never touched might allocate it. NULL: that can't be known. */
static struct page_set *find_populated(const struct worker *w)
{
    struct page_ranges ranges = {0};
    struct page_set *set = NULL;
    struct errmsg e;
    if (!w->ops->populated(w->vm, &ranges, &e))
        set = page_set_new(w->info.pages, &ranges);
    else
        log_warn("what of the VM's memory holds something is not known: %s", e.text);
    page_ranges_free(&ranges);
    return set;
}

/* -1: it can't be (that look is freed). */
static int begin_look(struct worker *w, struct look *l)
{
    struct verify *v = w->verify;
    struct pipeline *p = w->checkpoint.pipeline;
    struct page_set *populated = NULL;
    bool first = v->last + 1 == v->since;
    if (v->of_memory && first && !(populated = find_populated(w))) { /* now: what changes from here on is captured */
        look_free(l);
        return -1;
    }
    v->last++;
    v->looking = true;
    if (v->of_memory)
        pipeline_look_memory(p, v->seed, l, populated);
    else
        pipeline_look(p, v->fds[l->disk], v->seed, l);
    return 0;
}

static void go_on(struct worker *w)
{
    struct verify *v = w->verify;
    if (!v->running || v->looking)
        return;
    if (waits_for_older(v)) {
        hurry_epoch(w);
        return;
    }
    if (verification_is_done(v->plan)) {
        struct verification_counts c;
        verification_counts(v->plan, &c);
        finish(w, c.differing ? "differs" : "equal", "");
        return;
    }
    if (v->n == LOOKS_MAX || v->data_blocks >= DATA_BLOCKS_MAX || !verification_next(v->plan, &v->step)) {
        hurry_epoch(w);
        return;
    }
    struct look *l = look_new(v->last + 1, v->step.disk, v->step.first, v->step.end, v->step.repair);
    if (!l || begin_look(w, l))
        finish(w, "failed", l ? "what of the VM's memory holds something can't be found out" : "no memory");
}

void verify_looked(struct worker *w, const struct looked *at)
{
    struct verify *v = w->verify;
    v->looking = false;
    if (at->error) { /* nothing is told of it: its number is free again */
        char what[160];
        snprintf(what, sizeof what, "disk %u can't be read on this host at block %" PRIu64 ": %s", at->disk, at->first,
                 strerror(at->error));
        v->last--;
        if (v->running)
            finish(w, "failed", what);
        close_stores(v);
        return;
    }
    struct asked *a = &v->asked[(v->first + v->n++) % LOOKS_MAX];
    *a = (struct asked){{at->number, v->seed, at->first, at->end, at->disk}, at->repair, at->is_hole};
    v->data_blocks += at->is_hole ? 0 : at->end - at->first;
    if (v->running)
        verification_looked(v->plan, &v->step, at->end);
    else
        close_stores(v);
    go_on(w);
}

int verify_answered(struct worker *w, const struct record *r, struct proto_error *e)
{
    struct verify *v = w->verify;
    if (!v || !v->n) {
        snprintf(e->text, sizeof e->text, "CHECKED, but no CHECK is unanswered");
        return -1;
    }
    struct asked *a = &v->asked[v->first];
    const struct check_head *h = &a->head;
    if (checked_read(r->payload, r->length, h, e))
        return -1;
    v->first = (v->first + 1) % LOOKS_MAX;
    v->n--;
    v->data_blocks -= a->is_hole ? 0 : h->end - h->first;
    const struct verification_step step = {h->disk, h->first, h->end, a->repair};
    uint8_t *notes = h->disk == CHECK_MEMORY ? pipeline_notes(w->checkpoint.pipeline, h->number) : NULL;
    if (v->running && h->number >= v->since && /* not of one that was given up */
        verification_answered(v->plan, &step, r->payload, r->length, notes))
        finish(w, "failed", "no memory for the list of what differs");
    free(notes);
    go_on(w);
    return 0;
}

/* ---- orders ---- */

/* Those that both hosts see, the last ones, are the same disk. */
static unsigned compared_disks(const struct worker *w)
{
    return w->disks.n - w->disks.shared.disks;
}

static const char *why_not(const struct worker *w, bool of_memory)
{
    if (!of_memory && !compared_disks(w))
        return "the VM has no disks that are replicated";
    if (w->state != PROTECTION_PROTECTED)
        return "the VM is not PROTECTED: there is no replica to compare with (see `hikae status`)";
    if (!w->session.knows_check)
        return "the other host's release of Hikae can't compare: upgrade it";
    if (w->move.kind != MOVE_NONE)
        return "the VM is being moved";
    if (w->verify && (w->verify->running || w->verify->looking))
        return "a comparison of its disks or its memory is under way already";
    return NULL;
}

static int open_stores(struct worker *w, struct errmsg *e)
{
    struct verify *v = w->verify;
    for (unsigned i = 0; i < compared_disks(w); i++) {
        v->fds[i] = disk_store_open(w->disks.client, i, false, e);
        if (v->fds[i] < 0) {
            close_stores(v);
            return -1;
        }
    }
    return 0;
}

static struct verify *verify_new(void)
{
    struct verify *v = calloc(1, sizeof *v);
    if (!v)
        abort();
    for (unsigned i = 0; i < DISKS_MAX; i++)
        v->fds[i] = -1;
    return v;
}

static struct verification *plan_disks(const struct worker *w, bool repair)
{
    struct disk_sizes sizes = {.count = compared_disks(w)};
    for (unsigned i = 0; i < sizes.count; i++)
        sizes.bytes[i] = w->disks.at[i].bytes;
    return verification_new(&sizes, repair);
}

/* The VM may have moved a page of its hypervisor's since it was found. */
static struct verification *plan_memory(const struct worker *w, bool repair)
{
    struct verification *plan = verification_new_of_memory(w->info.pages, repair);
    struct vm_info now;
    w->ops->info(w->vm, &now);
    if (plan && now.has_own_page)
        verification_exempt(plan, now.own_page);
    return plan;
}

const char *verify_begin(struct worker *w, bool of_memory, bool repair)
{
    static struct errmsg e;
    const char *wrong = why_not(w, of_memory);
    if (wrong)
        return wrong;
    if (!w->verify)
        w->verify = verify_new();
    struct verify *v = w->verify;
    struct verification *plan = of_memory ? plan_memory(w, repair) : plan_disks(w, repair);
    if (!plan || getrandom(&v->seed, sizeof v->seed, 0) != (ssize_t)sizeof v->seed) {
        verification_free(plan);
        return "no memory";
    }
    if (!of_memory && open_stores(w, &e)) {
        verification_free(plan);
        return e.text;
    }
    v->of_memory = of_memory;
    verification_free(v->plan);
    v->plan = plan;
    v->running = true;
    v->result = NULL;
    v->error[0] = 0;
    v->since = v->last + 1;
    log_info("comparing the %s with %s's%s", object(v), w->peer, repair ? ", what differs is sent anew" : "");
    go_on(w);
    return NULL;
}

void verify_abort(struct worker *w, const char *why)
{
    if (w->verify && w->verify->running)
        finish(w, "failed", why);
}

/* ---- life ---- */

void verify_stop(struct worker *w)
{
    struct verify *v = w->verify;
    if (!v)
        return;
    v->looking = false; /* the pipeline is gone */
    v->n = v->first = 0;
    v->last = v->data_blocks = 0;
    if (v->running) {
        char why[sizeof v->error];
        snprintf(why, sizeof why, "the protection has ended: %.250s", w->reason);
        finish(w, "failed", why);
    }
    close_stores(v);
}

void verify_end(struct worker *w)
{
    if (!w->verify)
        return;
    close_stores(w->verify);
    verification_free(w->verify->plan);
    free(w->verify);
    w->verify = NULL;
}

static void add_u64(struct json_object *j, const char *key, uint64_t v)
{
    json_object_object_add(j, key, json_object_new_uint64(v));
}

static struct json_object *ranges(const struct verification *plan)
{
    size_t n;
    const struct verification_range *at = verification_ranges(plan, &n);
    struct json_object *all = json_object_new_array();
    for (size_t i = 0; i < n; i++) {
        struct json_object *j = json_object_new_object();
        if (at[i].disk != CHECK_MEMORY)
            add_u64(j, "disk", at[i].disk);
        add_u64(j, "first", at[i].first);
        add_u64(j, "count", at[i].count);
        if (at[i].disk == CHECK_MEMORY)
            add_u64(j, "note", at[i].note);
        json_object_array_add(all, j);
    }
    return all;
}

/* What the notes mean, once each: a report goes out ten times a second. */
static struct json_object *notes(const struct verification *plan)
{
    size_t n;
    char key[12], why[LOOK_EXPLAIN_MAX];
    const struct verification_range *at = verification_ranges(plan, &n);
    struct json_object *all = json_object_new_object();
    for (size_t i = 0; i < n; i++) {
        if (i && at[i].note == at[i - 1].note)
            continue;
        snprintf(key, sizeof key, "%u", at[i].note);
        look_explain(at[i].note, why);
        json_object_object_add(all, key, json_object_new_string(why));
    }
    return all;
}

void verify_report(const struct worker *w, struct json_object *status)
{
    const struct verify *v = w->verify;
    struct verification_counts c;
    if (!v || !v->plan)
        return;
    struct json_object *j = json_object_new_object();
    verification_counts(v->plan, &c);
    json_object_object_add(j, "of", json_object_new_string(object(v)));
    json_object_object_add(j, "result", json_object_new_string(v->running ? "running" : v->result));
    json_object_object_add(j, "error", json_object_new_string(v->error));
    add_u64(j, "block_bytes", DISK_BLOCK_SIZE);
    add_u64(j, "blocks", c.total);
    add_u64(j, "compared", c.compared);
    add_u64(j, "differing", c.differing);
    add_u64(j, "repaired", c.repaired);
    add_u64(j, "unrepaired", c.left);
    json_object_object_add(j, "ranges", ranges(v->plan));
    if (v->of_memory)
        json_object_object_add(j, "notes", notes(v->plan));
    json_object_object_add(status, "verify", j);
}
