/*
 * diskd: what the test guest does with its disk, and how it knows that the disk is the one that belongs to its memory.
 *
 * Some threads, each with a part of the disk of its own, write blocks around the page cache: numbered, and full of what
 * follows from block and number. The number that each block has is kept in memory. Now and then a thread writes zeroes,
 * discards, or flushes; what it had written before a flush counts as flushed from then on.
 *
 * TCP port 9: "stats" tells how much was flushed, and how large the disk is by now; "verify" stops the threads between
 * two writes, reads everything and counts the blocks that are not what memory says. A replica whose disk has one write
 * less than its memory knows of, or one more, is found by that; and a client that was told N flushed and later hears of
 * less has found one too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, WORDS = BLOCK / 8, WRITERS = 4, MOST_BLOCKS = 8, PORT = 9, LINE = 64 };
#define UNKNOWN UINT64_MAX /* discarded: anything may be there */

struct writer {
    pthread_t thread;
    pthread_mutex_t lock; /* held for the time of one operation */
    uint64_t first, blocks;
    uint64_t *number;             /* of each block; 0: zeroes */
    uint64_t operations, flushed; /* done; done before the last flush */
    uint64_t next, random, io_errors;
    uint64_t *buffer;
};

static struct writer writers[WRITERS];
static uint64_t rate = 100, blocks = 4096; /* operations per second and writer; of the disk, for all writers */
static int disk;

static uint64_t word(uint64_t block, uint64_t number, unsigned i)
{
    uint64_t x = (number << 20 ^ block << 9 ^ i) * 0x9e3779b97f4a7c15U;
    return i == 0 ? block : i == 1 ? number : x ^ x >> 29;
}

static void fill(uint64_t *out, uint64_t block, uint64_t number)
{
    for (unsigned i = 0; i < WORDS; i++)
        out[i] = number ? word(block, number, i) : 0;
}

static bool is_right(const uint64_t *is, uint64_t block, uint64_t number)
{
    static __thread uint64_t want[WORDS];
    fill(want, block, number);
    return memcmp(is, want, BLOCK) == 0;
}

static uint64_t below(struct writer *w, uint64_t n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % n;
}

/* ---- writing ---- */

static bool set_range(struct writer *w, unsigned long request, uint64_t first, uint64_t n, uint64_t number)
{
    uint64_t range[2] = {(w->first + first) * BLOCK, n * BLOCK};
    if (ioctl(disk, request, range))
        return false;
    for (uint64_t i = 0; i < n; i++)
        w->number[first + i] = number;
    return true;
}

static bool write_range(struct writer *w, uint64_t first, uint64_t n)
{
    uint64_t number = ++w->next;
    for (uint64_t i = 0; i < n; i++)
        fill(w->buffer + i * WORDS, w->first + first + i, number);
    if (pwrite(disk, w->buffer, n * BLOCK, (off_t)((w->first + first) * BLOCK)) != (ssize_t)(n * BLOCK))
        return false;
    for (uint64_t i = 0; i < n; i++)
        w->number[first + i] = number;
    return true;
}

/* Not what follows from what it has done so far: a guest that goes on from an earlier moment must do something else
 * than it did then, or it would itself write over what was written too early. */
static void stir(struct writer *w)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    w->random ^= (uint64_t)now.tv_nsec << 24;
    w->random += !w->random; /* it would stay 0 */
}

static bool operate(struct writer *w)
{
    stir(w);
    uint64_t kind = below(w, 100), n = 1 + below(w, MOST_BLOCKS), first = below(w, w->blocks - n);
    if (kind < 5) {
        if (fdatasync(disk))
            return false;
        w->flushed = w->operations + 1;
        return true;
    }
    if (kind < 8)
        return set_range(w, BLKZEROOUT, first, n, 0);
    if (kind < 10)
        return set_range(w, BLKDISCARD, first, n, UNKNOWN);
    return write_range(w, first, n);
}

static void *writer_run(void *arg)
{
    struct writer *w = arg;
    for (;;) {
        struct timespec wait = {.tv_nsec = rate ? (long)(999999999 / rate) : 999999999}; /* a whole second is none */
        if (rate) {
            pthread_mutex_lock(&w->lock);
            if (!operate(w) && w->io_errors++ < 5)
                printf("diskd: %s\n", strerror(errno));
            w->operations++;
            pthread_mutex_unlock(&w->lock);
        }
        if (rate < 100000)
            nanosleep(&wait, NULL);
    }
    return NULL;
}

/* ---- looking ---- */

static uint64_t count_wrong(struct writer *w)
{
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < w->blocks; i += MOST_BLOCKS) {
        uint64_t n = w->blocks - i < MOST_BLOCKS ? w->blocks - i : MOST_BLOCKS;
        bool read = pread(disk, w->buffer, n * BLOCK, (off_t)((w->first + i) * BLOCK)) == (ssize_t)(n * BLOCK);
        for (uint64_t k = 0; k < n; k++) {
            const uint64_t *is = w->buffer + k * WORDS;
            if (w->number[i + k] == UNKNOWN || (read && is_right(is, w->first + i + k, w->number[i + k])))
                continue;
            if (wrong++ < 5)
                printf("diskd: block %llu should be number %llu of %llu, has %llu %llu\n",
                       (unsigned long long)(w->first + i + k), (unsigned long long)w->number[i + k],
                       (unsigned long long)w->next, (unsigned long long)is[0], (unsigned long long)is[1]);
        }
    }
    return wrong;
}

static int answer(int fd, const char *line)
{
    uint64_t wrong = 0, flushed = 0, operations = 0, errors = 0, bytes;
    unsigned long long n;
    bool verify = !strcmp(line, "verify");
    char out[256];
    if (sscanf(line, "rate %llu", &n) == 1)
        rate = n;
    for (int i = 0; i < WRITERS; i++)
        pthread_mutex_lock(&writers[i].lock);
    for (int i = 0; i < WRITERS; i++) {
        wrong += verify ? count_wrong(&writers[i]) : 0;
        flushed += writers[i].flushed;
        operations += writers[i].operations;
        errors += writers[i].io_errors;
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_mutex_unlock(&writers[i].lock);
    if (ioctl(disk, BLKGETSIZE64, &bytes))
        bytes = 0;
    int length = snprintf(out, sizeof out, "{\"operations\":%llu,\"flushed\":%llu,\"bytes\":%llu,\"io_errors\":%llu",
                          (unsigned long long)operations, (unsigned long long)flushed, (unsigned long long)bytes,
                          (unsigned long long)errors);
    length += snprintf(out + length, sizeof out - (size_t)length, verify ? ",\"blocks\":%llu,\"wrong\":%llu}\n" : "}\n",
                       (unsigned long long)blocks, (unsigned long long)wrong);
    return send(fd, out, (size_t)length, MSG_NOSIGNAL) == length ? 0 : -1;
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char line[LINE], c;
    size_t used = 0;
    while (recv(fd, &c, 1, 0) == 1) {
        if (c != '\n') {
            if (used < LINE - 1)
                line[used++] = c;
            continue;
        }
        line[used] = '\0';
        used = 0;
        if (answer(fd, line))
            break;
    }
    close(fd);
    return NULL;
}

static void listen_and_serve(void)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8)) {
        perror("diskd: listen");
        exit(1);
    }
    for (;;) {
        pthread_t thread;
        int client = accept(fd, NULL, NULL);
        if (client < 0)
            continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client))
            close(client);
        else
            pthread_detach(thread);
    }
}

int main(int argc, char **argv)
{
    unsigned long long n;
    uint64_t bytes = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    disk = argc > 1 ? open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC) : -1;
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes)) {
        perror("diskd");
        return 1;
    }
    for (int i = 2; i < argc; i++) {
        if (sscanf(argv[i], "disk_rate=%llu", &n) == 1)
            rate = n;
        else if (sscanf(argv[i], "disk_blocks=%llu", &n) == 1)
            blocks = n;
    }
    if (blocks > bytes / BLOCK)
        blocks = bytes / BLOCK;
    for (uint64_t i = 0; i < WRITERS; i++) {
        struct writer *w = &writers[i];
        *w = (struct writer){
            .first = i * (blocks / WRITERS), .blocks = blocks / WRITERS, .random = 0x123456789abcdef * (i + 1)};
        pthread_mutex_init(&w->lock, NULL);
        w->number = calloc(w->blocks, sizeof *w->number);
        w->buffer = aligned_alloc(BLOCK, MOST_BLOCKS * BLOCK);
        if (!w->number || !w->buffer || w->blocks <= MOST_BLOCKS || !set_range(w, BLKZEROOUT, 0, w->blocks, 0) ||
            pthread_create(&w->thread, NULL, writer_run, w)) {
            perror("diskd: a writer");
            return 1;
        }
    }
    printf("diskd: %llu blocks of %s, %llu operations/s\n", (unsigned long long)blocks, argv[1],
           (unsigned long long)(rate * WRITERS));
    listen_and_serve();
}
