#include "secondary/block_teller.h"

#include "disk/medium.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A slice is as much as one record tells. */
enum { REGION = DISK_REGION_BLOCKS * DISK_BLOCK_SIZE, SLICE_REGIONS = 256 };
enum { PAYLOAD_MAX = BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE + SLICE_REGIONS * (REGIONS_RUN_SIZE + PROTO_DIGEST_SIZE) };

struct block_teller {
    unsigned disk;
    int fd;
    uint64_t bytes, seed, regions;
    uint64_t told;                   /* regions */
    uint8_t zero[PROTO_DIGEST_SIZE]; /* of a whole region */
    uint8_t data[REGION];
    uint8_t payload[PAYLOAD_MAX];
    size_t n;
    uint64_t read;
    uint8_t *run; /* the one under way in `payload`; NULL: none */
    uint64_t run_first;
    uint32_t run_count;
};

struct block_teller *block_teller_new(unsigned disk, int fd, uint64_t bytes, uint64_t seed)
{
    struct block_teller *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->disk = disk;
    t->fd = fd;
    t->bytes = bytes;
    t->seed = seed;
    t->regions = regions_count(bytes / DISK_BLOCK_SIZE, DISK_REGION_BLOCKS);
    region_digest(seed, t->data, REGION, t->zero);
    return t;
}

void block_teller_free(struct block_teller *t)
{
    free(t);
}

/* The first region from t->told on that may have data, or the one after the last. */
static uint64_t next_region(const struct block_teller *t)
{
    off_t data = lseek(t->fd, (off_t)(t->told * REGION), SEEK_DATA);
    if (data < 0) /* nothing follows; or there are no holes to know of */
        return errno == ENXIO ? t->regions : t->told;
    uint64_t region = (uint64_t)data / REGION;
    return region < t->regions ? region : t->regions;
}

static void add_digest(struct block_teller *t, uint64_t region, const uint8_t digest[PROTO_DIGEST_SIZE])
{
    if (!t->run || t->run_first + t->run_count != region) {
        t->run = t->payload + t->n;
        t->run_first = region;
        t->run_count = 0;
        t->n += REGIONS_RUN_SIZE;
    }
    regions_run_write(t->run, t->run_first, ++t->run_count);
    memcpy(t->payload + t->n, digest, PROTO_DIGEST_SIZE);
    t->n += PROTO_DIGEST_SIZE;
}

static int tell_region(struct block_teller *t, uint64_t region, struct errmsg *e)
{
    uint64_t at = region * REGION, left = t->bytes - at;
    size_t n = left < REGION ? (size_t)left : REGION;
    uint8_t digest[PROTO_DIGEST_SIZE];
    if (medium_read(t->fd, t->data, n, at))
        return errmsg_set(e, "disk %u of the replica can't be read at %llu: %s", t->disk, (unsigned long long)at,
                          strerror(errno));
    t->read += n;
    region_digest(t->seed, t->data, n, digest);
    if (memcmp(digest, t->zero, sizeof digest) != 0)
        add_digest(t, region, digest);
    return 0;
}

ssize_t block_teller_next(struct block_teller *t, const uint8_t **payload, struct errmsg *e)
{
    if (t->told == t->regions)
        return 0;
    t->n = BLOCKS_HEAD_SIZE + REGIONS_HEAD_SIZE;
    t->run = NULL;
    for (unsigned i = 0; i < SLICE_REGIONS && (t->told = next_region(t)) < t->regions; i++)
        if (tell_region(t, t->told++, e))
            return -1;
    if (t->told < t->regions)
        t->told = next_region(t); /* a hole behind the last one costs nothing more */
    blocks_head_write(t->payload, t->disk);
    regions_head_write(t->payload + BLOCKS_HEAD_SIZE, &(struct regions_head){t->seed, t->told, DISK_REGION_BLOCKS});
    *payload = t->payload;
    return (ssize_t)t->n;
}

uint64_t block_teller_at(const struct block_teller *t)
{
    uint64_t at = t->told * REGION;
    return at < t->bytes ? at : t->bytes;
}

uint64_t block_teller_read(const struct block_teller *t)
{
    return t->read;
}
