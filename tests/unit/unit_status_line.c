/* unit_status_line: one line per VM that says what is true, also when fields are missing. */
#include "tools/hikae/status_line.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check(void (*line)(struct json_object *, int, char *, size_t), const char *json, const char *expected)
{
    char text[512];
    struct json_object *j = json_tokener_parse(json);
    assert_non_null(j);
    line(j, 4, text, sizeof(text));
    assert_string_equal(text, expected);
    json_object_put(j);
}

static void test_vm(void **state)
{
    (void)state;
    check(status_line_vm,
          "{\"vm\":\"web\",\"state\":\"PROTECTED\",\"peer\":\"host-b\",\"replica_age_ms\":14.2,\"term\":3,\"mode\":"
          "\"on-output\","
          "\"interval_ms\":20,\"pause_ms_p50\":2.13}",
          "web   PROTECTED by host-b, replica 14 ms old, term 3, on-output, pause 2.1 ms");
    check(status_line_vm,
          "{\"vm\":\"web\",\"state\":\"PROTECTED\",\"peer\":\"host-b\",\"replica_age_ms\":2500,\"mode\":\"periodic\","
          "\"interval_ms\":50,"
          "\"warnings\":[\"FAULT INJECTION: output is not held\"]}",
          "web   PROTECTED by host-b, replica 2.5 s old, periodic 50 ms  [FAULT INJECTION: output is not held]");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"PROTECTED\"}", "web   PROTECTED, age of the replica unknown");
    check(status_line_vm,
          "{\"vm\":\"web\",\"state\":\"UNPROTECTED\",\"reason\":\"host-b unreachable for 12 s (connection refused)\"}",
          "web   UNPROTECTED: host-b unreachable for 12 s (connection refused)");
    check(status_line_vm,
          "{\"vm\":\"database\",\"state\":\"SYNCING\",\"peer\":\"host-b\",\"sync_done\":50,\"sync_total\":200}",
          "database  SYNCING to host-b, not yet protected, 25 % of 200 pages");
    check(status_line_vm,
          "{\"vm\":\"web\",\"state\":\"SYNCING\",\"peer\":\"b\",\"sync_done\":5,\"sync_total\":10,\"disk_sync_done\":"
          "2097152,"
          "\"disk_sync_total\":68719476736,\"disk_sync_speed\":104857600,\"disk_sync_rate\":209715200,"
          "\"disk_sync_eta_s\":655}",
          "web   SYNCING to b, not yet protected, 50 % of 10 pages, disks 2.0 MiB of 64 GiB at 100 MiB/s (at most 200 "
          "MiB/s), 11 min to go");
    check(status_line_vm,
          "{\"vm\":\"web\",\"state\":\"SYNCING\",\"disk_sync_done\":0,\"disk_sync_total\":4096,\"disk_sync_rate\":0}",
          "web   SYNCING, not yet protected, disks 0 bytes of 4.0 KiB");
    check(
        status_line_vm,
        "{\"vm\":\"web\",\"state\":\"SYNCING\",\"disk_sync_done\":4096,\"disk_sync_total\":4096,\"disk_sync_speed\":5}",
        "web   SYNCING, not yet protected, disks 4.0 KiB of 4.0 KiB");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"ISOLATED\",\"term\":3,\"reason\":\"host-b is silent\"}",
          "web   ISOLATED, output is held until the arbiter or the replica answers, term 3: host-b is silent");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"AT_RISK\",\"term\":3}",
          "web   AT_RISK, not protected, output is open without the arbiter's word: the VM may run twice, term 3");
    check(status_line_vm,
          "{\"vm\":\"web\",\"state\":\"CONNECTING\",\"peer\":\"a\",\"origin\":\"taken over from a\",\"reason\":\"a: "
          "refused\"}",
          "web   CONNECTING to a, not protected, taken over from a: a: refused");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"SYNCING\",\"peer\":\"a\",\"origin\":\"taken over from a\"}",
          "web   SYNCING to a, not yet protected, taken over from a");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"PROTECTED\",\"peer\":\"a\",\"origin\":\"taken over from a\"}",
          "web   PROTECTED by a, age of the replica unknown");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"NEW_STATE\",\"reason\":\"r\"}", "web   NEW_STATE: r");
    check(status_line_vm, "{\"vm\":\"web\",\"state\":\"CLAIMING\",\"outdated\":true}",
          "web   CLAIMING, asks the arbiter before it may run  [its agent is older than the installed program: `hikae "
          "upgrade`]");
    check(status_line_vm, "{}", "?     UNKNOWN");
    check(status_line_vm, "{\"vm\":7,\"state\":[],\"term\":\"x\",\"warnings\":{}}", "?     UNKNOWN");
}

static void test_replica(void **state)
{
    (void)state;
    check(status_line_replica, "{\"vm\":\"db\",\"state\":\"STANDBY\",\"from\":\"host-a\",\"epoch\":1234,\"age_ms\":12}",
          "db    STANDBY for host-a, epoch 1234 committed 12 ms ago");
    check(status_line_replica, "{\"vm\":\"db\",\"state\":\"SYNCING\",\"from\":\"host-a\",\"staged_bytes\":5242880}",
          "db    SYNCING from host-a, no whole epoch yet, 5.0 MiB staged");
    check(status_line_replica,
          "{\"vm\":\"db\",\"state\":\"CLAIMING\",\"from\":\"host-a\",\"epoch\":9,\"reason\":\"silence\"}",
          "db    CLAIMING from host-a, epoch 9 committed: silence");
    check(status_line_replica, "{\"vm\":\"db\",\"state\":\"STANDBY\",\"epoch\":5,\"replica_age_ms\":1500}",
          "db    STANDBY, epoch 5 committed 1.5 s ago");
    check(status_line_replica, "{\"vm\":\"db\",\"state\":\"STANDBY\",\"epoch\":5,\"disks\":{\"queued_bytes\":3145728}}",
          "db    STANDBY, epoch 5 committed, disks 3.0 MiB behind");
    check(status_line_replica, "{\"vm\":\"db\",\"state\":\"STANDBY\",\"epoch\":5,\"disks\":{\"queued_bytes\":0}}",
          "db    STANDBY, epoch 5 committed");
    check(status_line_replica, "{}", "?     UNKNOWN");
}

static void test_cut(void **state)
{
    (void)state;
    char text[12];
    struct json_object *j = json_tokener_parse("{\"vm\":\"web\",\"state\":\"UNPROTECTED\",\"reason\":\"a long one\"}");
    status_line_vm(j, 0, text, sizeof(text));
    assert_string_equal(text, "web  UNPROT");
    json_object_put(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vm),
        cmocka_unit_test(test_replica),
        cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
