#include "secondary/disks.h"

#include "common/jsonget.h"
#include "common/log.h"
#include "disk/applier.h"
#include "disk/kernel.h"
#include "disk/server.h"
#include "secondary/disks_changed.h"
#include "secondary/disks_tell.h"
#include "secondary/fence.h"
#include "secondary/shared.h"
#include "secondary/worker.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 1 << 20 }; /* of the first epoch's writes */

struct disks {
    char dir[DISKS_DIR_MAX];
    struct vm_disk exports[DISKS_MAX];
    struct disk_sizes sizes; /* of all; first those of `stores`, then the shared ones */
    struct stores *stores;
    struct shared *shared; /* NULL: none is */
    struct applier *applier;
    struct applier_progress progress;
    ev_io changed;
    struct staging *coming; /* of the epoch that comes in; NULL: nothing yet */
    struct disks_telling *telling;
    struct disks_changed account;
    bool serving;         /* the server was started for us */
    bool reading_paused;  /* writes come faster than the disks take them */
    bool sealing, failed; /* ordered; told to the worker */
    unsigned unanswered;  /* CHECKs that came */
    uint8_t room[DISK_DATA_MAX], resolved[DISK_PAYLOAD_MAX];
};

void disks_dir(char out[DISKS_DIR_MAX], const struct config *c, const char *vm)
{
    snprintf(out, DISKS_DIR_MAX, "%s/disks/%s", c->run_dir, vm);
}

const struct vm_disk *disks_exports(const struct disks *d, unsigned *count)
{
    *count = d ? d->sizes.count : 0;
    return d ? d->exports : NULL;
}

/* ---- what the applier says ---- */

/* Staged and queued writes share the memory that `staging` allows. What is committed will be written whatever comes, so
 * that is waited for; only an epoch that is larger by itself is spilt. (To spill what came meanwhile took more of a
 * processor than to write it, so the disks, once behind, stayed behind.) */
static void pace_reading(struct worker *w)
{
    struct disks *d = w->disks;
    uint64_t queued = d->progress.queued, coming = d->coming ? staging_bytes(d->coming) : 0;
    bool pause = queued && queued + coming > w->config->staging_bytes;
    if (pause == d->reading_paused)
        return;
    d->reading_paused = pause;
    if (w->link)
        link_pause_reading(w->link, pause);
}

static void give_up(struct worker *w)
{
    struct disks *d = w->disks;
    if (d->failed)
        return;
    d->failed = true;
    log_error("%s", d->progress.why.text);
    if (w->state == STANDBY_CLAIMING)
        worker_event(w, STANDBY_EVENT_REFUSED, "not claimed, since its disks are not those of a whole epoch: %s",
                     d->progress.why.text);
    else
        worker_event(w, STANDBY_EVENT_DAMAGED, "%s", d->progress.why.text);
}

/* Those of another connection than the CHECKs were of went with it: a replica has one. */
static void send_answers(struct worker *w)
{
    struct disks *d = w->disks;
    uint8_t *payload;
    size_t n;
    while ((payload = applier_answer(d->applier, &n))) {
        d->unanswered--;
        session_send(w, RECORD_CHECKED, payload, n);
        free(payload);
    }
}

static void on_progress(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct worker *w = io->data;
    struct disks *d = w->disks;
    applier_news(d->applier, &d->progress);
    if (d->progress.failed) {
        give_up(w);
        return;
    }
    pace_reading(w);
    session_send_acks(w);
    send_answers(w);
    if (d->progress.sealed && w->state == STANDBY_CLAIMING) {
        failover_mark(w, "sealed");
        failover_claim(w);
    }
}

/* ---- opening ---- */

struct wanted {
    struct store_wanted stores;
    struct shared_wanted shared;
};

static int read_one(struct json_object *one, unsigned i, struct wanted *out, struct errmsg *e)
{
    struct disk_sizes *sizes = &out->stores.sizes;
    struct shared_wanted *shared = &out->shared;
    uint64_t bytes = json_get_u64(one, "bytes", 0);
    const char *why = disk_size_refusal(bytes);
    if (why)
        return errmsg_set(e, "disk %u of the VM can't be replicated: %s", i, why);
    if (json_get_bool(one, "shared", false)) {
        shared->bytes[shared->count] = bytes;
        shared->identity[shared->count++] = json_get_text(one, "identity", "");
        return 0;
    }
    if (shared->count)
        return errmsg_set(e, "CONFIG: disk %u is not shared, but the one before it is", i);
    out->stores.used[sizes->count] = json_get_u64(one, "used", 0);
    sizes->bytes[sizes->count++] = bytes;
    shared->first = sizes->count;
    return 0;
}

static int read_wanted(struct json_object *list, struct wanted *out, struct errmsg *e)
{
    size_t n = json_object_array_length(list);
    if (n < 1 || n > DISKS_MAX)
        return errmsg_set(e, "CONFIG with %zu disks, 1 to %d are possible", n, (int)DISKS_MAX);
    *out = (struct wanted){.shared.count = 0};
    for (unsigned i = 0; i < n; i++)
        if (read_one(json_object_array_get_idx(list, i), i, out, e))
            return -1;
    return 0;
}

static int name_exports(struct disks *d, struct errmsg *e)
{
    const struct disk_sizes *sizes = &d->sizes;
    char dir[DISKS_DIR_MAX];
    memcpy(dir, d->dir, sizeof dir);
    for (unsigned i = 0; i < sizes->count; i++) {
        struct vm_disk *x = &d->exports[i];
        snprintf(x->export_name, sizeof x->export_name, "%u", i);
        x->bytes = sizes->bytes[i];
        if ((size_t)snprintf(x->socket, sizeof x->socket, "%s/nbd.sock", dir) >= sizeof x->socket)
            return errmsg_set(e, "%s/nbd.sock: the path is too long for a socket: set a shorter run_dir", d->dir);
    }
    return 0;
}

/* ---- what the shared ones say ---- */

static void on_shared_sealed(void *arg)
{
    struct worker *w = arg;
    if (w->state == STANDBY_CLAIMING)
        failover_claim(w);
}

static void on_shared_brought(void *arg)
{
    failover_run(arg);
}

/* Before the claim it is the end of the replica; after it the VM waits for its disks. */
static void on_shared_failed(const char *why, void *arg)
{
    struct worker *w = arg;
    log_error("%s", why);
    if (w->state == STANDBY_CLAIMING) {
        worker_event(w, STANDBY_EVENT_REFUSED, "not claimed, since what it lacks on shared disks can't be kept: %s",
                     why);
        return;
    }
    snprintf(w->reason, sizeof w->reason, "the VM waits for its shared disks: %.250s", why);
    report_now(w);
}

/* Two hosts that write to it are its end; so the one that takes over must be able to stop the other one. */
static int open_shared(struct worker *w, const struct shared_wanted *wanted, struct errmsg *e)
{
    static const struct shared_handlers handlers = {
        .sealed = on_shared_sealed, .brought = on_shared_brought, .failed = on_shared_failed};
    unsigned named = config_vm(w->config, w->vm_name)->shared_count;
    if (!wanted->count && !named)
        return 0;
    if (!fence_command(w->config, w->vm_name))
        return errmsg_set(
            e,
            "VM %s has a shared disk: host %s takes it only with a fencing command, which makes sure that "
            "the lost host does not write to it any more (`fence` in its configuration)",
            w->vm_name, w->config->name);
    w->disks->shared = shared_open(w->loop, w->config, w->vm_name, wanted, &handlers, w, e);
    return w->disks->shared ? 0 : -1;
}

/* What an older server still has open is not ours to judge: it is ended first. */
static int open_stores(struct worker *w, const struct wanted *wanted, struct errmsg *e)
{
    struct disks *d = w->disks;
    d->sizes = wanted->stores.sizes;
    for (unsigned i = 0; i < wanted->shared.count; i++)
        d->sizes.bytes[d->sizes.count++] = wanted->shared.bytes[i];
    if (disk_server_is_taken(d->dir))
        return errmsg_set(
            e,
            "a VM that was started by hand has the disks of VM %s on host %s: end it there, and if its disk "
            "server stays, `hikae-block end %s`",
            w->vm_name, w->config->name, w->vm_name);
    if (disk_server_stop(d->dir, e) || open_shared(w, &wanted->shared, e))
        return -1;
    d->stores = stores_open(w->config, w->vm_name, &wanted->stores, &medium_kernel, e);
    return d->stores ? name_exports(d, e) : -1;
}

static int serve(struct worker *w, struct errmsg *e)
{
    struct disks *d = w->disks;
    struct disk_paths paths;
    if (disk_paths(w->config, w->vm_name, stores_paths(d->stores), &paths, e) ||
        disk_server_start_shared(d->dir, paths.at, paths.n, paths.shared, true, e))
        return -1;
    d->serving = true;
    log_info("%u disks of VM %s are here, disk 0 is %s", paths.n, w->vm_name, paths.at[0]);
    return 0;
}

static int start_applier(struct worker *w, struct errmsg *e)
{
    struct disks *d = w->disks;
    d->applier = applier_start(d->stores, e);
    if (!d->applier)
        return -1;
    ev_io_init(&d->changed, on_progress, applier_fd(d->applier), EV_READ);
    d->changed.data = w;
    ev_io_start(w->loop, &d->changed);
    return 0;
}

int disks_open(struct worker *w, struct json_object *config, struct errmsg *e)
{
    struct json_object *list = json_get_array(config, "disks");
    struct wanted wanted = {.shared.count = 0};
    const struct config_vm *v = config_vm(w->config, w->vm_name);
    unsigned named = v->disk_count + v->shared_count;
    if (!list && !named)
        return 0;
    if (!list)
        return errmsg_set(e,
                          "[vm %s] at host %s names %u disks, but its primary sends none: give it the same "
                          "there, or remove it here",
                          w->vm_name, w->config->name, named);
    if (read_wanted(list, &wanted, e))
        return -1;
    w->disks = calloc(1, sizeof *w->disks);
    if (!w->disks)
        return errmsg_set(e, "no memory for the VM's disks");
    disks_dir(w->disks->dir, w->config, w->vm_name);
    struct disks *d = w->disks;
    if (open_stores(w, &wanted, e) || disks_changed_prepare(w, d->dir, d->stores, e) || serve(w, e) ||
        disks_changed_open(&d->account, w, d->dir, d->stores, config, e) || start_applier(w, e))
        return -1;
    return 0;
}

int disks_attach(struct worker *w, struct errmsg *e)
{
    return w->disks ? kernel_disks_reconnect(w->disks->dir, e) : 0;
}

/* ---- telling ---- */

int disks_begin_telling(struct worker *w, struct errmsg *e)
{
    if (!w->disks)
        return 0;
    if (w->disks->account.tells) {
        log_info("the disks are told by the %" PRIu64 " blocks that were written here since the last sync",
                 account_blocks(account_of(w->disks->account.file)));
        disks_changed_tell(&w->disks->account, w, w->disks->stores);
        return 0;
    }
    w->disks->telling = disks_telling_begin(w, w->disks->stores, e);
    return w->disks->telling ? 0 : -1;
}

void disks_set_sync_rate(struct worker *w)
{
    if (w->disks)
        disks_telling_set_rate(w->disks->telling, w->disk_sync_rate);
}

void disks_tell_on(struct worker *w)
{
    if (!w->disks)
        return;
    disks_telling_on(w->disks->telling);
    disks_changed_tell(&w->disks->account, w, w->disks->stores);
}

bool disks_tell_changes(const struct worker *w)
{
    return w->disks && w->disks->account.tells;
}

/* What is queued is not; epochs that wrote nothing are not handed to the applier. */
void disks_tell_durable(struct worker *w)
{
    const struct disks *d = w->disks;
    if (d && !d->progress.failed && d->progress.epoch)
        disks_changed_note(&w->disks->account, w, d->progress.queued ? d->progress.epoch : w->epoch);
}

void disks_end_telling(struct worker *w)
{
    if (!w->disks)
        return;
    disks_telling_end(w->disks->telling);
    w->disks->telling = NULL;
}

/* ---- epochs ---- */

static int stage(struct worker *w, const uint8_t *payload, size_t n, struct errmsg *e)
{
    struct disks *d = w->disks;
    if (!d->coming)
        d->coming = staging_new(w->config->staging_bytes, w->config->spool_dir);
    return d->coming ? staging_add(d->coming, payload, n, e) : errmsg_set(e, "no memory to stage an epoch");
}

static void write_batch(struct worker *w)
{
    struct disks *d = w->disks;
    if (!d->coming)
        return;
    applier_write(d->applier, d->coming);
    d->coming = NULL;
    applier_progress(d->applier, &d->progress);
}

/* A valid payload whose data is in it: what refers to the replica's pages is made one. Nothing of this epoch has
 * touched these yet. NULL: malformed. */
static const uint8_t *complete(struct worker *w, const struct record *r, struct disk_extent *x, size_t *n,
                               struct proto_error *e)
{
    struct disks *d = w->disks;
    *n = r->length;
    if (disk_read(r->payload, *n, &d->sizes, x, e))
        return NULL;
    if (x->encoding == DISK_AS_PAGES) {
        if (!w->epoch) {
            snprintf(e->text, sizeof e->text, "DISK of pages in the first epoch");
            return NULL;
        }
        *n = disk_resolve(x, w->ops->memory(w->vm), w->info.pages, d->resolved, e);
        return *n ? d->resolved : NULL;
    }
    return x->encoding == DISK_AS_ZEROES || disk_decode(x, d->room, e) ? r->payload : NULL;
}

enum replica_result disks_take(struct worker *w, const struct record *r, struct errmsg *e)
{
    struct disks *d = w->disks;
    struct disk_extent x;
    struct proto_error why;
    size_t n;
    if (!d) {
        errmsg_set(e, "DISK, but CONFIG told of no disks");
        return REPLICA_MALFORMED;
    }
    const uint8_t *payload = complete(w, r, &x, &n, &why);
    if (!payload) {
        errmsg_set(e, "%s", why.text);
        return REPLICA_MALFORMED;
    }
    if (x.disk >= stores_sizes(d->stores)->count)
        return shared_take(d->shared, payload, n, e) ? REPLICA_NO_ROOM : REPLICA_TAKEN;
    if (stage(w, payload, n, e))
        return REPLICA_NO_ROOM;
    if (!w->epoch && staging_bytes(d->coming) >= BATCH)
        write_batch(w);
    pace_reading(w);
    return REPLICA_TAKEN;
}

bool disks_hold_reading(const struct worker *w)
{
    return w->disks && w->disks->reading_paused;
}

void disks_commit(struct worker *w)
{
    struct disks *d = w->disks;
    if (!d)
        return;
    shared_commit(d->shared, w->epoch);
    if (w->epoch == 1) {
        write_batch(w);
        applier_end_sync(d->applier, w->epoch);
    } else if (d->coming) {
        applier_commit(d->applier, w->epoch, d->coming);
        d->coming = NULL;
    }
    applier_progress(d->applier, &d->progress);
}

bool disks_let_ack(const struct worker *w, uint64_t epoch)
{
    const struct disks *d = w->disks;
    if (!d)
        return true;
    return !d->progress.failed &&
           (epoch == 1 ? d->progress.epoch >= 1 : d->progress.queued <= w->config->staging_bytes);
}

const struct disk_sizes *disks_compared(const struct disks *d)
{
    static const struct disk_sizes none;
    return d ? stores_sizes(d->stores) : &none;
}

unsigned disks_unanswered(const struct disks *d)
{
    return d ? d->unanswered : 0;
}

void disks_check(struct disks *d, const struct check_head *head, const struct record *r)
{
    d->unanswered++;
    applier_check(d->applier, head, r->payload, r->length);
}

int disks_note_durable(struct worker *w, uint64_t epoch, struct errmsg *e)
{
    return shared_durable(w->disks ? w->disks->shared : NULL, epoch, e);
}

bool disks_are_durable(const struct worker *w)
{
    return !w->disks || shared_is_durable(w->disks->shared, w->epoch);
}

bool disks_are_shared(const struct worker *w)
{
    return w->disks && w->disks->shared;
}

void disks_abort(struct worker *w)
{
    if (w->disks)
        shared_abort(w->disks->shared);
    if (w->disks && w->disks->coming)
        staging_free(w->disks->coming);
    if (w->disks)
        w->disks->coming = NULL;
}

bool disks_are_sealed(struct worker *w)
{
    struct disks *d = w->disks;
    if (!d)
        return true;
    if (!d->sealing) {
        disks_abort(w);
        applier_seal(d->applier);
        d->sealing = true;
    }
    return shared_is_sealed(d->shared) && d->progress.sealed;
}

void disks_bring(struct worker *w)
{
    if (w->disks && w->disks->shared)
        shared_bring(w->disks->shared, w->term);
    else
        failover_run(w);
}

/* ---- the end ---- */

void disks_drop(struct worker *w)
{
    struct errmsg e;
    if (!w->disks)
        return;
    disks_end_telling(w);
    if (w->disks->serving && disk_server_stop(w->disks->dir, &e))
        log_warn("%s", e.text);
    w->disks->serving = false;
    if (w->disks->shared)
        shared_drop(w->config, w->vm_name);
}

void disks_close(struct worker *w)
{
    struct disks *d = w->disks;
    if (!d)
        return;
    disks_end_telling(w);
    disks_abort(w);
    if (d->applier)
        ev_io_stop(w->loop, &d->changed);
    applier_free(d->applier);
    shared_close(d->shared);
    stores_close(d->stores);
    disks_changed_close(&d->account);
    free(d);
    w->disks = NULL;
}

void disks_report(const struct worker *w, struct json_object *status)
{
    const struct disks *d = w->disks;
    if (!d || !d->applier)
        return;
    struct json_object *list = json_object_new_array(), *j = json_object_new_object();
    for (unsigned i = 0; i < stores_paths(d->stores)->count; i++)
        json_object_array_add(list, json_object_new_string(stores_paths(d->stores)->at[i]));
    json_object_object_add(j, "paths", list);
    json_object_object_add(j, "queued_bytes", json_object_new_uint64(d->progress.queued));
    json_object_object_add(j, "staged_bytes", json_object_new_uint64(d->coming ? staging_bytes(d->coming) : 0));
    json_object_object_add(j, "journal_bytes", json_object_new_uint64(d->progress.unflushed));
    json_object_object_add(j, "written_bytes", json_object_new_uint64(d->progress.written));
    if (d->telling)
        json_object_object_add(j, "told_bytes", json_object_new_uint64(disks_telling_at(d->telling)));
    if (d->shared)
        json_object_object_add(j, "shared_bytes", json_object_new_uint64(shared_bytes(d->shared)));
    json_object_object_add(status, "disks", j);
}
