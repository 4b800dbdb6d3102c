#include "secondary/disks_changed.h"

#include "common/jsonget.h"
#include "common/log.h"
#include "secondary/worker.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

enum { QUEUED_MAX = 256 << 10, RUNS_MAX = 4096 };

_Static_assert((int)GENERATION_SIZE == (int)ACCOUNT_ID, "one is the other");

int disks_changed_prepare(const struct worker *w, const char *dir, const struct stores *s, struct errmsg *e)
{
    struct errmsg why;
    if (!w->ops->drains_disks) /* an account counts on that (disk/account.h) */
        return account_remove(w->config, w->vm_name, e);
    if (!stores_sizes(s)->count || !account_place(w->config, w->vm_name, dir, stores_paths(s), &why))
        return 0;
    log_warn("%s; re-syncs will compare all of the disks", why.text);
    return account_remove(w->config, w->vm_name, e);
}

int disks_changed_open(struct disks_changed *d, const struct worker *w, const char *dir, struct stores *s,
                       struct json_object *config, struct errmsg *e)
{
    struct errmsg why;
    uint8_t ours[ACCOUNT_ID], theirs[ACCOUNT_ID], next[ACCOUNT_ID];
    bool has_next = generation_parse(json_get_text(config, "next", NULL), next);
    *d = (struct disks_changed){.file = NULL};
    if (!stores_sizes(s)->count)
        return 0;
    d->file = account_served(w->config, w->vm_name, dir, &why);
    if (!d->file)
        return account_remove(w->config, w->vm_name, e);
    d->tells = generation_parse(json_get_text(config, "generation", NULL), theirs) &&
               account_generation(account_of(d->file), ours) && !memcmp(ours, theirs, sizeof ours);
    stores_keep_account(s, account_of(d->file), d->tells, has_next ? next : NULL);
    return 0;
}

void disks_changed_close(struct disks_changed *d)
{
    account_file_close(d->file);
    d->file = NULL;
}

/* The next record; its octets. */
static size_t make_record(struct disks_changed *d, const struct disk_sizes *sizes, uint8_t *payload)
{
    const struct account *a = account_of(d->file);
    uint64_t first = d->block, count, end = sizes->bytes[d->disk] / DISK_BLOCK_SIZE;
    uint8_t *at = payload + CHANGED_HEAD_SIZE;
    for (unsigned runs = 0; account_next(a, d->disk, &first, &count); runs++, first += count) {
        if (runs == RUNS_MAX) {
            end = first;
            break;
        }
        count = count < 0xffffff ? count : 0xffffff;
        check_run_write(at, first, (uint32_t)count);
        at += CHANGED_RUN_SIZE;
    }
    changed_head_write(payload, d->disk, end);
    d->block = end;
    if (end == sizes->bytes[d->disk] / DISK_BLOCK_SIZE) {
        d->disk++;
        d->block = 0;
    }
    return (size_t)(at - payload);
}

void disks_changed_tell(struct disks_changed *d, struct worker *w, const struct stores *s)
{
    uint8_t payload[CHANGED_HEAD_SIZE + RUNS_MAX * CHANGED_RUN_SIZE];
    while (d->tells && d->disk < stores_sizes(s)->count && w->link && link_queued(w->link) <= QUEUED_MAX)
        session_send(w, RECORD_CHANGED, payload, make_record(d, stores_sizes(s), payload));
}

void disks_changed_note(struct disks_changed *d, struct worker *w, uint64_t durable)
{
    char text[48];
    if (!d->file || durable == d->durable || w->state != STANDBY_READY)
        return;
    d->durable = durable;
    int n = snprintf(text, sizeof text, "{\"durable\":%" PRIu64 "}", durable);
    session_send(w, RECORD_NOTE, text, (size_t)n);
}
