/*
 * words: the inner loops of the page encoder, on the 512 64-bit words of a page. Internal to proto/. words.c is plain
 * C; on x86-64 words_x86.c has the same for AVX2 and AVX-512, chosen at run time. All give the same results.
 */
#ifndef HIKAE_PROTO_WORDS_H
#define HIKAE_PROTO_WORDS_H

#include <stddef.h>
#include <stdint.h>

enum { PAGE_WORDS = 512, WORD_SIZE = 8, PAGE_LINES = 64, LINE_WORDS = 8, LINE_SIZE = 64 };

/* Which words differ. Bit b of lines[m] is word 8m + b; bit m of summary says that lines[m] is not zero. */
struct words_mask {
    uint8_t lines[PAGE_LINES];
    uint64_t summary;
    unsigned count; /* of words that differ */
};

void words_differ(const uint8_t *page, const uint8_t *base, struct words_mask *out);
/* Copies the words of `page` that `m` names to `out` (m->count * WORD_SIZE octets, none beyond). */
void words_pack(const uint8_t *page, const struct words_mask *m, uint8_t *out);

#ifdef __x86_64__
enum words_isa { WORDS_PLAIN, WORDS_AVX2, WORDS_AVX512 };
enum words_isa words_isa(void);
void words_differ_avx2(const uint8_t *page, const uint8_t *base, struct words_mask *out);
void words_differ_avx512(const uint8_t *page, const uint8_t *base, struct words_mask *out);
void words_pack_avx512(const uint8_t *page, const struct words_mask *m, uint8_t *out);
#endif
/* The plain ones, for machines without the above and for the tests that compare them. */
void words_differ_plain(const uint8_t *page, const uint8_t *base, struct words_mask *out);
void words_pack_plain(const uint8_t *page, const struct words_mask *m, uint8_t *out);

#endif
