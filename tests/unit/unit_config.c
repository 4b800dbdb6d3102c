/* unit_config: every key there, defaults, and that whatever is wrong is refused with file and line. */
#include "common/config.h"
#include "common/config_parse.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PRINT "abababababababababababababababababababababababababababababababab"
#define PEER  "[peer b]\naddress = 10.0.0.2\nfingerprint = " PRINT "\n"

static char path[] = "/tmp/hikae-unit-config-XXXXXX";

static struct config *load(const char *text, struct errmsg *e)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return config_load(path, e);
}

static void test_everything(void **state)
{
    (void)state;
    struct errmsg e = {""};
    struct config *c = load(
        "# comment\n; comment\n[host]\nname = host-a\nlisten=10.0.0.1\nport = 7000\nrun_dir = /r\n"
        "state_dir = /s\ndisk_dir = /d\nkey = /k\ncertificate = /c\narbiter = file:/a\nspool_dir = /p\ndetect = 2s\n"
        "etcd_ca = /ca\netcd_cert = /ec\netcd_key = /ek\n"
        "restart_grace = 50ms\nkeep_memory = 90s\nfence = /bin/f off\nfence_timeout = 5s\nstaging = 1G\nrecord = "
        "/rec\npause_bound = "
        "3s\nworker_bound = 0\n"
        "[fault]\nrelease = early\ndrop_page = 500\nstall = 7\n"
        "[peer b]\naddress = h.example\nport = 7703\naccept = web db-*\nfingerprint = "
        "AB:AB:abababababababababababababababababababababababababababababab\n"
        "[vm web]\nbackend = fake\nmode = periodic\ninterval = 25\nmax_interval = 100ms\nmin_interval = 2\n"
        "buffer = 4M\ndelta_cache = 64K\nisolated = open\ndisk = /dev/vg/a  /b.img\ndisk_sync_rate = 20M\nfence = "
        "/bin/g\nopen_after = "
        "3s\nmemory = 512M\noptions "
        "= -device "
        "foo,id=x ; -bar \"#\"",
        &e);
    if (!c)
        fail_msg("%s", e.text);
    assert_string_equal(c->name, "host-a");
    assert_string_equal(c->listen, "10.0.0.1");
    assert_string_equal(c->port, "7000");
    assert_string_equal(c->arbiter, "file:/a");
    assert_string_equal(c->spool_dir, "/p");
    assert_string_equal(c->etcd_ca, "/ca");
    assert_string_equal(c->etcd_cert, "/ec");
    assert_string_equal(c->etcd_key, "/ek");
    assert_string_equal(c->record, "/rec");
    assert_int_equal(c->detect_ms, 2000);
    assert_int_equal(c->restart_grace_ms, 50);
    assert_int_equal(c->keep_memory_ms, 90000);
    assert_true(c->staging_bytes == 1u << 30);
    assert_true(c->fault_release_early);
    assert_int_equal(c->fault_drop_page, 500);
    assert_int_equal(c->fault_stall, 7);
    assert_int_equal(c->pause_bound_ms, 3000);
    assert_int_equal(c->worker_bound_ms, 0);
    const struct config_peer *p = config_peer_by_name(c, "b");
    assert_ptr_equal(config_peer_by_fingerprint(c, PRINT), p);
    assert_string_equal(p->fingerprint, PRINT);
    assert_string_equal(p->port, "7703");
    const struct config_vm *vm = config_vm(c, "web");
    assert_true(config_vm_is_defined(c, "web"));
    assert_string_equal(vm->backend, "fake");
    assert_int_equal(vm->mode, TRIGGER_PERIODIC);
    assert_int_equal(vm->interval_ms, 25);
    assert_int_equal(vm->max_interval_ms, 100);
    assert_int_equal(vm->min_interval_ms, 2);
    assert_string_equal(c->fence, "/bin/f off");
    assert_int_equal(c->fence_timeout_ms, 5000);
    assert_string_equal(vm->fence, "/bin/g");
    assert_int_equal(vm->isolated, ISOLATED_OPEN);
    assert_int_equal(vm->open_after_ms, 3000);
    assert_true(vm->buffer_bytes == 4 << 20 && vm->delta_cache_bytes == 64 << 10);
    assert_string_equal(c->disk_dir, "/d");
    assert_int_equal(vm->disk_count, 2);
    assert_string_equal(vm->disks[0], "/dev/vg/a");
    assert_string_equal(vm->disks[1], "/b.img");
    assert_true(vm->disk_sync_rate == 20 << 20);
    struct json_object *options;
    assert_int_equal(json_object_object_length(vm->settings), 2);
    assert_true(json_object_object_get_ex(vm->settings, "options", &options));
    assert_string_equal(json_object_get_string(options), "-device foo,id=x ; -bar \"#\"");
    config_free(c);
}

static void test_defaults(void **state)
{
    (void)state;
    struct config *c = load("", NULL);
    assert_non_null(c);
    assert_string_equal(c->listen, "*");
    assert_string_equal(c->port, "7702");
    assert_string_equal(c->run_dir, "/run/hikae");
    assert_string_equal(c->key, "/tmp/key.pem");
    assert_string_equal(c->spool_dir, c->state_dir);
    assert_string_equal(c->disk_dir, "/var/lib/hikae/images");
    assert_null(c->etcd_ca);
    assert_null(c->etcd_cert);
    assert_null(c->etcd_key);
    assert_int_equal(c->detect_ms, 500);
    assert_true(c->staging_bytes == 64 << 20);
    assert_null(c->record);
    assert_null(c->fence);
    assert_int_equal(c->fence_timeout_ms, 30000);
    const struct config_vm *vm = config_vm(c, "other");
    assert_string_equal(vm->name, "other");
    assert_string_equal(vm->backend, "qemu");
    assert_int_equal(vm->mode, TRIGGER_ON_OUTPUT);
    assert_int_equal(vm->disk_count, 0);
    assert_int_equal(vm->shared_count, 0);
    assert_int_equal(vm->disk_sync_rate, 0);
    assert_int_equal(vm->interval_ms, 20);
    assert_int_equal(vm->isolated, ISOLATED_FREEZE);
    assert_int_equal(vm->open_after_ms, 5000);
    for (int i = 0; i < 50; i++) { /* a pointer once given stays good */
        char name[8];
        snprintf(name, sizeof(name), "vm%d", i);
        assert_string_equal(config_vm(c, name)->name, name);
    }
    assert_string_equal(vm->name, "other");
    assert_ptr_equal(config_vm(c, "other"), vm);
    assert_false(config_vm_is_defined(c, "other"));
    config_free(c);
}

static void test_long_lines_are_whole(void **state)
{
    (void)state;
    char *text = malloc(40000), name[64];
    memset(name, 'n', 63);
    name[63] = 0;
    int n = sprintf(text, "[vm %s]\noptions = ", name);
    memset(text + n, 'x', 16000);
    strcpy(text + n + 16000, "y\nlast = 1\n");
    struct config *c = load(text, NULL);
    assert_non_null(c);
    struct json_object *options;
    assert_true(json_object_object_get_ex(config_vm(c, name)->settings, "options", &options));
    assert_int_equal(json_object_get_string_len(options), 16001);
    assert_true(json_object_object_get_ex(config_vm(c, name)->settings, "last", NULL));
    config_free(c);
    memset(text + n, 'x', 20000);
    strcpy(text + n + 20000, "\n");
    struct errmsg e;
    assert_null(load(text, &e));
    assert_non_null(strstr(e.text, ":2: the line is longer"));
    free(text);
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"[host]\nx = 1\n", ":2: unknown key 'x' in [host]; known: name listen"},
        {"[host]\n\nname = a\nname = b\n", ":4: name is given twice"},
        {"[host]\nname = a\n[host]\nname = b\n", ":4: name is given twice"},
        {"[vm a]\nfoo = 1\nfoo = 2\n", ":3: foo is given twice"},
        {"[vm a]\ninterval = 1\n[vm b]\ninterval = 1\n[vm a]\n", ":5: [vm a] is there twice"},
        {PEER PEER, ":4: [peer b] is there twice"},
        {"[host]\nname = c\n" PEER "[peer d]\naddress = x\nfingerprint = " PRINT "\n", "fingerprint of another peer"},
        {"[host]\nname = b\n" PEER, "has the name of this host"},
        {"[peer b]\naddress = x\n", ":1: [peer b] has no fingerprint"},
        {"\n[peer b]\n[host]\n", ":2: [peer b] has no address"},
        {"[peer b]\nfingerprint = 12\n", ":2: fingerprint: must be 64 hex digits"},
        {"[hosts]\n", ":1: unknown section [hosts]; known: [host]"},
        {"[host a]\n", ":1: write [host], without a name"},
        {"[vm]\n", ":1: write [vm NAME]"},
        {"[vm a b]\n", ":1: write [vm NAME]"},
        {"[vm ../a]\n", ":1: '../a' is no name"},
        {"[vm a] x\n", ":1: there is something behind"},
        {"[vm a\n", ":1: neither"},
        {"name = a\n", ":1: 'name' stands before any section"},
        {"[host]\nname\n", ":2: neither"},
        {"[host]\nname =\n", ":2: name = : must be"},
        {"[host]\narbiter =\n", ":2: arbiter has no value"},
        {"[host]\nport = 70000\n", ":2: port = 70000: must be from 1 to 65535"},
        {"[host]\ndetect = 49\n", ":2: detect = 49: must be from 50 to 60000 ms"},
        {"[host]\ndetect = 61s\n", ":2: detect = 61s: must be"},
        {"[host]\ndetect = -1\n", ":2: detect = -1: not milliseconds"},
        {"[host]\ndetect = 5m\n", ":2: detect = 5m: not milliseconds"},
        {"[host]\nstaging = 1T\n", ":2: staging = 1T: not bytes"},
        {"[host]\nstaging = 99999999999999999999\n", ":2: staging = 99999999999999999999: not bytes"},
        {"[host]\nstaging = 18014398509481984G\n", ":2: staging"},
        {"[vm a]\nisolated = yes\n", ":2: isolated = yes: must be freeze or open"},
        {"[vm a]\nopen_after = 1s\n", ":2: open_after = 1s: must be from 2000 to 600000 ms"},
        {"[vm a]\nmode = always\n", ":2: mode = always: must be periodic or on-output"},
        {"[vm a]\ninterval = 0\n", ":2: interval = 0: must be from 1 to 10000 ms"},
        {"[vm a]\ndisk = img\n", ":2: disk: 'img' is no absolute path"},
        {"[vm a]\ndisk =\n", ":2: disk has no value"},
        {"[vm a]\ndisk = /a /b /a\n", ":2: disk: /a is there twice"},
        {"[vm a]\ndisk = /a\n[vm b]\ndisk = /a\n", ":4: disk: /a is there twice"},
        {"[vm a]\ndisk = /a\nshared_disk = /s /a\n", ":3: shared_disk: /a is there twice"},
        {"[vm a]\nshared_disk = /s\n[vm b]\ndisk = /s\n", ":4: disk: /s is there twice"},
        {"[vm a]\nshared_disk =\n", ":2: shared_disk has no value"},
        {"[vm a]\ndisk = /1 /2 /3 /4\nshared_disk = /5 /6 /7 /8 /9\n", ":3: shared_disk: a VM has at most 8 disks"},
        {"[vm a]\nshared_disk = /s\nisolated = open\n", "[vm a] has a shared_disk and isolated = open"},
        {"[vm a]\ndisk = /1 /2 /3 /4 /5 /6 /7 /8 /9\n", ":2: disk: a VM has at most 8 disks"},
        {"[fault]\nrelease = late\n", ":2: release = late: must be early"},
        {"[fault]\ndrop_page = x\n", ":2: drop_page = x: not a number"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct errmsg e = {""};
        assert_null(load(bad[i].text, &e));
        if (!strstr(e.text, bad[i].error) || strncmp(e.text, path, strlen(path)))
            fail_msg("for\n%s\nexpected %s, got %s", bad[i].text, bad[i].error, e.text);
    }
    struct errmsg e;
    assert_null(config_load("/no/such/hikae.conf", &e));
    assert_non_null(strstr(e.text, "hikae init"));
}

static void test_accept(void **state)
{
    (void)state;
    struct config_peer p = {.accept = (char *)""};
    assert_false(config_peer_may_send(&p, "web"));
    p.accept = (char *)"  web\tdb-* ";
    assert_true(config_peer_may_send(&p, "web"));
    assert_true(config_peer_may_send(&p, "db-1"));
    assert_false(config_peer_may_send(&p, "web2"));
    assert_false(config_peer_may_send(&p, ""));
    p.accept = (char *)"*";
    assert_true(config_peer_may_send(&p, "any"));
}

static void test_names_and_units(void **state)
{
    (void)state;
    uint64_t n;
    assert_true(config_name_is_valid("a.b_c-1"));
    assert_false(config_name_is_valid(""));
    assert_false(config_name_is_valid(".."));
    assert_false(config_name_is_valid("-a"));
    assert_false(config_name_is_valid("a/b"));
    assert_int_equal(config_parse_ms("1.5s", &n), 0);
    assert_int_equal(n, 1500);
    assert_int_equal(config_parse_ms("1.5ms", &n), -1);
    assert_int_equal(config_parse_ms("", &n), -1);
    assert_int_equal(config_parse_ms("20 ms", &n), 0);
    assert_int_equal(n, 20);
    assert_int_equal(config_parse_size("1k", &n), 0);
    assert_int_equal(n, 1024);
    assert_int_equal(config_parse_size("1KB", &n), -1);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_long_lines_are_whole),
        cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_names_and_units),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
