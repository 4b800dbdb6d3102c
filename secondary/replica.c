#include "secondary/replica.h"
#include "common/staging.h"
#include "proto/page.h"

#include <stdlib.h>
#include <string.h>

struct blob_assembly { /* a blob that arrives in pieces */
    struct vm_blob encoded;
    struct vm_blob decoded;
    bool whole;
};

struct replica {
    uint8_t *memory;
    uint64_t pages;
    bool first; /* no epoch is committed yet */
    struct staging *staging;
    struct page_set *written; /* borrowed; NULL: nobody wants to know */
    struct blob_assembly coming[DEVICE_KINDS];
    struct vm_blob committed[DEVICE_KINDS];
};

struct replica *replica_new(uint8_t *memory, uint64_t pages, uint64_t staging_limit, const char *spool_dir)
{
    struct replica *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->memory = memory;
    r->pages = pages;
    r->first = true;
    r->staging = staging_new(staging_limit, spool_dir);
    if (r->staging)
        return r;
    free(r);
    return NULL;
}

void replica_free(struct replica *r)
{
    if (!r)
        return;
    staging_free(r->staging);
    for (int k = 0; k < DEVICE_KINDS; k++) {
        vm_blob_free(&r->coming[k].encoded);
        vm_blob_free(&r->coming[k].decoded);
        vm_blob_free(&r->committed[k]);
    }
    free(r);
}

static void apply_pages(const uint8_t *payload, size_t n, void *arg)
{
    struct replica *r = arg;
    struct pages_entry entry;
    struct proto_error never; /* it has passed pages_check */
    size_t offset = 0;
    while (pages_next(payload, n, &offset, &entry, &never) > 0) {
        page_apply(entry.encoding, entry.data, entry.length, r->memory + entry.gfn * VM_PAGE_SIZE);
        if (r->written)
            page_set_add(r->written, entry.gfn);
    }
}

static enum replica_result refuse(struct errmsg *e, const struct proto_error *why)
{
    errmsg_set(e, "%s", why->text);
    return REPLICA_MALFORMED;
}

static enum replica_result no_memory(struct errmsg *e)
{
    errmsg_set(e, "no memory for the device state");
    return REPLICA_NO_ROOM;
}

static enum replica_result take_pages(struct replica *r, const struct record *record, struct errmsg *e)
{
    struct proto_error why;
    if (pages_check(record->payload, record->length, r->pages, &why))
        return refuse(e, &why);
    if (r->first)
        apply_pages(record->payload, record->length, r);
    else if (staging_add(r->staging, record->payload, record->length, e))
        return REPLICA_NO_ROOM;
    return REPLICA_TAKEN;
}

static enum replica_result decode(struct replica *r, const struct device_piece *p, struct errmsg *e)
{
    struct blob_assembly *a = &r->coming[p->kind];
    const struct vm_blob *base = &r->committed[p->kind];
    struct proto_error why;
    vm_blob_free(&a->decoded);
    uint8_t *out = malloc(p->total ? p->total : 1);
    if (!out)
        return no_memory(e);
    a->decoded = (struct vm_blob){.data = out, .size = p->total, .capacity = p->total};
    if (blob_decode(p->encoding, a->encoded.data, a->encoded.size, base->data, base->size, out, p->total, &why))
        return refuse(e, &why);
    a->whole = true;
    return REPLICA_TAKEN;
}

static enum replica_result take_device(struct replica *r, const struct record *record, struct errmsg *e)
{
    struct device_piece p;
    struct proto_error why;
    if (device_read(record->payload, record->length, &p, &why))
        return refuse(e, &why);
    struct blob_assembly *a = &r->coming[p.kind];
    if (p.offset == 0) {
        a->encoded.size = 0;
        a->whole = false;
    }
    if (a->whole || p.offset != a->encoded.size) {
        errmsg_set(e, "DEVICE: a piece at %u where %zu was expected", p.offset, a->encoded.size);
        return REPLICA_MALFORMED;
    }
    if (vm_blob_append(&a->encoded, p.data, p.length))
        return no_memory(e);
    return a->encoded.size == p.encoded_total ? decode(r, &p, e) : REPLICA_TAKEN;
}

enum replica_result replica_take(struct replica *r, const struct record *record, struct errmsg *e)
{
    return record->type == RECORD_PAGES ? take_pages(r, record, e) : take_device(r, record, e);
}

int replica_check(const struct replica *r, struct errmsg *e)
{
    if (!r->coming[DEVICE_STATE].whole)
        return errmsg_set(e, "an epoch without device state");
    if (r->first && !r->coming[DEVICE_INITIAL].whole)
        return errmsg_set(e, "the first epoch without initial state");
    return 0;
}

int replica_commit(struct replica *r, struct errmsg *e)
{
    if (staging_drain(r->staging, apply_pages, r, e))
        return -1;
    for (int k = 0; k < DEVICE_KINDS; k++) {
        struct blob_assembly *a = &r->coming[k];
        if (!a->whole)
            continue;
        vm_blob_free(&r->committed[k]);
        r->committed[k] = a->decoded;
        a->decoded = (struct vm_blob){0};
        a->encoded.size = 0;
        a->whole = false;
    }
    r->first = false;
    return 0;
}

void replica_abort(struct replica *r)
{
    staging_clear(r->staging);
    for (int k = 0; k < DEVICE_KINDS; k++) {
        r->coming[k].encoded.size = 0;
        r->coming[k].whole = false;
    }
}

void replica_note_pages(struct replica *r, struct page_set *written)
{
    r->written = written;
}

const struct vm_blob *replica_initial(const struct replica *r)
{
    return &r->committed[DEVICE_INITIAL];
}

const struct vm_blob *replica_state(const struct replica *r)
{
    return &r->committed[DEVICE_STATE];
}

uint64_t replica_staged_bytes(const struct replica *r)
{
    return staging_bytes(r->staging);
}
