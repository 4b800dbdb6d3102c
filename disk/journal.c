#include "disk/journal.h"

#include "common/file.h"
#include "proto/cursor.h"
#include "proto/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

/* A block: what is torn when a write is, at most, is one that holds nothing older. */
enum { BLOCK = MEDIUM_BLOCK, SLOTS = 2, EPOCHS_AT = SLOTS * BLOCK };
enum { SLOT_SIZE = 48, SLOT_DIGESTED = 32, EPOCH_HEAD = 56, EPOCH_DIGESTED = 40, ENTRY_HEAD = 4, VERSION = 1 };
enum { BUFFER = 1 << 20, RETRY_MS = 20 };

_Static_assert(SLOT_SIZE == 8 + 4 + 4 + 8 + 8 + PROTO_DIGEST_SIZE,
               "magic, version, reserved, generation, seed, digest");
_Static_assert(EPOCH_HEAD == 8 + 8 + 8 + 8 + 8 + PROTO_DIGEST_SIZE,
               "magic, generation, epoch, length, durable, digest");
_Static_assert((int)BUFFER >= ENTRY_HEAD + (int)DISK_PAYLOAD_MAX, "an entry fits");

static const char slot_magic[8] = "HIKAEJNL", epoch_magic[8] = "EPOCHJNL";

struct generation {
    uint64_t number, seed;
};

struct journal {
    const struct medium *medium;
    int fd, direct; /* direct: past the page cache; -1: the file system can't */
    char *path;
    struct generation generation;
    unsigned slot;    /* that has it */
    uint64_t end;     /* where the next epoch goes */
    uint64_t durable; /* last epoch that is, of this generation */
    /* of the epoch that is being written */
    uint64_t epoch, length; /* of its body so far */
    XXH3_state_t *digest;   /* of the body; the head comes last */
    uint8_t *buffer;        /* what is not written yet, from a block of the file on */
    size_t buffered;
    uint8_t *first; /* block of what was written of it: the head is still to come there */
};

static int trouble(const struct journal *j, const char *what, struct errmsg *e)
{
    return errmsg_set(e, "the journal %s can't be %s: %s", j->path, what, strerror(errno));
}

static int damaged(const struct journal *j, struct errmsg *e)
{
    return errmsg_set(e, "the journal %s is damaged: the VM's disks here may be amid an epoch and are not used",
                      j->path);
}

/* ---- slots ---- */

static void digest_of(const void *data, size_t n, uint8_t out[PROTO_DIGEST_SIZE])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, n));
    memcpy(out, canonical.digest, PROTO_DIGEST_SIZE);
}

static void slot_make(uint8_t out[SLOT_SIZE], const struct generation *g)
{
    memcpy(out, slot_magic, sizeof slot_magic);
    put_int(put_int(put_int(put_int(out + 8, 4, VERSION), 4, 0), 8, g->number), 8, g->seed);
    digest_of(out, SLOT_DIGESTED, out + SLOT_DIGESTED);
}

/* The generation of a slot; number 0: it is none. */
static struct generation slot_read(const uint8_t slot[SLOT_SIZE])
{
    uint8_t should[SLOT_SIZE];
    struct generation g = {octets_to_u64(slot + 16, 8), octets_to_u64(slot + 24, 8)};
    slot_make(should, &g);
    return memcmp(slot, should, sizeof should) ? (struct generation){0} : g;
}

static int read_slots(struct journal *j, struct errmsg *e)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        uint8_t slot[SLOT_SIZE];
        if (medium_read(j->fd, slot, sizeof slot, i * BLOCK))
            return trouble(j, "read", e);
        struct generation g = slot_read(slot);
        if (g.number > j->generation.number) {
            j->generation = g;
            j->slot = i;
        }
    }
    return j->generation.number ? 0 : damaged(j, e);
}

static int generation_make(struct generation *g, uint64_t number, struct errmsg *e)
{
    g->number = number;
    if (getrandom(&g->seed, sizeof g->seed, 0) != (ssize_t)sizeof g->seed)
        return errmsg_set(e, "getrandom: %s", strerror(errno));
    return 0;
}

/* ---- opening ---- */

/* Whole before it has its name: a file without a valid slot is a damaged one. */
static int make_file(const char *path, struct errmsg *e)
{
    char temp[PATH_MAX];
    uint8_t head[EPOCHS_AT] = {0};
    struct generation first;
    if (generation_make(&first, 1, e))
        return -1;
    slot_make(head, &first);
    if ((size_t)snprintf(temp, sizeof temp, "%s.%d.tmp", path, (int)getpid()) >= sizeof temp)
        return errmsg_set(e, "%s: the path is too long", path);
    int fd = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return errmsg_set(e, "%s can't be made: %s", temp, strerror(errno));
    int full = fallocate(fd, 0, 0, EPOCHS_AT + JOURNAL_ROOM); /* some file systems can't: they say so when it is full */
    int bad = (full && errno == ENOSPC) || file_write_fd(fd, head, sizeof head) || fsync(fd) || rename(temp, path);
    int why = errno;
    close(fd);
    if (!bad)
        return dir_sync_of(path, e);
    unlink(temp);
    return errmsg_set(e, "the journal %s can't be made: %s (it needs 64 MiB)", path, strerror(why));
}

static void wait_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* Its last user removes it: what was opened and locked may be gone by then. */
static bool is_there_still(const struct journal *j)
{
    struct stat here, there;
    return !fstat(j->fd, &here) && !stat(j->path, &there) && here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

static int open_locked(struct journal *j, unsigned patience_ms, struct errmsg *e)
{
    for (;;) {
        j->fd = open(j->path, O_RDWR | O_CLOEXEC);
        if (j->fd < 0 && errno != ENOENT)
            return trouble(j, "opened", e);
        if (j->fd < 0) {
            if (make_file(j->path, e))
                return -1;
            continue;
        }
        int busy = flock(j->fd, LOCK_EX | LOCK_NB);
        if (!busy && is_there_still(j))
            return 0;
        int why = errno;
        close(j->fd);
        j->fd = -1;
        if (!busy)
            continue;
        if (why != EWOULDBLOCK || patience_ms < RETRY_MS)
            return errmsg_set(e, "the disks are still being written by another process, which has %s open", j->path);
        wait_ms(RETRY_MS);
        patience_ms -= RETRY_MS;
    }
}

struct journal *journal_open(const char *path, const struct medium *m, unsigned patience_ms, struct errmsg *e)
{
    struct journal *j = calloc(1, sizeof *j);
    if (!j) {
        errmsg_set(e, "no memory for a journal");
        return NULL;
    }
    j->medium = m;
    j->fd = j->direct = -1;
    j->end = EPOCHS_AT;
    j->path = strdup(path);
    j->buffer = aligned_alloc(BLOCK, BUFFER);
    j->first = aligned_alloc(BLOCK, BLOCK);
    j->digest = XXH3_createState();
    if (!j->path || !j->buffer || !j->first || !j->digest)
        errmsg_set(e, "no memory for a journal");
    else if (!open_locked(j, patience_ms, e) && !read_slots(j, e)) {
        j->direct = medium_open_direct(j->fd);
        return j;
    }
    journal_close(j);
    return NULL;
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    if (j->fd >= 0)
        close(j->fd);
    if (j->direct >= 0)
        close(j->direct);
    XXH3_freeState(j->digest);
    free(j->path);
    free(j->buffer);
    free(j->first);
    free(j);
}

/* ---- reading ---- */

struct head {
    uint64_t epoch, length, durable;
    uint8_t octets[EPOCH_HEAD];
};

static bool head_is_valid(const struct journal *j, const struct head *h, uint64_t at, uint64_t size, uint64_t last)
{
    uint64_t room = size - at - EPOCH_HEAD;
    return !memcmp(h->octets, epoch_magic, sizeof epoch_magic) &&
           octets_to_u64(h->octets + 8, 8) == j->generation.number && h->epoch > last && h->length <= room;
}

/* Does the body have the digest that the head says? 1: yes; 0; -1: it can't be read. */
static int body_is_whole(struct journal *j, const struct head *h, uint64_t at, struct errmsg *e)
{
    XXH128_canonical_t canonical;
    XXH3_128bits_reset_withSeed(j->digest, j->generation.seed);
    for (uint64_t left = h->length, n; left; left -= n, at += n) {
        n = left < BUFFER ? left : BUFFER;
        if (medium_read(j->fd, j->buffer, (size_t)n, at))
            return trouble(j, "read", e);
        XXH3_128bits_update(j->digest, j->buffer, (size_t)n);
    }
    XXH3_128bits_update(j->digest, h->octets, EPOCH_DIGESTED);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(j->digest));
    return !memcmp(canonical.digest, h->octets + EPOCH_DIGESTED, PROTO_DIGEST_SIZE);
}

/* 1: there is a whole epoch at `at`; 0: none; -1 */
static int find_epoch(struct journal *j, uint64_t at, uint64_t size, uint64_t last, struct head *h, struct errmsg *e)
{
    if (at > size || size - at < EPOCH_HEAD)
        return 0;
    if (medium_read(j->fd, h->octets, sizeof h->octets, at))
        return trouble(j, "read", e);
    h->epoch = octets_to_u64(h->octets + 16, 8);
    h->length = octets_to_u64(h->octets + 24, 8);
    h->durable = octets_to_u64(h->octets + 32, 8);
    return head_is_valid(j, h, at, size, last) ? body_is_whole(j, h, at + EPOCH_HEAD, e) : 0;
}

static int replay_body(struct journal *j, const struct head *h, uint64_t at, journal_each *each, void *arg,
                       struct errmsg *e)
{
    for (uint64_t left = h->length, n; left; left -= n, at += n) {
        uint8_t head[ENTRY_HEAD];
        if (left < sizeof head)
            return errmsg_set(e, "the journal %s ends inside of a write", j->path);
        if (medium_read(j->fd, head, sizeof head, at))
            return trouble(j, "read", e);
        n = octets_to_u64(head, sizeof head);
        at += sizeof head;
        left -= sizeof head;
        if (n > left || n > DISK_PAYLOAD_MAX)
            return errmsg_set(e, "the journal %s has a write of %llu octets", j->path, (unsigned long long)n);
        if (medium_read(j->fd, j->buffer, (size_t)n, at))
            return trouble(j, "read", e);
        if (each(j->buffer, (size_t)n, arg, e))
            return -1;
    }
    return 0;
}

static uint64_t next_block(uint64_t at)
{
    return (at + BLOCK - 1) / BLOCK * BLOCK;
}

/* The first block from `at` on that may have been written; `size` if there is none. */
static uint64_t next_written(const struct journal *j, uint64_t at, uint64_t size)
{
    off_t data = lseek(j->fd, (off_t)at, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? size : at;
    return (uint64_t)data / BLOCK * BLOCK;
}

/* Behind what looks like the end, from `at` on: 1 if an epoch says that more than `last` was durable; 0; -1. */
static int durable_is_missing(struct journal *j, uint64_t at, uint64_t size, uint64_t last, struct errmsg *e)
{
    struct head h;
    int found = 0;
    for (; found >= 0 && (at = next_written(j, at, size)) < size; at += BLOCK) {
        found = find_epoch(j, at, size, last, &h, e);
        if (found > 0 && h.durable > last)
            return 1;
    }
    return found < 0 ? -1 : 0;
}

enum journal_result journal_replay(struct journal *j, journal_each *each, void *arg, uint64_t *epochs, struct errmsg *e)
{
    struct stat st;
    struct head h;
    uint64_t at = EPOCHS_AT, last = 0;
    int found;
    *epochs = 0;
    if (fstat(j->fd, &st)) {
        trouble(j, "read", e);
        return JOURNAL_FAILED;
    }
    uint64_t size = (uint64_t)st.st_size;
    while ((found = find_epoch(j, at, size, last, &h, e)) > 0) {
        if (replay_body(j, &h, at + EPOCH_HEAD, each, arg, e))
            return JOURNAL_FAILED;
        last = h.epoch;
        ++*epochs;
        at = next_block(at + EPOCH_HEAD + h.length);
    }
    int missing = found < 0 ? -1 : durable_is_missing(j, at, size, last, e);
    if (missing > 0)
        damaged(j, e);
    return missing < 0 ? JOURNAL_FAILED : missing ? JOURNAL_DAMAGED : JOURNAL_REPLAYED;
}

/* ---- writing ---- */

/* Whole blocks, past the page cache: to copy what nobody reads into it, and out again, is most of what it would take.
 */
static int write_blocks(struct journal *j, const uint8_t *data, size_t n, uint64_t at, struct errmsg *e)
{
    return medium_write_direct(j->medium, &j->direct, j->fd, data, n, at) ? trouble(j, "written", e) : 0;
}

/* Where in the file the buffer begins. */
static uint64_t buffer_at(const struct journal *j)
{
    return j->end + EPOCH_HEAD + j->length - j->buffered;
}

static int write_out(struct journal *j, struct errmsg *e)
{
    size_t n = (size_t)next_block(j->buffered);
    uint64_t at = buffer_at(j);
    if (at == j->end)
        memcpy(j->first, j->buffer, BLOCK);
    memset(j->buffer + j->buffered, 0, n - j->buffered);
    j->buffered = 0;
    return write_blocks(j, j->buffer, n, at, e);
}

static int append(struct journal *j, const uint8_t *data, size_t n, struct errmsg *e)
{
    XXH3_128bits_update(j->digest, data, n);
    for (size_t piece; n; n -= piece, data += piece) {
        if (j->buffered == BUFFER && write_out(j, e))
            return -1;
        piece = BUFFER - j->buffered;
        piece = n < piece ? n : piece;
        memcpy(j->buffer + j->buffered, data, piece);
        j->buffered += piece;
        j->length += piece;
    }
    return 0;
}

void journal_begin(struct journal *j, uint64_t epoch)
{
    XXH3_128bits_reset_withSeed(j->digest, j->generation.seed);
    j->epoch = epoch;
    j->length = 0;
    memset(j->buffer, 0, EPOCH_HEAD); /* which is no head yet */
    j->buffered = EPOCH_HEAD;
}

int journal_add(struct journal *j, const uint8_t *payload, size_t n, struct errmsg *e)
{
    uint8_t head[ENTRY_HEAD];
    put_int(head, ENTRY_HEAD, n);
    return append(j, head, sizeof head, e) || append(j, payload, n, e) ? -1 : 0;
}

static void make_head(struct journal *j, uint8_t head[EPOCH_HEAD])
{
    XXH128_canonical_t canonical;
    memcpy(head, epoch_magic, sizeof epoch_magic);
    put_int(put_int(put_int(put_int(head + 8, 8, j->generation.number), 8, j->epoch), 8, j->length), 8, j->durable);
    XXH3_128bits_update(j->digest, head, EPOCH_DIGESTED);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(j->digest));
    memcpy(head + EPOCH_DIGESTED, canonical.digest, PROTO_DIGEST_SIZE);
}

int journal_end(struct journal *j, struct errmsg *e)
{
    bool is_in_buffer = buffer_at(j) == j->end;
    make_head(j, is_in_buffer ? j->buffer : j->first);
    if (write_out(j, e) || (!is_in_buffer && write_blocks(j, j->first, BLOCK, j->end, e)))
        return -1;
    j->end = next_block(j->end + EPOCH_HEAD + j->length);
    return 0;
}

int journal_sync(struct journal *j, struct errmsg *e)
{
    if (j->medium->sync(j->medium, j->fd))
        return trouble(j, "synced", e);
    j->durable = j->epoch;
    return 0;
}

int journal_void(struct journal *j, struct errmsg *e)
{
    uint8_t slot[SLOT_SIZE];
    struct generation next;
    unsigned other = (j->slot + 1) % SLOTS;
    if (generation_make(&next, j->generation.number + 1, e))
        return -1;
    slot_make(slot, &next);
    if (j->medium->write(j->medium, j->fd, slot, sizeof slot, (uint64_t)other * BLOCK) ||
        j->medium->sync(j->medium, j->fd))
        return trouble(j, "written", e);
    if (j->end > EPOCHS_AT + JOURNAL_ROOM && ftruncate(j->fd, EPOCHS_AT + JOURNAL_ROOM))
        return trouble(j, "truncated", e);
    j->slot = other;
    j->generation = next;
    j->end = EPOCHS_AT;
    j->durable = 0;
    return 0;
}

int journal_remove(struct journal *j, struct errmsg *e)
{
    if (unlink(j->path))
        return trouble(j, "removed", e);
    return dir_sync_of(j->path, e);
}

uint64_t journal_bytes(const struct journal *j)
{
    return j->end - EPOCHS_AT;
}
