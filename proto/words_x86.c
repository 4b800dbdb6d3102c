/*
 * words_x86: words.c's loops for AVX2 and AVX-512. Nothing outside of words.c calls them; compiled only for x86-64.
 */
#include "proto/words.h"

#include <immintrin.h>

enum words_isa words_isa(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        return WORDS_AVX512;
    return __builtin_cpu_supports("avx2") ? WORDS_AVX2 : WORDS_PLAIN;
}

__attribute__((target("avx2,popcnt"))) static unsigned half_line_differs(const uint8_t *page, const uint8_t *base)
{
    __m256i p = _mm256_loadu_si256((const __m256i *)(const void *)page);
    __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)base);
    return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(p, b))) ^ 0xfU;
}

__attribute__((target("avx2,popcnt"))) void words_differ_avx2(const uint8_t *page, const uint8_t *base,
                                                              struct words_mask *out)
{
    uint64_t summary = 0;
    unsigned count = 0;
    for (unsigned m = 0; m < PAGE_LINES; m++, page += LINE_SIZE, base += LINE_SIZE) {
        unsigned bits = half_line_differs(page, base) | half_line_differs(page + LINE_SIZE / 2, base + LINE_SIZE / 2)
                                                            << (LINE_WORDS / 2);
        out->lines[m] = (uint8_t)bits;
        summary |= (uint64_t)(bits != 0) << m;
        count += (unsigned)__builtin_popcount(bits);
    }
    out->summary = summary;
    out->count = count;
}

__attribute__((target("avx512f,avx512bw,popcnt"))) void words_differ_avx512(const uint8_t *page, const uint8_t *base,
                                                                            struct words_mask *out)
{
    for (unsigned m = 0; m < PAGE_LINES; m++, page += LINE_SIZE, base += LINE_SIZE)
        out->lines[m] = _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(page), _mm512_loadu_si512(base));
    __m512i lines = _mm512_loadu_si512(out->lines);
    out->summary = _mm512_test_epi8_mask(lines, lines);
    uint64_t eight[8];
    _mm512_storeu_si512(eight, lines);
    unsigned count = 0;
    for (unsigned i = 0; i < 8; i++)
        count += (unsigned)__builtin_popcountll(eight[i]);
    out->count = count;
}

__attribute__((target("avx512f,avx512bw,popcnt"))) void words_pack_avx512(const uint8_t *page,
                                                                          const struct words_mask *m, uint8_t *out)
{
    for (uint64_t lines = m->summary; lines; lines &= lines - 1) {
        unsigned line = (unsigned)__builtin_ctzll(lines);
        __mmask8 bits = m->lines[line];
        unsigned n = (unsigned)__builtin_popcount(bits);
        __m512i packed = _mm512_maskz_compress_epi64(bits, _mm512_loadu_si512(page + line * LINE_SIZE));
        /* A masked store: compress-to-memory is microcode on some CPUs. */
        _mm512_mask_storeu_epi64(out, (__mmask8)((1U << n) - 1), packed);
        out += n * WORD_SIZE;
    }
}
