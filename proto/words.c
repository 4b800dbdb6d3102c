/*
 * words: comparing and packing the 64-bit words of a page, in plain C, and the choice of the fastest way there is. The
 * order of octets does not matter here: words are compared and copied, never computed with.
 */
#include "proto/words.h"

#include <string.h>

static uint64_t word_at(const uint8_t *at)
{
    uint64_t w;
    memcpy(&w, at, sizeof w);
    return w;
}

static uint8_t line_differs(const uint8_t *page, const uint8_t *base)
{
    unsigned bits = 0;
    for (unsigned b = 0; b < LINE_WORDS; b++)
        bits |= (unsigned)(word_at(page + b * WORD_SIZE) != word_at(base + b * WORD_SIZE)) << b;
    return (uint8_t)bits;
}

void words_differ_plain(const uint8_t *page, const uint8_t *base, struct words_mask *out)
{
    uint64_t summary = 0;
    unsigned count = 0;
    for (unsigned m = 0; m < PAGE_LINES; m++) {
        uint8_t bits = line_differs(page + m * LINE_SIZE, base + m * LINE_SIZE);
        out->lines[m] = bits;
        summary |= (uint64_t)(bits != 0) << m;
        count += (unsigned)__builtin_popcount(bits);
    }
    out->summary = summary;
    out->count = count;
}

void words_pack_plain(const uint8_t *page, const struct words_mask *m, uint8_t *out)
{
    for (uint64_t lines = m->summary; lines; lines &= lines - 1) {
        unsigned line = (unsigned)__builtin_ctzll(lines);
        for (unsigned bits = m->lines[line]; bits; bits &= bits - 1) {
            memcpy(out, page + line * LINE_SIZE + (unsigned)__builtin_ctz(bits) * WORD_SIZE, WORD_SIZE);
            out += WORD_SIZE;
        }
    }
}

void words_differ(const uint8_t *page, const uint8_t *base, struct words_mask *out)
{
#ifdef __x86_64__
    enum words_isa isa = words_isa();
    if (isa == WORDS_AVX512) {
        words_differ_avx512(page, base, out);
        return;
    }
    if (isa == WORDS_AVX2) {
        words_differ_avx2(page, base, out);
        return;
    }
#endif
    words_differ_plain(page, base, out);
}

void words_pack(const uint8_t *page, const struct words_mask *m, uint8_t *out)
{
#ifdef __x86_64__
    if (words_isa() == WORDS_AVX512) {
        words_pack_avx512(page, m, out);
        return;
    }
#endif
    words_pack_plain(page, m, out);
}
