/* What the client of the Debian campaign can find: it must be able to. */
#include "tests/debian/book.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct book *of(uint64_t sent, uint64_t acknowledged)
{
    struct book *b = book_new();
    for (uint64_t n = 1; n <= sent; n++)
        assert_int_equal(book_send(b), n);
    for (uint64_t n = 1; n <= acknowledged; n++)
        book_acknowledge(b, n);
    book_look(b);
    return b;
}

static void expect(struct book *b, uint64_t lost, uint64_t invented, uint64_t doubled)
{
    struct book_findings f = book_findings(b);
    assert_int_equal(f.lost, lost);
    assert_int_equal(f.invented, invented);
    assert_int_equal(f.doubled, doubled);
    book_free(b);
}

/* The last one was sent, nobody has said what became of it: both is right. */
static void the_unacknowledged_may_be_there_or_not(void **state)
{
    (void)state;
    for (int64_t there = 2; there <= 3; there++) {
        struct book *b = of(3, 2);
        for (int64_t n = 1; n <= there; n++)
            book_found(b, n);
        expect(b, 0, 0, 0);
    }
}

static void a_lost_one_is_found_out(void **state)
{
    (void)state;
    struct book *b = of(3000, 3000);
    for (int64_t n = 1; n <= 3000; n++)
        if (n != 1 && n != 1500 && n != 3000)
            book_found(b, n);
    expect(b, 3, 0, 0);
}

static void an_invented_one_is_found_out(void **state)
{
    (void)state;
    struct book *b = of(2, 2);
    for (int64_t n = 0; n <= 3; n++)
        book_found(b, n);
    expect(b, 0, 2, 0);
}

static void a_doubled_one_is_found_out(void **state)
{
    (void)state;
    struct book *b = of(2, 2);
    book_found(b, 1);
    book_found(b, 2);
    book_found(b, 1);
    expect(b, 0, 0, 1);
}

static void an_acknowledgement_of_what_was_never_sent_is_lost(void **state)
{
    (void)state;
    struct book *b = of(2, 2);
    book_acknowledge(b, 5000);
    assert_int_equal(book_acknowledged(b), 3);
    book_found(b, 1);
    book_found(b, 2);
    expect(b, 1, 0, 0);
}

static void each_look_begins_anew(void **state)
{
    (void)state;
    struct book *b = of(2, 2);
    book_found(b, 1);
    book_found(b, 9);
    book_look(b);
    book_found(b, 1);
    book_found(b, 2);
    expect(b, 0, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_unacknowledged_may_be_there_or_not),
        cmocka_unit_test(a_lost_one_is_found_out),
        cmocka_unit_test(an_invented_one_is_found_out),
        cmocka_unit_test(a_doubled_one_is_found_out),
        cmocka_unit_test(an_acknowledgement_of_what_was_never_sent_is_lost),
        cmocka_unit_test(each_look_begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
