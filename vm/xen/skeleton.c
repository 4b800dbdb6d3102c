#include "vm/xen/skeleton.h"

#include <endian.h>
#include <string.h>

enum { /* libxl's records */
       LIBXL_END = 0,
       LIBXL_LIBXC_CONTEXT = 1,
       LIBXL_EMULATOR_CONTEXT = 3,
};
enum { /* libxc's records */
       LIBXC_END = 0,
       LIBXC_PAGE_DATA = 1,
       LIBXC_X86_TSC_INFO = 8,
       LIBXC_HVM_CONTEXT = 9,
       LIBXC_HVM_PARAMS = 10,
       LIBXC_STATIC_DATA_END = 16,
       LIBXC_X86_CPUID_POLICY = 17,
       LIBXC_X86_MSR_POLICY = 18,
};
enum { LIBXL_VERSION = 2, LIBXC_VERSION = 3, LIBXC_MARKER_ID = 0x58454e46 /* "XENF" */, DHDR_X86_HVM = 2 };

struct libxl_header {
    char ident[8];
    uint32_t version, options; /* big endian */
};
struct image_header {
    uint64_t marker;
    uint32_t id, version; /* big endian */
    uint16_t options, reserved1;
    uint32_t reserved2;
};
struct domain_header {
    uint32_t type;
    uint16_t page_shift, reserved;
    uint32_t xen_major, xen_minor;
};
struct record_header {
    uint32_t type, length;
};
struct tsc_info {
    uint32_t mode, khz;
    uint64_t ns;
    uint32_t incarnation, reserved;
};
_Static_assert(sizeof(struct libxl_header) == 16, "libxl stream header");
_Static_assert(sizeof(struct image_header) == 24, "libxc image header");
_Static_assert(sizeof(struct domain_header) == 16, "libxc domain header");
_Static_assert(sizeof(struct tsc_info) == 24, "libxc TSC record");

/* Records are padded to 8 bytes, which their length does not count. */
static int record(struct vm_blob *out, uint32_t type, const void *data, size_t n)
{
    static const uint8_t padding[8];
    struct record_header h = {.type = type, .length = (uint32_t)n};
    return vm_blob_append(out, &h, sizeof h) < 0 || vm_blob_append(out, data, n) < 0 ||
                   vm_blob_append(out, padding, (8 - n % 8) % 8) < 0
               ? -1
               : 0;
}

static int headers(struct vm_blob *out, unsigned xen_major, unsigned xen_minor)
{
    struct libxl_header l = {.version = htobe32(LIBXL_VERSION)};
    struct image_header i = {.marker = UINT64_MAX, .id = htobe32(LIBXC_MARKER_ID), .version = htobe32(LIBXC_VERSION)};
    struct domain_header d = {.type = DHDR_X86_HVM, .page_shift = 12, .xen_major = xen_major, .xen_minor = xen_minor};
    memcpy(l.ident, "LibxlFmt", sizeof l.ident);
    return vm_blob_append(out, &l, sizeof l) < 0 || record(out, LIBXL_LIBXC_CONTEXT, NULL, 0) < 0 ||
                   vm_blob_append(out, &i, sizeof i) < 0 || vm_blob_append(out, &d, sizeof d) < 0
               ? -1
               : 0;
}

static int special_pages(const struct shape *s, struct vm_blob *out)
{
    static const uint8_t empty[VM_PAGE_SIZE];
    struct vm_blob data = {0};
    uint32_t head[2] = {s->special_count, 0};
    int status = vm_blob_append(&data, head, sizeof head);
    if (status == 0)
        status = vm_blob_append(&data, s->specials, s->special_count * sizeof s->specials[0]);
    for (unsigned i = 0; status == 0 && i < s->special_count; i++)
        status = vm_blob_append(&data, empty, sizeof empty);
    if (status == 0)
        status = record(out, LIBXC_PAGE_DATA, data.data, data.size);
    vm_blob_free(&data);
    return status;
}

static int params(const struct shape *s, struct vm_blob *out)
{
    struct {
        uint32_t count, reserved;
        struct {
            uint64_t index, value;
        } at[SHAPE_PARAMS_MAX];
    } p = {.count = s->param_count};
    for (unsigned i = 0; i < s->param_count; i++) {
        p.at[i].index = s->params[i].index;
        p.at[i].value = s->params[i].value;
    }
    return record(out, LIBXC_HVM_PARAMS, &p, 8 + s->param_count * sizeof p.at[0]);
}

/* libxl wants a state for the device model. It is given to none: the replica's is told to wait for another one. */
static int no_model_state(struct vm_blob *out)
{
    enum { EMULATOR_QEMU_UPSTREAM = 2 };
    uint32_t head[4] = {EMULATOR_QEMU_UPSTREAM, 0, 0, 0}; /* id, index, and 8 bytes of nothing */
    return record(out, LIBXL_EMULATOR_CONTEXT, head, sizeof head);
}

int skeleton_write(const struct shape *s, unsigned xen_major, unsigned xen_minor, struct vm_blob *out)
{
    struct tsc_info tsc = {s->tsc.mode, s->tsc.khz, s->tsc.ns, s->tsc.incarnation, 0};
    return headers(out, xen_major, xen_minor) < 0 ||
                   record(out, LIBXC_X86_CPUID_POLICY, s->cpuid.data, s->cpuid.size) < 0 ||
                   record(out, LIBXC_X86_MSR_POLICY, s->msr.data, s->msr.size) < 0 ||
                   record(out, LIBXC_STATIC_DATA_END, NULL, 0) < 0 || special_pages(s, out) < 0 ||
                   record(out, LIBXC_X86_TSC_INFO, &tsc, sizeof tsc) < 0 ||
                   record(out, LIBXC_HVM_CONTEXT, s->context.data, s->context.size) < 0 || params(s, out) < 0 ||
                   record(out, LIBXC_END, NULL, 0) < 0 || (s->is_hvm && no_model_state(out) < 0) ||
                   record(out, LIBXL_END, NULL, 0) < 0
               ? -1
               : 0;
}
