/*
 * epoch: the digest of an epoch, and the small records: COMMIT, HEARTBEAT, BYE. The grammar is in stream.c.
 */
#include "proto/epoch.h"

#include "proto/cursor.h"

#include <stdlib.h>
#include <xxhash.h>

/* ---- digest ---- */

struct digest {
    XXH3_state_t *state;
};

struct digest *digest_new(void)
{
    struct digest *d = malloc(sizeof *d);
    if (!d)
        return NULL;
    d->state = XXH3_createState();
    if (!d->state) {
        free(d);
        return NULL;
    }
    digest_reset(d);
    return d;
}

void digest_free(struct digest *d)
{
    if (!d)
        return;
    XXH3_freeState(d->state);
    free(d);
}

void digest_reset(struct digest *d)
{
    XXH3_128bits_reset(d->state);
}

void digest_add(struct digest *d, const void *data, size_t n)
{
    if (n)
        XXH3_128bits_update(d->state, data, n);
}

void digest_final(const struct digest *d, uint8_t out[PROTO_DIGEST_SIZE])
{
    XXH128_canonical_t canonical;
    _Static_assert(sizeof canonical.digest == PROTO_DIGEST_SIZE, "XXH3, 128 bits");
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(d->state));
    memcpy(out, canonical.digest, PROTO_DIGEST_SIZE);
}

/* ---- small records ---- */

void commit_write(uint8_t out[COMMIT_SIZE], const uint8_t digest[PROTO_DIGEST_SIZE], uint32_t records)
{
    memcpy(out, digest, PROTO_DIGEST_SIZE);
    put_int(put_int(out + PROTO_DIGEST_SIZE, 4, records), 4, 0);
}

void heartbeat_write(uint8_t out[HEARTBEAT_SIZE], uint64_t sequence, uint64_t echo)
{
    put_int(put_int(out, 8, sequence), 8, echo);
}

int heartbeat_read(const struct record *r, uint64_t *sequence, uint64_t *echo, struct proto_error *e)
{
    struct cursor c = {r->payload, r->length};
    if (r->length != HEARTBEAT_SIZE || !cursor_u64(&c, sequence) || !cursor_u64(&c, echo))
        return proto_fail(e, "HEARTBEAT has %u octets, not %u", r->length, (unsigned)HEARTBEAT_SIZE);
    return 0;
}

static const char *const bye_names[] = {
    [BYE_UNPROTECT] = "UNPROTECT", [BYE_VM_STOPPED] = "VM_STOPPED", [BYE_VM_CRASHED] = "VM_CRASHED",
    [BYE_REFUSED] = "REFUSED",     [BYE_PROTOCOL] = "PROTOCOL",     [BYE_TAKEN_OVER] = "TAKEN_OVER",
    [BYE_TROUBLE] = "TROUBLE",     [BYE_RESTART] = "RESTART",
};

static bool bye_is_known(unsigned reason)
{
    return reason < sizeof bye_names / sizeof bye_names[0] && bye_names[reason];
}

const char *bye_name(unsigned reason)
{
    return bye_is_known(reason) ? bye_names[reason] : "unknown";
}

/* A person reads it on a terminal, and it goes into JSON: nothing of a peer's but printable ASCII may get there. */
static char printable(uint8_t octet)
{
    return octet < 0x20 || octet >= 0x7f ? '?' : (char)octet;
}

size_t bye_write(uint8_t *out, enum bye_reason reason, const char *text)
{
    size_t n = strlen(text);
    if (n > PROTO_REASON_MAX)
        n = PROTO_REASON_MAX;
    uint8_t *at = put_int(put_int(out, 2, reason), 2, 0);
    for (size_t i = 0; i < n; i++)
        *at++ = (uint8_t)printable((uint8_t)text[i]);
    return (size_t)(at - out);
}

int bye_read(const struct record *r, enum bye_reason *reason, char text[PROTO_REASON_MAX + 1], struct proto_error *e)
{
    struct cursor c = {r->payload, r->length};
    uint16_t code, reserved;
    if (!cursor_u16(&c, &code) || !cursor_u16(&c, &reserved) || c.left > PROTO_REASON_MAX)
        return proto_fail(e, "BYE has %u octets", r->length);
    if (reserved)
        return proto_fail(e, "BYE with reserved octets %04x", reserved);
    if (!bye_is_known(code))
        return proto_fail(e, "BYE with unknown reason %u", code);
    *reason = (enum bye_reason)code;
    size_t n = c.left;
    for (size_t i = 0; i < n; i++)
        text[i] = printable(c.at[i]);
    text[n] = 0;
    return 0;
}
