/*
 * stream: walks a recorded stream record by record (PROTOCOL.md sections 2, 3 and 9). An epoch's pages are replayed
 * only when its COMMIT is right, as a secondary does.
 */
#include "verify.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    HELLO = 1,
    CONFIG,
    PAGES,
    DEVICE,
    COMMIT,
    ACK,
    HEARTBEAT,
    BYE,
    READY,
    NOTE,
    DISK,
    HANDOVER,
    REGIONS,
    BLOCKS,
    CHECK,
    CHECKED,
    CHANGED,
    TYPES
};
enum { FILE_HEAD = 16, HEAD = 16, OPTIONAL_FLAG = 0x8000, ANY_MAX = 1048576 };

static const struct {
    const char *name;
    uint32_t least, most;
} types[TYPES] = {
    [HELLO] = {"HELLO", 2, 16384},        [CONFIG] = {"CONFIG", 2, 262144},
    [PAGES] = {"PAGES", 0, 1048576},      [DEVICE] = {"DEVICE", 16, 1048576},
    [COMMIT] = {"COMMIT", 24, 24},        [ACK] = {"ACK", 24, 24},
    [HEARTBEAT] = {"HEARTBEAT", 16, 16},  [BYE] = {"BYE", 4, 259},
    [READY] = {"READY", 2, 65536},        [NOTE] = {"NOTE", 2, 65536},
    [DISK] = {"DISK", 16, 262160},        [HANDOVER] = {"HANDOVER", 2, 4096},
    [REGIONS] = {"REGIONS", 24, 1048576}, [BLOCKS] = {"BLOCKS", 32, 1048576},
    [CHECK] = {"CHECK", 40, 1048576},     [CHECKED] = {"CHECKED", 8, 1048576},
    [CHANGED] = {"CHANGED", 16, 1048576},
};

/* Where the payload of a PAGES record of the epoch lies. */
struct span {
    const uint8_t *at;
    size_t n;
};

struct walk {
    struct verdict *v;
    bool greeted, configured, in_epoch, in_devices, handed, ended, keep_epochs, digest_memory;
    uint64_t due;     /* number of the epoch that comes in */
    uint64_t durable; /* by NOTE */
    uint64_t checks;
    XXH3_state_t *hash;
    struct tally epoch;
    struct span *spans;
    size_t span_count, span_capacity, epoch_capacity;
    struct blobs blobs;
    struct memory *memory;
};

struct head {
    unsigned type, flags;
    uint32_t length;
    uint64_t epoch;
};

static void tally_add(struct tally *to, const struct tally *from)
{
    to->records += from->records;
    to->octets += from->octets;
    to->blob_octets += from->blob_octets;
    to->disk_octets += from->disk_octets;
    to->disk_written += from->disk_written;
    for (unsigned i = 0; i < ENCODINGS; i++) {
        to->entries[i] += from->entries[i];
        to->page_octets[i] += from->page_octets[i];
    }
}

static void *grown(void *array, size_t *capacity, size_t used, size_t size)
{
    if (used < *capacity)
        return array;
    *capacity = *capacity ? *capacity * 2 : 64;
    array = realloc(array, *capacity * size);
    if (!array) {
        perror("hikae-verify");
        exit(2);
    }
    return array;
}

static void epoch_start(struct walk *w)
{
    XXH3_128bits_reset(w->hash);
    w->epoch = (struct tally){.epoch = w->due};
    w->span_count = 0;
    w->in_epoch = w->in_devices = false;
}

/* ---- JSON records ---- */

static struct json_object *parse(const uint8_t *at, size_t n)
{
    struct json_tokener *t = json_tokener_new();
    struct json_object *j = t ? json_tokener_parse_ex(t, (const char *)at, (int)n) : NULL;
    bool whole = j && json_tokener_get_parse_end(t) == n && json_object_is_type(j, json_type_object);
    json_tokener_free(t);
    if (whole)
        return j;
    json_object_put(j);
    return NULL;
}

struct member {
    const char *name;
    enum json_type type;
};

static bool has_members(struct json_object *j, const char *record, const struct member *m, struct complaint *c)
{
    struct json_object *value;
    for (; m->name; m++) {
        if (!json_object_object_get_ex(j, m->name, &value))
            return complain(c, "%s without \"%s\"", record, m->name);
        if (!json_object_is_type(value, m->type))
            return complain(c, "%s: \"%s\" is no %s", record, m->name, json_type_to_name(m->type));
    }
    return true;
}

static int64_t number(struct json_object *j, const char *name)
{
    struct json_object *value = NULL;
    json_object_object_get_ex(j, name, &value);
    return json_object_get_int64(value);
}

static bool hello_is_valid(struct json_object *j, struct complaint *c)
{
    static const struct member members[] = {
        {"version", json_type_int}, {"features", json_type_array}, {"host", json_type_string}, {"vm", json_type_string},
        {"term", json_type_int},    {"agent", json_type_string},   {NULL, json_type_null}};
    if (!has_members(j, "HELLO", members, c))
        return false;
    int64_t version = number(j, "version"), term = number(j, "term");
    if (version != 1)
        return complain(c, "HELLO of version %" PRId64 ", this is 1", version);
    return (term >= 0 && term < (int64_t)1 << 53) || complain(c, "HELLO with term %" PRId64, term);
}

static bool shared_is_valid(struct disks *d, struct json_object *disk, struct complaint *c)
{
    struct json_object *shared, *identity;
    bool told = json_object_object_get_ex(disk, "shared", &shared);
    if (told && !json_object_is_type(shared, json_type_boolean))
        return complain(c, "CONFIG: \"shared\" of a disk is no boolean");
    if (json_object_object_get_ex(disk, "identity", &identity) &&
        (!json_object_is_type(identity, json_type_string) || json_object_get_string_len(identity) > 199))
        return complain(c, "CONFIG: \"identity\" of a disk is no string of at most 199 octets");
    bool is_shared = told && json_object_get_boolean(shared);
    if (!is_shared && d->shared)
        return complain(c, "CONFIG: a disk that is not shared after one that is");
    d->shared += is_shared;
    return true;
}

static bool disks_are_valid(struct disks *d, struct json_object *list, struct complaint *c)
{
    static const struct member members[] = {{"bytes", json_type_int}, {NULL, json_type_null}};
    if (!json_object_is_type(list, json_type_array))
        return complain(c, "CONFIG: \"disks\" is no array");
    size_t n = json_object_array_length(list);
    if (n < 1 || n > DISKS)
        return complain(c, "CONFIG with %zu disks", n);
    for (; d->count < n; d->count++) {
        struct json_object *one = json_object_array_get_idx(list, d->count);
        if (!json_object_is_type(one, json_type_object))
            return complain(c, "CONFIG: a disk is no object");
        if (!has_members(one, "CONFIG: a disk", members, c))
            return false;
        int64_t octets = number(one, "bytes");
        if (octets < 1 || octets % 4096)
            return complain(c, "CONFIG with a disk of %" PRId64 " octets", octets);
        d->octets[d->count] = (uint64_t)octets;
        if (!shared_is_valid(d, one, c))
            return false;
    }
    return true;
}

static bool config_is_valid(struct walk *w, struct json_object *j, struct complaint *c)
{
    static const struct member members[] = {
        {"backend", json_type_string}, {"pages", json_type_int}, {"replica", json_type_object}, {NULL, json_type_null}};
    if (!has_members(j, "CONFIG", members, c))
        return false;
    int64_t pages = number(j, "pages");
    if (pages < 1 || pages > (int64_t)1 << 40)
        return complain(c, "CONFIG with %" PRId64 " pages", pages);
    w->v->pages = (uint64_t)pages;
    struct json_object *disks;
    return !json_object_object_get_ex(j, "disks", &disks) || disks_are_valid(&w->v->disks, disks, c);
}

/* What was acknowledged is not in this stream, but it was sent. */
static bool note_is_valid(struct walk *w, struct json_object *j, struct complaint *c)
{
    struct json_object *durable;
    if (!json_object_object_get_ex(j, "durable", &durable))
        return true;
    int64_t epoch = json_object_get_int64(durable);
    if (!json_object_is_type(durable, json_type_int) || !w->v->disks.shared)
        return complain(c, "NOTE: \"durable\" is no integer, or the VM has no shared disk");
    if (epoch < 0 || (uint64_t)epoch < w->durable || (uint64_t)epoch > w->v->last_epoch)
        return complain(c, "NOTE: epoch %" PRId64 " is durable, after %" PRIu64 ", and %" PRIu64 " was the last one",
                        epoch, w->durable, w->v->last_epoch);
    w->durable = (uint64_t)epoch;
    return true;
}

static bool json_is_valid(struct walk *w, unsigned type, const uint8_t *at, size_t n, struct complaint *c)
{
    struct json_object *j = parse(at, n);
    if (!j)
        return complain(c, "%s is no JSON object", types[type].name);
    bool ok = type == HELLO    ? hello_is_valid(j, c)
              : type == CONFIG ? config_is_valid(w, j, c)
              : type == NOTE   ? note_is_valid(w, j, c)
                               : true;
    json_object_put(j);
    return ok;
}

/* ---- epochs ---- */

static bool part_of_epoch(struct walk *w, const struct head *h, const uint8_t *record, struct complaint *c)
{
    const uint8_t *payload = record + HEAD;
    if (h->type != DEVICE && w->in_devices)
        return complain(c, "%s after DEVICE in epoch %" PRIu64, types[h->type].name, h->epoch);
    w->in_epoch = true;
    w->in_devices = h->type == DEVICE;
    XXH3_128bits_update(w->hash, record, HEAD + (size_t)h->length);
    w->epoch.records++;
    w->epoch.octets += HEAD + (uint64_t)h->length;
    if (h->type == DEVICE)
        return device_is_valid(&w->blobs, payload, h->length, &w->epoch, c);
    if (h->type == DISK)
        return disk_is_valid(payload, h->length, &w->v->disks, h->epoch > 1 ? w->v->pages : 0, &w->epoch, c);
    w->spans = grown(w->spans, &w->span_capacity, w->span_count, sizeof *w->spans);
    w->spans[w->span_count++] = (struct span){payload, h->length};
    return pages_are_valid(payload, h->length, w->v->pages, &w->epoch, c);
}

static void keep_epoch(struct walk *w)
{
    struct verdict *v = w->v;
    v->epochs = grown(v->epochs, &w->epoch_capacity, v->epoch_count, sizeof *v->epochs);
    v->epochs[v->epoch_count] = w->epoch;
}

static bool commit(struct walk *w, const uint8_t *payload, struct complaint *c)
{
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(w->hash));
    if (w->blobs.encoded)
        return complain(c, "COMMIT of epoch %" PRIu64 " before the end of a DEVICE blob", w->due);
    if (!w->blobs.next[1].exists || (w->due == 1 && !w->blobs.next[0].exists))
        return complain(c, "COMMIT of epoch %" PRIu64 ": STATE or INITIAL is missing", w->due);
    if (memcmp(sum.digest, payload, sizeof sum.digest) != 0)
        return complain(c, "COMMIT of epoch %" PRIu64 ": wrong digest", w->due);
    if (little(payload + 16, 4) != w->epoch.records)
        return complain(c, "COMMIT of epoch %" PRIu64 ": %" PRIu64 " records, there were %" PRIu64, w->due,
                        little(payload + 16, 4), w->epoch.records);
    if (little(payload + 20, 4))
        return complain(c, "COMMIT with reserved octets");
    for (size_t i = 0; i < w->span_count && w->digest_memory; i++)
        if (!pages_replay(w->spans[i].at, w->spans[i].n, w->memory))
            return complain(c, "no memory to replay epoch %" PRIu64, w->due);
    blobs_commit(&w->blobs);
    if (w->keep_epochs)
        keep_epoch(w);
    w->v->epoch_count++;
    w->v->last_epoch = w->due++;
    tally_add(&w->v->total, &w->epoch);
    epoch_start(w);
    return true;
}

/* ---- records ---- */

static bool may_come(const struct walk *w, const struct head *h, struct complaint *c)
{
    const char *name = types[h->type].name;
    bool numbered = h->type == PAGES || h->type == DISK || h->type == DEVICE || h->type == COMMIT;
    if (w->ended)
        return complain(c, "%s after BYE", name);
    if (h->type == ACK || h->type == READY || h->type == REGIONS || h->type == BLOCKS || h->type == CHECKED ||
        h->type == CHANGED)
        return complain(c, "%s from a primary", name);
    if (!w->greeted && h->type != HELLO && h->type != BYE)
        return complain(c, "%s before HELLO", name);
    if (w->greeted && h->type == HELLO)
        return complain(c, "a second HELLO");
    if (w->configured && h->type == CONFIG)
        return complain(c, "a second CONFIG");
    if (!w->configured && numbered)
        return complain(c, "%s before CONFIG", name);
    uint64_t due = numbered ? w->due : h->type == HANDOVER || h->type == CHECK ? w->due - 1 : 0;
    if (h->epoch != due)
        return complain(c, "%s of epoch %" PRIu64 ", due is %" PRIu64, name, h->epoch, due);
    if (h->type == HANDOVER && (!due || w->in_epoch || w->handed))
        return complain(c, "HANDOVER where no epoch has just ended");
    if (h->type == CHECK && (!due || w->in_epoch))
        return complain(c, "CHECK where no epoch has just ended");
    if (w->handed && (numbered || h->type == CHECK))
        return complain(c, "%s after HANDOVER", name);
    return true;
}

static bool bye_is_valid(const uint8_t *payload, struct complaint *c)
{
    unsigned reason = (unsigned)little(payload, 2);
    if (little(payload + 2, 2))
        return complain(c, "BYE with reserved octets");
    return (reason >= 1 && reason <= 8) || complain(c, "BYE with unknown reason %u", reason);
}

static bool known_record(struct walk *w, const struct head *h, const uint8_t *record, struct complaint *c)
{
    const uint8_t *payload = record + HEAD;
    if (!may_come(w, h, c))
        return false;
    switch (h->type) {
    case HELLO:
        w->greeted = true;
        return json_is_valid(w, h->type, payload, h->length, c);
    case CONFIG:
        w->configured = true;
        return json_is_valid(w, h->type, payload, h->length, c);
    case HANDOVER:
        w->handed = true;
        if (w->v->disks.shared && w->durable != w->v->last_epoch)
            return complain(c, "HANDOVER before what was written to shared disks is durable on them");
        return json_is_valid(w, h->type, payload, h->length, c);
    case NOTE:
        return json_is_valid(w, h->type, payload, h->length, c);
    case COMMIT:
        return commit(w, payload, c);
    case CHECK:
        return check_is_valid(payload, h->length, &w->v->disks, w->v->pages, ++w->checks, c);
    case BYE:
        w->ended = true;
        return bye_is_valid(payload, c);
    case PAGES:
    case DISK:
    case DEVICE:
        return part_of_epoch(w, h, record, c);
    default: /* HEARTBEAT */
        return true;
    }
}

static bool is_known(unsigned type)
{
    return type < TYPES && types[type].name;
}

/* What a header alone can tell. */
static bool head_is_valid(const struct head *h, struct complaint *c)
{
    if (!is_known(h->type)) {
        if (!(h->flags & OPTIONAL_FLAG))
            return complain(c, "unknown mandatory record type %u", h->type);
        return h->length <= ANY_MAX || complain(c, "record of type %u has %u octets", h->type, h->length);
    }
    if (h->length < types[h->type].least || h->length > types[h->type].most)
        return complain(c, "%s of %u octets", types[h->type].name, h->length);
    if (h->flags & ~(unsigned)OPTIONAL_FLAG)
        return complain(c, "%s with reserved flags %04x", types[h->type].name, h->flags);
    return true;
}

/* Returns the octets of the record at `at`, 0 if it is not whole; complains if it is wrong. */
static bool record_step(struct walk *w, const uint8_t *at, size_t left, size_t *taken, struct complaint *c)
{
    *taken = 0;
    if (left < HEAD)
        return true;
    struct head h = {(unsigned)little(at, 2), (unsigned)little(at + 2, 2), (uint32_t)little(at + 4, 4),
                     little(at + 8, 8)};
    if (!head_is_valid(&h, c))
        return false;
    if (h.length > left - HEAD)
        return true;
    *taken = HEAD + (size_t)h.length;
    w->v->records++;
    return !is_known(h.type) || known_record(w, &h, at, c);
}

static void walk_records(struct walk *w, const uint8_t *data, size_t n)
{
    struct verdict *v = w->v;
    size_t at = FILE_HEAD, taken;
    v->ok = true;
    while (at < n) {
        v->ok = record_step(w, data + at, n - at, &taken, &v->what);
        v->offset = at;
        if (!v->ok || !taken)
            break;
        at += taken;
    }
    v->complete = v->ok && at == n && !w->in_epoch && (w->ended || w->configured);
    if (at < n)
        snprintf(v->end, sizeof v->end, "ends inside of a record, %zu octets of it are there", n - at);
    else if (w->in_epoch && !w->ended)
        snprintf(v->end, sizeof v->end, "ends inside of epoch %" PRIu64, w->due);
    else
        snprintf(v->end, sizeof v->end, "%s", w->ended ? "ends with BYE" : "ends without BYE");
}

void verify_stream(const uint8_t *data, size_t n, bool keep_epochs, bool digest_memory, struct verdict *out)
{
    static const uint8_t head[FILE_HEAD] = "HIKAESTREAM\0\1\0\0";
    *out = (struct verdict){.octets = n};
    struct walk w = {.v = out, .due = 1, .keep_epochs = keep_epochs, .digest_memory = digest_memory};
    if (n < FILE_HEAD || memcmp(data, head, FILE_HEAD) != 0) {
        complain(&out->what, "no recorded stream of version 1");
        return;
    }
    w.hash = XXH3_createState();
    w.memory = memory_new();
    if (!w.hash || !w.memory) {
        complain(&out->what, "no memory");
    } else {
        epoch_start(&w);
        walk_records(&w, data, n);
        if (digest_memory)
            memory_digest(w.memory, out->pages, out->memory_digest);
    }
    blobs_free(&w.blobs);
    memory_free(w.memory);
    XXH3_freeState(w.hash);
    free(w.spans);
}
