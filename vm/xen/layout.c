/*
 * layout: where a domain has pages, and our permanent map of its RAM.
 *
 * RAM is at gfn 0, and what does not fit below the hole for devices is from 4 GiB on; a few special pages (ACPI tables,
 * rings of xenstore and console) lie in the hole. Whether there is a page is found out by mapping it. In our map the
 * gaps are memory of nobody: what a broken peer writes there is written nowhere.
 */
#include "vm/xen/xen.h"

#include <xen/hvm/params.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK = 8192, USUAL_PAGES = 256, BITS_PER_PAGE = VM_PAGE_SIZE * 8 };
static const uint64_t SPECIALS_FIRST = 0xfc000, SPECIALS_END = 0xff000, HIGH_FIRST = 0x100000;

/* Adds those of [first, first + n) that the domain has to `out`. */
static int probe(struct vm *vm, uint64_t first, size_t n, struct page_ranges *out, struct errmsg *e)
{
    xen_pfn_t gfns[CHUNK] = {0};
    int errors[CHUNK] = {0};
    for (size_t i = 0; i < n; i++)
        gfns[i] = first + i;
    void *at = xenforeignmemory_map(vm->foreign, vm->domid, PROT_READ, n, gfns, errors);
    if (!at)
        return xen_error(vm, e, "looking at the domain's memory");
    xenforeignmemory_unmap(vm->foreign, at, n);
    for (size_t i = 0; i < n; i++)
        if (!errors[i] && page_ranges_add(out, first + i, 1) < 0)
            return errmsg_set(e, "out of memory");
    return 0;
}

/* Probes from `first` to `end` until `wanted` pages are found in all. */
static int probe_ram(struct vm *vm, uint64_t first, uint64_t end, uint64_t wanted, struct errmsg *e)
{
    struct page_ranges *ram = &vm->shape.ram;
    uint64_t nothing = 0;
    while (first < end && ram->pages < wanted && nothing < CHUNK) { /* after 32 MiB of nothing it ends */
        uint64_t left = wanted - ram->pages, n = end - first;
        n = n > CHUNK ? CHUNK : n;
        n = n > left && nothing == 0 ? left : n;
        uint64_t before = ram->pages;
        if (probe(vm, first, (size_t)n, ram, e) < 0)
            return -1;
        nothing = ram->pages == before ? nothing + n : 0;
        first += n;
    }
    return 0;
}

static int probe_hole(struct vm *vm, struct page_ranges *special, struct errmsg *e)
{
    page_ranges_clear(special);
    for (uint64_t at = SPECIALS_FIRST; at < SPECIALS_END; at += CHUNK / 2)
        if (probe(vm, at, CHUNK / 2, special, e) < 0)
            return -1;
    return 0;
}

static int probe_all_ram(struct vm *vm, uint64_t wanted, struct errmsg *e)
{
    page_ranges_clear(&vm->shape.ram);
    return probe_ram(vm, 0, SPECIALS_FIRST, wanted, e) < 0 ||
                   probe_ram(vm, HIGH_FIRST, HIGH_FIRST + SHAPE_PAGES_MAX, wanted, e) < 0
               ? -1
               : 0;
}

/* Most gfns of the hole have no page, and finding that out takes a hypercall each: the two places where Xen's tools put
 * theirs are looked at first. The hypervisor knows how many pages there are: if some are missing, all of the hole is.
 */
static int probe_domain(struct vm *vm, struct page_ranges *special, struct errmsg *e)
{
    static const uint64_t usual[] = {0xfc000, 0xfef00};
    struct shape *s = &vm->shape;
    xc_domaininfo_t info = {.tot_pages = UINT64_MAX};
    (void)xen_info(vm, &info);
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (probe(vm, usual[i], USUAL_PAGES, special, e) < 0)
            return -1;
    /* of HVM with the ROMs of its device model, which follow its RAM, and without the VGA hole */
    uint64_t wanted = s->is_hvm ? info.tot_pages - special->pages : s->memory_kb / (VM_PAGE_SIZE / 1024);
    if (probe_all_ram(vm, wanted, e) < 0)
        return -1;
    return s->ram.pages + special->pages < info.tot_pages ? probe_hole(vm, special, e) : 0;
}

int layout_find(struct vm *vm, struct errmsg *e)
{
    struct shape *s = &vm->shape;
    struct page_ranges special = {0};
    s->special_count = 0;
    int status = probe_domain(vm, &special, e);
    if (status == 0 && special.pages > SHAPE_SPECIALS_MAX)
        status = errmsg_set(e, "the domain has %llu pages where devices are mapped: not supported",
                            (unsigned long long)special.pages);
    for (size_t i = 0; status == 0 && i < special.n; i++)
        for (uint64_t k = 0; k < special.at[i].count; k++)
            s->specials[s->special_count++] = special.at[i].first + k;
    page_ranges_free(&special);
    if (status < 0)
        return -1;
    return s->ram.n > 0 && s->ram.n <= SHAPE_RANGES_MAX
               ? 0
               : errmsg_set(e, "the domain's memory is in %zu pieces (ballooned?): not supported", s->ram.n);
}

/* A piece of RAM at its place in the map. */
static int map_range(struct vm *vm, const struct page_range *r, int protection, struct errmsg *e)
{
    xen_pfn_t gfns[CHUNK];
    for (uint64_t done = 0; done < r->count;) {
        size_t n = r->count - done < CHUNK ? (size_t)(r->count - done) : CHUNK;
        for (size_t i = 0; i < n; i++)
            gfns[i] = r->first + done + i;
        if (!xenforeignmemory_map2(vm->foreign, vm->domid, vm->memory + gfns[0] * VM_PAGE_SIZE, protection, MAP_FIXED,
                                   n, gfns, NULL))
            return xen_error(vm, e, "mapping the domain's memory");
        done += n;
    }
    return 0;
}

int layout_map(struct vm *vm, bool writable, struct errmsg *e)
{
    vm->span = shape_span(&vm->shape);
    void *at =
        mmap(NULL, vm->span * VM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return errmsg_set(e, "room for the map of the domain's memory: %s", strerror(errno));
    vm->memory = at;
    for (size_t i = 0; i < vm->shape.ram.n; i++)
        if (map_range(vm, &vm->shape.ram.at[i], PROT_READ | (writable ? PROT_WRITE : 0), e) < 0)
            return -1;
    /* A core dump of an agent shall not hold the guest's memory. */
    (void)madvise(at, vm->span * VM_PAGE_SIZE, MADV_DONTDUMP);
    if (writable)
        return 0;
    int pages = (int)((vm->span + BITS_PER_PAGE - 1) / BITS_PER_PAGE);
    return xc__hypercall_buffer_alloc_pages(vm->xc, &vm->dirty, pages) ? 0 : xen_error(vm, e, "the dirty bitmap");
}

void layout_unmap(struct vm *vm)
{
    if (vm->dirty.hbuf)
        xc__hypercall_buffer_free_pages(vm->xc, &vm->dirty, (int)((vm->span + BITS_PER_PAGE - 1) / BITS_PER_PAGE));
    vm->dirty = (xc_hypercall_buffer_t){HYPERCALL_BUFFER_INIT_NO_BOUNCE};
    if (vm->memory)
        munmap(vm->memory, vm->span * VM_PAGE_SIZE);
    vm->memory = NULL;
}

/* Rings between the hypervisor, its programs in dom0 and the device model: those of the host that it is on. */
static bool is_ring(const struct shape *s, uint64_t gfn)
{
    static const unsigned rings[] = {HVM_PARAM_IOREQ_PFN, HVM_PARAM_BUFIOREQ_PFN, HVM_PARAM_PAGING_RING_PFN,
                                     HVM_PARAM_MONITOR_RING_PFN, HVM_PARAM_SHARING_RING_PFN};
    enum { SERVER_PAGES = 8 };
    uint64_t servers = shape_param(s, HVM_PARAM_IOREQ_SERVER_PFN);
    for (size_t i = 0; i < sizeof rings / sizeof rings[0]; i++)
        if (gfn == shape_param(s, rings[i]))
            return true;
    return servers && gfn >= servers && gfn - servers < SERVER_PAGES;
}

int layout_specials(struct vm *vm, uint8_t *pages, bool write, struct errmsg *e)
{
    const struct shape *s = &vm->shape;
    if (s->special_count == 0)
        return 0;
    xen_pfn_t gfns[SHAPE_SPECIALS_MAX];
    for (unsigned i = 0; i < s->special_count; i++)
        gfns[i] = s->specials[i];
    uint8_t *at = xenforeignmemory_map(vm->foreign, vm->domid, write ? PROT_READ | PROT_WRITE : PROT_READ,
                                       s->special_count, gfns, NULL);
    if (!at)
        return xen_error(vm, e, "mapping the domain's special pages");
    for (size_t i = 0; i < s->special_count; i++)
        if (!write)
            memcpy(pages + i * VM_PAGE_SIZE, at + i * VM_PAGE_SIZE, VM_PAGE_SIZE);
        else if (!is_ring(s, gfns[i]))
            memcpy(at + i * VM_PAGE_SIZE, pages + i * VM_PAGE_SIZE, VM_PAGE_SIZE);
    xenforeignmemory_unmap(vm->foreign, at, s->special_count);
    return 0;
}
