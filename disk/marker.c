#include "disk/marker.h"

#include "disk/account_map.h"

#include <pthread.h>
#include <stdlib.h>

struct marker {
    struct account *account;
    int pid;
    pthread_rwlock_t lock; /* of the next two: for reading while blocks are noted */
    uint64_t *listed;      /* extents that are on the list, durably */
    uint64_t *recent;      /* that were written to since marker_tidy */
    pthread_mutex_t turn;  /* whoever lists extents */
};

struct marker *marker_new(struct account *a, int pid)
{
    struct marker *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->account = a;
    m->pid = pid;
    m->listed = calloc(a->extent_words, sizeof *m->listed);
    m->recent = calloc(a->extent_words, sizeof *m->recent);
    pthread_rwlock_init(&m->lock, NULL);
    pthread_mutex_init(&m->turn, NULL);
    if (m->listed && m->recent) {
        __atomic_store_n(&a->header->marker, pid, __ATOMIC_SEQ_CST);
        return m;
    }
    free(m->listed);
    free(m->recent);
    free(m);
    return NULL;
}

static bool are_set(const uint64_t *at, uint64_t first, uint64_t end)
{
    for (; first < end; first++)
        if (!(word_get(at + first / WORD_BITS) >> first % WORD_BITS & 1))
            return false;
    return true;
}

/* Who writes one extent after the other shall not wait for each. */
static uint64_t with_next(const struct marker *m, unsigned disk, uint64_t first, uint64_t end)
{
    enum { AHEAD = 8 };
    uint64_t all = account_extents_of(m->account, disk);
    bool follows = first && are_set(m->listed + m->account->extent_at[disk], first - 1, first);
    end = follows && end < first + AHEAD ? first + AHEAD : end;
    return end < all ? end : all;
}

/* Who comes while another one lists finds that done when it is its turn, if it was for the same. */
static int list(struct marker *m, unsigned disk, uint64_t first, uint64_t end)
{
    const struct account *a = m->account;
    uint64_t *extents = a->extents + a->extent_at[disk], *listed = m->listed + a->extent_at[disk];
    end = with_next(m, disk, first, end);
    bits_set(extents, first, end); /* before its turn: who is at it may do it for us */
    pthread_mutex_lock(&m->turn);
    int result = 0;
    if (!are_set(listed, first, end)) {
        bits_set(extents, first, end); /* marker_tidy may have been here */
        result = account_sync_words(a, a->extents, a->extent_words);
        if (!result)
            bits_set(listed, first, end);
    }
    pthread_mutex_unlock(&m->turn);
    return result;
}

/* false: an extent is not listed. */
static bool note(struct marker *m, unsigned disk, uint64_t first, uint64_t end)
{
    struct account *a = m->account;
    uint64_t extent = first / ACCOUNT_EXTENT_BLOCKS, extent_end = (end - 1) / ACCOUNT_EXTENT_BLOCKS + 1;
    pthread_rwlock_rdlock(&m->lock);
    bool are = are_set(m->listed + a->extent_at[disk], extent, extent_end);
    if (are) {
        bits_set(m->recent + a->extent_at[disk], extent, extent_end);
        account_set(a, __atomic_load_n(&a->header->current, __ATOMIC_SEQ_CST) & 1, disk, first, end);
    }
    pthread_rwlock_unlock(&m->lock);
    return are;
}

void marker_mark(struct marker *m, unsigned disk, uint64_t n, uint64_t offset)
{
    struct account *a = m->account;
    if (!n || !__atomic_load_n(&a->header->active, __ATOMIC_SEQ_CST))
        return;
    uint64_t first = offset / ACCOUNT_BLOCK, end = (offset + n - 1) / ACCOUNT_BLOCK + 1;
    bool fits = disk < a->disks.count && end <= account_blocks_of(a, disk);
    while (!fits || !note(m, disk, first, end))
        if (!fits || list(m, disk, first / ACCOUNT_EXTENT_BLOCKS, (end - 1) / ACCOUNT_EXTENT_BLOCKS + 1)) {
            (void)account_begin(a, NULL); /* if that fails too, what can be done is done */
            return;
        }
}

/* Makes the notes durable; then those of `idle` extents that are still not written to need not be listed. */
static void unlist(struct marker *m, uint64_t *idle)
{
    const struct account *a = m->account;
    for (unsigned set = 0; set < 2; set++)
        if (account_sync_words(a, a->blocks[set], a->block_words))
            return;
    pthread_mutex_lock(&m->turn); /* nobody is about to list one of them */
    pthread_rwlock_wrlock(&m->lock);
    for (size_t i = 0; i < a->extent_words; i++) {
        word_clear(m->listed + i, idle[i] & ~m->recent[i]);
        word_clear(a->extents + i, idle[i] & ~m->recent[i]);
    }
    pthread_rwlock_unlock(&m->lock);
    pthread_mutex_unlock(&m->turn);
}

void marker_tidy(struct marker *m)
{
    const struct account *a = m->account;
    uint64_t *idle = calloc(a->extent_words, sizeof *idle), any = 0;
    if (!idle)
        return;
    pthread_rwlock_wrlock(&m->lock);
    for (size_t i = 0; i < a->extent_words; i++) {
        any |= idle[i] = word_get(a->extents + i) & ~m->recent[i];
        m->recent[i] = 0;
    }
    pthread_rwlock_unlock(&m->lock);
    if (any)
        unlist(m, idle);
    free(idle);
}

void marker_free(struct marker *m)
{
    if (!m)
        return;
    struct account *a = m->account;
    marker_tidy(m); /* twice: what was written to a moment ago is idle by then */
    marker_tidy(m);
    (void)account_sync_words(a, a->extents, a->extent_words);
    __atomic_compare_exchange_n(&a->header->marker, &m->pid, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    pthread_rwlock_destroy(&m->lock);
    pthread_mutex_destroy(&m->turn);
    free(m->listed);
    free(m->recent);
    free(m);
}
