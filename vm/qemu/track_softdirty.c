/*
 * track_softdirty: soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst): bit 55 of /proc/PID/pagemap is set
 * for a page that was written since "4" was last written to /proc/PID/clear_refs. For Linux 6.1 to 6.6.
 *
 * Why no write is lost. The bits are in the page table entries (PTEs) of QEMU. Memory is a shared tmpfs file, so an
 * entry that is taken away is made again from the file, without its bit. What follows is true of Linux 6.1 as Debian 12
 * has it.
 *
 * First, nothing takes an entry away while we track. Reclaim, and so swapping, leaves out mappings that are locked
 * (try_to_unmap_one, VM_LOCKED): `prepare` has QEMU lock it (mlock2). Those who ask for TTU_IGNORE_MLOCK collapse and
 * split huge pages, truncate the file, or replace memory that is broken (which ends QEMU). Huge pages are kept away:
 * proc_check_page_size refuses where tmpfs makes them, MADV_NOHUGEPAGE is set here and for our own mapping of the file
 * (qemu_map). A balloon, which punches holes, is refused (options.c). MADV_PAGEOUT fails on locked memory.
 *
 * Second, a page that moves (compaction, NUMA, unplugged memory) keeps its bit: try_to_migrate_one puts it into the
 * migration entry, pagemap reads it there, remove_migration_pte takes it back.
 *
 * Third, after `clear` each first write to a page faults. clear_refs takes VM_SOFTDIRTY from the mapping, so
 * vm_page_prot is read-only (vma_wants_writenotify) for entries made from there on, and walks over those that exist,
 * under mmap_lock, which page faults take too; at the end it flushes the TLBs. The fault makes the entry writable by
 * pte_mkdirty, which sets the hardware's dirty bit and the soft one. This is also the way of writes by system calls
 * (read(2) from a tap) and of pages that the kernel pins to write to them (O_DIRECT, KVM): the bit is set before they
 * write. MMU notifiers (MMU_NOTIFY_SOFT_DIRTY) make KVM forget what it had mapped.
 *
 * But, fourth, clear_refs leaves a *migration* entry writable, and takes its bit: that page, back at its place, would
 * be written to without a fault. Since 6.1 it isn't, since the hardware's dirty bit travels in the entry as well (bit
 * D) and remove_migration_pte sets it by pte_mkdirty, with the soft one: the page is reported once more instead. That
 * needs every writable entry to be dirty, which is so for those made by such a fault. It is not for those made before
 * the first clear_refs: so after that one `prepare` drops all entries (MADV_DONTNEED: the file keeps the memory, and
 * entries are made again by faults). And it needs room in the entry for bit D, which the kernel has not if it guards
 * against L1TF on a processor with few address bits (swap_migration_ad_supported): refused.
 *
 * Fifth, reading and clearing are two steps, for the whole memory. What is written in between is lost. So all of it
 * happens while the VM stands still and its I/O is drained, and QEMU begins to save its state only afterwards
 * (is_atomic).
 *
 * A bit too many does no harm: a mapping that was never cleared is dirty as a whole.
 *
 * Whoever else writes to clear_refs of this process (CRIU, some debuggers) breaks this, and can't be seen.
 */
#include "vm/qemu/inject.h"
#include "vm/qemu/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

enum { ENTRIES = 65536 /* pages read at a time */, BITS_FOR_DIRTY = 46 /* MAX_PHYSMEM_BITS less those of 5 levels */ };

static const uint64_t soft_dirty = 1ULL << 55;
/* A call that is injected shall be short. */
static const uint64_t drop_at_once = 1ULL << 30;

/* ---- what the kernel has ---- */

/* Is the processor free of L1TF, or one with enough address bits for the fourth? */
static bool keeps_dirty_bit(void)
{
    char line[4096] = "";
    unsigned bits = 0;
    FILE *f = fopen("/sys/devices/system/cpu/vulnerabilities/l1tf", "re");
    bool affected = !f || !fgets(line, sizeof line, f) || strncmp(line, "Not affected", 12) != 0;
    if (f)
        fclose(f);
    f = affected ? fopen("/proc/cpuinfo", "re") : NULL;
    while (f && bits == 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "address sizes : %u bits physical", &bits) != 1)
            bits = 0;
    if (f)
        fclose(f);
    return !affected || bits >= BITS_FOR_DIRTY;
}

/* A page that was just written has the bit, where there are such bits. */
static bool has_soft_dirty(void)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint8_t *page = mmap(NULL, VM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd >= 0 && page != MAP_FAILED) {
        *(volatile uint8_t *)page = 1;
        if (pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)page / VM_PAGE_SIZE * sizeof entry)) != sizeof entry)
            entry = 0;
    }
    if (page != MAP_FAILED)
        munmap(page, VM_PAGE_SIZE);
    if (fd >= 0)
        close(fd);
    return entry & soft_dirty;
}

static int check_kernel(struct errmsg *e)
{
    struct utsname kernel;
    unsigned major = 0, minor = 0;
    if (!has_soft_dirty())
        return errmsg_set(e, "no soft-dirty bits");
    if (uname(&kernel) < 0 || sscanf(kernel.release, "%u.%u", &major, &minor) != 2 || major < 6 ||
        (major == 6 && minor < 1))
        return errmsg_set(e, "soft-dirty bits are exact since 6.1 only");
    if (!keeps_dirty_bit())
        return errmsg_set(e, "soft-dirty bits are not exact on this processor (L1TF)");
    return 0;
}

/* ---- open ---- */

static int clear(const struct track *t, struct errmsg *e)
{
    return pwrite(t->clear_refs, "4", 1, 0) == 1
               ? 0
               : errmsg_set(e, "/proc/%d/clear_refs: %s", (int)t->pid, strerror(errno));
}

static bool is_prepared(const struct proc_flags *f)
{
    return f->mappings > 0 && f->locked == f->mappings && f->no_huge_pages == f->mappings && f->soft_dirty == 0;
}

/* The system calls of `prepare`; NULL: no memory. MADV_NOHUGEPAGE comes last: by it one sees that all is done. */
static struct inject_call *prepare_calls(const struct shared_map *map, size_t *n)
{
    size_t most = 2 * map->n;
    for (size_t i = 0; i < map->n; i++)
        most += (map->piece[i].end - map->piece[i].start) / drop_at_once + 1;
    struct inject_call *calls = calloc(most, sizeof *calls), *c = calls;
    if (!calls)
        return NULL;
    for (size_t i = 0; i < map->n; i++)
        for (uint64_t at = map->piece[i].start, end = map->piece[i].end; at < end; at += drop_at_once)
            *c++ = (struct inject_call){
                .number = SYS_madvise,
                .args = {at, end - at < drop_at_once ? end - at : drop_at_once, MADV_DONTNEED_LOCKED}};
    for (size_t i = 0; i < map->n; i++)
        *c++ =
            (struct inject_call){.number = SYS_mlock2,
                                 .args = {map->piece[i].start, map->piece[i].end - map->piece[i].start, MLOCK_ONFAULT}};
    for (size_t i = 0; i < map->n; i++)
        *c++ = (struct inject_call){
            .number = SYS_madvise,
            .args = {map->piece[i].start, map->piece[i].end - map->piece[i].start, MADV_NOHUGEPAGE}};
    *n = (size_t)(c - calls);
    return calls;
}

static int check_results(const struct track *t, const struct inject_call *calls, size_t n, struct errmsg *e)
{
    for (size_t i = 0; i < n; i++) {
        if (calls[i].result >= 0)
            continue;
        const char *why = strerror((int)-calls[i].result);
        if (calls[i].number == SYS_mlock2)
            return errmsg_set(
                e,
                "locking the guest's memory (%llu MiB), which dirty tracking by soft-dirty bits needs: %s: "
                "run the agent as root, or give QEMU a larger limit of locked memory (ulimit -l)",
                (unsigned long long)t->map.bytes >> 20, why);
        return errmsg_set(e, "preparing the memory of process %d for dirty tracking: %s", (int)t->pid, why);
    }
    return 0;
}

/* Locks the memory and makes all its entries anew: the first and the fourth of above. */
static int prepare(const struct track *t, struct errmsg *e)
{
    static const struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY};
    struct rlimit before;
    size_t n = 0;
    if (clear(t, e) < 0)
        return -1;
    struct inject_call *calls = prepare_calls(&t->map, &n);
    if (!calls)
        return errmsg_set(e, "out of memory");
    /* Without the right to do so the limit may be large enough as it is. */
    bool raised = prlimit(t->pid, RLIMIT_MEMLOCK, &most, &before) == 0;
    int status = inject_calls(t->pid, calls, n, e);
    if (raised)
        (void)prlimit(t->pid, RLIMIT_MEMLOCK, &before, NULL);
    if (status == 0)
        status = check_results(t, calls, n, e);
    free(calls);
    return status;
}

static int open_softdirty(struct track *t, int pidfd, struct errmsg *e)
{
    struct proc_flags flags;
    (void)pidfd;
    t->note = "soft-dirty bits";
    if ((t->pagemap = track_open_proc(t, "pagemap", O_RDONLY, e)) < 0 ||
        (t->clear_refs = track_open_proc(t, "clear_refs", O_WRONLY, e)) < 0 ||
        proc_count_flags(t->pid, &t->map, &flags, e) < 0)
        return -1;
    if (!is_prepared(&flags) && (prepare(t, e) < 0 || proc_count_flags(t->pid, &t->map, &flags, e) < 0))
        return -1;
    if (!is_prepared(&flags))
        return errmsg_set(e, "the memory of process %d can't be locked for dirty tracking", (int)t->pid);
    t->buffer = calloc(ENTRIES, sizeof(uint64_t));
    return t->buffer ? 0 : errmsg_set(e, "out of memory");
}

/* ---- tracking ---- */

static int arm(struct track *t, struct errmsg *e)
{
    return clear(t, e);
}

/* Adds the dirty ones of n pages from `start` on. */
static int add_dirty(const struct map_piece *piece, uint64_t start, const uint64_t *entry, size_t n,
                     struct page_ranges *out, struct errmsg *e)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && entry[end] & soft_dirty)
            end++;
        if (end > i && track_add(piece, start + i * VM_PAGE_SIZE, start + end * VM_PAGE_SIZE, out, e) < 0)
            return -1;
        i = end + 1;
    }
    return 0;
}

static int scan(struct track *t, struct page_ranges *out, struct errmsg *e)
{
    uint64_t *entries = t->buffer;
    for (size_t i = 0; i < t->map.n; i++) {
        const struct map_piece *piece = &t->map.piece[i];
        for (uint64_t at = piece->start; at < piece->end;) {
            size_t n = (piece->end - at) / VM_PAGE_SIZE;
            ssize_t got = pread(t->pagemap, entries, (n < ENTRIES ? n : ENTRIES) * sizeof *entries,
                                (off_t)(at / VM_PAGE_SIZE * sizeof *entries));
            if (got < (ssize_t)sizeof *entries)
                return errmsg_set(e, "/proc/%d/pagemap: %s", (int)t->pid, got < 0 ? strerror(errno) : "it ends");
            n = (size_t)got / sizeof *entries;
            if (add_dirty(piece, at, entries, n, out, e) < 0)
                return -1;
            at += n * VM_PAGE_SIZE;
        }
    }
    return clear(t, e);
}

/* Pages that nobody has written to since stay write-protected, which costs one fault each; the memory stays locked. */
static int disarm(struct track *t, struct errmsg *e)
{
    (void)t, (void)e;
    return 0;
}

static void close_softdirty(struct track *t)
{
    free(t->buffer);
}

const struct track_method track_method_softdirty = {.name = "softdirty",
                                                    .is_atomic = false,
                                                    .check_kernel = check_kernel,
                                                    .open = open_softdirty,
                                                    .arm = arm,
                                                    .scan = scan,
                                                    .disarm = disarm,
                                                    .close = close_softdirty};
