/*
 * guestd: what the test guest does. One thread, one poll loop:
 *   - it writes pages of a region at a settable rate, in batches of a millisecond or two, and first checks each against
 *     what it wrote there last;
 *   - TCP port 7: every line received raises a counter, whose value is the answer;
 *   - UDP beacons: {sequence, nonce, memory errors}, each made exactly once;
 *   - TCP port 8: "stats", "rate N", "region N", "words N", "beacon MS", a JSON line as answer to each.
 *
 * How it shows a bad replica: a page and its generation number live in different pages, so that a page restored older
 * than its generation (or the other way round) differs from what it should hold. How it shows output that was let out
 * too early: a client that sees the counter fall, or a beacon's sequence number twice, was shown something that the
 * survivor never did. The nonce must differ between two runs from the same checkpoint, so it comes from the time stamp
 * counter: the kernel's random numbers would repeat themselves.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum {
    PAGE_BYTES = 4096,
    PAGE_WORDS = 512,
    COUNTER_PORT = 7,
    CONTROL_PORT = 8,
    MAX_CLIENTS = 32,
    LINE_BYTES = 128,
    BATCH_US = 1500,   /* how often pages are written, if nothing else is said */
    CATCH_UP_US = 8000 /* after a longer stop the rest is let go: no burst */
};

struct settings {
    uint64_t rate, region, words; /* pages/s; pages; 8-byte words changed per page */
    uint64_t beacon_ms;           /* 0: none */
    uint64_t batch_us;            /* the loop turns at least so often */
    struct sockaddr_in beacon_to;
};

struct memory {
    uint64_t *pages, *generations; /* `region` pages; how often each was written */
    uint64_t region, cursor;
};

struct beacon { /* as sent, little endian */
    uint64_t sequence, nonce, errors;
};

struct client {
    int fd;
    bool control;
    size_t used;
    char line[LINE_BYTES];
};

static struct settings set = {.rate = 10000, .region = 4096, .words = 8, .batch_us = BATCH_US};
static struct memory mem;
static struct client clients[MAX_CLIENTS];
static size_t client_count;
static int beacon_fd = -1;
static uint64_t ticks, dirtied, checked, errors, counter, beacons;

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- memory ---- */

static uint64_t *allocate(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static bool set_region(uint64_t region)
{
    struct memory m = {.region = region};
    m.pages = allocate(region * PAGE_BYTES);
    m.generations = m.pages ? allocate(region * sizeof *m.generations) : NULL;
    if (!m.generations) {
        if (m.pages)
            munmap(m.pages, region * PAGE_BYTES);
        return false;
    }
    if (mem.pages) {
        munmap(mem.pages, mem.region * PAGE_BYTES);
        munmap(mem.generations, mem.region * sizeof *mem.generations);
    }
    mem = m;
    set.region = region;
    return true;
}

static uint64_t pattern(uint64_t generation, uint64_t page, uint64_t word)
{
    uint64_t x = (generation << 32 ^ page << 10 ^ word) * 0x9e3779b97f4a7c15U;
    return x ^ x >> 31;
}

static void complain(uint64_t page, uint64_t word, uint64_t is, uint64_t want)
{
    if (errors++ < 10)
        printf("ERROR page %llu word %llu is %016llx, should be %016llx\n", (unsigned long long)page,
               (unsigned long long)word, (unsigned long long)is, (unsigned long long)want);
}

/* The words that a generation writes are spread over the page and move from one generation to the next. */
static void write_page(uint64_t page)
{
    uint64_t *p = mem.pages + page * PAGE_WORDS, *generation = &mem.generations[page];
    uint64_t stride = PAGE_WORDS / set.words;

    for (uint64_t i = 0; *generation && i < set.words; i++) {
        uint64_t word = i * stride + *generation % stride, want = pattern(*generation, page, word);
        if (p[word] != want)
            complain(page, word, p[word], want);
    }
    checked += *generation != 0;
    ++*generation;
    for (uint64_t i = 0; i < set.words; i++) {
        uint64_t word = i * stride + *generation % stride;
        p[word] = pattern(*generation, page, word);
    }
    dirtied++;
}

static bool set_words(uint64_t words)
{
    set.words = words;
    memset(mem.generations, 0, mem.region * sizeof *mem.generations); /* the old pattern was spread otherwise */
    return true;
}

static void write_pages(int64_t now)
{
    static int64_t last;
    static uint64_t owed; /* millionths of a page */
    int64_t elapsed = last && now > last ? now - last : 0;

    last = now;
    int64_t most = CATCH_UP_US + (int64_t)set.batch_us;
    owed += set.rate * (uint64_t)(elapsed < most ? elapsed : most);
    for (; owed >= 1000000; owed -= 1000000) {
        write_page(mem.cursor);
        mem.cursor = (mem.cursor + 1) % mem.region;
    }
}

/* ---- network ---- */

static void send_beacon(void)
{
    struct beacon b = {.sequence = ++beacons, .nonce = __rdtsc() * 0x9e3779b97f4a7c15U, .errors = errors};
    if (beacon_fd < 0)
        beacon_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    /* One that does not leave is a lost datagram: its number is not used again. */
    (void)!sendto(beacon_fd, &b, sizeof b, 0, (struct sockaddr *)&set.beacon_to, sizeof set.beacon_to);
}

static bool command(const char *line)
{
    unsigned long long n;
    if (!strcmp(line, "stats"))
        return true;
    if (sscanf(line, "rate %llu", &n) == 1 && n <= 10000000)
        set.rate = n;
    else if (sscanf(line, "region %llu", &n) == 1 && n > 0 && n <= 1 << 24)
        return set_region(n);
    else if (sscanf(line, "words %llu", &n) == 1 && n > 0 && n <= PAGE_WORDS)
        return set_words(n);
    else if (sscanf(line, "beacon %llu", &n) == 1 && n <= 60000)
        set.beacon_ms = set.beacon_to.sin_port ? n : 0;
    else
        return false;
    return true;
}

static int answer(struct client *c)
{
    char out[320];
    int n;
    if (!c->control) {
        n = snprintf(out, sizeof out, "%llu\n", (unsigned long long)++counter);
    } else if (command(c->line)) {
        n = snprintf(
            out, sizeof out,
            "{\"ticks\":%llu,\"dirtied\":%llu,\"checked\":%llu,\"errors\":%llu,\"counter\":%llu,\"beacons\":%llu,"
            "\"rate\":%llu,\"region\":%llu,\"words\":%llu}\n",
            (unsigned long long)ticks, (unsigned long long)dirtied, (unsigned long long)checked,
            (unsigned long long)errors, (unsigned long long)counter, (unsigned long long)beacons,
            (unsigned long long)set.rate, (unsigned long long)set.region, (unsigned long long)set.words);
    } else {
        n = snprintf(out, sizeof out, "{\"error\":\"stats, rate N, region N, words N or beacon MS\"}\n");
    }
    return send(c->fd, out, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -1;
}

/* Returns -1 when the client is gone, or does not read its answers. */
static int serve(struct client *c)
{
    char in[1024];
    ssize_t n = recv(c->fd, in, sizeof in, 0);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    for (ssize_t i = 0; i < n; i++) {
        if (in[i] != '\n') {
            if (in[i] != '\r' && c->used < sizeof c->line - 1)
                c->line[c->used++] = in[i];
            continue;
        }
        c->line[c->used] = '\0';
        c->used = 0;
        if (answer(c))
            return -1;
    }
    return 0;
}

static int listen_on(uint16_t port)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1, off = 0;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) || bind(fd, (struct sockaddr *)&a, sizeof a) ||
        listen(fd, 8)) {
        perror("guestd: listen");
        exit(1);
    }
    return fd;
}

static void accept_client(int listener, bool control)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (fd < 0)
        return;
    if (client_count == MAX_CLIENTS) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on,
               sizeof on); /* a client that vanished does not hold its place for ever */
    clients[client_count++] = (struct client){.fd = fd, .control = control};
}

/* ---- the loop ---- */

static void tick(void)
{
    printf("tick %llu dirtied %llu checked %llu errors %llu counter %llu beacons %llu\n", (unsigned long long)++ticks,
           (unsigned long long)dirtied, (unsigned long long)checked, (unsigned long long)errors,
           (unsigned long long)counter, (unsigned long long)beacons);
}

/* Due every `period`. The clock may jump either way when the guest wakes up on another host: never wait longer than a
 * period. */
static bool due(int64_t *next, int64_t period, int64_t now)
{
    if (period <= 0 || (now < *next && *next - now <= period))
        return false;
    *next = now - *next > period ? now + period : *next + period;
    return true;
}

static void run(void)
{
    struct pollfd fds[2 + MAX_CLIENTS] = {{.fd = listen_on(COUNTER_PORT), .events = POLLIN},
                                          {.fd = listen_on(CONTROL_PORT), .events = POLLIN}};
    int64_t next_tick = 0, next_beacon = 0;

    for (;;) {
        struct timespec wait = {.tv_nsec = (long)(set.rate || set.beacon_ms ? set.batch_us : 50000) * 1000L};
        for (size_t i = 0; i < client_count; i++)
            fds[2 + i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
        if (ppoll(fds, (nfds_t)(2 + client_count), &wait, NULL) > 0) {
            for (size_t i = client_count; i-- > 0;) {
                if (fds[2 + i].revents && serve(&clients[i])) {
                    close(clients[i].fd);
                    clients[i] = clients[--client_count];
                }
            }
            for (int i = 0; i < 2; i++)
                if (fds[i].revents)
                    accept_client(fds[i].fd, i == 1);
        }
        int64_t now = now_us();
        write_pages(now);
        if (due(&next_beacon, (int64_t)set.beacon_ms * 1000, now))
            send_beacon();
        if (due(&next_tick, 1000000, now))
            tick();
    }
}

/* KEY=VALUE, as on the kernel's command line less "hikae." */
static bool option(const char *word)
{
    char host[32];
    unsigned port;
    unsigned long long n;
    if (sscanf(word, "rate=%llu", &n) == 1)
        set.rate = n;
    else if (sscanf(word, "region=%llu", &n) == 1 && n > 0)
        set.region = n;
    else if (sscanf(word, "words=%llu", &n) == 1 && n > 0 && n <= PAGE_WORDS)
        set.words = n;
    else if (sscanf(word, "beacon=%llu", &n) == 1)
        set.beacon_ms = n;
    else if (sscanf(word, "batch_us=%llu", &n) == 1 && n >= 100 && n <= 500000)
        set.batch_us = n;
    else if (sscanf(word, "beacon_to=%31[0-9.]:%u", host, &port) == 2 && port < 65536)
        set.beacon_to = (struct sockaddr_in){
            .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = inet_addr(host)};
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++)
        if (!option(argv[i]))
            printf("guestd: ignored %s\n", argv[i]);
    if (!set.beacon_to.sin_port)
        set.beacon_ms = 0;
    if (!set_region(set.region)) {
        perror("guestd: region");
        return 1;
    }
    run();
}
