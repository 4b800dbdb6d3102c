/*
 * diskbench: the load of ./dev bench disk, in the guest: what fio would do, were there room for it. It writes behind
 * the blocks that are diskd's, around the page cache unless it says so.
 *
 * TCP port 11, one order at a time, a JSON line as answer when it is done:
 *   "seq MB"       so many MiB one after the other, in pieces of 256 KiB, 8 at a time
 *   "by64k MB", "by4k MB"   the same in smaller pieces
 *   "cached MB"    so many MiB by way of the guest's page cache, one after the other, and a flush: what cp and sync do
 *   "rand COUNT"   so many blocks of 4 KiB anywhere, 16 at a time
 *   "paced COUNT"  so many blocks of 4 KiB anywhere, one each 2 ms: a disk that is used, and not busy
 *   "fsync COUNT"  so often a block of 4 KiB and a flush; the answer has how long each pair took, by the guest's clock
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PORT = 11,
    BLOCK = 4096,
    SECTOR = 512,
    PIECE = 256 << 10,
    MEDIUM = 64 << 10,
    SEQUENTIAL = 8,
    RANDOM = 16,
    MOST_FLUSHES = 100000,
    PACE_NS = 2000000
};

static int disk, cached;      /* the same, around the page cache and through it */
static uint64_t first, bytes; /* our part of the disk */

struct load {
    bool random;
    uint64_t count, piece; /* writes, and their size */
    atomic_ullong next, errors;
};

static uint64_t mix(uint64_t x)
{
    x = (x + 1) * 0x9e3779b97f4a7c15U;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    return x ^ x >> 27;
}

/* Not to be packed, and never twice the same. */
static void fill(uint64_t *out, uint64_t n, uint64_t seed)
{
    for (uint64_t i = 0; i < n / 8; i++)
        out[i] = seed + i * 0x9e3779b97f4a7c15U;
}

/* A little of each sector, as fio does: no two are the same, and the guest's CPU is not what is measured. */
static void change_sectors(uint64_t *out, uint64_t n, uint64_t seed)
{
    for (uint64_t i = 0; i < n / 8; i += SECTOR / 8) {
        out[i] = mix(seed + i);
        out[i + 1] ^= seed;
    }
}

static void *write_some(void *arg)
{
    static atomic_ullong runs;
    struct load *l = arg;
    uint64_t *buffer = aligned_alloc(BLOCK, l->piece), places = bytes / l->piece;
    uint64_t seed = mix(atomic_fetch_add(&runs, 1));
    if (buffer)
        fill(buffer, l->piece, seed);
    for (uint64_t i; buffer && (i = atomic_fetch_add(&l->next, 1)) < l->count;) {
        uint64_t place = (l->random ? mix(seed + i) : i) % places;
        change_sectors(buffer, l->piece, seed + i);
        if (pwrite(disk, buffer, l->piece, (off_t)(first + place * l->piece)) != (ssize_t)l->piece)
            atomic_fetch_add(&l->errors, 1);
    }
    free(buffer);
    return NULL;
}

static int write_all(char *out, size_t size, bool random, uint64_t count, uint64_t piece)
{
    struct load l = {.random = random, .count = count, .piece = piece};
    pthread_t threads[RANDOM];
    int n = 0;
    while (n < (random ? RANDOM : SEQUENTIAL) && !pthread_create(&threads[n], NULL, write_some, &l))
        n++;
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return snprintf(out, size, "{\"bytes\":%llu,\"errors\":%llu}\n", (unsigned long long)(count * l.piece),
                    (unsigned long long)l.errors);
}

static int write_cached(char *out, size_t size, uint64_t count)
{
    static uint64_t runs, buffer[PIECE / 8];
    uint64_t errors = 0, seed = mix(runs++);
    for (uint64_t i = 0; i < count; i++) {
        fill(buffer, PIECE, mix(seed + i));
        errors += pwrite(cached, buffer, PIECE, (off_t)(first + i % (bytes / PIECE) * PIECE)) != PIECE;
    }
    errors += fdatasync(cached) != 0;
    return snprintf(out, size, "{\"errors\":%llu}\n", (unsigned long long)errors);
}

static int write_paced(char *out, size_t size, uint64_t count)
{
    static uint64_t buffer[BLOCK / 8] __attribute__((aligned(BLOCK)));
    uint64_t errors = 0;
    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (uint64_t i = 0; i < count; i++) {
        due.tv_nsec += PACE_NS;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        fill(buffer, BLOCK, mix(i));
        errors += pwrite(disk, buffer, BLOCK, (off_t)(first + mix(i) % (bytes / BLOCK) * BLOCK)) != BLOCK;
    }
    return snprintf(out, size, "{\"errors\":%llu}\n", (unsigned long long)errors);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int flush_often(char *out, size_t size, uint64_t count)
{
    static uint64_t took[MOST_FLUSHES];
    static uint64_t buffer[BLOCK / 8] __attribute__((aligned(BLOCK)));
    uint64_t errors = 0;
    if (count > MOST_FLUSHES)
        count = MOST_FLUSHES;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t begin = now_us();
        fill(buffer, BLOCK, mix(begin));
        off_t at = (off_t)(first + mix(i) % (bytes / BLOCK) * BLOCK);
        errors += pwrite(disk, buffer, BLOCK, at) != BLOCK || fdatasync(disk);
        took[i] = now_us() - begin;
    }
    qsort(took, count, sizeof *took, by_size);
    return snprintf(out, size, "{\"p50_us\":%llu,\"p99_us\":%llu,\"errors\":%llu}\n",
                    (unsigned long long)(count ? took[count / 2] : 0),
                    (unsigned long long)(count ? took[count * 99 / 100] : 0), (unsigned long long)errors);
}

static int obey(char *out, size_t size, const char *line)
{
    unsigned long long n;
    if (sscanf(line, "seq %llu", &n) == 1)
        return write_all(out, size, false, n * ((1 << 20) / PIECE), PIECE);
    if (sscanf(line, "by64k %llu", &n) == 1)
        return write_all(out, size, false, n * ((1 << 20) / MEDIUM), MEDIUM);
    if (sscanf(line, "by4k %llu", &n) == 1)
        return write_all(out, size, false, n * ((1 << 20) / BLOCK), BLOCK);
    if (sscanf(line, "cached %llu", &n) == 1)
        return write_cached(out, size, n * ((1 << 20) / PIECE));
    if (sscanf(line, "rand %llu", &n) == 1)
        return write_all(out, size, true, n, BLOCK);
    if (sscanf(line, "paced %llu", &n) == 1)
        return write_paced(out, size, n);
    if (sscanf(line, "fsync %llu", &n) == 1)
        return flush_often(out, size, n);
    return snprintf(out, size, "{\"errors\":1}\n");
}

static void serve(int fd)
{
    char line[64], out[256];
    FILE *f = fdopen(fd, "r");
    while (f && fgets(line, sizeof line, f)) {
        int n = obey(out, sizeof out, line);
        if (send(fd, out, (size_t)n, MSG_NOSIGNAL) != n)
            break;
    }
    if (f)
        fclose(f);
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), on = 1;
    uint64_t whole = 0, blocks = 4096;
    unsigned long long n;
    disk = argc > 1 ? open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC) : -1;
    cached = argc > 1 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    if (disk < 0 || cached < 0 || ioctl(disk, BLKGETSIZE64, &whole)) {
        perror("diskbench");
        return 1;
    }
    for (int i = 2; i < argc; i++)
        if (sscanf(argv[i], "disk_blocks=%llu", &n) == 1)
            blocks = n;
    first = (blocks * BLOCK + PIECE - 1) / PIECE * PIECE;
    if (whole < first + PIECE)
        return 0; /* too small for it */
    bytes = whole - first;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 1)) {
        perror("diskbench: listen");
        return 1;
    }
    for (;;) {
        int client = accept(fd, NULL, NULL);
        if (client >= 0)
            serve(client);
    }
}
