/* Unit tests of disk/identity.h in a sysfs of our own. */
#include "disk/identity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

static char sysfs[] = "/tmp/hikae-sysfs-XXXXXX";

static int setup(void **state)
{
    (void)state;
    return mkdtemp(sysfs) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", sysfs);
    return system(command); /* NOLINT: of our own making */
}

static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", sysfs, name);
    for (char *slash = path + strlen(sysfs) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        mkdir(path, 0700);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static const char *identity(unsigned minor)
{
    static char out[DISK_IDENTITY_MAX];
    disk_identity_in(sysfs, makedev(8, minor), 0, out);
    return out;
}

static void test_file(void **state)
{
    (void)state;
    char out[DISK_IDENTITY_MAX];
    disk_identity_in(sysfs, 77, 4711, out);
    assert_string_equal(out, "file:4711");
}

static void test_devices(void **state)
{
    (void)state;
    put("dev/block/8:0/device/wwid", "naa.600508b1001c\n");
    assert_string_equal(identity(0), "wwid:naa.600508b1001c");
    put("dev/block/8:1/dm/uuid", "LVM-abc\n");
    put("dev/block/8:1/serial", "1\n");
    assert_string_equal(identity(1), "dm:LVM-abc");
    put("dev/block/8:2/device/wwid", "\n"); /* says nothing */
    put("dev/block/8:2/serial", "  S4EV  \n");
    assert_string_equal(identity(2), "serial:S4EV");
    put("dev/block/8:3/size", "1\n");
    assert_string_equal(identity(3), "");
    assert_string_equal(identity(9), ""); /* there is none */
}

static void test_partition(void **state)
{
    (void)state;
    char link[256];
    put("devices/sda/device/wwid", "naa.5\n");
    put("devices/sda/sda2/partition", "2\n");
    snprintf(link, sizeof link, "%s/dev/block/8:18", sysfs);
    put("dev/block/.keep", "");
    assert_int_equal(symlink("../../devices/sda/sda2", link), 0);
    assert_string_equal(identity(18), "wwid:naa.5-part2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_partition),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
