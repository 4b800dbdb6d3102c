/* limit: see limit.h. */
#include "tools/demo/limit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, SPREAD = 65536, ROUNDS = 31 };

static double now_ms_precise(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

double limit_memcpy_ms(uint64_t pages)
{
    double times[ROUNDS];
    if (!pages)
        return 0;
    if (pages > SPREAD)
        pages = SPREAD;
    unsigned char *from = memory((size_t)SPREAD * PAGE), *to = memory(pages * PAGE);
    for (unsigned round = 0; from && to && round < ROUNDS; round++) {
        double start = now_ms_precise();
        /* An odd step visits every page once, and no two neighbours in a row. */
        for (uint64_t i = 0, at = round * 997; i < pages; i++, at += 24593)
            memcpy(to + i * PAGE, from + at % SPREAD * PAGE, PAGE);
        times[round] = now_ms_precise() - start;
    }
    int bad = !from || !to;
    if (from)
        munmap(from, (size_t)SPREAD * PAGE);
    if (to)
        munmap(to, pages * PAGE);
    if (bad)
        return 0;
    qsort(times, ROUNDS, sizeof *times, compare);
    return times[ROUNDS / 2];
}
