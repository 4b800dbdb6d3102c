#include "disk/compare.h"

#include "common/log.h"
#include "disk/medium.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BLOCKS = 64 };

struct comparing {
    const char *name;
    struct check_head head;
    int fd;
    struct checked answer;
    uint8_t chunk[CHUNK_BLOCKS * DISK_BLOCK_SIZE];
};

static bool is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, DISK_BLOCK_SIZE - 1) == 0;
}

static bool is_equal(const struct comparing *c, const uint8_t *block, const uint8_t *digest)
{
    uint8_t here[PROTO_DIGEST_SIZE];
    if (!digest)
        return is_zero(block);
    region_digest(c->head.seed, block, DISK_BLOCK_SIZE, here);
    return !memcmp(here, digest, sizeof here);
}

/* digests: one for each block; NULL: they are to be zeroes. */
static void compare_chunk(struct comparing *c, uint64_t from, uint64_t count, const uint8_t *digests)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *digest = digests ? digests + i * PROTO_DIGEST_SIZE : NULL;
        if (!is_equal(c, c->chunk + i * DISK_BLOCK_SIZE, digest))
            checked_differs(&c->answer, from + i);
    }
}

static int read_chunk(struct comparing *c, uint64_t from, uint64_t count)
{
    off_t at = (off_t)(from * DISK_BLOCK_SIZE);
    size_t n = (size_t)count * DISK_BLOCK_SIZE;
    (void)posix_fadvise(c->fd, at, (off_t)n, POSIX_FADV_DONTNEED); /* a hint: what is dirty stays */
    return medium_read(c->fd, c->chunk, n, (uint64_t)at);
}

static void compare_range(struct comparing *c, uint64_t from, uint64_t end, const uint8_t *digests)
{
    for (uint64_t count; from < end; from += count) {
        count = end - from < CHUNK_BLOCKS ? end - from : CHUNK_BLOCKS;
        if (read_chunk(c, from, count)) { /* one of them can't be read: which one? */
            count = 1;
            if (read_chunk(c, from, 1)) {
                log_warn("disk %s can't be read at block %" PRIu64 ": %s", c->name, from, strerror(errno));
                checked_differs(&c->answer, from);
                digests = digests ? digests + PROTO_DIGEST_SIZE : NULL;
                continue;
            }
        }
        compare_chunk(c, from, count, digests);
        digests = digests ? digests + count * PROTO_DIGEST_SIZE : NULL;
    }
}

/* What is a hole here as well is not read. */
static void compare_zeroes(struct comparing *c, uint64_t from, uint64_t end)
{
    while (from < end) {
        off_t data = lseek(c->fd, (off_t)(from * DISK_BLOCK_SIZE), SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return;
        off_t hole = data < 0 ? -1 : lseek(c->fd, data, SEEK_HOLE);
        uint64_t begin = data < 0 ? from : (uint64_t)data / DISK_BLOCK_SIZE;
        uint64_t stop = hole < 0 ? end : ((uint64_t)hole + DISK_BLOCK_SIZE - 1) / DISK_BLOCK_SIZE;
        stop = stop < end ? stop : end;
        begin = begin > from ? begin : from;
        if (begin >= stop)
            return;
        compare_range(c, begin, stop, NULL);
        from = stop;
    }
}

uint8_t *compare_blocks(int fd, const char *name, const struct check_head *head, const uint8_t *payload, size_t n,
                        size_t *answer_n)
{
    struct comparing *c = calloc(1, sizeof *c);
    struct check_run run;
    uint64_t at = head->first;
    if (!c)
        return NULL;
    c->name = name;
    c->head = *head;
    c->fd = fd;
    uint8_t *answer = malloc(checked_bound(head));
    if (answer) {
        checked_begin(&c->answer, answer, head);
        for (size_t offset = CHECK_HEAD_SIZE; check_next(payload, n, &offset, &run) > 0; at = run.from + run.count) {
            compare_zeroes(c, at, run.from);
            compare_range(c, run.from, run.from + run.count, run.digests);
        }
        compare_zeroes(c, at, c->head.end);
    }
    *answer_n = c->answer.n;
    free(c);
    return answer;
}
