/*
 * page: the encodings of a page, PROTOCOL.md section 4. The encoder's order of trial is by cost: what a pass over page
 * and base can tell (unchanged, zero, few words changed) first, LZ4 only after that.
 */
#include "proto/page.h"

#include "proto/cursor.h"
#include "proto/words.h"

#include <inttypes.h>
#include <lz4.h>

enum {
    DELTA_SUMMARY_SIZE = 8,
    /* A delta of so few words is taken without trying LZ4: at most 1096 octets at several GB/s, where LZ4 makes 0.5. */
    DELTA_AT_ONCE_WORDS = PAGE_WORDS / 4,
};

_Static_assert(PAGE_WORDS *WORD_SIZE == PROTO_PAGE_SIZE, "a page is 512 words");
_Static_assert(PAGE_LINES *LINE_SIZE == PROTO_PAGE_SIZE, "a page is 64 lines");
_Static_assert(DELTA_SUMMARY_SIZE + PAGE_LINES + DELTA_AT_ONCE_WORDS * WORD_SIZE <= PAGE_ENCODED_MAX, "fits");

static const char *const encoding_names[] = {
    [PAGE_ZERO] = "ZERO", [PAGE_UNCHANGED] = "UNCHANGED", [PAGE_RAW] = "RAW",
    [PAGE_LZ4] = "LZ4",   [PAGE_DELTA] = "DELTA",         [PAGE_DELTA_LZ4] = "DELTA_LZ4",
};
_Static_assert(sizeof encoding_names / sizeof encoding_names[0] == PAGE_ENCODINGS, "every encoding has its name");

const char *page_encoding_name(unsigned encoding)
{
    return encoding < PAGE_ENCODINGS ? encoding_names[encoding] : "unknown";
}

/* ---- encode ---- */

static bool is_zero(const uint8_t *page)
{
    static const uint8_t zero_line[LINE_SIZE];
    return !memcmp(page, zero_line, LINE_SIZE) && !memcmp(page, page + LINE_SIZE, PROTO_PAGE_SIZE - LINE_SIZE);
}

static size_t delta_size(const struct words_mask *m)
{
    return DELTA_SUMMARY_SIZE + (size_t)__builtin_popcountll(m->summary) + m->count * (size_t)WORD_SIZE;
}

static size_t delta_write(const uint8_t *page, const struct words_mask *m, uint8_t *out)
{
    uint8_t *at = put_int(out, DELTA_SUMMARY_SIZE, m->summary);
    for (unsigned i = 0; i < PAGE_LINES; i++) { /* no branch: which lines changed can't be predicted */
        *at = m->lines[i];
        at += m->lines[i] != 0;
    }
    words_pack(page, m, at);
    return delta_size(m);
}

/* Returns how many octets differ. */
static unsigned exclusive_or(const uint8_t *page, const uint8_t *base, uint8_t *out)
{
    unsigned differ = 0;
    for (unsigned m = 0; m < PROTO_PAGE_SIZE; m += LINE_SIZE) {
        uint8_t in_line = 0; /* a narrow sum lets the compiler count 16 and more octets at once */
        for (unsigned i = m; i < m + LINE_SIZE; i++) {
            out[i] = page[i] ^ base[i];
            in_line = (uint8_t)(in_line + (out[i] != 0));
        }
        differ += in_line;
    }
    return differ;
}

/* LZ4 of a page if that makes fewer than `below` octets; 0 if not. */
static size_t lz4_below(const uint8_t *page, uint8_t *out, size_t below)
{
    return (size_t)LZ4_compress_fast((const char *)page, (char *)out, PROTO_PAGE_SIZE, (int)below - 1, 1);
}

/* The smallest of DELTA, DELTA_LZ4, LZ4, RAW; `m` and `base` may be NULL, together. */
static size_t encode_by_size(const uint8_t *page, const uint8_t *base, const struct words_mask *m, uint8_t *out,
                             enum page_encoding *encoding)
{
    uint8_t scratch[PROTO_PAGE_SIZE];
    size_t best = PROTO_PAGE_SIZE, n;
    *encoding = PAGE_RAW;
    if (base && delta_size(m) < best) {
        *encoding = PAGE_DELTA;
        best = delta_size(m);
    }
    /* The octets that differ are literals for LZ4: it gains where they are few in each word, as with counters. */
    if (base && exclusive_or(page, base, scratch) < best * 3 / 4 && (n = lz4_below(scratch, out, best)) > 0) {
        *encoding = PAGE_DELTA_LZ4;
        best = n;
    }
    if ((n = lz4_below(page, scratch, best)) > 0) {
        *encoding = PAGE_LZ4;
        memcpy(out, scratch, n);
        return n;
    }
    if (*encoding == PAGE_DELTA)
        return delta_write(page, m, out);
    if (*encoding == PAGE_RAW)
        memcpy(out, page, PROTO_PAGE_SIZE);
    return best;
}

size_t page_encode(const uint8_t *page, const uint8_t *base, uint8_t *out, enum page_encoding *encoding)
{
    struct words_mask m;
    if (base) {
        words_differ(page, base, &m);
        if (!m.count) {
            *encoding = PAGE_UNCHANGED;
            return 0;
        }
    }
    if (is_zero(page)) {
        *encoding = PAGE_ZERO;
        return 0;
    }
    if (base && m.count <= DELTA_AT_ONCE_WORDS) {
        *encoding = PAGE_DELTA;
        return delta_write(page, &m, out);
    }
    return encode_by_size(page, base, base ? &m : NULL, out, encoding);
}

/* ---- check and apply ---- */

/* Decodes into a cleared page, so that the outcome depends on nothing but the data. */
static bool lz4_decodes(const uint8_t *data, size_t n, uint8_t page[PROTO_PAGE_SIZE])
{
    memset(page, 0, PROTO_PAGE_SIZE);
    return LZ4_decompress_safe((const char *)data, (char *)page, (int)n, PROTO_PAGE_SIZE) == PROTO_PAGE_SIZE;
}

static int check_delta(const uint8_t *data, size_t n, struct proto_error *e)
{
    struct cursor c = {data, n};
    uint64_t summary;
    if (!cursor_u64(&c, &summary) || !summary)
        return proto_fail(e, "DELTA of %zu octets without changed words", n);
    unsigned lines = (unsigned)__builtin_popcountll(summary), words = 0;
    for (unsigned i = 0; i < lines; i++) {
        uint8_t mask;
        if (!cursor_u8(&c, &mask) || !mask)
            return proto_fail(e, "DELTA of %zu octets: mask %u of %u is missing or zero", n, i + 1, lines);
        words += (unsigned)__builtin_popcount(mask);
    }
    if (c.left != words * (size_t)WORD_SIZE)
        return proto_fail(e, "DELTA of %zu octets has %zu octets of words, its masks say %u words", n, c.left, words);
    return 0;
}

static int check_lz4(unsigned encoding, const uint8_t *data, size_t n, struct proto_error *e)
{
    uint8_t scratch[PROTO_PAGE_SIZE];
    if (n < 1 || n >= PROTO_PAGE_SIZE)
        return proto_fail(e, "%s page of %zu octets", page_encoding_name(encoding), n);
    if (!lz4_decodes(data, n, scratch))
        return proto_fail(e, "%s page: no LZ4 block of %u octets", page_encoding_name(encoding), PROTO_PAGE_SIZE);
    return 0;
}

int page_check(unsigned encoding, const uint8_t *data, size_t n, struct proto_error *e)
{
    size_t due = encoding == PAGE_RAW ? PROTO_PAGE_SIZE : 0;
    switch (encoding) {
    case PAGE_ZERO:
    case PAGE_UNCHANGED:
    case PAGE_RAW:
        return n == due ? 0 : proto_fail(e, "%s page of %zu octets", page_encoding_name(encoding), n);
    case PAGE_LZ4:
    case PAGE_DELTA_LZ4:
        return check_lz4(encoding, data, n, e);
    case PAGE_DELTA:
        if (n > PAGE_ENCODED_MAX)
            return proto_fail(e, "DELTA page of %zu octets", n);
        return check_delta(data, n, e);
    default:
        return proto_fail(e, "unknown page encoding %u", encoding);
    }
}

static void apply_delta(const uint8_t *data, uint8_t *page)
{
    uint64_t summary = octets_to_u64(data, DELTA_SUMMARY_SIZE);
    const uint8_t *mask = data + DELTA_SUMMARY_SIZE;
    const uint8_t *word = mask + __builtin_popcountll(summary);
    for (; summary; summary &= summary - 1, mask++) {
        uint8_t *line = page + (unsigned)__builtin_ctzll(summary) * LINE_SIZE;
        for (unsigned bits = *mask; bits; bits &= bits - 1, word += WORD_SIZE)
            memcpy(line + (unsigned)__builtin_ctz(bits) * WORD_SIZE, word, WORD_SIZE);
    }
}

void page_apply(unsigned encoding, const uint8_t *data, size_t n, uint8_t *page)
{
    uint8_t scratch[PROTO_PAGE_SIZE];
    switch (encoding) {
    case PAGE_ZERO:
        memset(page, 0, PROTO_PAGE_SIZE);
        break;
    case PAGE_RAW:
        memcpy(page, data, PROTO_PAGE_SIZE);
        break;
    case PAGE_LZ4:
        if (lz4_decodes(data, n, scratch))
            memcpy(page, scratch, PROTO_PAGE_SIZE);
        break;
    case PAGE_DELTA:
        apply_delta(data, page);
        break;
    case PAGE_DELTA_LZ4:
        if (lz4_decodes(data, n, scratch))
            for (unsigned i = 0; i < PROTO_PAGE_SIZE; i++)
                page[i] ^= scratch[i];
        break;
    default: /* UNCHANGED */
        break;
    }
}

/* ---- entries ---- */

size_t pages_entry_write(uint8_t *at, uint64_t gfn, enum page_encoding encoding, const uint8_t *data, size_t n)
{
    uint8_t *data_at = put_int(put_int(put_int(at, 5, gfn), 1, encoding), 2, n);
    if (n)
        memcpy(data_at, data, n);
    return PAGES_ENTRY_SIZE + n;
}

int pages_next(const uint8_t *payload, size_t n, size_t *offset, struct pages_entry *out, struct proto_error *e)
{
    if (*offset >= n)
        return 0;
    struct cursor c = {payload + *offset, n - *offset};
    uint8_t encoding;
    uint16_t length;
    if (!cursor_int(&c, 5, &out->gfn) || !cursor_u8(&c, &encoding) || !cursor_u16(&c, &length))
        return proto_fail(e, "PAGES: %zu octets at %zu are no entry", n - *offset, *offset);
    out->encoding = encoding;
    out->length = length;
    out->data = cursor_take(&c, length);
    if (!out->data)
        return proto_fail(e, "PAGES: the entry at %zu has %u octets of data, %zu are left", *offset, length, c.left);
    *offset = n - c.left;
    return 1;
}

int pages_check(const uint8_t *payload, size_t n, uint64_t pages, struct proto_error *e)
{
    struct pages_entry entry = {0};
    struct proto_error why;
    size_t offset = 0;
    int more;
    while ((more = pages_next(payload, n, &offset, &entry, e)) > 0) {
        if (entry.gfn >= pages)
            return proto_fail(e, "PAGES: gfn %" PRIu64 " of a guest of %" PRIu64 " pages", entry.gfn, pages);
        if (page_check(entry.encoding, entry.data, entry.length, &why))
            return proto_fail(e, "PAGES: gfn %" PRIu64 ": %.200s", entry.gfn, why.text);
    }
    return more;
}
