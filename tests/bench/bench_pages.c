/*
 * bench_pages: how fast page_encode, page_check and page_apply are on one core, by how many of a page's 512 words
 * changed. Prints JSON; memcpy of the same pages beside it, as the limit. GB are 10^9 octets of guest page.
 *
 *   bench_pages [PAGES [ROUNDS]]        default 4096 pages (2 x 16 MiB: not in the L2 cache), 5 rounds, the best counts
 */
#include "proto/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORDS = PROTO_PAGE_SIZE / 8 };

static size_t pages = 4096;
static unsigned rounds = 5;
static uint8_t *now, *base, *encoded, *replica;
static size_t *sizes;
static uint8_t *encodings;
static uint64_t seed = 88172645463325252u;

static uint64_t noise(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Content as guests have it: about half of the words small numbers or zero, the rest noise. LZ4 makes 1.5x of it. */
static void fill(uint8_t *at)
{
    for (size_t w = 0; w < pages * WORDS; w++) {
        uint64_t word = noise();
        word = word % 8 < 3 ? word >> 56 : word;
        memcpy(at + w * 8, &word, 8);
    }
}

static void change_words(unsigned words)
{
    memcpy(now, base, pages * PROTO_PAGE_SIZE);
    for (size_t page = 0; page < pages; page++)
        for (unsigned done = 0; done < words; done++) {
            /* 512 are all; fewer are drawn, a few of them twice */
            unsigned w = words == WORDS ? done : (unsigned)(noise() % WORDS);
            uint64_t word = noise();
            memcpy(now + page * PROTO_PAGE_SIZE + w * 8, &word, 8);
        }
}

static void encode_all(void)
{
    for (size_t i = 0; i < pages; i++) {
        enum page_encoding encoding;
        sizes[i] = page_encode(now + i * PROTO_PAGE_SIZE, base + i * PROTO_PAGE_SIZE, encoded + i * PROTO_PAGE_SIZE,
                               &encoding);
        encodings[i] = (uint8_t)encoding;
    }
}

static void encode_without_base(void)
{
    for (size_t i = 0; i < pages; i++) {
        enum page_encoding encoding;
        sizes[i] = page_encode(now + i * PROTO_PAGE_SIZE, NULL, encoded + i * PROTO_PAGE_SIZE, &encoding);
        encodings[i] = (uint8_t)encoding;
    }
}

static void check_all(void)
{
    struct proto_error e;
    for (size_t i = 0; i < pages; i++)
        if (page_check(encodings[i], encoded + i * PROTO_PAGE_SIZE, sizes[i], &e))
            abort();
}

static void apply_all(void)
{
    for (size_t i = 0; i < pages; i++)
        page_apply(encodings[i], encoded + i * PROTO_PAGE_SIZE, sizes[i], replica + i * PROTO_PAGE_SIZE);
}

static void copy_all(void)
{
    for (size_t i = 0; i < pages; i++)
        memcpy(encoded + i * PROTO_PAGE_SIZE, now + i * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE);
}

/* GB/s of the best round. */
static double measure(void (*run)(void))
{
    double best = 1e9;
    for (unsigned i = 0; i < rounds; i++) {
        double start = seconds();
        run();
        double took = seconds() - start;
        best = took < best ? took : best;
    }
    return (double)(pages * PROTO_PAGE_SIZE) / best / 1e9;
}

static void row(const char *name, void (*encode)(void), const char *end)
{
    size_t count[PAGE_ENCODINGS] = {0}, total = 0;
    double speed = measure(encode);
    for (size_t i = 0; i < pages; i++) {
        count[encodings[i]]++;
        total += sizes[i] + PAGES_ENTRY_SIZE;
    }
    double check = measure(check_all), apply = 1e9;
    for (unsigned i = 0; i < rounds; i++) { /* not `measure`: each round needs the base again */
        memcpy(replica, base, pages * PROTO_PAGE_SIZE);
        double start = seconds();
        apply_all();
        double took = seconds() - start;
        apply = took < apply ? took : apply;
    }
    if (memcmp(replica, now, pages * PROTO_PAGE_SIZE) != 0)
        abort();
    printf("    {\"changed_words\": \"%s\", \"encode_gb_per_s\": %.2f, \"ratio\": %.2f, \"check_gb_per_s\": %.2f, "
           "\"apply_gb_per_s\": %.2f, \"encodings\": {",
           name, speed, (double)(pages * PROTO_PAGE_SIZE) / (double)total, check,
           (double)(pages * PROTO_PAGE_SIZE) / apply / 1e9);
    const char *comma = "";
    for (unsigned i = 0; i < PAGE_ENCODINGS; i++)
        if (count[i]) {
            printf("%s\"%s\": %zu", comma, page_encoding_name(i), count[i]);
            comma = ", ";
        }
    printf("}}%s\n", end);
}

static uint8_t *area(void)
{
    uint8_t *at = aligned_alloc(PROTO_PAGE_SIZE, pages * PROTO_PAGE_SIZE);
    if (!at)
        abort();
    memset(at, 1, pages * PROTO_PAGE_SIZE); /* touched: page faults are not what is measured */
    return at;
}

int main(int argc, char **argv)
{
    static const unsigned counts[] = {0, 1, 8, 32, 128, 192, 256, 512};
    char name[32];
    pages = argc > 1 ? strtoull(argv[1], NULL, 10) : pages;
    rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : rounds;
    if (!pages || !rounds)
        return 2;
    now = area();
    base = area();
    encoded = area();
    replica = area();
    sizes = calloc(pages, sizeof *sizes);
    encodings = calloc(pages, 1);
    if (!sizes || !encodings)
        abort();
    fill(base);
    memcpy(now, base, pages * PROTO_PAGE_SIZE);
    printf("{\n  \"pages\": %zu,\n  \"memcpy_gb_per_s\": %.2f,\n  \"rows\": [\n", pages, measure(copy_all));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        change_words(counts[i]);
        snprintf(name, sizeof name, "%u", counts[i]);
        row(name, encode_all, ",");
    }
    change_words(0);
    row("no base", encode_without_base, ",");
    memset(now, 0, pages * PROTO_PAGE_SIZE);
    row("zero page", encode_all, "");
    puts("  ]\n}");
    free(now);
    free(base);
    free(encoded);
    free(replica);
    free(sizes);
    free(encodings);
    return 0;
}
