/*
 * fuzz_page: each page decoder on any octets (what passes page_check must apply without touching anything else), and
 * the encoder: a page made from the input, against a base made from it, must come back as it was.
 */
#include "proto/page.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A page on the heap, so that the sanitizer sees its ends: the input over and over. */
static uint8_t *page_of(const uint8_t *data, size_t n)
{
    uint8_t *page = malloc(PROTO_PAGE_SIZE);
    if (!page)
        abort();
    for (size_t i = 0; i < PROTO_PAGE_SIZE; i++)
        page[i] = n ? data[i % n] : 0;
    return page;
}

static void decode(const uint8_t *data, size_t n)
{
    struct proto_error e;
    uint8_t *exact = malloc(n);
    uint8_t *page = page_of(data, n);
    memcpy(exact, data, n);
    for (unsigned encoding = 0; encoding <= PAGE_ENCODINGS; encoding++)
        if (!page_check(encoding, exact, n, &e))
            page_apply(encoding, exact, n, page);
    free(page);
    free(exact);
}

static void round_trip(const uint8_t *page, const uint8_t *base)
{
    struct proto_error e;
    enum page_encoding encoding;
    uint8_t *out = malloc(PAGE_ENCODED_MAX), *replica = page_of(base ? base : page, base ? PROTO_PAGE_SIZE : 1);
    if (!out)
        abort();
    size_t n = page_encode(page, base, out, &encoding);
    if (n > PAGE_ENCODED_MAX || page_check(encoding, out, n, &e))
        abort();
    page_apply(encoding, out, n, replica);
    if (memcmp(replica, page, PROTO_PAGE_SIZE) != 0)
        abort();
    free(replica);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    decode(data, n);
    /* base: the first part of the input, repeated; page: the same with the rest written over it */
    size_t cut = 1 + data[0] * (n - 1) / 256;
    uint8_t *base = page_of(data, cut), *page = page_of(data, cut);
    for (size_t i = cut; i + 2 < n; i += 3)
        page[(data[i] | data[i + 1] << 8) % PROTO_PAGE_SIZE] = data[i + 2];
    round_trip(page, base);
    round_trip(page, NULL);
    round_trip(base, page);
    free(page);
    free(base);
    return 0;
}
