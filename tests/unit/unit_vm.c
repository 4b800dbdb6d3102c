/*
 * unit_vm: the helpers of vm/: lists of pages, buffers, the loader's refusals.
 */
#include "vm/page_set.h"
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

static void sets_of_pages(void **arg)
{
    (void)arg;
    struct page_ranges r = {0};
    assert_int_equal(page_ranges_add(&r, 3, 2), 0);
    assert_int_equal(page_ranges_add(&r, 62, 5), 0);
    assert_int_equal(page_ranges_add(&r, 299, 9), 0); /* the last ones are not of this VM */
    struct page_set *s = page_set_new(300, &r);
    page_ranges_free(&r);
    page_set_add(s, 191);
    static const uint64_t in[] = {3, 4, 62, 63, 64, 65, 66, 191, 299};
    uint64_t at = 0;
    for (size_t i = 0; i < sizeof in / sizeof *in; i++, at++) {
        at = page_set_next(s, at, 300);
        assert_int_equal(at, in[i]);
        assert_true(page_set_has(s, at));
    }
    assert_int_equal(at, 300);
    assert_int_equal(page_set_next(s, 67, 191), 191); /* none before the end */
    assert_int_equal(page_set_next(s, 67, 150), 150);
    assert_int_equal(page_set_next(s, 5, 5), 5);
    assert_false(page_set_has(s, 5) || page_set_has(s, 61) || page_set_has(s, 67) || page_set_has(s, 298));
    page_set_free(s);
    page_set_free(NULL);
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
        cmocka_unit_test(sets_of_pages),
        cmocka_unit_test(loader_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
