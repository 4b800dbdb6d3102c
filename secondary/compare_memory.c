#include "secondary/compare_memory.h"

#include "proto/regions.h"

#include <stdlib.h>
#include <string.h>

struct comparing {
    const uint8_t *memory;
    const struct page_set *populated;
    uint64_t seed;
    struct checked answer;
};

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, VM_PAGE_SIZE - 1) == 0;
}

static void compare_zeroes(struct comparing *c, uint64_t from, uint64_t end)
{
    while ((from = page_set_next(c->populated, from, end)) < end) {
        if (!is_zero(c->memory + from * VM_PAGE_SIZE))
            checked_differs(&c->answer, from);
        from++;
    }
}

static void compare_run(struct comparing *c, const struct check_run *run)
{
    uint8_t here[PROTO_DIGEST_SIZE];
    for (uint32_t i = 0; i < run->count; i++) {
        uint64_t gfn = run->from + i;
        bool is_equal = page_set_has(c->populated, gfn);
        if (is_equal) {
            region_digest(c->seed, c->memory + gfn * VM_PAGE_SIZE, VM_PAGE_SIZE, here);
            is_equal = !memcmp(here, run->digests + (size_t)i * PROTO_DIGEST_SIZE, sizeof here);
        }
        if (!is_equal)
            checked_differs(&c->answer, gfn);
    }
}

uint8_t *compare_memory(const uint8_t *memory, const struct page_set *populated, const struct check_head *head,
                        const uint8_t *payload, size_t n, size_t *answer_n)
{
    struct comparing c = {.memory = memory, .populated = populated, .seed = head->seed};
    struct check_run run;
    uint64_t at = head->first;
    uint8_t *answer = malloc(checked_bound(head));
    if (!answer)
        return NULL;
    checked_begin(&c.answer, answer, head);
    for (size_t offset = CHECK_HEAD_SIZE; check_next(payload, n, &offset, &run) > 0; at = run.from + run.count) {
        compare_zeroes(&c, at, run.from);
        compare_run(&c, &run);
    }
    compare_zeroes(&c, at, head->end);
    *answer_n = c.answer.n;
    return answer;
}
