/*
 * fuzz_stream: any octets as what a primary sends, through framer, stream_check, pages_check, device_read and
 * blob_decode into a small replica. The first octet says in which steps they are fed; the verdict must not depend on
 * it. A digest can't be guessed, so COMMITs are repaired first: otherwise no mutation would ever get behind one.
 *
 * hikae-verify, which was written apart, must come to the same verdict and the same memory.
 */
#include "proto/cursor.h"
#include "replay.h"
#include "sample.h"
#include "tools/verify/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_HEAD = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Writes the digest and count that are due into each COMMIT, as far as the records can be told apart. */
static void repair_commits(uint8_t *stream, size_t n)
{
    struct digest *d = digest_new();
    uint32_t records = 0;
    while (n >= RECORD_HEADER_SIZE) {
        uint64_t type = octets_to_u64(stream, 2), length = octets_to_u64(stream + 4, 4);
        size_t whole = RECORD_HEADER_SIZE + (size_t)length;
        if (whole > n)
            break;
        if (record_is_content((uint16_t)type)) {
            digest_add(d, stream, whole);
            records++;
        }
        if (type == RECORD_COMMIT && length == COMMIT_SIZE) {
            uint8_t sum[PROTO_DIGEST_SIZE];
            digest_final(d, sum);
            commit_write(stream + RECORD_HEADER_SIZE, sum, records);
            digest_reset(d);
            records = 0;
        }
        stream += whole;
        n -= whole;
    }
    digest_free(d);
}

struct outcome {
    struct proto_error wrong; /* "" if nothing is */
    uint64_t committed;
    uint8_t memory[SAMPLE_PAGES * PROTO_PAGE_SIZE];
};

static void receive(const uint8_t *stream, size_t n, size_t step, struct outcome *out)
{
    struct replay *r = replay_new(SAMPLE_PAGES);
    out->wrong.text[0] = 0;
    for (size_t at = 0; at < n; at += step)
        if (replay_feed(r, stream + at, n - at < step ? n - at : step, &out->wrong))
            break;
    out->committed = replay_committed(r);
    memcpy(out->memory, replay_memory(r), sizeof out->memory);
    replay_free(r);
}

static void memory_of(const struct outcome *proto, char digest[33])
{
    uint8_t sum[PROTO_DIGEST_SIZE];
    struct digest *d = digest_new();
    digest_add(d, proto->memory, sizeof proto->memory);
    digest_final(d, sum);
    digest_free(d);
    for (unsigned i = 0; i < sizeof sum; i++)
        snprintf(digest + 2 * i, 3, "%02x", sum[i]);
}

/* JSON is opaque to proto/: hikae-verify may stop earlier because of it. */
static bool is_about_json(const struct verdict *v)
{
    return !strncmp(v->what.text, "HELLO", 5) || !strncmp(v->what.text, "CONFIG", 6) ||
           !strncmp(v->what.text, "NOTE", 4) || !strncmp(v->what.text, "HANDOVER", 8);
}

static void compare(const uint8_t *file, size_t n, const struct outcome *proto)
{
    struct verdict v;
    char digest[33];
    bool proto_ok = !proto->wrong.text[0];
    verify_stream(file, n, false, false, &v);
    if (v.pages != SAMPLE_PAGES || v.disks.count != SAMPLE_DISKS || v.disks.octets[0] != SAMPLE_DISK_BYTES ||
        v.disks.octets[1] != SAMPLE_DISK_BYTES) /* `receive` has these, whatever CONFIG says */
        return;
    verify_stream(file, n, false, true, &v);
    if (!v.ok && is_about_json(&v))
        return;
    if (v.ok != proto_ok || v.last_epoch != proto->committed)
        abort();
    memory_of(proto, digest);
    if (strcmp(digest, v.memory_digest) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct outcome whole, pieces;
    if (n < 1)
        return 0;
    size_t step = 1 + (size_t)data[0] * 17;
    data++, n--;
    uint8_t *file = malloc(FILE_HEAD + n);
    if (!file)
        return 0;
    memcpy(file, "HIKAESTREAM\0\1\0\0", FILE_HEAD);
    memcpy(file + FILE_HEAD, data, n);
    repair_commits(file + FILE_HEAD, n);
    receive(file + FILE_HEAD, n, n + 1, &whole);
    receive(file + FILE_HEAD, n, step, &pieces);
    if (whole.committed != pieces.committed || strcmp(whole.wrong.text, pieces.wrong.text) != 0)
        abort();
    compare(file, FILE_HEAD + n, &whole);
    free(file);
    return 0;
}
