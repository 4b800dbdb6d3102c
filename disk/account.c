#include "disk/account_map.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 1 };
static const char magic[8] = "HIKAEACC";

static size_t words_for(uint64_t bits)
{
    return (size_t)((bits + WORD_BITS - 1) / WORD_BITS);
}

static size_t padded(size_t words)
{
    size_t in_page = ACCOUNT_PAGE / sizeof(uint64_t);
    return (words + in_page - 1) / in_page * in_page;
}

static uint64_t blocks_of(const struct account_disks *d, unsigned disk)
{
    return d->at[disk].bytes / ACCOUNT_BLOCK;
}

static uint64_t extents_of(const struct account_disks *d, unsigned disk)
{
    return (blocks_of(d, disk) + ACCOUNT_EXTENT_BLOCKS - 1) / ACCOUNT_EXTENT_BLOCKS;
}

uint64_t account_blocks_of(const struct account *a, unsigned disk)
{
    return blocks_of(&a->disks, disk);
}

uint64_t account_extents_of(const struct account *a, unsigned disk)
{
    return extents_of(&a->disks, disk);
}

static void measure(struct account *a)
{
    for (unsigned i = 0; i < a->disks.count; i++) {
        a->extent_at[i] = a->extent_words;
        a->block_at[i] = a->block_words;
        a->extent_words += words_for(extents_of(&a->disks, i));
        a->block_words += words_for(blocks_of(&a->disks, i));
    }
}

size_t account_octets(const struct account_disks *d)
{
    struct account a = {.disks = *d};
    measure(&a);
    return ACCOUNT_PAGE + (3 * padded(a.extent_words) + 2 * padded(a.block_words)) * sizeof(uint64_t);
}

/* ---- making durable ---- */

int account_sync_words(const struct account *a, const uint64_t *from, size_t words)
{
    size_t offset = (size_t)((const uint8_t *)from - (const uint8_t *)a->header);
    return a->sync(a->arg, offset, words * sizeof *from);
}

int account_sync_header(const struct account *a)
{
    return a->sync(a->arg, 0, sizeof *a->header);
}

/* ---- bits ---- */

void bits_set(uint64_t *at, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t bit = first % WORD_BITS, n = WORD_BITS - bit;
        n = n < end - first ? n : end - first;
        uint64_t ones = n == WORD_BITS ? UINT64_MAX : ((UINT64_C(1) << n) - 1) << bit;
        word_set(at + first / WORD_BITS, ones);
        first += n;
    }
}

static void clear_words(uint64_t *at, size_t words)
{
    for (size_t i = 0; i < words; i++)
        if (word_get(at + i)) /* a page that is not touched need not be written */
            word_clear(at + i, UINT64_MAX);
}

/* The summary first: who clears takes it away first. */
void account_set(struct account *a, unsigned set, unsigned disk, uint64_t first, uint64_t end)
{
    bits_set(a->summary[set] + a->extent_at[disk], first / ACCOUNT_EXTENT_BLOCKS,
             (end - 1) / ACCOUNT_EXTENT_BLOCKS + 1);
    bits_set(a->blocks[set] + a->block_at[disk], first, end);
}

static unsigned current(const struct account *a)
{
    return __atomic_load_n(&a->header->current, __ATOMIC_SEQ_CST) & 1;
}

/* Words [*begin, *end) of the blocks of an extent, if it may have one in that set. */
static bool words_of(const struct account *a, unsigned set, unsigned disk, uint64_t extent, size_t *begin, size_t *end)
{
    size_t last = a->block_at[disk] + words_for(blocks_of(&a->disks, disk));
    *begin = a->block_at[disk] + (size_t)extent * EXTENT_WORDS;
    *end = *begin + EXTENT_WORDS < last ? *begin + EXTENT_WORDS : last;
    return word_get(a->summary[set] + a->extent_at[disk] + extent / WORD_BITS) >> extent % WORD_BITS & 1;
}

typedef bool each_extent(struct account *a, unsigned set, size_t begin, size_t end);

/* Those that may have one; false as soon as `each` has said so. forget: afterwards they have none. */
static bool for_extents(struct account *a, unsigned set, bool forget, each_extent *each)
{
    size_t begin, end;
    for (unsigned i = 0; i < a->disks.count; i++)
        for (uint64_t x = 0, n = extents_of(&a->disks, i); x < n; x++) {
            uint64_t *summary = a->summary[set] + a->extent_at[i] + x / WORD_BITS;
            if (!word_get(summary)) {
                x |= WORD_BITS - 1;
                continue;
            }
            if (!words_of(a, set, i, x, &begin, &end))
                continue;
            if (forget)
                word_clear(summary, UINT64_C(1) << x % WORD_BITS);
            if (!each(a, set, begin, end))
                return false;
        }
    return true;
}

/* ---- attaching ---- */

static bool is_of(const struct account_header *h, const struct account_disks *d)
{
    bool same = !memcmp(h->magic, magic, sizeof magic) && h->version == VERSION && h->count == d->count &&
                h->current <= 1 && h->active <= 1;
    for (unsigned i = 0; i < d->count && same; i++)
        same = h->disks[i].bytes == d->at[i].bytes && h->disks[i].device == d->at[i].device &&
               h->disks[i].inode == d->at[i].inode;
    return same;
}

static int format(struct account *a, const uint8_t boot[ACCOUNT_ID])
{
    struct account_header *h = a->header;
    h->active = 0; /* first: what the bits are of now is nothing */
    if (account_sync_header(a))
        return -1;
    memset(h, 0, ACCOUNT_PAGE);
    memcpy(h->magic, magic, sizeof magic);
    memcpy(h->boot, boot, ACCOUNT_ID);
    h->version = VERSION;
    h->count = a->disks.count;
    for (unsigned i = 0; i < h->count; i++) {
        h->disks[i].bytes = a->disks.at[i].bytes;
        h->disks[i].device = a->disks.at[i].device;
        h->disks[i].inode = a->disks.at[i].inode;
    }
    clear_words(a->extents, a->extent_words);
    for (unsigned set = 0; set < 2; set++) {
        clear_words(a->blocks[set], a->block_words);
        clear_words(a->summary[set], a->extent_words);
    }
    return account_sync_header(a);
}

/* What there is of it on the medium may be older than the blocks. */
static void summarize(struct account *a)
{
    for (unsigned set = 0; set < 2; set++)
        for (unsigned i = 0; i < a->disks.count; i++)
            for (size_t w = 0, n = words_for(blocks_of(&a->disks, i)); w < n; w++)
                if (a->blocks[set][a->block_at[i] + w])
                    bits_set(a->summary[set] + a->extent_at[i], w / EXTENT_WORDS, w / EXTENT_WORDS + 1);
}

/* The host was lost: notes of a listed extent may not have come to the medium. The list stays until they have. */
static int recover(struct account *a, const uint8_t boot[ACCOUNT_ID])
{
    summarize(a);
    for (unsigned i = 0; i < a->disks.count; i++)
        for (uint64_t e = 0, n = extents_of(&a->disks, i), all = blocks_of(&a->disks, i); e < n; e++) {
            uint64_t first = e * ACCOUNT_EXTENT_BLOCKS, end = first + ACCOUNT_EXTENT_BLOCKS;
            if (word_get(a->extents + a->extent_at[i] + e / WORD_BITS) >> e % WORD_BITS & 1)
                account_set(a, current(a), i, first, end < all ? end : all);
        }
    memcpy(a->header->boot, boot, ACCOUNT_ID);
    a->header->marker = 0;
    return account_sync_header(a);
}

struct account *account_attach(void *memory, const struct account_disks *d, const uint8_t boot[ACCOUNT_ID],
                               account_sync *sync, void *arg)
{
    struct account *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    *a = (struct account){.header = memory, .disks = *d, .sync = sync, .arg = arg};
    measure(a);
    a->extents = (uint64_t *)((uint8_t *)memory + ACCOUNT_PAGE);
    a->blocks[0] = a->extents + padded(a->extent_words);
    a->blocks[1] = a->blocks[0] + padded(a->block_words);
    a->summary[0] = a->blocks[1] + padded(a->block_words);
    a->summary[1] = a->summary[0] + padded(a->extent_words);
    int result = 0;
    if (!is_of(a->header, d))
        result = format(a, boot);
    else if (memcmp(a->header->boot, boot, ACCOUNT_ID) != 0)
        result = recover(a, boot);
    if (!result)
        return a;
    free(a);
    return NULL;
}

void account_detach(struct account *a)
{
    free(a);
}

/* ---- generations ---- */

bool account_generation(const struct account *a, uint8_t out[ACCOUNT_ID])
{
    memcpy(out, a->header->generation, ACCOUNT_ID);
    return __atomic_load_n(&a->header->active, __ATOMIC_SEQ_CST);
}

/* The extents stay listed: the marker believes that they are. */
int account_begin(struct account *a, const uint8_t generation[ACCOUNT_ID])
{
    __atomic_store_n(&a->header->active, 0, __ATOMIC_SEQ_CST);
    if (account_sync_header(a))
        return -1;
    account_clear(a);
    if (!generation)
        return 0;
    memcpy(a->header->generation, generation, ACCOUNT_ID);
    __atomic_store_n(&a->header->active, 1, __ATOMIC_SEQ_CST);
    return account_sync_header(a);
}

/* ---- the two sets ---- */

static bool clear_extent(struct account *a, unsigned set, size_t begin, size_t end)
{
    clear_words(a->blocks[set] + begin, end - begin);
    return true;
}

static bool copy_extent(struct account *a, unsigned set, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (word_get(a->blocks[set] + i))
            word_set(a->blocks[!set] + i, word_get(a->blocks[set] + i));
    return true;
}

static bool take_extent(struct account *a, unsigned set, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (word_get(a->blocks[set] + i))
            word_clear(a->blocks[set] + i, word_get(a->blocks[!set] + i));
    return true;
}

static bool is_clear(struct account *a, unsigned set, size_t begin, size_t end)
{
    while (begin < end && !word_get(a->blocks[set] + begin))
        begin++;
    return begin == end;
}

/* The bits are durable in their new place before they leave the old one. */
int account_gather(struct account *a)
{
    unsigned from = current(a);
    for (size_t i = 0; i < a->extent_words; i++)
        word_set(a->summary[!from] + i, word_get(a->summary[from] + i));
    for_extents(a, from, false, copy_extent);
    if (account_sync_words(a, a->blocks[!from], a->block_words))
        return -1;
    for_extents(a, from, false, take_extent);
    return 0;
}

bool account_is_forgotten(struct account *a)
{
    return for_extents(a, !current(a), false, is_clear);
}

bool account_rotate(struct account *a)
{
    if (!account_is_forgotten(a))
        return false;
    __atomic_store_n(&a->header->current, !current(a), __ATOMIC_SEQ_CST);
    return true;
}

void account_forget(struct account *a)
{
    for_extents(a, !current(a), true, clear_extent);
}

void account_clear(struct account *a)
{
    for_extents(a, 0, true, clear_extent);
    for_extents(a, 1, true, clear_extent);
}

void account_note(struct account *a, unsigned disk, uint64_t first, uint64_t count)
{
    account_set(a, !current(a), disk, first, first + count);
}

/* ---- reading ---- */

static uint64_t noted(const struct account *a, size_t word)
{
    return word_get(a->blocks[0] + word) | word_get(a->blocks[1] + word);
}

static bool may_have(const struct account *a, unsigned disk, uint64_t extent)
{
    size_t begin, end;
    return words_of(a, 0, disk, extent, &begin, &end) || words_of(a, 1, disk, extent, &begin, &end);
}

/* The first block from `block` on that is noted, or is not. */
static uint64_t find(const struct account *a, unsigned disk, uint64_t block, bool is)
{
    uint64_t all = blocks_of(&a->disks, disk);
    while (block < all) {
        uint64_t extent = block / ACCOUNT_EXTENT_BLOCKS;
        if (is && !may_have(a, disk, extent)) {
            block = (extent + 1) * ACCOUNT_EXTENT_BLOCKS;
            continue;
        }
        uint64_t word = noted(a, a->block_at[disk] + block / WORD_BITS);
        word = (is ? word : ~word) >> block % WORD_BITS;
        if (word) {
            block += (uint64_t)__builtin_ctzll(word);
            break;
        }
        block += WORD_BITS - block % WORD_BITS;
    }
    return block < all ? block : all;
}

int account_next(const struct account *a, unsigned disk, uint64_t *first, uint64_t *count)
{
    *first = find(a, disk, *first, true);
    *count = find(a, disk, *first, false) - *first;
    return *count > 0;
}

uint64_t account_blocks(const struct account *a)
{
    uint64_t n = 0, first, count;
    for (unsigned i = 0; i < a->disks.count; i++)
        for (first = 0; account_next(a, i, &first, &count); first += count)
            n += count;
    return n;
}

int account_close_stores(struct account *a, const int64_t modified[DISK_MAX])
{
    memcpy(a->header->modified, modified, sizeof a->header->modified);
    a->header->closed = 1;
    return account_sync_header(a);
}

int account_open_stores(struct account *a)
{
    a->header->closed = 0;
    return account_sync_header(a);
}

bool account_is_closed(const struct account *a, int64_t modified[DISK_MAX])
{
    memcpy(modified, a->header->modified, sizeof a->header->modified);
    return a->header->closed;
}

int account_marker(const struct account *a)
{
    return __atomic_load_n(&a->header->marker, __ATOMIC_SEQ_CST);
}
