/*
 * fuzz_stream: any octets as what a primary sends, through framer, stream_check, pages_check, device_read and
 * blob_decode into a small replica. The first octet says in which steps they are fed; the verdict must not depend on
 * it. A digest can't be guessed, so COMMITs are repaired first: otherwise no mutation would ever get behind one.
 */
#include "proto/cursor.h"
#include "replay.h"
#include "sample.h"

#include <stdlib.h>

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
        if (type == RECORD_PAGES || type == RECORD_DEVICE) {
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

/* What is wrong, "" if nothing, when fed in pieces of `step`. */
static struct proto_error receive(const uint8_t *stream, size_t n, size_t step, uint64_t *committed)
{
    struct proto_error e = {""};
    struct replay *r = replay_new(SAMPLE_PAGES);
    for (size_t at = 0; at < n; at += step)
        if (replay_feed(r, stream + at, n - at < step ? n - at : step, &e))
            break;
    *committed = replay_committed(r);
    replay_free(r);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1)
        return 0;
    size_t step = 1 + (size_t)data[0] * 17;
    uint8_t *stream = malloc(n);
    if (!stream)
        return 0;
    memcpy(stream, data + 1, n - 1);
    repair_commits(stream, n - 1);
    uint64_t committed, again;
    struct proto_error one = receive(stream, n - 1, n, &committed);
    struct proto_error other = receive(stream, n - 1, step, &again);
    if (committed != again || strcmp(one.text, other.text) != 0)
        abort();
    free(stream);
    return 0;
}
