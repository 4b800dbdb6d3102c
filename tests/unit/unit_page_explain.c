/*
 * What is said of a page that differs.
 */
#include "tests/integration/page_explain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static uint8_t guest[VM_PAGE_SIZE], replica[VM_PAGE_SIZE];
static struct page_ranges dirty;
static char line[512];

static void fill(void)
{
    for (size_t i = 0; i < VM_PAGE_SIZE; i++)
        guest[i] = replica[i] = (uint8_t)(i % 251 + 1);
}

static bool says(uint64_t gfn, const char *what)
{
    const struct explain_guest g = {.shared_info = 1, .dirty = &dirty};
    explain_page(&g, gfn, guest, replica, line, sizeof line);
    return strstr(line, what) != NULL;
}

static void test_place(void **unused)
{
    (void)unused;
    fill();
    guest[100] ^= 1;
    assert_int_equal(page_ranges_add(&dirty, 16, 4), 0);
    assert_true(says(16, "gfn 0x10 (RAM below 4 GiB, reported dirty and copied"));
    assert_true(says(19, ", reported dirty and copied"));
    assert_true(says(20, "not reported dirty"));
    assert_true(says(0x100000, "above 4 GiB"));
    assert_true(says(1, "shared info"));
    page_ranges_free(&dirty);
}

static void test_difference(void **unused)
{
    (void)unused;
    fill();
    guest[100] = 0xaa, replica[100] = 0xbb;
    guest[4095] ^= 1;
    assert_true(says(2, "2 bytes in 2 words differ, 0x64 to 0xfff"));
    assert_true(says(2, "at 0x64 guest aa"));
    assert_true(says(2, "replica bb"));
    assert_true(says(2, "unlike anything"));
    fill();
    guest[4095] ^= 1; /* what is shown does not pass the end of the page */
    assert_true(says(2, "at 0xff8 guest"));
    memset(replica, 0, sizeof replica);
    assert_true(says(2, "the replica's is empty"));
    memset(guest, 0, sizeof guest), replica[9] = 1;
    assert_true(says(2, "the guest's is empty"));
}

/* The forms of what Xen writes to. */
static void test_form(void **unused)
{
    (void)unused;
    uint32_t pending = 0x80000005;
    fill();
    memcpy(guest + 400, &pending, 4);
    memset(replica + 400, 0, 4);
    replica[400] = 5;
    assert_true(says(2, "event channels' words"));
    guest[404] ^= 1; /* a link alone, without a flag, is none */
    assert_false(says(2, "event channels' words"));
    fill();
    guest[128] ^= 0xff, guest[191] ^= 0xff;
    assert_true(says(2, "a vcpu_info?"));
    guest[192] ^= 0xff;
    assert_false(says(2, "a vcpu_info?"));
    memset(guest, 0, sizeof guest), memset(replica, 0, sizeof replica);
    guest[0] = 1, replica[8] = 1;
    assert_true(says(2, "control block"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_difference),
        cmocka_unit_test(test_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
