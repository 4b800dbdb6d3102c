/*
 * cursor: the one way proto/ reads and writes octets. Every read is bounded; integers are little endian whatever the
 * machine's order. Internal to proto/.
 */
#ifndef HIKAE_PROTO_CURSOR_H
#define HIKAE_PROTO_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/record.h"

/* Fills `e` (NULL: nothing is kept) and returns -1. */
int proto_fail(struct proto_error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `left` octets from `at` on are ours to read. */
struct cursor {
    const uint8_t *at;
    size_t left;
};

static inline uint64_t octets_to_u64(const uint8_t *at, unsigned octets)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < octets; i++)
        v |= (uint64_t)at[i] << (8 * i);
    return v;
}

/* The next n octets, or NULL if there are fewer. */
static inline const uint8_t *cursor_take(struct cursor *c, size_t n)
{
    if (n > c->left)
        return NULL;
    const uint8_t *taken = c->at;
    c->at += n;
    c->left -= n;
    return taken;
}

/* Reads an integer of 1 to 8 octets; false, with *v = 0, if there are fewer. */
static inline bool cursor_int(struct cursor *c, unsigned octets, uint64_t *v)
{
    const uint8_t *at = cursor_take(c, octets);
    *v = at ? octets_to_u64(at, octets) : 0;
    return at != NULL;
}

static inline bool cursor_u8(struct cursor *c, uint8_t *v)
{
    uint64_t wide;
    bool ok = cursor_int(c, 1, &wide);
    *v = (uint8_t)wide;
    return ok;
}

static inline bool cursor_u16(struct cursor *c, uint16_t *v)
{
    uint64_t wide;
    bool ok = cursor_int(c, 2, &wide);
    *v = (uint16_t)wide;
    return ok;
}

static inline bool cursor_u32(struct cursor *c, uint32_t *v)
{
    uint64_t wide;
    bool ok = cursor_int(c, 4, &wide);
    *v = (uint32_t)wide;
    return ok;
}

static inline bool cursor_u64(struct cursor *c, uint64_t *v)
{
    return cursor_int(c, 8, v);
}

/* Writes an integer of 1 to 8 octets, returns the place behind it. The caller has made sure of the room. */
static inline uint8_t *put_int(uint8_t *at, unsigned octets, uint64_t v)
{
    for (unsigned i = 0; i < octets; i++)
        at[i] = (uint8_t)(v >> (8 * i));
    return at + octets;
}

#endif
