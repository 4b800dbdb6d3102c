/*
 * unit_qemu: the pure parts of backend qemu: splitting words, settings, and above all the allow-list of options, which
 * guards a host against what another host asks it to run.
 */
#include "vm/qemu/settings.h"
#include "vm/qemu/template.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct errmsg e;

static void words_are_split_as_by_a_shell(void **arg)
{
    (void)arg;
    struct words w = {0};
    assert_int_equal(words_split(&w, "  -a 'b c' \"d \\\"e\\\" \\n\" f\\ g'h'i  '' ", &e), 0);
    static const char *const want[] = {"-a", "b c", "d \"e\" \\n", "f ghi", ""};
    assert_int_equal(w.n, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(w.at[i], want[i]);
    words_free(&w);
    assert_int_equal(words_split(&w, "a 'b", &e), -1);
    words_free(&w);
}

static void comma_lists(void **arg)
{
    (void)arg;
    char value[8];
    assert_true(comma_value("pc,accel=tcg,usb", "accel", value, sizeof value));
    assert_string_equal(value, "tcg");
    assert_true(comma_value("pc,accel=tcg,usb", "usb", value, sizeof value));
    assert_string_equal(value, "on");
    assert_true(comma_value("x,romfile=,y", "romfile", value, sizeof value));
    assert_string_equal(value, "");
    assert_false(comma_value("pc,accelerate=tcg", "accel", value, sizeof value));
    assert_false(comma_value("", "accel", value, sizeof value));
    char *rest = comma_without("pc,accel=tcg,usb=off", "accel");
    assert_string_equal(rest, "pc,usb=off");
    free(rest);
}

static void sizes_and_macs(void **arg)
{
    (void)arg;
    assert_int_equal(qemu_parse_size("512M"), 512 << 20);
    assert_int_equal(qemu_parse_size("2g"), 2ULL << 30);
    assert_int_equal(qemu_parse_size("1048576"), 1 << 20);
    static const char *const bad[] = {"", "M", "-1M", "1MB", "1000", "0", "99999999999G", "18446744073709551615K"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(qemu_parse_size(bad[i]), 0);
    uint8_t mac[6];
    assert_true(qemu_parse_mac("52:54:00:12:34:5f", mac));
    assert_int_equal(mac[5], 0x5f);
    assert_false(qemu_parse_mac("52:54:00:12:34", mac));
    assert_false(qemu_parse_mac("52:54:00:12:34:567", mac));
    assert_true(qemu_bridge_is_valid("br0"));
    assert_false(qemu_bridge_is_valid("../br0"));
    assert_false(qemu_bridge_is_valid("a-name-too-long-for-one"));
}

static void settings_are_strict(void **arg)
{
    (void)arg;
    static const char *const cases[][2] = {
        {"{\"colour\":\"red\"}", "unknown key colour"},
        {"{\"memory\":512}", "must be a string"},
        {"{\"cpus\":\"0\"}", "cpus = 0"},
        {"{\"accel\":\"xen\"}", "kvm, tcg"},
        {"{\"machine\":\"virt\"}", "pc or q35"},
        {"{\"mac\":\"01:00:00:00:00:00\"}", "unicast"},
        {"{\"qmp\":\"relative\"}", "absolute path"},
        {"{\"qmp\":\"/q\",\"memory\":\"1G\"}", "remove memory"},
    };
    struct qemu_settings s;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_object *j = json_tokener_parse(cases[i][0]);
        assert_int_equal(qemu_settings_read(&s, j, &e), -1);
        if (!strstr(e.text, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], e.text);
        json_object_put(j);
    }
    assert_int_equal(qemu_settings_read(&s, NULL, &e), 0);
    assert_int_equal(s.memory, 512 << 20);
}

/* What another host might send, as JSON text of "args". */
static int from_peer(struct template *t, const char *args)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"program\":\"qemu-system-x86_64\",\"version\":\"7.2.22\",\"ram_id\":\"ram0\",\"memory\":134217728,"
             "\"args\":[\"-machine\",\"pc,accel=tcg\"%s],\"nics\":[]}",
             args);
    struct json_object *j = json_tokener_parse(text);
    assert_non_null(j);
    int status = template_from_json(t, j, FROM_PEER, NULL, &e);
    json_object_put(j);
    return status;
}

static void dangerous_words_are_refused(void **arg)
{
    (void)arg;
    static const char *const bad[] = {
        ",\"-netdev\",\"tap,id=x,script=/tmp/evil\"",
        ",\"-netdev\",\"stream,id=x,server=on,addr.type=unix,addr.path=/etc/x\"",
        ",\"-incoming\",\"exec:id\"",
        ",\"-chardev\",\"file,id=x,path=/etc/passwd\"",
        ",\"-serial\",\"unix:/x,server\"",
        ",\"-serial\",\"file:relative\"",
        ",\"-serial\",\"file:/a,append=on\"",
        ",\"-D\",\"/etc/passwd\"",
        ",\"-monitor\",\"stdio\"",
        ",\"-qmp\",\"unix:/x\"",
        ",\"-plugin\",\"/tmp/evil.so\"",
        ",\"-fw_cfg\",\"name=opt/x,file=/etc/shadow\"",
        ",\"-drive\",\"file=/dev/sda\"",
        ",\"-object\",\"memory-backend-file,id=x,mem-path=/etc/shadow,size=1M\"",
        ",\"-object\",\"secret,id=x,file=/etc/shadow\"",
        ",\"-device\",\"vfio-pci,host=00:02.0\"",
        ",\"-device\",\"virtio-net-pci,romfile=/etc/shadow\"",
        ",\"-device\",\"virtio-net-pci,romfile=,romfile=x\"",
        ",\"-device\",\"loader,file=/etc/shadow\"",
        ",\"-device\",\"{'driver':'loader'}\"",
        ",\"-global\",\"virtio-net-pci.romfile=/etc/shadow\"",
        ",\"-global\",\"migration.send-configuration=on\"",
        ",\"-machine\",\"pc,firmware=/x\"",
        ",\"-M\",\"pc,memory-backend=y\"",
        ",\"-boot\",\"splash=/etc/shadow\"",
        ",\"-kernel\",\"/etc/shadow\"",
        ",\"-kernel\",\"vmlinuz\"",
        ",\"-kernel\",\"/nonexistent/vmlinuz\"",
        ",\"-initrd\",\"/dev/zero\"",
        ",\"-kernel\"",
        ",\"-append\",\"-serial\"",
        ",\"/dev/sda\"",
        ",\"-\"",
        ",\"--daemonize\"",
        ",\"-readconfig\",\"/x\"",
        ",\"-run-with\",\"chroot=/\"",
        ",\"-nodefaults\",7",
        ",\"-append\",\"a\\u0000b\"",
        ",\"-append\",\"a\\nb\"",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct template t;
        if (from_peer(&t, bad[i]) == 0)
            fail_msg("was accepted: %s", bad[i]);
        assert_true(strlen(e.text) > 10);
    }
}

static void secrets_are_not_for_guests(void **arg)
{
    (void)arg;
    char path[] = "/tmp/hikae-unit-XXXXXX", args[128];
    int fd = mkstemp(path);
    close(fd);
    struct template t;
    snprintf(args, sizeof args, ",\"-kernel\",\"%s\"", path);
    chmod(path, 0600);
    assert_int_equal(from_peer(&t, args), -1);
    assert_non_null(strstr(e.text, "readable by everybody"));
    chmod(path, 0644);
    assert_int_equal(from_peer(&t, args), 0);
    template_free(&t);
    unlink(path);
}

static void malformed_descriptions(void **arg)
{
    (void)arg;
    static const char *const bad[] = {
        "[]",
        "{}",
        "{\"memory\":\"512M\"}",
        "{\"memory\":-4096}",
        "{\"memory\":1048576}",
        "{\"memory\":1048577,\"program\":\"qemu-system-x86_64\",\"version\":\"\",\"ram_id\":\"r\",\"args\":[],\"nics\":"
        "[]}",
        "{\"memory\":1048576,\"program\":\"rm\",\"version\":\"\",\"ram_id\":\"r\",\"args\":[],\"nics\":[]}",
        "{\"memory\":1048576,\"program\":\"qemu-system-x/../"
        "sh\",\"version\":\"\",\"ram_id\":\"r\",\"args\":[],\"nics\":[]}",
        "{\"memory\":1048576,\"program\":\"qemu-system-x86_64\",\"version\":\"\",\"ram_id\":\"r,share=off\",\"args\":[]"
        ",\"nics\":[]}",
        "{\"memory\":1048576,\"program\":\"qemu-system-x86_64\",\"version\":\"\",\"ram_id\":\"r\",\"args\":[],\"nics\":"
        "[]}",
        "{\"memory\":1048576,\"program\":\"qemu-system-x86_64\",\"version\":\"\",\"ram_id\":\"r\",\"args\":[\"-"
        "machine\",\"pc\"],"
        "\"nics\":[{\"id\":\"n\",\"mac\":\"52:54:00:00:00:01\",\"bridge\":\"a/b\"}]}",
        "{\"memory\":1048576,\"program\":\"qemu-system-x86_64\",\"version\":\"\",\"ram_id\":\"r\",\"args\":[\"-"
        "machine\",\"pc\"],"
        "\"nics\":[{\"id\":\"n\",\"mac\":\"52:54:00:00:00:01\",\"bridge\":\"br0\"}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct json_object *j = json_tokener_parse(bad[i]);
        struct template t;
        assert_non_null(j);
        if (template_from_json(&t, j, FROM_PEER, NULL, &e) == 0)
            fail_msg("was accepted: %s", bad[i]);
        json_object_put(j);
    }
}

/* Disks are exports of the disk server of the host that runs QEMU; nothing else may be one, whoever asks. */
static void disks_are_ours_only(void **arg)
{
    (void)arg;
    static const char *const bad[][2] = {
        {",\"-device\",\"virtio-blk-pci,drive=other\"", "that the key disk names"},
        {",\"-device\",\"virtio-blk-pci,drive=hikae-disk1\"", "that the key disk names"},
        {",\"-device\",\"virtio-blk-pci,drive=hikae-disk0\",\"-device\",\"virtio-blk-pci,drive=hikae-disk0\"",
         "that the key disk names"},
        {",\"-device\",\"ide-hd,drive=hikae-disk0\"", "virtio-blk"},
        {",\"-blockdev\",\"driver=file,node-name=hikae-disk0,filename=/etc/shadow\"", "by the key disk"},
    };
    struct template t;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(from_peer(&t, bad[i][0]), -1);
        if (!strstr(e.text, bad[i][1]))
            fail_msg("%s: %s", bad[i][0], e.text);
    }
    assert_int_equal(from_peer(&t,
                               ",\"-device\",\"virtio-blk-pci,drive=hikae-disk0\",\"-device\",\"virtio-blk-pci,drive="
                               "hikae-disk1,werror=report\""),
                     0);
    assert_int_equal(t.disk_count, 2);
    struct template_paths p = {.name = "web",
                               .program = "/usr/bin/qemu",
                               .run_dir = "/run/web",
                               .ram = "/dev/shm/web",
                               .qmp = "/run/web/qmp.sock",
                               .disk_socket = {"/run/disks/web/nbd.sock", "/run/disks/web/nbd.sock"},
                               .disk_export = {"0", "1"}};
    struct words out = {0};
    bool found = false;
    assert_int_equal(template_command(&t, &p, true, &out, &e), 0);
    for (size_t i = 0; i < out.n; i++)
        found |= !strncmp(out.at[i],
                          "driver=nbd,node-name=hikae-disk1,server.type=unix,server.path=/run/disks/web/nbd.sock,"
                          "export=1,",
                          90);
    assert_true(found);
    p.disk_socket[1] = NULL;
    assert_int_equal(template_command(&t, &p, true, &out, &e), -1);
    assert_non_null(strstr(e.text, "disk 1"));
    words_free(&out);
    template_free(&t);
}

/* A foreign command line becomes a template, goes through JSON, and becomes a replica's command line. */
static void from_process_to_replica(void **arg)
{
    (void)arg;
    static const char *line =
        "-M q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=128M,share=on -m 128M -qmp "
        "unix:/q,server=on -name x -nodefaults -vga none -serial file:/var/log/guest -serial stdio "
        "-global migration.send-configuration=off -netdev "
        "stream,id=n7,server=on,addr.type=unix,addr.path=/n7 -device virtio-net-pci,netdev=n7 -S";
    struct words in = {0}, out = {0};
    struct template t = {.memory = 128 << 20, .program = "qemu-system-x86_64", .version = "7.2.22"}, copy;
    struct template_found found = {0};
    assert_int_equal(words_split(&in, line, &e), 0);
    assert_int_equal(template_filter(&t, &in, FROM_PROCESS, "/", &found, &e), 0);
    assert_true(found.configuration_off);
    assert_string_equal(found.net_paths[0], "/n7");
    assert_string_equal(t.ram_id, "mem");
    assert_int_equal(template_pin(&t, "pc-q35-7.2", "tcg", &e), 0);
    struct json_object *j = template_to_json(&t);
    assert_int_equal(template_from_json(&copy, j, FROM_PEER, "br9", &e), 0);
    json_object_put(j);
    assert_string_equal(copy.nics[0].bridge, "br9");
    assert_string_equal(copy.nics[0].mac, "52:54:00:12:34:56");
    struct template_paths p = {.name = "web",
                               .program = "/usr/bin/qemu",
                               .run_dir = "/run/web",
                               .ram = "/dev/shm/web",
                               .qmp = "/run/web/qmp.sock",
                               .net = {"/run/web/net0.sock"}};
    assert_int_equal(template_command(&copy, &p, true, &out, &e), 0);
    char all[4096] = "";
    for (size_t i = 0; i < out.n; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s ", out.at[i]);
    assert_string_equal(
        all, "/usr/bin/qemu -name web -m 134217728B -object "
             "memory-backend-file,id=mem,mem-path=/dev/shm/web,size=134217728,share=on -machine "
             "pc-q35-7.2,accel=tcg,memory-backend=mem -nodefaults -vga none -serial file:/run/web/serial0.log -serial "
             "null -device virtio-net-pci,netdev=n7,mac=52:54:00:12:34:56 -netdev "
             "stream,id=n7,server=on,addr.type=unix,addr.path=/run/web/net0.sock -display none "
             "-only-migratable -no-shutdown -qmp "
             "unix:/run/web/qmp.sock,server=on,wait=off -S -incoming defer ");
    words_free(&in);
    words_free(&out);
    template_free(&t);
    template_free(&copy);
}

#define NBD(id, export)                                                                                                \
    "driver=nbd," id ",server.type=unix,server.path=/r/nbd.sock,export=" export ",reconnect-delay=120"
#define DISK_0 "-blockdev " NBD("node-name=hikae-disk0", "0") ",discard=unmap "
#define STILL                                                                                                          \
    "-drive "                                                                                                          \
    "if=none,id=hikae-still,driver=nbd,server.type=unix,server.path=/r/nbd.sock,export=still,reconnect-delay=120 "
#define DEVICE_0 "-device virtio-blk-pci,drive=hikae-disk0,werror=report,rerror=report"

static int filter_process(const char *disks, struct template *t, struct template_found *found)
{
    char line[1024];
    struct words in = {0};
    snprintf(line, sizeof line, "-M q35 %s", disks);
    assert_int_equal(words_split(&in, line, &e), 0);
    int status = template_filter(t, &in, FROM_PROCESS, "/", found, &e);
    words_free(&in);
    return status;
}

/* A QEMU that somebody else has started has the very options that we would have given it. */
static void disks_of_a_process(void **arg)
{
    (void)arg;
    static const char *const bad[] = {
        "-blockdev driver=file,node-name=hikae-disk0,filename=/x",
        "-blockdev " NBD("node-name=hikae-disk0", "1") ",discard=unmap",
        "-blockdev " NBD("node-name=hikae-disk8", "8") ",discard=unmap",
        "-blockdev " NBD("node-name=hikae-disk0", "0") ",discard=unmap,read-only=on",
        "-blockdev " NBD("node-name=hikae-disk0", "0"),
        "-blockdev driver=raw,file=hikae-disk0",
        "-drive if=virtio,file=/x",
        "-drive "
        "if=none,id=hikae-still,driver=nbd,server.type=unix,server.path=/r/nbd.sock,export=0,reconnect-delay=120",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct template t = {0};
        assert_int_equal(filter_process(bad[i], &t, NULL), -1);
        if (!strstr(e.text, "hikae-block serve"))
            fail_msg("%s: %s", bad[i], e.text);
        template_free(&t);
    }
    struct template t = {.memory = 128 << 20, .program = "qemu-system-x86_64", .ram_id = "ram0"}, failing = {0};
    struct template_found found = {0};
    assert_int_equal(filter_process(DISK_0 STILL "-device virtio-blk-pci,drive=hikae-disk0", &failing, NULL), -1);
    assert_non_null(strstr(e.text, "werror=report"));
    assert_int_equal(filter_process(DISK_0 STILL DEVICE_0, &t, &found), 0);
    assert_string_equal(found.disk_paths[0], "/r/nbd.sock");
    assert_string_equal(found.disk_paths[1], "");
    assert_string_equal(found.still_path, "/r/nbd.sock");
    assert_int_equal(t.disk_count, 1);
    /* What the replica gets is its own host's. */
    struct json_object *j = template_to_json(&t);
    assert_null(strstr(json_object_to_json_string(j), "nbd.sock"));
    json_object_put(j);
    template_free(&failing);
    template_free(&t);
}

static int filter_netdev(struct template *t, const char *netdev, struct template_found *found)
{
    char line[512];
    struct words in = {0};
    snprintf(line, sizeof line, "-M q35 -netdev %s -device virtio-net-pci,netdev=n7", netdev);
    assert_int_equal(words_split(&in, line, &e), 0);
    int status = template_filter(t, &in, FROM_PROCESS, "/", found, &e);
    words_free(&in);
    return status;
}

/* A tap that only QEMU reads and writes is one for a plug; its replica has one too, with a descriptor of that host's.
 */
static void taps(void **arg)
{
    (void)arg;
    static const char *const bad[][2] = {
        {"tap,id=n7,ifname=tap3,vhost=on", "use vhost=off"},
        {"tap,id=n7,ifname=tap3,vhost=off,vhost=on", "use vhost=off"},
        {"tap,id=n7,ifname=tap3,vhostforce=on", "vhostforce=on: this property can't"},
        {"tap,id=n7,ifname=tap3,vhostfd=5", "can't be replicated"},
        {"tap,id=n7,fd=5", "can't be replicated"},
        {"tap,id=n7,ifname=tap3,queues=2", "one queue"},
        {"tap,id=n7,ifname=tap3,vnet_hdr=off", "vnet_hdr=on"},
        {"tap,id=n7", "must be given"},
        {"tap,id=n7,ifname=../x", "no interface's name"},
        {"tap,id=n7,ifname=tap%d", "no interface's name"},
        {"user,id=n7", "-netdev tap,id=ID,ifname=TAP"},
    };
    struct words out = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct template t = {0};
        assert_int_equal(filter_netdev(&t, bad[i][0], NULL), -1);
        if (!strstr(e.text, bad[i][1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i][0], e.text, bad[i][1]);
        template_free(&t);
    }
    struct template t = {.memory = 128 << 20, .program = "qemu-system-x86_64", .ram_id = "ram0"}, copy;
    struct template_found found = {0};
    assert_int_equal(filter_netdev(&t, "tap,id=n7,ifname=tap3,script=no,downscript=no,vhost=off", &found), 0);
    assert_string_equal(found.ifnames[0], "tap3");
    assert_string_equal(found.net_paths[0], "");
    struct json_object *j = template_to_json(&t);
    assert_null(strstr(json_object_to_json_string(j), "tap3"));
    assert_null(strstr(json_object_to_json_string(j), "bridge")); /* refused by agents that know relays only */
    assert_int_equal(template_from_json(&copy, j, FROM_PEER, "br9", &e), 0);
    json_object_put(j);
    assert_true(copy.nics[0].plug);
    struct template_paths p = {.name = "web", .program = "q", .run_dir = "/r", .ram = "/m", .qmp = "/q", .tap = {3}};
    assert_int_equal(template_command(&copy, &p, true, &out, &e), 0);
    bool has = false;
    for (size_t i = 0; i < out.n; i++)
        has |= strcmp(out.at[i], "tap,id=n7,fd=3,vhost=off") == 0;
    assert_true(has);
    words_free(&out);
    template_free(&t);
    template_free(&copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_split_as_by_a_shell),
        cmocka_unit_test(comma_lists),
        cmocka_unit_test(sizes_and_macs),
        cmocka_unit_test(settings_are_strict),
        cmocka_unit_test(dangerous_words_are_refused),
        cmocka_unit_test(secrets_are_not_for_guests),
        cmocka_unit_test(malformed_descriptions),
        cmocka_unit_test(disks_are_ours_only),
        cmocka_unit_test(from_process_to_replica),
        cmocka_unit_test(disks_of_a_process),
        cmocka_unit_test(taps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
