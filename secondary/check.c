/*
 * check: CHECK records. Those of disks go the way of the disks' writes, to the applier's thread. Memory is compared at
 * once: it is that of the last committed epoch just now, since nothing of the next one is applied before its COMMIT.
 */
#include "common/log.h"
#include "secondary/compare_memory.h"
#include "secondary/worker.h"

#include <stdio.h>
#include <stdlib.h>

static int violation(struct proto_error *e, const char *what)
{
    snprintf(e->text, sizeof e->text, "%s", what);
    return -1;
}

/* As a comparison begins; what epochs bring from there on is added. */
static int find_populated(struct worker *w, struct errmsg *e)
{
    struct page_ranges ranges = {0};
    check_end(w);
    int result = w->ops->populated(w->vm, &ranges, e);
    if (!result && !(w->populated = page_set_new(w->info.pages, &ranges)))
        result = errmsg_set(e, "no memory to compare the replica's memory");
    page_ranges_free(&ranges);
    replica_note_pages(w->replica, w->populated);
    return result;
}

static void answer_of_memory(struct worker *w, const struct check_head *head, const struct record *r)
{
    struct errmsg e;
    size_t n;
    if ((!w->populated || !head->first) && find_populated(w, &e)) {
        session_turn_away(w, BYE_TROUBLE, e.text);
        return;
    }
    uint8_t *payload = compare_memory(w->ops->memory(w->vm), w->populated, head, r->payload, r->length, &n);
    if (!payload) {
        session_turn_away(w, BYE_TROUBLE, "no memory to compare the replica's memory");
        return;
    }
    session_send(w, RECORD_CHECKED, payload, n);
    free(payload);
}

int check_take(struct worker *w, const struct record *r, struct proto_error *e)
{
    struct check_head head;
    unsigned unanswered = disks_unanswered(w->disks);
    if (check_read(r->payload, r->length, disks_compared(w->disks), w->info.pages, w->checks + 1, &head, e))
        return -1;
    if (w->state != STANDBY_READY)
        return 0; /* too late */
    w->checks++;
    if (head.disk == CHECK_MEMORY && unanswered)
        return violation(e, "CHECK of memory while one of a disk is unanswered");
    if (unanswered == CHECK_UNANSWERED_MAX)
        return violation(e, "more CHECKs than may be without waiting for an answer");
    if (head.disk == CHECK_MEMORY)
        answer_of_memory(w, &head, r);
    else
        disks_check(w->disks, &head, r);
    return 0;
}

void check_end(struct worker *w)
{
    if (w->populated)
        replica_note_pages(w->replica, NULL);
    page_set_free(w->populated);
    w->populated = NULL;
}
