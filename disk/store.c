#include "disk/store.h"

#include "common/config.h"
#include "common/file.h"
#include "common/log.h"
#include "disk/account_place.h"
#include "disk/gather.h"
#include "disk/journal.h"
#include "disk/store_open.h"
#include "disk/store_record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { JOURNAL_WAIT_MS = 5000 };

struct stores {
    const struct medium *medium;
    struct store_record record;
    char record_path[STORE_PATH_MAX];
    struct disk_sizes sizes;
    struct gather_file files[DISKS_MAX];
    struct gather *gather;
    struct journal *journal;
    struct account *account; /* NULL: none is kept */
    bool keeps_generation, has_next;
    uint8_t next[ACCOUNT_ID];
    uint8_t room[DISK_DATA_MAX];
};

/* ---- recovery ---- */

int stores_sync(struct stores *s, struct errmsg *e)
{
    if (stores_write_end(s, e))
        return -1;
    for (unsigned i = 0; i < s->sizes.count; i++)
        if (s->medium->sync(s->medium, s->files[i].fd))
            return errmsg_set(e, "disk %s can't be synced: %s", s->record.paths.at[i], strerror(errno));
    return 0;
}

static int redo(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    return stores_write(arg, payload, n, e);
}

/* The journal is that of these disks. */
static int replay(struct stores *s, const char *vm, struct errmsg *e)
{
    uint64_t epochs;
    enum journal_result result = journal_replay(s->journal, redo, s, &epochs, e);
    if (epochs)
        log_info("VM %s: %" PRIu64 " committed epochs were in the journal and are in its disks now", vm, epochs);
    if (result == JOURNAL_REPLAYED)
        return stores_flush(s, e);
    return -1;
}

/* Writes that were meant for other disks are nobody's: an admin has to say what becomes of them. */
static int refuse_epochs(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    (void)payload, (void)n;
    const struct store_record *r = arg;
    return errmsg_set(e,
                      "what was committed to disk %s is still in the journal, but `disk` names others now: name it "
                      "again, or remove the journal beside %s",
                      r->paths.at[0], r->paths.at[0]);
}

static int check_foreign_journal(struct journal *j, struct store_record *old, struct errmsg *e)
{
    uint64_t epochs;
    return journal_replay(j, refuse_epochs, old, &epochs, e) == JOURNAL_FAILED ? -1 : journal_void(j, e);
}

/* ---- opening ---- */

static struct stores *stores_new(const struct medium *m)
{
    struct stores *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->medium = m;
    for (unsigned i = 0; i < DISKS_MAX; i++)
        s->files[i] = (struct gather_file){.fd = -1, .direct = -1};
    s->gather = gather_new(m);
    if (s->gather)
        return s;
    free(s);
    return NULL;
}

/* What was opened for us alone is opened again, for us and for the disk server. */
static int open_shared(struct stores *s, const struct backing *at, const struct store_paths *paths, struct errmsg *e)
{
    for (unsigned i = 0; i < paths->count; i++) {
        struct gather_file *f = &s->files[i];
        f->path = paths->at[i];
        f->fd = open(f->path, O_RDWR | O_CLOEXEC);
        if (f->fd < 0)
            return errmsg_set(e, "disk %s: %s", f->path, strerror(errno));
        f->direct = medium_open_direct(f->fd);
        s->sizes.bytes[s->sizes.count++] = at[i].bytes;
    }
    return 0;
}

static int open_state(struct stores *s, const struct config *c, const char *vm, struct errmsg *e)
{
    char dir[STORE_PATH_MAX], journal[STORE_PATH_MAX];
    if (store_state_path(s->record_path, c, vm, "json", e) || store_state_path(journal, c, vm, "journal", e))
        return -1;
    *(char *)mempcpy(dir, s->record_path, (size_t)(strrchr(s->record_path, '/') - s->record_path)) = 0;
    if (dir_make(dir, 0700, e))
        return -1;
    s->journal = journal_open(journal, s->medium, JOURNAL_WAIT_MS, e);
    return s->journal ? 0 : -1;
}

/* A replica of which the first epoch was not complete, or the journal is damaged, is of no use but as something to
 * compare with: the next first epoch makes it right. */
static int recover_for_replica(struct stores *s, const struct config *c, const char *vm, struct store_record *old,
                               struct errmsg *e)
{
    struct errmsg why;
    if (old->exists && !old->syncing && !store_paths_are_equal(&old->paths, &s->record.paths))
        return check_foreign_journal(s->journal, old, e);
    if (!old->exists || old->syncing || !replay(s, vm, &why))
        return journal_void(s->journal, e);
    log_warn("VM %s: %s; they are compared with the primary's as they are", vm, why.text);
    if (account_remove(c, vm, e)) /* what they are of is not known any more */
        return -1;
    s->record.syncing = true;
    return store_record_save(s->record_path, &s->record, e) ? -1 : journal_void(s->journal, e);
}

struct stores *stores_open(const struct config *c, const char *vm, const struct store_wanted *wanted,
                           const struct medium *m, struct errmsg *e)
{
    struct backing at[DISKS_MAX];
    struct store_record old;
    struct stores *s = stores_new(m);
    if (!s) {
        errmsg_set(e, "no memory for the VM's disks");
        return NULL;
    }
    int result = store_record_load(c, vm, &old, e);
    if (!result)
        result = backings_open_wanted(at, c, vm, wanted, &s->record.paths, e);
    if (!result) {
        result = open_shared(s, at, &s->record.paths, e) || open_state(s, c, vm, e) ||
                 recover_for_replica(s, c, vm, &old, e);
        backings_close(at, s->record.paths.count);
    }
    if (!result)
        return s;
    stores_close(s);
    return NULL;
}

int stores_lock(const struct config *c, const char *vm, int *lock)
{
    char path[STORE_PATH_MAX];
    *lock = store_state_path(path, c, vm, "journal", NULL) ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (*lock < 0 || !flock(*lock, LOCK_EX | LOCK_NB))
        return 0;
    close(*lock);
    return -1;
}

void stores_close(struct stores *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < DISKS_MAX; i++) {
        if (s->files[i].fd >= 0)
            close(s->files[i].fd);
        if (s->files[i].direct >= 0)
            close(s->files[i].direct);
    }
    gather_free(s->gather);
    journal_close(s->journal);
    free(s);
}

static int recover_opened(struct stores *s, const struct config *c, const char *vm, const struct backing *at,
                          struct errmsg *e)
{
    if (open_shared(s, at, &s->record.paths, e) || open_state(s, c, vm, e) || replay(s, vm, e))
        return -1;
    return journal_remove(s->journal, e);
}

int stores_recover(const struct config *c, const char *vm, const struct medium *m, struct errmsg *e)
{
    struct backing at[DISKS_MAX];
    struct store_record old;
    struct store_paths now;
    char journal[STORE_PATH_MAX];
    if (store_record_load(c, vm, &old, e) || store_state_path(journal, c, vm, "journal", e))
        return -1;
    if (!old.exists || !old.paths.count || store_paths(c, vm, &now, e) || !store_paths_are_equal(&now, &old.paths))
        return 0; /* they are no replica's */
    if (old.syncing)
        return errmsg_set(e,
                          "disk %s is amid its first copy from another host and nobody can start from it: run the VM "
                          "there, or protect it to here again",
                          old.paths.at[0]);
    if (access(journal, F_OK))
        return 0;
    struct stores *s = stores_new(m);
    if (!s)
        return errmsg_set(e, "no memory for the VM's disks");
    s->record = old;
    int result = backings_open(at, &old.paths, e);
    if (!result) {
        result = recover_opened(s, c, vm, at, e);
        backings_close(at, old.paths.count);
    }
    stores_close(s);
    return result;
}

/* ---- use ---- */

const struct store_paths *stores_paths(const struct stores *s)
{
    return &s->record.paths;
}

const struct disk_sizes *stores_sizes(const struct stores *s)
{
    return &s->sizes;
}

int stores_fd(const struct stores *s, unsigned disk)
{
    return s->files[disk].fd;
}

struct journal *stores_journal(struct stores *s)
{
    return s->journal;
}

void stores_keep_account(struct stores *s, struct account *a, bool keep, const uint8_t *next)
{
    s->account = a;
    s->keeps_generation = keep;
    s->has_next = next;
    if (next)
        memcpy(s->next, next, sizeof s->next);
}

/* With the first epoch in them they are of the next generation; or the primary's account has what they were without. */
static int renew_account(struct stores *s, struct errmsg *e)
{
    if (!s->account)
        return 0;
    if (s->keeps_generation) {
        account_clear(s->account);
        return 0;
    }
    return account_begin(s->account, s->has_next ? s->next : NULL)
               ? errmsg_set(e, "the account of the VM's disks can't be written: %s", strerror(errno))
               : 0;
}

int stores_begin_sync(struct stores *s, struct errmsg *e)
{
    if (s->account && !s->keeps_generation && account_begin(s->account, NULL))
        return errmsg_set(e, "the account of the VM's disks can't be written: %s", strerror(errno));
    s->record.exists = s->record.syncing = true;
    return store_record_save(s->record_path, &s->record, e);
}

int stores_end_sync(struct stores *s, struct errmsg *e)
{
    if (stores_sync(s, e))
        return -1;
    s->record.syncing = false;
    return store_record_save(s->record_path, &s->record, e) || renew_account(s, e) ? -1 : 0;
}

static int write_zeroes(struct stores *s, struct gather_file *f, const struct disk_extent *x, struct errmsg *e)
{
    if (gather_end(s->gather, e)) /* what was written there before must not come after it */
        return -1;
    if (s->medium->zero(s->medium, f->fd, x->offset, x->length))
        return errmsg_set(e, "disk %s can't be written: %s", f->path, strerror(errno));
    return 0;
}

int stores_write(struct stores *s, const uint8_t *payload, size_t n, struct errmsg *e)
{
    struct disk_extent x;
    struct proto_error why;
    if (disk_read(payload, n, &s->sizes, &x, &why))
        return errmsg_set(e, "%s", why.text);
    struct gather_file *f = &s->files[x.disk];
    if (x.encoding == DISK_AS_ZEROES)
        return write_zeroes(s, f, &x, e);
    const uint8_t *data = disk_decode(&x, s->room, &why);
    return data ? gather_write(s->gather, f, data, x.length, x.offset, e) : errmsg_set(e, "%s", why.text);
}

int stores_write_end(struct stores *s, struct errmsg *e)
{
    return gather_end(s->gather, e);
}

void stores_begin_flush(struct stores *s)
{
    for (unsigned i = 0; i < s->sizes.count; i++) /* a hint: what it does not do, stores_flush does */
        (void)sync_file_range(s->files[i].fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int stores_flush(struct stores *s, struct errmsg *e)
{
    return stores_sync(s, e) || journal_void(s->journal, e) ? -1 : 0;
}

int stores_seal(struct stores *s, struct errmsg *e)
{
    return stores_flush(s, e) || journal_remove(s->journal, e) ? -1 : 0;
}
