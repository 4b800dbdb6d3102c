#include "vm/xen/shape.h"

#include "common/jsonget.h"

#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void shape_free(struct shape *s)
{
    page_ranges_free(&s->ram);
    vm_blob_free(&s->cpuid);
    vm_blob_free(&s->msr);
    vm_blob_free(&s->context);
    *s = (struct shape){0};
}

uint64_t shape_span(const struct shape *s)
{
    return s->ram.n ? s->ram.at[s->ram.n - 1].first + s->ram.at[s->ram.n - 1].count : 0;
}

uint64_t shape_param(const struct shape *s, uint64_t index)
{
    for (unsigned i = 0; i < s->param_count; i++)
        if (s->params[i].index == index)
            return s->params[i].value;
    return 0;
}

/* ---- to JSON ---- */

static void put_number(struct json_object *j, const char *key, uint64_t value)
{
    json_object_object_add(j, key, json_object_new_uint64(value));
}

static void put_bytes(struct json_object *j, const char *key, const uint8_t *data, size_t n)
{
    unsigned char *text = malloc(4 * ((n + 2) / 3) + 1);
    if (text) {
        EVP_EncodeBlock(text, data, (int)n);
        json_object_object_add(j, key, json_object_new_string((const char *)text));
    }
    free(text);
}

static void put_pair(struct json_object *list, uint64_t a, uint64_t b)
{
    struct json_object *pair = json_object_new_array();
    json_object_array_add(pair, json_object_new_uint64(a));
    json_object_array_add(pair, json_object_new_uint64(b));
    json_object_array_add(list, pair);
}

static struct json_object *nic_to_json(const struct shape_nic *n, bool is_hvm)
{
    struct json_object *j = json_object_new_object();
    char mac[18];
    snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4],
             n->mac[5]);
    json_object_object_add(j, "devid", json_object_new_int(n->devid));
    json_object_object_add(j, "mac", json_object_new_string(mac));
    json_object_object_add(j, "bridge", json_object_new_string(n->bridge));
    if (n->openvswitch)
        json_object_object_add(j, "openvswitch", json_object_new_boolean(true));
    if (is_hvm) {
        json_object_object_add(j, "model", json_object_new_string(n->model));
        json_object_object_add(j, "emulated", json_object_new_boolean(n->emulated));
    }
    return j;
}

static struct json_object *hvm_to_json(const struct shape_hvm *h)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "transparent", json_object_new_boolean(h->transparent));
    json_object_object_add(j, "direct_boot", json_object_new_boolean(h->direct_boot));
    json_object_object_add(j, "platform_pci", json_object_new_boolean(h->platform_pci));
    json_object_object_add(j, "hpet", json_object_new_boolean(h->hpet));
    json_object_object_add(j, "vpt_align", json_object_new_boolean(h->vpt_align));
    put_number(j, "timer_mode", h->timer_mode);
    put_number(j, "serials", h->serials);
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < h->cdrom_count; i++)
        json_object_array_add(list, json_object_new_string(h->cdroms[i]));
    json_object_object_add(j, "cdroms", list);
    json_object_object_add(j, "model", json_object_new_string(h->model));
    return j;
}

struct json_object *shape_to_json(const struct shape *s)
{
    struct json_object *j = json_object_new_object(), *list;
    json_object_object_add(j, "type", json_object_new_string(s->is_hvm ? "hvm" : "pvh"));
    if (s->is_hvm)
        json_object_object_add(j, "hvm", hvm_to_json(&s->hvm));
    put_bytes(j, "uuid", s->uuid, sizeof s->uuid);
    put_number(j, "vcpus", s->vcpus);
    put_number(j, "memory_kb", s->memory_kb);
    put_number(j, "grant_frames", s->grant_frames);
    put_number(j, "maptrack_frames", s->maptrack_frames);
    json_object_object_add(j, "grant_version", json_object_new_int(s->grant_version));
    put_number(j, "tsc_mode", s->tsc.mode);
    put_number(j, "tsc_khz", s->tsc.khz);
    put_number(j, "tsc_ns", s->tsc.ns);
    put_number(j, "tsc_incarnation", s->tsc.incarnation);
    put_bytes(j, "cpuid", s->cpuid.data, s->cpuid.size);
    put_bytes(j, "msr", s->msr.data, s->msr.size);
    put_bytes(j, "context", s->context.data, s->context.size);
    json_object_object_add(j, "params", list = json_object_new_array());
    for (unsigned i = 0; i < s->param_count; i++)
        put_pair(list, s->params[i].index, s->params[i].value);
    json_object_object_add(j, "ram", list = json_object_new_array());
    for (size_t i = 0; i < s->ram.n; i++)
        put_pair(list, s->ram.at[i].first, s->ram.at[i].count);
    json_object_object_add(j, "specials", list = json_object_new_array());
    for (unsigned i = 0; i < s->special_count; i++)
        json_object_array_add(list, json_object_new_uint64(s->specials[i]));
    json_object_object_add(j, "nics", list = json_object_new_array());
    for (unsigned i = 0; i < s->nic_count; i++)
        json_object_array_add(list, nic_to_json(&s->nics[i], s->is_hvm));
    json_object_object_add(j, "disks", list = json_object_new_array());
    for (unsigned i = 0; i < s->disk_count; i++)
        json_object_array_add(list, json_object_new_string(s->disks[i].vdev));
    return j;
}

/* ---- from JSON ---- */

enum { CPUID_LEAF = 24, MSR_ENTRY = 16, EXTRA_KB = 1024 };

static int wrong(struct errmsg *e, const char *key)
{
    return errmsg_set(e, "the description of the domain has no valid \"%s\"", key);
}

static int get_number(struct json_object *j, const char *key, uint64_t min, uint64_t max, uint64_t *out,
                      struct errmsg *e)
{
    struct json_object *v = json_get(j, key);
    *out = json_object_is_type(v, json_type_int) ? json_get_u64(j, key, UINT64_MAX) : 0; /* negative: too large */
    return !json_object_is_type(v, json_type_int) || *out < min || *out > max ? wrong(e, key) : 0;
}

static int get_u32(struct json_object *j, const char *key, uint64_t min, uint64_t max, uint32_t *out, struct errmsg *e)
{
    uint64_t value;
    int status = get_number(j, key, min, max, &value, e);
    *out = (uint32_t)value;
    return status;
}

static int get_bytes(struct json_object *j, const char *key, size_t unit, struct vm_blob *out, struct errmsg *e)
{
    const char *text = json_get_text(j, key, "");
    size_t n = strlen(text), pad = 0;
    while (pad < 2 && pad < n && text[n - 1 - pad] == '=')
        pad++;
    if (n == 0 || n % 4 != 0 || n > SHAPE_BLOB_MAX)
        return wrong(e, key);
    uint8_t *data = malloc(n / 4 * 3);
    int got = data ? EVP_DecodeBlock(data, (const unsigned char *)text, (int)n) : -1;
    int status = got < 0 || ((size_t)got - pad) % unit != 0 ? wrong(e, key) : 0;
    if (status == 0 && vm_blob_append(out, data, (size_t)got - pad) < 0)
        status = errmsg_set(e, "out of memory");
    free(data);
    return status;
}

static bool get_pair(struct json_object *list, size_t i, uint64_t out[2])
{
    struct json_object *pair = json_object_array_get_idx(list, i);
    if (!json_object_is_type(pair, json_type_array) || json_object_array_length(pair) != 2)
        return false;
    for (size_t k = 0; k < 2; k++) {
        struct json_object *v = json_object_array_get_idx(pair, k);
        if (!json_object_is_type(v, json_type_int))
            return false;
        out[k] = json_object_get_uint64(v);
    }
    return true;
}

static int get_params(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct json_object *list = json_get_array(j, "params");
    if (!list || json_object_array_length(list) > SHAPE_PARAMS_MAX)
        return wrong(e, "params");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        uint64_t pair[2];
        if (!get_pair(list, i, pair))
            return wrong(e, "params");
        s->params[s->param_count].index = pair[0];
        s->params[s->param_count++].value = pair[1];
    }
    return 0;
}

static int get_ram(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct json_object *list = json_get_array(j, "ram");
    if (!list || json_object_array_length(list) == 0 || json_object_array_length(list) > SHAPE_RANGES_MAX)
        return wrong(e, "ram");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        uint64_t pair[2];
        if (!get_pair(list, i, pair) || pair[0] < shape_span(s) || pair[1] == 0 || pair[0] > SHAPE_PAGES_MAX ||
            pair[1] > SHAPE_PAGES_MAX - pair[0])
            return wrong(e, "ram");
        if (page_ranges_add(&s->ram, pair[0], pair[1]) < 0)
            return errmsg_set(e, "out of memory");
    }
    /* What libxl gives a domain beyond its memory: of an HVM domain it holds the ROMs of the device model. */
    uint64_t limit_kb = s->memory_kb + (s->is_hvm ? EXTRA_KB : 0);
    return s->ram.pages * (VM_PAGE_SIZE / 1024) > limit_kb ? wrong(e, "ram") : 0;
}

static bool is_ram(const struct shape *s, uint64_t gfn)
{
    for (size_t i = 0; i < s->ram.n; i++)
        if (gfn >= s->ram.at[i].first && gfn - s->ram.at[i].first < s->ram.at[i].count)
            return true;
    return false;
}

static int get_specials(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct json_object *list = json_get_array(j, "specials");
    if (!list || json_object_array_length(list) > SHAPE_SPECIALS_MAX)
        return wrong(e, "specials");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *v = json_object_array_get_idx(list, i);
        uint64_t gfn = json_object_is_type(v, json_type_int) ? json_object_get_uint64(v) : UINT64_MAX;
        if (gfn > SHAPE_PAGES_MAX || is_ram(s, gfn))
            return wrong(e, "specials");
        s->specials[s->special_count++] = gfn;
    }
    return 0;
}

static bool is_interface(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return name[n] == '\0' && n > 0 && n < 16 && name[0] != '.' && name[0] != '-';
}

bool shape_is_card(const char *name)
{
    static const char *const known[] = {"",        "e1000",    "e1000e", "rtl8139", "virtio-net", "virtio-net-pci",
                                        "vmxnet3", "ne2k_pci", "pcnet"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i]) == 0)
            return true;
    return false;
}

static int get_bool(struct json_object *j, const char *key, bool *out, struct errmsg *e)
{
    struct json_object *v = json_get(j, key);
    *out = json_object_get_boolean(v);
    return json_object_is_type(v, json_type_boolean) ? 0 : wrong(e, key);
}

static int get_nic_model(struct shape_nic *n, struct json_object *j, struct errmsg *e)
{
    const char *model = json_get_text(j, "model", "?");
    if (!shape_is_card(model))
        return wrong(e, "model");
    snprintf(n->model, sizeof n->model, "%s", model);
    return get_bool(j, "emulated", &n->emulated, e);
}

bool shape_is_cdrom(const char *name)
{
    return strlen(name) == 3 && name[0] == 'h' && name[1] == 'd' && name[2] >= 'a' && name[2] <= 'd';
}

static int get_cdroms(struct shape_hvm *h, struct json_object *j, struct errmsg *e)
{
    struct json_object *list = json_get_array(j, "cdroms");
    if (!list || json_object_array_length(list) > SHAPE_CDROMS_MAX)
        return wrong(e, "cdroms");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(list, i));
        if (!name || !shape_is_cdrom(name))
            return wrong(e, "cdroms");
        snprintf(h->cdroms[h->cdrom_count++], sizeof h->cdroms[0], "%s", name);
    }
    return 0;
}

static int get_hvm(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct shape_hvm *h = &s->hvm;
    struct json_object *o = json_get(j, "hvm");
    const char *model = json_get_text(o, "model", "");
    uint64_t timer_mode, ports;
    if (get_number(o, "timer_mode", 0, 3, &timer_mode, e) < 0 ||
        get_number(o, "serials", 0, SHAPE_SERIALS_MAX, &ports, e) < 0)
        return -1;
    if (!model[0] || model[strspn(model, "0123456789.")] ||
        snprintf(h->model, sizeof h->model, "%s", model) >= (int)sizeof h->model)
        return wrong(e, "model");
    h->timer_mode = (unsigned)timer_mode;
    h->serials = (unsigned)ports;
    return get_bool(o, "transparent", &h->transparent, e) < 0 || get_bool(o, "direct_boot", &h->direct_boot, e) < 0 ||
                   get_bool(o, "platform_pci", &h->platform_pci, e) < 0 || get_bool(o, "hpet", &h->hpet, e) < 0 ||
                   get_bool(o, "vpt_align", &h->vpt_align, e) < 0 || get_cdroms(h, o, e) < 0
               ? -1
               : 0;
}

static int get_nics(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct json_object *list = json_get_array(j, "nics");
    if (!list || json_object_array_length(list) > VM_MAX_NICS)
        return wrong(e, "nics");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        struct shape_nic *n = &s->nics[s->nic_count++];
        const char *bridge = json_get_text(o, "bridge", "");
        uint64_t devid;
        char end;
        if (get_number(o, "devid", 0, 255, &devid, e) < 0)
            return -1;
        if (sscanf(json_get_text(o, "mac", ""), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &n->mac[0], &n->mac[1],
                   &n->mac[2], &n->mac[3], &n->mac[4], &n->mac[5], &end) != 6)
            return wrong(e, "mac");
        if (!is_interface(bridge))
            return wrong(e, "bridge");
        if (s->is_hvm && get_nic_model(n, o, e) < 0)
            return -1;
        n->devid = (int)devid;
        n->openvswitch = json_get_bool(o, "openvswitch", false);
        snprintf(n->bridge, sizeof n->bridge, "%s", bridge);
    }
    return 0;
}

bool shape_is_vdev(const char *name)
{
    if (strncmp(name, "xvd", 3) != 0 || name[3] < 'a' || name[3] > 'z')
        return false;
    size_t digits = strspn(name + 4, "0123456789");
    return digits <= 2 && name[4 + digits] == '\0';
}

bool shape_is_drive(const char *name)
{
    return shape_is_cdrom(name) || (shape_is_vdev(name) && strlen(name) == 4);
}

unsigned shape_emulated_disk(const char *vdev)
{
    enum { XVD = 202 << 8, XVD_PARTS = 16, IDE0 = 3 << 8, IDE1 = 22 << 8, IDE_PARTS = 64 };
    unsigned n = (unsigned)(vdev[strcspn(vdev, "d") + 1] - 'a');
    if (n > 3)
        return 0;
    if (vdev[0] == 'x')
        return XVD + n * XVD_PARTS;
    return (n < 2 ? IDE0 : IDE1) + n % 2 * IDE_PARTS;
}

static bool has_vdev(const struct shape *s, const char *vdev)
{
    for (unsigned i = 0; i < s->disk_count; i++)
        if (strcmp(s->disks[i].vdev, vdev) == 0)
            return true;
    return false;
}

static int get_disks(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct json_object *list = json_get_array(j, "disks");
    if (!list || json_object_array_length(list) > VM_MAX_DISKS)
        return wrong(e, "disks");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        const char *vdev = json_object_get_string(json_object_array_get_idx(list, i));
        if (!vdev || !(s->is_hvm ? shape_is_drive(vdev) : shape_is_vdev(vdev)) || has_vdev(s, vdev))
            return wrong(e, "disks");
        snprintf(s->disks[s->disk_count++].vdev, sizeof s->disks[0].vdev, "%s", vdev);
    }
    return 0;
}

static int get_uuid(struct shape *s, struct json_object *j, struct errmsg *e)
{
    struct vm_blob uuid = {0};
    int status = get_bytes(j, "uuid", sizeof s->uuid, &uuid, e);
    if (status == 0 && uuid.size == sizeof s->uuid)
        memcpy(s->uuid, uuid.data, sizeof s->uuid);
    else if (status == 0)
        status = wrong(e, "uuid");
    vm_blob_free(&uuid);
    return status;
}

int shape_from_json(struct shape *s, struct json_object *j, struct errmsg *e)
{
    uint64_t vcpus;
    *s = (struct shape){.grant_version = -1};
    s->is_hvm = strcmp(json_get_text(j, "type", ""), "hvm") == 0;
    if (!s->is_hvm && strcmp(json_get_text(j, "type", ""), "pvh") != 0)
        return wrong(e, "type");
    if (s->is_hvm && get_hvm(s, j, e) < 0)
        return -1;
    struct json_object *version = json_get(j, "grant_version");
    s->grant_version = json_object_is_type(version, json_type_int) ? json_object_get_int(version) : -1;
    if (s->grant_version < -1 || s->grant_version > 2)
        return wrong(e, "grant_version");
    if (get_number(j, "vcpus", 1, SHAPE_VCPUS_MAX, &vcpus, e) < 0 ||
        get_number(j, "memory_kb", 1024, SHAPE_PAGES_MAX * 4, &s->memory_kb, e) < 0 ||
        get_u32(j, "grant_frames", 0, UINT32_MAX, &s->grant_frames, e) < 0 ||
        get_u32(j, "maptrack_frames", 0, UINT32_MAX, &s->maptrack_frames, e) < 0 ||
        get_u32(j, "tsc_mode", 0, 4, &s->tsc.mode, e) < 0 || get_u32(j, "tsc_khz", 0, UINT32_MAX, &s->tsc.khz, e) < 0 ||
        get_number(j, "tsc_ns", 0, INT64_MAX, &s->tsc.ns, e) < 0 ||
        get_u32(j, "tsc_incarnation", 0, UINT32_MAX, &s->tsc.incarnation, e) < 0)
        return -1;
    s->vcpus = (unsigned)vcpus;
    return get_uuid(s, j, e) < 0 || get_bytes(j, "cpuid", CPUID_LEAF, &s->cpuid, e) < 0 ||
                   get_bytes(j, "msr", MSR_ENTRY, &s->msr, e) < 0 || get_bytes(j, "context", 1, &s->context, e) < 0 ||
                   get_params(s, j, e) < 0 || get_ram(s, j, e) < 0 || get_specials(s, j, e) < 0 ||
                   get_nics(s, j, e) < 0 || get_disks(s, j, e) < 0
               ? -1
               : 0;
}
