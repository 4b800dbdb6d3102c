/* Unit tests of proto/check.h and proto/changed.h: records go there and back, and every damage is named. */
#include "proto/changed.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 300 };

static const struct disk_sizes sizes = {2, {(uint64_t)100000 * DISK_BLOCK_SIZE, 50 * DISK_BLOCK_SIZE}};
static uint8_t payload[4096];
static struct check_head head;
static struct proto_error e;

static size_t put_run(size_t at, uint64_t from, uint32_t count)
{
    check_run_write(payload + at, from, count);
    memset(payload + at + CHECK_RUN_SIZE, 7, count * (size_t)PROTO_DIGEST_SIZE);
    return at + CHECK_RUN_SIZE + count * (size_t)PROTO_DIGEST_SIZE;
}

/* Two runs, of blocks 10 to 19 of disk 1. */
static size_t put_check(void)
{
    const struct check_head h = {.number = 3, .seed = 99, .first = 10, .end = 20, .disk = 1};
    check_head_write(payload, &h);
    return put_run(put_run(CHECK_HEAD_SIZE, 10, 2), 15, 5);
}

static void refuses(size_t n, uint64_t due, const char *says)
{
    assert_int_equal(check_read(payload, n, &sizes, PAGES, due, &head, &e), -1);
    if (!strstr(e.text, says))
        fail_msg("\"%s\", not \"%s\"", e.text, says);
}

static void there_and_back(void **state)
{
    (void)state;
    struct check_run run;
    size_t n = put_check(), at = CHECK_HEAD_SIZE;
    assert_int_equal(check_read(payload, n, &sizes, PAGES, 3, &head, &e), 0);
    assert_true(head.number == 3 && head.seed == 99 && head.first == 10 && head.end == 20 && head.disk == 1);
    assert_int_equal(check_next(payload, n, &at, &run), 1);
    assert_true(run.from == 10 && run.count == 2 && run.digests == payload + CHECK_HEAD_SIZE + CHECK_RUN_SIZE);
    assert_int_equal(check_next(payload, n, &at, &run), 1);
    assert_true(run.from == 15 && run.count == 5);
    assert_int_equal(check_next(payload, n, &at, &run), 0);
    assert_int_equal(check_read(payload, CHECK_HEAD_SIZE, &sizes, PAGES, 3, &head, &e), 0); /* all zeroes */
}

static void damaged_checks(void **state)
{
    (void)state;
    size_t n = put_check();
    for (size_t cut = 0; cut < n; cut++)
        if (cut != CHECK_HEAD_SIZE && cut != CHECK_HEAD_SIZE + CHECK_RUN_SIZE + 2 * PROTO_DIGEST_SIZE)
            assert_int_equal(check_read(payload, cut, &sizes, PAGES, 3, &head, &e), -1);
    refuses(n, 4, "4 is due");
    payload[32] = 2;
    refuses(n, 3, "disk 2 of 2");
    put_check();
    payload[34] = 1;
    refuses(n, 3, "reserved");
    put_check();
    payload[24] = 51; /* end */
    refuses(n, 3, "of 50");
    payload[24] = 10;
    refuses(n, 3, "blocks 10 to 10");
    check_head_write(payload, &(struct check_head){.number = 3, .end = CHECK_BLOCKS_MAX + 1});
    refuses(CHECK_HEAD_SIZE, 3, "of 100000");
    check_head_write(payload, &(struct check_head){.number = 3, .end = CHECK_BLOCKS_MAX});
    assert_int_equal(check_read(payload, CHECK_HEAD_SIZE, &sizes, PAGES, 3, &head, &e), 0);
}

static void of_memory(void **state)
{
    (void)state;
    struct check_head h = {.number = 3, .seed = 99, .first = PAGES - 2, .end = PAGES, .disk = CHECK_MEMORY};
    check_head_write(payload, &h);
    size_t n = put_run(CHECK_HEAD_SIZE, PAGES - 1, 1);
    assert_int_equal(check_read(payload, n, &sizes, PAGES, 3, &head, &e), 0);
    assert_true(head.disk == CHECK_MEMORY && head.end == PAGES);
    assert_int_equal(check_read(payload, n, &(struct disk_sizes){0}, PAGES, 3, &head, &e), 0);
    h.end = PAGES + 1;
    check_head_write(payload, &h);
    refuses(n, 3, "of 300");
    h.disk = CHECK_MEMORY - 1;
    check_head_write(payload, &h);
    refuses(n, 3, "disk 65534 of 2");
}

/* Blocks become runs; there is room for the worst. */
static void writing_answers(void **state)
{
    (void)state;
    const struct check_head asked = {.number = 5, .first = 10, .end = 21};
    struct checked c;
    struct check_run run;
    size_t at = CHECKED_HEAD_SIZE;
    checked_begin(&c, payload, &asked);
    assert_int_equal(c.n, CHECKED_HEAD_SIZE);
    for (uint64_t block = 10; block < 21; block += 2)
        checked_differs(&c, block);
    assert_int_equal(c.n, checked_bound(&asked));
    assert_int_equal(checked_read(payload, c.n, &asked, &e), 0);
    checked_begin(&c, payload, &asked);
    for (uint64_t block = 12; block < 17; block++)
        if (block != 15)
            checked_differs(&c, block);
    assert_int_equal(checked_read(payload, c.n, &asked, &e), 0);
    assert_true(checked_next(payload, c.n, &at, &run) && run.from == 12 && run.count == 3);
    assert_true(checked_next(payload, c.n, &at, &run) && run.from == 16 && run.count == 1);
    assert_int_equal(checked_next(payload, c.n, &at, &run), 0);
}

static void damaged_runs(void **state)
{
    (void)state;
    static const struct {
        uint64_t from;
        uint32_t count;
    } bad[] = {{9, 1}, {20, 1}, {15, 6}, {11, 1}, {15, 0}, {(UINT64_C(1) << 40) - 1, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_check();
        size_t n = put_run(put_run(CHECK_HEAD_SIZE, 10, 2), bad[i].from, bad[i].count);
        refuses(n, 3, "may be from");
    }
}

static void answers(void **state)
{
    (void)state;
    struct check_run run;
    size_t at = CHECKED_HEAD_SIZE;
    const struct check_head asked = {.number = 5, .first = 10, .end = 20};
    checked_head_write(payload, 5);
    assert_int_equal(checked_read(payload, CHECKED_HEAD_SIZE, &asked, &e), 0);
    check_run_write(payload + 8, 11, 3);
    check_run_write(payload + 16, 19, 1);
    assert_int_equal(checked_read(payload, 24, &asked, &e), 0);
    assert_int_equal(checked_next(payload, 24, &at, &run), 1);
    assert_true(run.from == 11 && run.count == 3 && !run.digests);
    assert_int_equal(checked_next(payload, 24, &at, &run), 1);
    assert_int_equal(checked_next(payload, 24, &at, &run), 0);
    for (size_t cut = 0; cut < 24; cut++)
        assert_int_equal(checked_read(payload, cut, &asked, &e), cut % 8 || !cut ? -1 : 0);
    check_run_write(payload + 16, 13, 1);
    assert_int_equal(checked_read(payload, 24, &asked, &e), -1);
    check_run_write(payload + 16, 19, 2);
    assert_int_equal(checked_read(payload, 24, &asked, &e), -1);
    checked_head_write(payload, 6);
    assert_int_equal(checked_read(payload, 8, &asked, &e), -1);
}

/* ---- CHANGED ---- */

static size_t put_changed(unsigned disk, uint64_t end, uint64_t from, uint32_t count)
{
    changed_head_write(payload, disk, end);
    check_run_write(payload + CHANGED_HEAD_SIZE, from, count);
    return CHANGED_HEAD_SIZE + CHANGED_RUN_SIZE;
}

static void changed_is_told(void **state)
{
    (void)state;
    struct changed_told told;
    struct check_run run;
    unsigned disk = 9;
    changed_told_init(&told, &sizes);
    size_t n = put_changed(1, 30, 29, 1), at = CHANGED_HEAD_SIZE;
    assert_int_equal(changed_check(&told, payload, n, &disk, &e), 0);
    assert_int_equal(disk, 1);
    assert_int_equal(changed_next(payload, n, &at, &run), 1);
    assert_true(run.from == 29 && run.count == 1);
    assert_int_equal(changed_next(payload, n, &at, &run), 0);
    assert_int_equal(changed_check(&told, payload, n, &disk, &e), -1); /* once more */
    n = put_changed(1, 50, 29, 1);                                     /* told already */
    assert_int_equal(changed_check(&told, payload, n, &disk, &e), -1);
    n = put_changed(1, 50, 30, 20);
    assert_int_equal(changed_check(&told, payload, n, &disk, &e), 0);
    assert_false(changed_all_told(&told));
    changed_head_write(payload, 0, 100000); /* all at once, and there is nothing */
    assert_int_equal(changed_check(&told, payload, CHANGED_HEAD_SIZE, &disk, &e), 0);
    assert_true(changed_all_told(&told));
}

static void damaged_changes(void **state)
{
    (void)state;
    static const struct {
        uint64_t end, from;
        uint32_t count, disk;
    } bad[] = {{10, 0, 1, 2}, {0, 0, 0, 1}, {51, 0, 1, 1}, {10, 10, 1, 1}, {10, 9, 2, 1}, {10, 3, 0, 1}};
    struct changed_told told;
    unsigned disk;
    changed_told_init(&told, &sizes);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t n = put_changed(bad[i].disk, bad[i].end, bad[i].from, bad[i].count);
        assert_int_equal(changed_check(&told, payload, n, &disk, &e), -1);
    }
    size_t n = put_changed(1, 10, 3, 1);
    for (size_t cut = 0; cut < n; cut++)
        if (cut != CHANGED_HEAD_SIZE)
            assert_int_equal(changed_check(&told, payload, cut, &disk, &e), -1);
    payload[5] = 1; /* reserved */
    assert_int_equal(changed_check(&told, payload, n, &disk, &e), -1);
}

static void generations(void **state)
{
    (void)state;
    char text[GENERATION_TEXT];
    uint8_t is[GENERATION_SIZE], was[GENERATION_SIZE];
    for (unsigned i = 0; i < sizeof was; i++)
        was[i] = (uint8_t)(i * 17);
    generation_print(text, was);
    assert_string_equal(text, "00112233445566778899aabbccddeeff");
    assert_true(generation_parse(text, is));
    assert_memory_equal(is, was, sizeof is);
    text[7] = 'A';
    assert_false(generation_parse(text, is));
    assert_false(generation_parse("0011", is));
    assert_false(generation_parse(NULL, is));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),  cmocka_unit_test(damaged_checks),  cmocka_unit_test(damaged_runs),
        cmocka_unit_test(answers),         cmocka_unit_test(of_memory),       cmocka_unit_test(writing_answers),
        cmocka_unit_test(changed_is_told), cmocka_unit_test(damaged_changes), cmocka_unit_test(generations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
