#include "primary/written.h"

#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/random.h>

void written_describe(struct written *w, struct json_object *config)
{
    uint8_t generation[ACCOUNT_ID];
    char text[GENERATION_TEXT];
    w->named = false;
    if (!w->file || getrandom(w->next, sizeof w->next, 0) != (ssize_t)sizeof w->next)
        return;
    generation_print(text, w->next);
    json_object_object_add(config, "next", json_object_new_string(text));
    w->named = account_generation(account_of(w->file), generation);
    generation_print(text, generation);
    if (w->named)
        json_object_object_add(config, "generation", json_object_new_string(text));
}

int written_begin_sync(struct written *w, bool known, const struct disk_sizes *sizes, struct errmsg *e)
{
    changed_told_init(&w->told, sizes);
    w->rotated_in = 0;
    if (!w->file)
        return 0;
    struct account *a = account_of(w->file);
    if (w->told_changes ? account_gather(a) : account_begin(a, known ? w->next : NULL))
        return errmsg_set(e, "the account of what is written to the VM's disks can't be written: %s", strerror(errno));
    return 0;
}

int written_changed(struct written *w, const uint8_t *payload, size_t n, unsigned *disk, bool *done,
                    struct page_ranges *blocks, struct proto_error *e)
{
    struct check_run run;
    if (changed_check(&w->told, payload, n, disk, e))
        return -1;
    struct account *a = account_of(w->file);
    for (size_t at = CHANGED_HEAD_SIZE; changed_next(payload, n, &at, &run) > 0;)
        account_note(a, *disk, run.from, run.count);
    *done = w->told.end[*disk] == w->told.blocks[*disk];
    e->text[0] = 0;
    uint64_t first = 0, count;
    for (; *done && account_next(a, *disk, &first, &count); first += count)
        if (page_ranges_add(blocks, first, count))
            return -1;
    return 0;
}

void written_synced(struct written *w)
{
    if (w->file)
        account_forget(account_of(w->file));
}

void written_durable(struct written *w, uint64_t durable, uint64_t running)
{
    if (!w->file)
        return;
    if (w->rotated_in && w->rotated_in <= durable) {
        account_forget(account_of(w->file));
        w->rotated_in = 0;
    }
    if (!w->rotated_in && account_rotate(account_of(w->file)))
        w->rotated_in = running;
}
