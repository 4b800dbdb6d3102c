/*
 * unit_vm: the helpers of vm/: lists of pages, buffers, the loader's refusals.
 */
#include "vm/vm.h"

#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void neighbours_join(void **arg)
{
    (void)arg;
    struct page_ranges r = {0};
    assert_int_equal(page_ranges_add(&r, 10, 2), 0);
    assert_int_equal(page_ranges_add(&r, 12, 3), 0);
    assert_int_equal(page_ranges_add(&r, 16, 1), 0);
    assert_int_equal(page_ranges_add(&r, 20, 0), 0);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.pages, 6);
    assert_int_equal(r.at[0].first, 10);
    assert_int_equal(r.at[0].count, 5);
    struct page_range *kept = r.at;
    page_ranges_clear(&r);
    assert_int_equal(r.n + r.pages, 0);
    assert_int_equal(page_ranges_add(&r, 12, 1), 0);
    assert_ptr_equal(r.at, kept);
    page_ranges_free(&r);
    assert_null(r.at);
}

static void ranges_grow(void **arg)
{
    (void)arg;
    struct page_ranges r = {0};
    for (uint64_t i = 0; i < 10000; i++)
        assert_int_equal(page_ranges_add(&r, 2 * i, 1), 0);
    assert_int_equal(r.n, 10000);
    assert_int_equal(r.at[9999].first, 19998);
    page_ranges_free(&r);
}

static void blobs_grow(void **arg)
{
    (void)arg;
    struct vm_blob b = {0};
    uint8_t chunk[1000];
    for (unsigned i = 0; i < 100; i++) {
        memset(chunk, (int)i, sizeof chunk);
        assert_int_equal(vm_blob_append(&b, chunk, sizeof chunk), 0);
    }
    assert_int_equal(b.size, 100000);
    assert_int_equal(b.data[99999], 99);
    assert_int_equal(vm_blob_append(&b, NULL, 0), 0);
    assert_int_equal(vm_blob_append(&b, chunk, SIZE_MAX / 2), -1);
    vm_blob_free(&b);
    assert_int_equal(b.size + b.capacity, 0);
}

static void loader_says_what_is_wrong(void **arg)
{
    (void)arg;
    struct errmsg e;
    assert_null(vm_backend("../../etc/passwd", &e));
    assert_non_null(strstr(e.text, "a backend's name is made of"));
    assert_null(vm_backend("", &e));
    setenv("HIKAE_MODULE_DIR", "/nonexistent", 1);
    assert_null(vm_backend("qemu", &e));
    assert_non_null(strstr(e.text, "/nonexistent/hikae-vm-qemu.so"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_join),
        cmocka_unit_test(ranges_grow),
        cmocka_unit_test(blobs_grow),
        cmocka_unit_test(loader_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
