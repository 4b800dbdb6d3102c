/*
 * stream: the grammar of PROTOCOL.md section 3 as a table, and the epoch's bookkeeping: number, digest, count, blobs.
 * It knows the heads of DEVICE pieces (an epoch must not be committed with half a blob), but not what is in pages and
 * blobs: pages_check and blob_decode do.
 *
 *   primary     START -HELLO-> GREETED -CONFIG-> IDLE -PAGES, DISK-> IN_PAGES -DEVICE-> IN_DEVICES -COMMIT-> IDLE ..
 *               IDLE -CHECK-> IDLE; IDLE -HANDOVER-> HANDED, after which no epoch comes any more
 *   secondary   START -HELLO-> GREETED -READY--> IDLE -REGIONS, BLOCKS, CHANGED (before the first ACK), ACK, CHECKED->
 * IDLE .. both        any -BYE-> ENDED; any but START, ENDED: -HEARTBEAT, NOTE-> the same
 */
#include "proto/epoch.h"

#include "proto/cursor.h"
#include "proto/page.h"

#include <inttypes.h>
#include <stdlib.h>

enum state {
    NOWHERE = 0, /* in the table: may not come here */
    START,
    GREETED, /* HELLO was there */
    IDLE,    /* between epochs */
    IN_PAGES,
    IN_DEVICES,
    HANDED, /* HANDOVER was there */
    ENDED,  /* BYE was there */
    STATES
};

static const char *const state_names[STATES] = {
    [START] = "before HELLO",   [GREETED] = "after HELLO",   [IDLE] = "between epochs", [IN_PAGES] = "in PAGES or DISK",
    [IN_DEVICES] = "in DEVICE", [HANDED] = "after HANDOVER", [ENDED] = "after BYE",
};

enum { TYPES = RECORD_TYPES, SIDES = STREAM_FROM_SECONDARY + 1 };

/* next[side][state][type] */
static const uint8_t next_state[SIDES][STATES][TYPES] = {
    [STREAM_FROM_PRIMARY] =
        {
            [START] = {[RECORD_HELLO] = GREETED, [RECORD_BYE] = ENDED},
            [GREETED] =
                {[RECORD_CONFIG] = IDLE, [RECORD_HEARTBEAT] = GREETED, [RECORD_NOTE] = GREETED, [RECORD_BYE] = ENDED},
            [IDLE] = {[RECORD_PAGES] = IN_PAGES,
                      [RECORD_DISK] = IN_PAGES,
                      [RECORD_DEVICE] = IN_DEVICES,
                      [RECORD_HEARTBEAT] = IDLE,
                      [RECORD_NOTE] = IDLE,
                      [RECORD_CHECK] = IDLE,
                      [RECORD_HANDOVER] = HANDED,
                      [RECORD_BYE] = ENDED},
            [HANDED] = {[RECORD_HEARTBEAT] = HANDED, [RECORD_NOTE] = HANDED, [RECORD_BYE] = ENDED},
            [IN_PAGES] = {[RECORD_PAGES] = IN_PAGES,
                          [RECORD_DISK] = IN_PAGES,
                          [RECORD_DEVICE] = IN_DEVICES,
                          [RECORD_HEARTBEAT] = IN_PAGES,
                          [RECORD_NOTE] = IN_PAGES,
                          [RECORD_BYE] = ENDED},
            [IN_DEVICES] = {[RECORD_DEVICE] = IN_DEVICES,
                            [RECORD_COMMIT] = IDLE,
                            [RECORD_HEARTBEAT] = IN_DEVICES,
                            [RECORD_NOTE] = IN_DEVICES,
                            [RECORD_BYE] = ENDED},
        },
    [STREAM_FROM_SECONDARY] =
        {
            [START] = {[RECORD_HELLO] = GREETED, [RECORD_BYE] = ENDED},
            [GREETED] =
                {[RECORD_READY] = IDLE, [RECORD_HEARTBEAT] = GREETED, [RECORD_NOTE] = GREETED, [RECORD_BYE] = ENDED},
            [IDLE] = {[RECORD_ACK] = IDLE,
                      [RECORD_REGIONS] = IDLE,
                      [RECORD_BLOCKS] = IDLE,
                      [RECORD_CHECKED] = IDLE,
                      [RECORD_CHANGED] = IDLE,
                      [RECORD_HEARTBEAT] = IDLE,
                      [RECORD_NOTE] = IDLE,
                      [RECORD_BYE] = ENDED},
        },
};

struct stream_check {
    enum stream_side from;
    enum state state;
    bool failed;
    struct proto_error why;
    uint64_t committed; /* last epoch that is complete, or acked */
    /* of the epoch that comes in */
    struct digest *digest;
    uint32_t records;
    struct device_piece blob; /* the last piece */
    uint32_t blob_received;   /* octets of its encoded blob */
    bool blob_open;
    bool kind_seen[DEVICE_KINDS];
};

static void epoch_begin(struct stream_check *s)
{
    digest_reset(s->digest);
    s->records = 0;
    s->blob_open = false;
    memset(s->kind_seen, 0, sizeof s->kind_seen);
}

struct stream_check *stream_check_new(enum stream_side from)
{
    struct stream_check *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->digest = digest_new();
    if (!s->digest) {
        free(s);
        return NULL;
    }
    s->from = from;
    s->state = START;
    epoch_begin(s);
    return s;
}

void stream_check_free(struct stream_check *s)
{
    if (!s)
        return;
    digest_free(s->digest);
    free(s);
}

uint64_t stream_check_committed(const struct stream_check *s)
{
    return s->committed;
}

/* Pieces of one blob follow each other without a gap, and no kind comes twice. */
static int check_device(struct stream_check *s, const struct record *r, struct proto_error *e)
{
    struct device_piece p;
    if (device_read(r->payload, r->length, &p, e))
        return -1;
    if (s->blob_open) {
        const struct device_piece *b = &s->blob;
        if (p.kind != b->kind || p.encoding != b->encoding || p.total != b->total ||
            p.encoded_total != b->encoded_total)
            return proto_fail(e, "DEVICE: another blob begins inside of one");
    } else {
        if (s->kind_seen[p.kind])
            return proto_fail(e, "DEVICE: kind %u twice in epoch %" PRIu64, (unsigned)p.kind, r->epoch);
        s->kind_seen[p.kind] = true;
        s->blob_received = 0;
    }
    if (p.offset != s->blob_received)
        return proto_fail(e, "DEVICE: piece at offset %u, %u is due", p.offset, s->blob_received);
    s->blob_received += (uint32_t)p.length;
    s->blob = p;
    s->blob.data = NULL; /* borrowed from the record */
    s->blob_open = s->blob_received < p.encoded_total;
    return 0;
}

static void add_to_epoch(struct stream_check *s, const struct record *r)
{
    uint8_t header[RECORD_HEADER_SIZE];
    record_header_write(header, r->type, r->flags, r->length, r->epoch);
    digest_add(s->digest, header, sizeof header);
    digest_add(s->digest, r->payload, r->length);
    s->records++;
}

struct commit {
    const uint8_t *digest;
    uint32_t records;
};

static int commit_read(const struct record *r, struct commit *out, struct proto_error *e)
{
    struct cursor c = {r->payload, r->length};
    uint32_t reserved;
    out->digest = cursor_take(&c, PROTO_DIGEST_SIZE);
    if (!out->digest || !cursor_u32(&c, &out->records) || !cursor_u32(&c, &reserved) || c.left)
        return proto_fail(e, "%s has %u octets, not %u", record_name(r->type), r->length, (unsigned)COMMIT_SIZE);
    if (reserved)
        return proto_fail(e, "%s with reserved octets %08x", record_name(r->type), reserved);
    return 0;
}

static int check_commit(struct stream_check *s, const struct record *r, struct proto_error *e)
{
    struct commit sent = {0};
    if (commit_read(r, &sent, e))
        return -1;
    if (s->blob_open)
        return proto_fail(e, "COMMIT of epoch %" PRIu64 " with an unfinished DEVICE blob", r->epoch);
    if (!s->kind_seen[DEVICE_STATE] || (r->epoch == 1 && !s->kind_seen[DEVICE_INITIAL]))
        return proto_fail(e, "COMMIT of epoch %" PRIu64 " without its device state", r->epoch);
    if (sent.records != s->records)
        return proto_fail(e, "COMMIT of epoch %" PRIu64 " counts %u records, %u came", r->epoch, sent.records,
                          s->records);
    uint8_t seen[PROTO_DIGEST_SIZE];
    digest_final(s->digest, seen);
    if (memcmp(seen, sent.digest, sizeof seen))
        return proto_fail(e, "COMMIT of epoch %" PRIu64 ": the digest is wrong", r->epoch);
    s->committed = r->epoch;
    epoch_begin(s);
    return 0;
}

static int check_fixed_sizes(const struct record *r, struct proto_error *e)
{
    uint64_t sequence, echo;
    enum bye_reason reason;
    char text[PROTO_REASON_MAX + 1];
    if (r->type == RECORD_HEARTBEAT)
        return heartbeat_read(r, &sequence, &echo, e);
    if (r->type == RECORD_BYE)
        return bye_read(r, &reason, text, e);
    return 0;
}

/* Records of an epoch carry its number, which is the one after the last committed; HANDOVER and CHECK that of the last
 * committed; all others carry 0. */
static int check_epoch_number(const struct stream_check *s, const struct record *r, struct proto_error *e)
{
    bool follows = r->type == RECORD_HANDOVER || r->type == RECORD_CHECK;
    if (follows && !s->committed)
        return proto_fail(e, "%s before the first epoch", record_name(r->type));
    bool numbered = record_is_content(r->type) || r->type == RECORD_COMMIT || r->type == RECORD_ACK;
    uint64_t due = numbered ? s->committed + 1 : follows ? s->committed : 0;
    if (r->epoch == due)
        return 0;
    return proto_fail(e, "%s of epoch %" PRIu64 ", %" PRIu64 " is due", record_name(r->type), r->epoch, due);
}

static int check(struct stream_check *s, const struct record *r, struct proto_error *e)
{
    enum state to = r->type < TYPES ? (enum state)next_state[s->from][s->state][r->type] : NOWHERE;
    if (to == NOWHERE)
        return proto_fail(e, "%s (type %u) from the %s may not come %s", record_name(r->type), r->type,
                          s->from == STREAM_FROM_PRIMARY ? "primary" : "secondary", state_names[s->state]);
    if (check_epoch_number(s, r, e) || check_fixed_sizes(r, e))
        return -1;
    bool tells = r->type == RECORD_REGIONS || r->type == RECORD_BLOCKS || r->type == RECORD_CHANGED;
    if (tells && s->committed)
        return proto_fail(e, "%s after the first ACK", record_name(r->type));
    struct commit ack;
    switch (r->type) {
    case RECORD_DEVICE:
        if (check_device(s, r, e))
            return -1;
        add_to_epoch(s, r);
        break;
    case RECORD_PAGES:
    case RECORD_DISK:
        add_to_epoch(s, r);
        break;
    case RECORD_COMMIT:
        if (check_commit(s, r, e))
            return -1;
        break;
    case RECORD_ACK: /* that the digest is ours, the primary knows, who sent it */
        if (commit_read(r, &ack, e))
            return -1;
        s->committed = r->epoch;
        break;
    default:
        break;
    }
    s->state = to;
    return 0;
}

int stream_check_record(struct stream_check *s, const struct record *r, struct proto_error *e)
{
    if (!s->failed && check(s, r, &s->why))
        s->failed = true;
    if (s->failed && e)
        *e = s->why;
    return s->failed ? -1 : 0;
}
