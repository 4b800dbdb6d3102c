/* Unit tests of backend xen's pure parts: what another host says of a domain, the stream made of it, the dirty bitmap.
 */
#include "vm/xen/bitmap.h"
#include "vm/xen/name.h"
#include "vm/xen/shape.h"
#include "vm/xen/skeleton.h"
#include "vm/xen/state.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct errmsg error;

/* A guest of 4 GiB, whose memory has a hole for devices. */
static struct shape sample(void)
{
    struct shape s = {.vcpus = 2,
                      .memory_kb = 4 << 20,
                      .grant_frames = UINT32_MAX,
                      .grant_version = -1,
                      .param_count = 2,
                      .special_count = 3,
                      .nic_count = 1};
    uint8_t bytes[48];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7);
    memcpy(s.uuid, "sixteen bytes ..", sizeof s.uuid);
    s.tsc.khz = 2000000;
    s.tsc.ns = 1234567890123;
    s.params[0].index = 1;
    s.params[0].value = 0xfeffc;
    s.params[1].index = 17;
    s.params[1].value = 0xfefff;
    s.specials[0] = 0xfc000;
    s.specials[1] = 0xfeffc;
    s.specials[2] = 0xfefff;
    s.nics[0] =
        (struct shape_nic){.devid = 1, .mac = {0, 0x16, 0x3e, 1, 2, 3}, .bridge = "xenbr0", .openvswitch = true};
    s.disk_count = 2;
    strcpy(s.disks[0].vdev, "xvda");
    strcpy(s.disks[1].vdev, "xvdb1");
    assert_int_equal(page_ranges_add(&s.ram, 0, 0xf0000), 0);
    assert_int_equal(page_ranges_add(&s.ram, 0x100000, 0x10000), 0);
    assert_int_equal(vm_blob_append(&s.cpuid, bytes, 48), 0);
    assert_int_equal(vm_blob_append(&s.msr, bytes, 32), 0);
    assert_int_equal(vm_blob_append(&s.context, bytes, 41), 0);
    return s;
}

static void test_shape_there_and_back(void **unused)
{
    (void)unused;
    struct shape s = sample(), t;
    struct json_object *j = shape_to_json(&s);
    if (shape_from_json(&t, j, &error) < 0)
        fail_msg("%s", error.text);
    assert_memory_equal(s.uuid, t.uuid, sizeof s.uuid);
    assert_int_equal(t.memory_kb, s.memory_kb);
    assert_int_equal(t.grant_frames, UINT32_MAX);
    assert_int_equal(t.tsc.ns, s.tsc.ns);
    assert_int_equal(t.ram.n, 2);
    assert_int_equal(shape_span(&t), 0x110000);
    assert_int_equal(t.ram.pages, 0x100000);
    assert_int_equal(shape_param(&t, 17), 0xfefff);
    assert_int_equal(shape_param(&t, 5), 0);
    assert_int_equal(t.special_count, 3);
    assert_int_equal(t.context.size, 41);
    assert_memory_equal(t.context.data, s.context.data, 41);
    assert_memory_equal(t.nics[0].mac, s.nics[0].mac, 6);
    assert_string_equal(t.nics[0].bridge, "xenbr0");
    assert_true(t.nics[0].openvswitch);
    assert_int_equal(t.disk_count, 2);
    assert_string_equal(t.disks[0].vdev, "xvda");
    assert_string_equal(t.disks[1].vdev, "xvdb1");
    json_object_put(j);
    shape_free(&s);
    shape_free(&t);
}

/* An HVM domain's shape, with a card that its device model emulates. */
static struct shape hvm_sample(void)
{
    struct shape s = sample();
    s.is_hvm = true;
    strcpy(s.disks[1].vdev, "hdb");
    s.hvm = (struct shape_hvm){.transparent = true, .direct_boot = true, .hpet = true, .timer_mode = 1, .serials = 1};
    strcpy(s.hvm.cdroms[s.hvm.cdrom_count++], "hdc");
    strcpy(s.hvm.model, "7.2.22");
    strcpy(s.nics[0].model, "virtio-net");
    s.nics[0].emulated = true;
    return s;
}

static void test_hvm_there_and_back(void **unused)
{
    (void)unused;
    struct shape s = hvm_sample(), t;
    struct json_object *j = shape_to_json(&s);
    if (shape_from_json(&t, j, &error) < 0)
        fail_msg("%s", error.text);
    assert_true(t.is_hvm && t.hvm.transparent && t.hvm.direct_boot && t.hvm.hpet);
    assert_false(t.hvm.platform_pci || t.hvm.vpt_align);
    assert_int_equal(t.hvm.timer_mode, 1);
    assert_int_equal(t.hvm.serials, 1);
    assert_int_equal(t.hvm.cdrom_count, 1);
    assert_string_equal(t.hvm.cdroms[0], "hdc");
    assert_int_equal(t.disk_count, 2);
    assert_string_equal(t.disks[0].vdev, "xvda");
    assert_string_equal(t.disks[1].vdev, "hdb");
    assert_string_equal(t.hvm.model, "7.2.22");
    assert_string_equal(t.nics[0].model, "virtio-net");
    assert_true(t.nics[0].emulated);
    json_object_put(j);
    shape_free(&s);
    shape_free(&t);
}

static void refused_of(struct shape s, const char *key, const char *value)
{
    struct shape t;
    struct json_object *j = shape_to_json(&s), *v = json_tokener_parse(value);
    json_object_object_add(j, key, v);
    error.text[0] = '\0';
    if (shape_from_json(&t, j, &error) == 0)
        fail_msg("%s = %s was taken", key, value);
    assert_true(strlen(error.text) > 10);
    json_object_put(j);
    shape_free(&s);
    shape_free(&t);
}

static void refused(const char *key, const char *value)
{
    refused_of(sample(), key, value);
}

/* One member of what an HVM domain's shape says of its machine is wrong. */
static void hvm_refused(const char *key, const char *value)
{
    struct shape s = hvm_sample();
    struct json_object *j = shape_to_json(&s), *hvm = json_object_get(json_object_object_get(j, "hvm"));
    json_object_object_add(hvm, key, json_tokener_parse(value));
    refused_of(s, "hvm", json_object_to_json_string(hvm));
    json_object_put(hvm);
    json_object_put(j);
}

static void test_names(void **unused)
{
    (void)unused;
    static const char *const wrong[] = {"", ":0", "web:", "web:10", "web:-1", "web:0:0", "../web", "web:x", "-web"};
    char vm[XEN_VM_NAME_MAX], target[XEN_TARGET_MAX];
    unsigned disk = 5;
    assert_int_equal(xen_disk_target_parse("web", vm, &disk), 0);
    assert_string_equal(vm, "web");
    assert_int_equal(disk, 0);
    xen_disk_target_format(target, "web-1.a", 7);
    assert_int_equal(xen_disk_target_parse(target, vm, &disk), 0);
    assert_string_equal(vm, "web-1.a");
    assert_int_equal(disk, 7);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (xen_disk_target_parse(wrong[i], vm, &disk) == 0)
            fail_msg("%s was taken", wrong[i]);
    assert_true(xen_is_replica_name("web--hikae"));
    assert_false(xen_is_replica_name("web"));
    assert_false(xen_is_replica_name("--hikae"));
    assert_false(xen_is_replica_name("web--hikae2"));
}

/* By Linux's numbers of devices: xvd has major 202, the two IDE controllers have 3 and 22. */
static void test_emulated_disks(void **unused)
{
    (void)unused;
    assert_int_equal(shape_emulated_disk("xvda"), 51712);
    assert_int_equal(shape_emulated_disk("xvdd"), 51760);
    assert_int_equal(shape_emulated_disk("xvde"), 0);
    assert_int_equal(shape_emulated_disk("hdb"), 832);
    assert_int_equal(shape_emulated_disk("hdc"), 5632);
}

static void test_hvm_refuses(void **unused)
{
    (void)unused;
    refused_of(hvm_sample(), "hvm", "{}");
    refused_of(hvm_sample(), "disks", "[\"xvda1\"]"); /* its device model emulates whole disks */
    refused_of(hvm_sample(), "disks", "[\"hde\"]");
    refused_of(hvm_sample(), "disks", "[\"sda\"]");
    refused_of(hvm_sample(), "disks", "[\"hda\", \"hda\"]");
    hvm_refused("model", "\"7 -monitor stdio\"");
    hvm_refused("model", "\"\"");
    hvm_refused("serials", "5");
    hvm_refused("timer_mode", "4");
    hvm_refused("hpet", "1");
    hvm_refused("cdroms", "[\"hde\"]");
    hvm_refused("cdroms", "[\"hda\", \"hdb\", \"hdc\", \"hdd\", \"hda\"]");
    hvm_refused("cdroms", "[5]");
    refused_of(hvm_sample(), "nics",
               "[{\"devid\": 0, \"mac\": \"00:16:3e:01:02:03\", \"bridge\": \"br0\", \"emulated\": true, "
               "\"model\": \"e1000,romfile=/etc/shadow\"}]");
    refused_of(hvm_sample(), "ram", "[[0, 1048833]]"); /* a page more than 4 GiB and 1 MiB */
}

static void test_shape_refuses(void **unused)
{
    (void)unused;
    refused("type", "\"pv\"");
    refused("vcpus", "0");
    refused("vcpus", "1000000");
    refused("memory_kb", "-5");
    refused("memory_kb", "\"many\"");
    refused("uuid", "\"c2hvcnQ=\"");
    refused("cpuid", "\"AAAA\"");
    refused("context", "\"no base64!\"");
    refused("ram", "[]");
    refused("ram", "[[0, 0]]");
    refused("ram", "[[100, 100], [150, 10]]");             /* overlapping */
    refused("ram", "[[0, 18446744073709551615]]");         /* more than memory_kb */
    refused("ram", "[[18446744073709551615, 2], [1, 1]]"); /* wraps */
    refused("specials", "[5]");                            /* inside RAM */
    refused("nics", "[{\"devid\": 0, \"mac\": \"00:16:3e:01:02:03\", \"bridge\": \"br0;reboot\"}]");
    refused("nics", "[{\"devid\": 0, \"mac\": \"00:16:3e:01:02:03:04\", \"bridge\": \"br0\"}]");
    refused("nics", "[{\"devid\": 0, \"mac\": \"00:16:3e:01:02:03\", \"bridge\": \"../br0\"}]");
    refused("disks", "[\"xvda\", \"xvda\"]");
    refused("disks", "[\"hda\"]");
    refused("disks", "[\"xvda100\"]");
    refused("disks", "[\"xvda,script=/tmp/x\"]");
    refused("disks", "[\"xvd\"]");
    refused("disks", "[7]");
    refused("disks", "{}");
    refused("disks", "[\"xvda\",\"xvdb\",\"xvdc\",\"xvdd\",\"xvde\",\"xvdf\",\"xvdg\",\"xvdh\",\"xvdi\"]");
    refused("params", "[[1]]");
    refused("tsc_mode", "9");
}

static uint32_t word(const struct vm_blob *b, size_t at)
{
    uint32_t v;
    assert_true(at + sizeof v <= b->size);
    memcpy(&v, b->data + at, sizeof v);
    return v;
}

/* Walked as Xen's documents say it must be walkable. */
static void test_skeleton(void **unused)
{
    (void)unused;
    static const uint32_t expected[] = {17, 18, 16, 1, 8, 9, 10, 0};
    struct shape s = sample();
    struct vm_blob b = {0};
    assert_int_equal(skeleton_write(&s, 4, 17, &b), 0);
    assert_memory_equal(b.data, "LibxlFmt\0\0\0\2\0\0\0\0", 16);
    assert_int_equal(word(&b, 16), 1); /* LIBXC_CONTEXT */
    assert_int_equal(word(&b, 20), 0);
    assert_memory_equal(b.data + 24, "\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\3\0\0\0\0\0\0\0\0", 24);
    assert_int_equal(word(&b, 48), 2);  /* x86 HVM */
    assert_int_equal(word(&b, 52), 12); /* page shift */
    assert_int_equal(word(&b, 56), 4);
    assert_int_equal(word(&b, 60), 17);
    size_t at = 64;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(word(&b, at), expected[i]);
        uint32_t length = word(&b, at + 4);
        if (expected[i] == 1) {
            assert_int_equal(length, 8 + 3 * (8 + VM_PAGE_SIZE));
            assert_int_equal(word(&b, at + 8), 3);
            assert_int_equal(word(&b, at + 16), 0xfc000);
        }
        at += 8 + (length + 7) / 8 * 8;
    }
    assert_int_equal(word(&b, at), 0); /* libxl's END */
    assert_int_equal(at + 8, b.size);
    vm_blob_free(&b);
    shape_free(&s);
}

/* An HVM domain's has a state of the device model, between libxc's part and the end. */
static void test_hvm_skeleton(void **unused)
{
    (void)unused;
    struct shape s = sample(), h = hvm_sample();
    struct vm_blob pvh = {0}, hvm = {0};
    assert_int_equal(skeleton_write(&s, 4, 17, &pvh), 0);
    assert_int_equal(skeleton_write(&h, 4, 17, &hvm), 0);
    assert_int_equal(hvm.size, pvh.size + 24);
    assert_int_equal(word(&hvm, pvh.size - 8), 3); /* EMULATOR_CONTEXT */
    assert_int_equal(word(&hvm, pvh.size - 4), 16);
    assert_int_equal(word(&hvm, pvh.size), 2);             /* of QEMU */
    assert_int_equal(word(&hvm, hvm.size - 8), 0);         /* END */
    assert_memory_equal(hvm.data, pvh.data, pvh.size - 8); /* all else alike */
    vm_blob_free(&pvh);
    vm_blob_free(&hvm);
    shape_free(&s);
    shape_free(&h);
}

static void test_state(void **unused)
{
    (void)unused;
    static const char context[] = "context", model[] = "QEVM and more";
    struct vm_blob b = {0};
    struct state_parts parts;
    size_t head = state_begin(&b);
    assert_int_equal(vm_blob_append(&b, context, sizeof context), 0);
    state_context_ends(&b, head);
    assert_true(state_take_apart(&b, false, &parts));
    assert_false(state_take_apart(&b, true, &parts)); /* an HVM domain's needs both */
    assert_int_equal(vm_blob_append(&b, model, sizeof model), 0);
    assert_false(state_take_apart(&b, false, &parts));
    assert_true(state_take_apart(&b, true, &parts));
    assert_int_equal(parts.context_size, sizeof context);
    assert_memory_equal(parts.context, context, sizeof context);
    assert_int_equal(parts.model_size, sizeof model);
    assert_memory_equal(parts.model, model, sizeof model);
    uint32_t wrong[] = {0, (uint32_t)(sizeof context + sizeof model + 1), UINT32_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        memcpy(b.data + 8, &wrong[i], sizeof wrong[i]);
        assert_false(state_take_apart(&b, true, &parts));
    }
    b.size = 16;
    assert_false(state_take_apart(&b, false, &parts));
    vm_blob_free(&b);
}

static void test_bitmap(void **unused)
{
    (void)unused;
    unsigned long bits[4] = {0};
    struct page_ranges within = {0}, out = {0};
    assert_int_equal(page_ranges_add(&within, 0, 100), 0);
    assert_int_equal(page_ranges_add(&within, 130, 100), 0);
    assert_int_equal(bitmap_ranges(bits, &within, &out), 0);
    assert_int_equal(out.n, 0);
    bits[0] = 1UL << 63 | 1;
    bits[1] = ~0UL; /* 64 to 127, of which 100 to 127 is no memory */
    bits[2] = 1UL << 1 | 1UL << 2;
    bits[3] = 1UL << 40; /* 232: after the end */
    assert_int_equal(bitmap_ranges(bits, &within, &out), 0);
    assert_int_equal(out.n, 3);
    assert_int_equal(out.at[0].first, 0);
    assert_int_equal(out.at[0].count, 1);
    assert_int_equal(out.at[1].first, 63);
    assert_int_equal(out.at[1].count, 37);
    assert_int_equal(out.at[2].first, 130);
    assert_int_equal(out.at[2].count, 1);
    assert_int_equal(out.pages, 39);
    page_ranges_free(&within);
    page_ranges_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape_there_and_back),
        cmocka_unit_test(test_shape_refuses),
        cmocka_unit_test(test_hvm_there_and_back),
        cmocka_unit_test(test_hvm_refuses),
        cmocka_unit_test(test_emulated_disks),
        cmocka_unit_test(test_hvm_skeleton),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_skeleton),
        cmocka_unit_test(test_bitmap),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
