/* unit_file: files are written whole or not at all, the record of a VM comes back as it was saved. */
#include "common/file.h"
#include "common/state.h"

#include <dirent.h>
#include <errno.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/hikae-unit-file-XXXXXX", path[64], vms[64];

static unsigned entries(const char *where)
{
    DIR *d = opendir(where);
    unsigned n = 0;
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n - 2;
}

static void test_write_and_read(void **state)
{
    (void)state;
    struct errmsg e;
    struct stat st;
    size_t n;
    assert_int_equal(file_write_atomic(path, "one", 3, 0640, &e), 0);
    assert_int_equal(file_write_atomic(path, "twotwo", 6, 0600, &e), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char *text = file_read_all(path, 6, &n, &e);
    assert_string_equal(text, "twotwo");
    assert_int_equal(n, 6);
    free(text);
    assert_null(file_read_all(path, 5, &n, &e));
    assert_int_equal(errno, EFBIG);
    assert_null(file_read_all("/no/such", 5, &n, &e));
    assert_int_equal(errno, ENOENT);
    assert_int_equal(file_write_atomic("/no/such/file", "x", 1, 0600, &e), -1);
    assert_non_null(strstr(e.text, "/no/such/file"));
    assert_int_equal(entries(dir), 1);
}

/* A full disk, by the limit on file sizes: the old content stays, no litter. */
static void test_full_disk(void **state)
{
    (void)state;
    struct errmsg e;
    char *big = calloc(1, 1 << 20);
    struct rlimit before, small;
    assert_int_equal(file_write_atomic(path, "old", 3, 0600, &e), 0);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 65536;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int r = file_write_atomic(path, big, 1 << 20, 0600, &e);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(r, -1);
    assert_non_null(strstr(e.text, "cannot be written"));
    char *text = file_read_all(path, 100, NULL, &e);
    assert_string_equal(text, "old");
    free(text);
    free(big);
    assert_int_equal(entries(dir), 1);
}

static void test_big_file(void **state)
{
    (void)state;
    size_t n = 300001, got;
    char *data = malloc(n);
    for (size_t i = 0; i < n; i++)
        data[i] = (char)(i * 7);
    assert_int_equal(file_write_atomic(path, data, n, 0600, NULL), 0);
    char *back = file_read_all(path, n, &got, NULL);
    assert_int_equal(got, n);
    assert_memory_equal(back, data, n);
    free(back);
    free(data);
}

static void test_directories(void **state)
{
    (void)state;
    struct errmsg e;
    char deep[100];
    snprintf(deep, sizeof(deep), "%s/a//b/c/", dir);
    assert_int_equal(dir_make(deep, 0700, &e), 0);
    assert_int_equal(dir_make(deep, 0700, &e), 0);
    assert_int_equal(rmdir(deep), 0);
    snprintf(deep, sizeof(deep), "%s/a/b", dir);
    rmdir(deep);
    snprintf(deep, sizeof(deep), "%s/a", dir);
    rmdir(deep);
    file_write_atomic(path, "x", 1, 0600, NULL);
    assert_int_equal(dir_make(path, 0700, &e), -1);
    assert_non_null(strstr(e.text, "is no directory"));
    assert_int_equal(dir_make("", 0700, &e), -1);
}

static void test_vm_record(void **state)
{
    (void)state;
    struct errmsg e = {""};
    struct vm_record r = {.name = "web", .backend = "qemu", .term = 7, .peer = "host-b", .role = "running"}, back;
    assert_int_equal(vm_record_load(dir, "web", &back, &e), 1);
    r.mode = TRIGGER_PERIODIC;
    r.interval_ms = 25;
    r.isolated = ISOLATED_OPEN;
    r.open_after_ms = 3000;
    r.disk_sync_rate = UINT64_MAX;
    r.settings = json_tokener_parse("{\"memory\":\"512M\"}");
    assert_int_equal(vm_record_save(dir, &r, &e), 0);
    assert_int_equal(vm_record_load(dir, "web", &back, &e), 0);
    assert_int_equal(back.term, 7);
    assert_string_equal(back.peer, "host-b");
    assert_string_equal(back.role, "running");
    assert_int_equal(back.mode, TRIGGER_PERIODIC);
    assert_int_equal(back.interval_ms, 25);
    assert_int_equal(back.isolated, ISOLATED_OPEN);
    assert_int_equal(back.open_after_ms, 3000);
    assert_true(back.disk_sync_rate == UINT64_MAX);
    assert_true(json_object_equal(back.settings, r.settings));
    assert_null(back.addresses);
    vm_record_clear(&back);
    strcpy(r.name, "db");
    r.disk_sync_rate = 0;
    assert_int_equal(vm_record_save(dir, &r, &e), 0);
    assert_int_equal(vm_record_load(dir, "db", &back, &e), 0);
    assert_true(back.disk_sync_rate == 0);
    vm_record_clear(&back);
    char **names = vm_record_list(dir, &e);
    assert_string_equal(names[0], "db");
    assert_string_equal(names[1], "web");
    assert_null(names[2]);
    vm_record_names_free(names);
    assert_int_equal(vm_record_remove(dir, "db", &e), 0);
    assert_int_equal(vm_record_remove(dir, "db", &e), 0);
    vm_record_clear(&r);
}

static void test_damaged_record(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "{", "[]", "{\"name\":\"other\"}", "{\"name\":\"web\",\"term\":\"x\"}"};
    struct errmsg e;
    struct vm_record r;
    char file[128];
    snprintf(file, sizeof(file), "%s/web.json", vms);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(file_write_atomic(file, bad[i], strlen(bad[i]), 0600, &e), 0);
        assert_int_equal(vm_record_load(dir, "web", &r, &e), -1);
        assert_non_null(strstr(e.text, "web.json: is damaged"));
    }
    assert_int_equal(vm_record_load(dir, "../web", &r, &e), -1);
    assert_int_equal(vm_record_remove(dir, "web", &e), 0);
    char **names = vm_record_list("/no/such/dir", &e);
    assert_non_null(names);
    assert_null(names[0]);
    vm_record_names_free(names);
}

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/file", dir);
    snprintf(vms, sizeof(vms), "%s/vms", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    rmdir(vms);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_and_read), cmocka_unit_test(test_full_disk), cmocka_unit_test(test_big_file),
        cmocka_unit_test(test_directories),    cmocka_unit_test(test_vm_record), cmocka_unit_test(test_damaged_record),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
