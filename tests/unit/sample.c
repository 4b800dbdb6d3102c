/*
 * sample: see sample.h. Every kind of page change that chooses another encoding is made in each epoch.
 */
#include "sample.h"

#include <stdlib.h>
#include <string.h>

const struct disk_sizes sample_disk_sizes = {SAMPLE_DISKS, {SAMPLE_DISK_BYTES, SAMPLE_DISK_BYTES}};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

uint64_t sample_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct sample *sample_new(void)
{
    struct sample *s = must(calloc(1, sizeof *s));
    s->digest = must(digest_new());
    return s;
}

void sample_free(struct sample *s)
{
    digest_free(s->digest);
    free(s->data);
    free(s);
}

void sample_octets(struct sample *s, const void *data, size_t n)
{
    if (!n)
        return;
    if (s->n + n > s->capacity) {
        s->capacity = 2 * (s->n + n);
        s->data = must(realloc(s->data, s->capacity));
    }
    memcpy(s->data + s->n, data, n);
    s->n += n;
}

void sample_record(struct sample *s, uint16_t type, uint16_t flags, uint64_t epoch, const void *payload, size_t n)
{
    uint8_t header[RECORD_HEADER_SIZE];
    record_header_write(header, type, flags, (uint32_t)n, epoch);
    sample_octets(s, header, sizeof header);
    sample_octets(s, payload, n);
    if (record_is_content(type)) {
        digest_add(s->digest, header, sizeof header);
        digest_add(s->digest, payload, n);
        s->records++;
    }
}

void sample_json(struct sample *s, uint16_t type, const char *json)
{
    sample_record(s, type, type == RECORD_NOTE ? RECORD_OPTIONAL : 0, 0, json, strlen(json));
}

void sample_commit(struct sample *s, uint64_t epoch)
{
    uint8_t digest[PROTO_DIGEST_SIZE], payload[COMMIT_SIZE];
    digest_final(s->digest, digest);
    commit_write(payload, digest, s->records);
    sample_record(s, RECORD_COMMIT, 0, epoch, payload, sizeof payload);
    digest_reset(s->digest);
    s->records = 0;
}

void sample_begin(struct sample *s)
{
    sample_json(s, RECORD_HELLO,
                "{\"version\":1,\"features\":[\"x\"],\"host\":\"a\",\"vm\":\"web\",\"term\":3,\"agent\":\"sample\"}");
    sample_json(s, RECORD_CONFIG,
                "{\"backend\":\"fake\",\"pages\":24,\"replica\":{},\"spec\":{},"
                "\"disks\":[{\"bytes\":20480},{\"bytes\":20480}]}");
}

/* Changes `page` in the way that page number `i` is for. */
static void change(uint8_t *page, unsigned i, uint64_t epoch, uint64_t *seed)
{
    switch (i % 8) {
    case 0: /* zero and back */
        memset(page, epoch % 2 ? 0x5a : 0, PROTO_PAGE_SIZE);
        break;
    case 1: /* a few words */
        for (unsigned w = 0; w < 4; w++)
            page[sample_random(seed) % PROTO_PAGE_SIZE] ^= 0x81;
        break;
    case 2: /* noise */
    case 3:
        for (unsigned o = 0; o < PROTO_PAGE_SIZE; o++)
            page[o] = (uint8_t)sample_random(seed);
        break;
    case 4: /* text */
        for (unsigned o = 0; o < PROTO_PAGE_SIZE; o++)
            page[o] = (uint8_t)((unsigned char)"replica "[o % 8] + (o / 512 + epoch) % 7);
        break;
    case 5: /* a counter in each word of a page of noise */
        for (unsigned o = 0; o < PROTO_PAGE_SIZE; o += 8)
            page[o] = (uint8_t)(page[o] + 1);
        break;
    default: /* as it was */
        break;
    }
}

static void sample_pages(struct sample *s, uint64_t epoch)
{
    uint8_t payload[SAMPLE_PAGES * (PAGES_ENTRY_SIZE + PAGE_ENCODED_MAX)], encoded[PAGE_ENCODED_MAX];
    uint8_t base[PROTO_PAGE_SIZE];
    size_t at = 0;
    uint64_t seed = 0x9e3779b97f4a7c15u ^ epoch;
    for (unsigned i = 0; i < SAMPLE_PAGES; i++) {
        uint8_t *page = s->memory + i * PROTO_PAGE_SIZE;
        if (epoch == 1 && i % 8 == 5)
            change(page, 2, epoch, &seed);
        memcpy(base, page, sizeof base);
        change(page, i, epoch, &seed);
        enum page_encoding encoding;
        size_t n = page_encode(page, epoch > 1 ? base : NULL, encoded, &encoding);
        s->encodings[encoding]++;
        at += pages_entry_write(payload + at, i, encoding, encoded, n);
        if (i == SAMPLE_PAGES / 2) {
            sample_record(s, RECORD_PAGES, 0, epoch, payload, at);
            at = 0;
        }
    }
    sample_record(s, RECORD_PAGES, 0, epoch, payload, at);
}

/* Two blocks that are pages of the epoch before. */
static void sample_disk_pages(struct sample *s, uint64_t epoch, uint8_t *payload)
{
    const uint64_t gfns[] = {epoch % SAMPLE_PAGES, 2};
    uint64_t offset = epoch % 4 * DISK_BLOCK_SIZE;
    size_t n = disk_encode_pages(1, offset, gfns, 2, payload);
    for (size_t i = 0; i < 2; i++)
        memcpy(s->disks[1] + offset + i * DISK_BLOCK_SIZE, s->memory + gfns[i] * PROTO_PAGE_SIZE, PROTO_PAGE_SIZE);
    s->disk_encodings[DISK_AS_PAGES]++;
    sample_record(s, RECORD_DISK, 0, epoch, payload, n);
}

/* Runs that overlap, on both disks: text, noise, and zeroes over some of it. */
static void sample_disk_writes(struct sample *s, uint64_t epoch)
{
    uint8_t payload[DISK_HEAD_SIZE + SAMPLE_DISK_BYTES];
    uint64_t seed = 0x2545f4914f6cdd1d ^ epoch;
    for (unsigned i = 0; i < 12; i++) {
        unsigned disk = (unsigned)(sample_random(&seed) % SAMPLE_DISKS);
        uint32_t length = 1 + (uint32_t)(sample_random(&seed) % 6000);
        uint64_t offset = sample_random(&seed) % (SAMPLE_DISK_BYTES - length);
        uint8_t *at = s->disks[disk] + offset;
        for (uint32_t o = 0; o < length; o++)
            at[o] = i % 3 == 0 ? (uint8_t)sample_random(&seed) : i % 3 == 1 ? (uint8_t)(o / 100 + epoch) : 0;
        size_t n = disk_encode(disk, offset, at, length, NULL, payload);
        s->disk_encodings[payload[2]]++;
        sample_record(s, RECORD_DISK, 0, epoch, payload, n);
    }
    if (epoch > 1)
        sample_disk_pages(s, epoch, payload);
}

static void sample_device(struct sample *s, enum device_kind kind, uint64_t epoch, const uint8_t *blob, size_t n,
                          const uint8_t *base)
{
    uint8_t *encoded = must(malloc(blob_bound(n)));
    uint8_t *payload = must(malloc(DEVICE_HEAD_SIZE + n));
    enum blob_encoding encoding;
    size_t total = blob_encode(blob, n, base, base ? n : 0, encoded, &encoding), offset = 0;
    do { /* in two pieces, if it can be */
        size_t piece = offset || total < 2 ? total - offset : total / 2;
        device_head_write(payload, kind, encoding, (uint32_t)n, (uint32_t)total, (uint32_t)offset);
        memcpy(payload + DEVICE_HEAD_SIZE, encoded + offset, piece);
        sample_record(s, RECORD_DEVICE, 0, epoch, payload, DEVICE_HEAD_SIZE + piece);
        offset += piece;
    } while (offset < total);
    free(payload);
    free(encoded);
}

void sample_epoch(struct sample *s, uint64_t epoch)
{
    uint8_t heartbeat[HEARTBEAT_SIZE], base[sizeof s->state];
    heartbeat_write(heartbeat, epoch, 0);
    if (!s->diskless)
        sample_disk_writes(s, epoch);
    sample_pages(s, epoch);
    sample_record(s, RECORD_HEARTBEAT, 0, 0, heartbeat, sizeof heartbeat);
    if (epoch == 1)
        sample_device(s, DEVICE_INITIAL, epoch, (const uint8_t *)"initial", 7, NULL);
    sample_json(s, RECORD_NOTE, "{\"addresses\":[\"10.1.0.5\"]}");
    sample_record(s, 4711, RECORD_OPTIONAL | 1, 77, "future", 6);
    memcpy(base, s->state, sizeof base);
    for (unsigned i = 0; i < sizeof s->state; i++)
        s->state[i] = (uint8_t)(i % 97 + (i % 100 == 0) * epoch);
    sample_device(s, DEVICE_STATE, epoch, s->state, sizeof s->state, epoch > 1 ? base : NULL);
    sample_commit(s, epoch);
}

void sample_check(struct sample *s, uint64_t epoch, uint64_t number)
{
    enum { BLOCKS = SAMPLE_DISK_BYTES / DISK_BLOCK_SIZE };
    uint8_t payload[CHECK_HEAD_SIZE + CHECK_RUN_SIZE + BLOCKS * PROTO_DIGEST_SIZE], *at = payload + CHECK_HEAD_SIZE;
    check_head_write(payload, &(struct check_head){.number = number, .seed = epoch, .end = BLOCKS, .disk = 1});
    check_run_write(at, 0, BLOCKS);
    at += CHECK_RUN_SIZE;
    for (unsigned i = 0; i < BLOCKS; i++, at += PROTO_DIGEST_SIZE)
        region_digest(epoch, s->disks[1] + i * DISK_BLOCK_SIZE, DISK_BLOCK_SIZE, at);
    sample_record(s, RECORD_CHECK, 0, epoch, payload, sizeof payload);
}

void sample_check_memory(struct sample *s, uint64_t epoch, uint64_t number)
{
    static const uint8_t zeroes[PROTO_PAGE_SIZE];
    uint8_t payload[CHECK_HEAD_SIZE + SAMPLE_PAGES * (CHECK_RUN_SIZE + PROTO_DIGEST_SIZE)], *at = payload;
    check_head_write(at,
                     &(struct check_head){.number = number, .seed = epoch, .end = SAMPLE_PAGES, .disk = CHECK_MEMORY});
    at += CHECK_HEAD_SIZE;
    for (unsigned i = 0; i < SAMPLE_PAGES; i++) {
        const uint8_t *page = s->memory + i * PROTO_PAGE_SIZE;
        if (!memcmp(page, zeroes, sizeof zeroes))
            continue;
        check_run_write(at, i, 1);
        region_digest(epoch, page, PROTO_PAGE_SIZE, at + CHECK_RUN_SIZE);
        at += CHECK_RUN_SIZE + PROTO_DIGEST_SIZE;
    }
    sample_record(s, RECORD_CHECK, 0, epoch, payload, (size_t)(at - payload));
}

void sample_whole(struct sample *s)
{
    uint8_t bye[4 + PROTO_REASON_MAX];
    sample_begin(s);
    for (uint64_t epoch = 1; epoch <= SAMPLE_EPOCHS; epoch++)
        sample_epoch(s, epoch), sample_check(s, epoch, 2 * epoch - 1), sample_check_memory(s, epoch, 2 * epoch);
    sample_record(s, RECORD_BYE, 0, 0, bye, bye_write(bye, BYE_UNPROTECT, "done"));
}
