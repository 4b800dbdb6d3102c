/*
 * hikae-fake-vm RUN_DIR: the process that is a fake VM. It checks and writes pages, sends frames, and stands still when
 * told to. See machine.h. Deterministic: page n of its life is always the same one.
 */
#include "vm/fake/machine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 1000000, WORDS = MACHINE_PAGE / 8, GENERATIONS = MACHINE_PAGE / 4, STEPS_PER_TICK_MAX = 20000 };

struct guest {
    struct machine *machine;
    uint8_t *ram;
    _Atomic uint64_t *dirty;
    uint32_t first_data, data_pages;
    int listener, client;
    uint64_t nonce, started_ns, frame_ns;
    double owed; /* pages to write */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value, long ns)
{
    struct timespec timeout = {.tv_nsec = ns};
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, ns ? &timeout : NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void *map_file(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct stat s;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *at = fd >= 0 && fstat(fd, &s) == 0 && s.st_size > 0
                   ? mmap(NULL, (size_t)s.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                   : MAP_FAILED;
    if (at == MAP_FAILED) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
    close(fd);
    return at;
}

static uint64_t pattern(uint32_t page, uint32_t generation, unsigned word)
{
    uint64_t x = ((uint64_t)page << 32 | generation) * 0x9e3779b97f4a7c15u + word;
    return generation == 0 ? 0 : x ^ x >> 29;
}

static void mark_dirty(struct guest *g, uint32_t page)
{
    atomic_fetch_or(&g->dirty[page / 64], 1ULL << (page % 64));
}

/* Writes one page, after checking that it holds what was written there last. */
static void step(struct guest *g)
{
    uint64_t n = g->machine->step;
    uint32_t index = (uint32_t)((n * 2654435761u + (n >> 7)) % g->data_pages), page = g->first_data + index;
    uint32_t *generation = (uint32_t *)(void *)g->ram + index;
    uint64_t *words = (uint64_t *)(void *)(g->ram + (size_t)page * MACHINE_PAGE);
    for (unsigned i = 0; i < WORDS; i++) {
        if (words[i] == pattern(page, *generation, i))
            continue;
        atomic_fetch_add(&g->machine->errors, 1);
        fprintf(stderr, "ERROR page %u generation %u word %u at step %llu\n", page, *generation, i,
                (unsigned long long)n);
        break;
    }
    atomic_fetch_add(&g->machine->checked, 1);
    mark_dirty(g, index / GENERATIONS);
    mark_dirty(g, page);
    ++*generation;
    for (unsigned i = 0; i < WORDS; i++)
        words[i] = pattern(page, *generation, i);
    g->machine->step = n + 1;
    if (g->machine->step == g->machine->shut_down_at) {
        atomic_store(&g->machine->shut_down, 1);
        exit(0);
    }
}

static void big_endian(uint8_t out[8], uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        out[i] = (uint8_t)value;
}

/* One more frame to whoever is connected, as QEMU's stream netdev does: length, then the frame. */
static void send_frame(struct guest *g)
{
    struct {
        uint32_t length;
        struct machine_frame frame;
    } __attribute__((packed)) message = {.length = htonl(MACHINE_FRAME)};
    uint8_t in[4096];
    if (g->client < 0)
        g->client = accept4(g->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (g->client < 0)
        return;
    memset(message.frame.destination, 0xff, 6);
    memcpy(message.frame.source, g->machine->mac, 6);
    message.frame.type[0] = MACHINE_ETHERTYPE >> 8;
    message.frame.type[1] = MACHINE_ETHERTYPE & 0xff;
    big_endian(message.frame.sequence, g->machine->sequence + 1);
    big_endian(message.frame.nonce, g->nonce);
    ssize_t n = send(g->client, &message, sizeof message, MSG_NOSIGNAL);
    if (n == (ssize_t)sizeof message)
        g->machine->sequence++;
    bool ended = n >= 0 ? n != (ssize_t)sizeof message : errno != EAGAIN;
    while ((n = recv(g->client, in, sizeof in, 0)) > 0)
        ;
    if (ended || n == 0) {
        close(g->client);
        g->client = -1;
    }
}

static int make_listener(const char *dir)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/net0.sock", dir) >= (int)sizeof address.sun_path) {
        fprintf(stderr, "%s: too long for a unix socket\n", dir);
        exit(1);
    }
    unlink(address.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0) {
        fprintf(stderr, "%s: %s\n", address.sun_path, strerror(errno));
        exit(1);
    }
    return fd;
}

/* Says that it stands still, and waits for the word to go on. */
static void stand_still(struct guest *g)
{
    atomic_store(&g->machine->running, 0);
    futex_wake(&g->machine->running);
    while (atomic_load(&g->machine->run) == 0)
        futex_wait(&g->machine->run, 0, 0);
    atomic_store(&g->machine->running, 1);
    futex_wake(&g->machine->running);
    g->started_ns = now_ns();
    g->owed = 0;
}

static void run_tick(struct guest *g)
{
    uint64_t now = now_ns();
    g->owed += (double)(now - g->started_ns) * g->machine->rate / 1e9;
    g->started_ns = now;
    if (g->owed > STEPS_PER_TICK_MAX)
        g->owed = STEPS_PER_TICK_MAX;
    for (; g->owed >= 1 && atomic_load(&g->machine->run); g->owed--)
        step(g);
    if (g->machine->frames_ms && now - g->frame_ns >= (uint64_t)g->machine->frames_ms * 1000000u) {
        g->frame_ns = now;
        send_frame(g);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: hikae-fake-vm RUN_DIR (started by backend fake)\n");
        return 2;
    }
    struct guest g = {.machine = map_file(argv[1], "control"),
                      .ram = map_file(argv[1], "ram"),
                      .dirty = map_file(argv[1], "dirty"),
                      .listener = -1,
                      .client = -1};
    if (g.machine->magic != MACHINE_MAGIC || getrandom(&g.nonce, sizeof g.nonce, 0) != (ssize_t)sizeof g.nonce)
        return 1;
    g.first_data = (g.machine->pages + GENERATIONS - 1) / GENERATIONS;
    g.data_pages = g.machine->pages - g.first_data;
    if (g.machine->frames_ms)
        g.listener = make_listener(argv[1]);
    stand_still(&g);
    for (;;) {
        futex_wait(&g.machine->run, 1, TICK_NS);
        if (atomic_load(&g.machine->run) == 0)
            stand_still(&g);
        else
            run_tick(&g);
    }
}
