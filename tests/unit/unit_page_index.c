/*
 * Unit test of primary/page_index.h beside a model that remembers everything: what is found is true, and while there is
 * room for all of them most pages are found.
 */
#include "primary/page_index.h"
#include "proto/record.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 64, CONTENTS = 200 };

static void make(uint8_t page[PROTO_PAGE_SIZE], uint64_t content)
{
    memset(page, 0, PROTO_PAGE_SIZE);
    memcpy(page + 8 * (content % 500), &content, sizeof content);
    page[PROTO_PAGE_SIZE - 1] = 1;
}

static void what_is_found_is_true(void **state)
{
    (void)state;
    uint8_t page[PROTO_PAGE_SIZE];
    uint64_t now[PAGES] = {0}, sent[PAGES] = {0}, seed = 7, gfn, found = 0, there = 0; /* content 0: none */
    struct page_index *x = page_index_new(PAGES, 99);
    assert_non_null(x);
    for (uint64_t epoch = 1; epoch < 300; epoch++) {
        for (unsigned i = 0; i < 10; i++) {
            gfn = sample_random(&seed) % PAGES;
            now[gfn] = sample_random(&seed) % CONTENTS;
            sent[gfn] = epoch;
            make(page, now[gfn]);
            if (now[gfn])
                page_index_put(x, gfn, page, epoch);
            else
                page_index_forget(x, gfn);
        }
        for (uint64_t content = 1; content < CONTENTS; content++) {
            bool is_there = false;
            for (unsigned i = 0; i < PAGES; i++)
                is_there |= now[i] == content && sent[i] < epoch;
            there += is_there;
            make(page, content);
            if (!page_index_find(x, page, epoch, &gfn))
                continue;
            found++;
            assert_int_equal(now[gfn], content);
            assert_true(sent[gfn] < epoch);
        }
    }
    assert_true(found > there / 2 && found <= there);
    page_index_free(x);
}

/* With another seed other pages are in each other's way; a guest can't know which. */
static void seeds_differ(void **state)
{
    (void)state;
    uint8_t page[PROTO_PAGE_SIZE];
    uint64_t gfn, kept[2] = {0, 0};
    for (uint64_t seed = 0; seed < 2; seed++) {
        struct page_index *x = page_index_new(PAGES, seed);
        for (uint64_t i = 0; i < PAGES; i++) {
            make(page, i + 1);
            page_index_put(x, i, page, 1);
        }
        for (uint64_t i = 0; i < PAGES; i++) {
            make(page, i + 1);
            if (page_index_find(x, page, 2, &gfn)) {
                assert_int_equal(gfn, i);
                kept[seed] |= (uint64_t)1 << i;
            }
        }
        page_index_free(x);
    }
    assert_true(kept[0] && kept[1] && kept[0] != kept[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_found_is_true),
        cmocka_unit_test(seeds_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
