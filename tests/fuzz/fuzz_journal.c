/*
 * fuzz_journal: any octets as the body of an epoch in a journal (disk/journal.h) whose digests are right, and as all of
 * a file behind a good head. What is replayed then goes into small disks as stores_write would have it.
 */
#include "disk/journal.h"
#include "proto/cursor.h"
#include "sample.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { HEAD = 8192, EPOCH_HEAD = 56, SEED = 5 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int apply(const uint8_t *payload, size_t n, void *arg, struct errmsg *e)
{
    static uint8_t disks[SAMPLE_DISKS][SAMPLE_DISK_BYTES], room[DISK_DATA_MAX];
    struct disk_extent x;
    struct proto_error why;
    (void)arg;
    if (disk_read(payload, n, &sample_disk_sizes, &x, &why))
        return errmsg_set(e, "%s", why.text);
    const uint8_t *from = x.encoding == DISK_AS_ZEROES ? NULL : disk_decode(&x, room, &why);
    if (from)
        memcpy(disks[x.disk] + x.offset, from, x.length);
    return 0;
}

static void canonical(XXH128_hash_t sum, uint8_t out[16])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, sum);
    memcpy(out, c.digest, 16);
}

static void replay(const uint8_t *head, size_t head_size, const uint8_t *data, size_t n)
{
    static char path[64];
    uint8_t slot[HEAD] = "HIKAEJNL\1";
    struct errmsg e;
    uint64_t epochs;
    put_int(put_int(slot + 16, 8, 1), 8, SEED);
    canonical(XXH3_128bits(slot, 32), slot + 32);
    snprintf(path, sizeof path, "/tmp/hikae-fuzz-journal.%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, slot, HEAD) != HEAD || write(fd, head, head_size) != (ssize_t)head_size ||
        write(fd, data, n) != (ssize_t)n)
        abort();
    close(fd);
    struct journal *j = journal_open(path, &medium_kernel, 0, &e);
    if (!j)
        abort(); /* its slot is good */
    (void)journal_replay(j, apply, NULL, &epochs, &e);
    journal_close(j);
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t head[EPOCH_HEAD] = "EPOCHJNL";
    put_int(put_int(put_int(put_int(head + 8, 8, 1), 8, 7), 8, n), 8, 0);
    uint8_t *all = malloc(n + 40);
    if (!all)
        return 0;
    memcpy(all, data, n);
    memcpy(all + n, head, 40);
    canonical(XXH3_128bits_withSeed(all, n + 40, SEED), head + 40);
    replay(head, sizeof head, data, n);
    replay(head, 0, data, n);
    free(all);
    return 0;
}
