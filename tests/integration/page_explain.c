/*
 * page_explain: see page_explain.h.
 */
#include "tests/integration/page_explain.h"

#include <stdio.h>
#include <string.h>

enum { WORDS = VM_PAGE_SIZE / 4, LINE = 64, SHOWN = 8 };
enum { CONTROL_BLOCK = 72 /* ready, reserved, 16 heads */ };
static const uint64_t HIGH_RAM = 0x100000;
/* PENDING, LINKED, BUSY and the link of a word of the FIFO event array: what Xen changes. Not MASKED, the guest's. */
static const uint32_t EVENT_BITS = 0xb001ffff;

struct difference {
    size_t first, last, count; /* bytes */
    size_t words;
    bool events; /* every word that differs does so in EVENT_BITS only, in a flag at least */
};

static struct difference compare(const uint8_t *a, const uint8_t *b)
{
    struct difference d = {.first = VM_PAGE_SIZE, .events = true};
    for (size_t i = 0; i < VM_PAGE_SIZE; i++)
        if (a[i] != b[i]) {
            d.first = i < d.first ? i : d.first;
            d.last = i;
            d.count++;
        }
    for (size_t w = 0; w < WORDS; w++) {
        uint32_t x, y;
        memcpy(&x, a + w * 4, 4);
        memcpy(&y, b + w * 4, 4);
        if (x == y)
            continue;
        d.words++;
        d.events = d.events && !((x ^ y) & ~EVENT_BITS) && (x ^ y) >> 28;
    }
    return d;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static bool holds(const struct page_ranges *r, uint64_t gfn)
{
    for (size_t i = 0; i < r->n; i++)
        if (gfn >= r->at[i].first && gfn - r->at[i].first < r->at[i].count)
            return true;
    return false;
}

static const char *looks_like(const struct difference *d, const uint8_t *guest)
{
    if (d->last < CONTROL_BLOCK && is_zero(guest + CONTROL_BLOCK, VM_PAGE_SIZE - CONTROL_BLOCK))
        return "looks like a vCPU's control block of event channels";
    if (d->events)
        return "looks like event channels' words: pending or linked";
    if (d->first / LINE == d->last / LINE)
        return "all within 64 bytes: a vcpu_info?";
    return "unlike anything that Xen writes to";
}

static void hex(const uint8_t *p, char out[2 * SHOWN + 1])
{
    for (int i = 0; i < SHOWN; i++)
        snprintf(out + 2 * i, 3, "%02x", p[i]);
}

void explain_page(const struct explain_guest *g, uint64_t gfn, const uint8_t *guest, const uint8_t *replica, char *out,
                  size_t size)
{
    struct difference d = compare(guest, replica);
    size_t from = d.first < VM_PAGE_SIZE - SHOWN ? d.first : VM_PAGE_SIZE - SHOWN;
    char here[2 * SHOWN + 1], there[2 * SHOWN + 1];
    const char *what = gfn == g->shared_info            ? "it is the shared info page"
                       : is_zero(replica, VM_PAGE_SIZE) ? "the replica's is empty"
                       : is_zero(guest, VM_PAGE_SIZE)   ? "the guest's is empty"
                                                        : looks_like(&d, guest);
    hex(guest + from, here);
    hex(replica + from, there);
    snprintf(
        out, size,
        "gfn 0x%llx (RAM %s, %s at this checkpoint): %zu bytes in %zu words differ, 0x%zx to 0x%zx; at 0x%zx guest "
        "%s, replica %s; %s",
        (unsigned long long)gfn, gfn < HIGH_RAM ? "below 4 GiB" : "above 4 GiB",
        holds(g->dirty, gfn) ? "reported dirty and copied" : "not reported dirty", d.count, d.words, d.first, d.last,
        from, here, there, what);
}
