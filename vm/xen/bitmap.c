#include "vm/xen/bitmap.h"

enum { WORD_BITS = 64 };
_Static_assert(sizeof(unsigned long) * 8 == WORD_BITS, "Xen's dirty bitmap on x86-64");

/* First gfn in [from, end) whose bit is `set`, or end. Cost follows the words, not the bits. */
static uint64_t next(const unsigned long *bits, uint64_t from, uint64_t end, bool set)
{
    while (from < end) {
        unsigned long word = set ? bits[from / WORD_BITS] : ~bits[from / WORD_BITS];
        word &= ~0UL << from % WORD_BITS;
        if (word) {
            uint64_t at = from / WORD_BITS * WORD_BITS + (unsigned)__builtin_ctzl(word);
            return at < end ? at : end;
        }
        from = (from / WORD_BITS + 1) * WORD_BITS;
    }
    return end;
}

int bitmap_ranges(const unsigned long *bits, const struct page_ranges *within, struct page_ranges *out)
{
    for (size_t i = 0; i < within->n; i++) {
        uint64_t end = within->at[i].first + within->at[i].count;
        uint64_t first = next(bits, within->at[i].first, end, true);
        while (first < end) {
            uint64_t after = next(bits, first, end, false);
            if (page_ranges_add(out, first, after - first) < 0)
                return -1;
            first = next(bits, after, end, true);
        }
    }
    return 0;
}
