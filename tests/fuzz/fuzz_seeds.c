/*
 * fuzz_seeds FOLDER: writes the seed corpora FOLDER/stream, page, blob, regions, disk, held, journal: whole streams and
 * each of their pages and pieces.
 */
#include "proto/changed.h"
#include "proto/regions.h"
#include "sample.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *folder;

static void write_seed(const char *kind, unsigned number, const void *data, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, kind);
    if (mkdir(path, 0777) && errno != EEXIST) {
        perror(path);
        exit(1);
    }
    snprintf(path, sizeof path, "%s/%s/seed-%u", folder, kind, number);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) {
        perror(path);
        exit(1);
    }
}

static void write_stream(unsigned number, unsigned epochs)
{
    struct sample *s = sample_new();
    sample_octets(s, "\x20", 1); /* fuzz_stream's step */
    sample_begin(s);
    for (unsigned epoch = 1; epoch <= epochs; epoch++)
        sample_epoch(s, epoch);
    write_seed("stream", number, s->data, s->n);
    sample_free(s);
}

/* HELLO CONFIG and tiny epochs: what a mutation can do most with. */
static void write_short_stream(unsigned number)
{
    static const uint8_t delta[] = {1, 0, 0, 0, 0, 0, 0, 0x80, 1, 0x80, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t payload[PAGES_ENTRY_SIZE + sizeof delta], piece[DEVICE_HEAD_SIZE + 8] = {0};
    struct sample *s = sample_new();
    sample_octets(s, "\x00", 1);
    sample_begin(s);
    for (unsigned epoch = 1; epoch <= 3; epoch++) {
        size_t n = pages_entry_write(payload, epoch, PAGE_DELTA, delta, sizeof delta);
        sample_record(s, RECORD_PAGES, 0, epoch, payload, n);
        for (unsigned kind = epoch == 1 ? DEVICE_INITIAL : DEVICE_STATE; kind < DEVICE_STATE; kind++) {
            device_head_write(piece, (enum device_kind)kind, BLOB_RAW, 8, 8, 0);
            sample_record(s, RECORD_DEVICE, 0, epoch, piece, sizeof piece);
        }
        device_head_write(piece, DEVICE_STATE, BLOB_RAW, 8, 8, 0);
        sample_record(s, RECORD_DEVICE, 0, epoch, piece, sizeof piece);
        sample_commit(s, epoch);
    }
    write_seed("stream", number, s->data, s->n);
    sample_free(s);
}

static void write_contents(void)
{
    unsigned pages = 0, blobs = 0, writes = 0, checks = 0;
    struct sample *s = sample_new();
    struct framer *f = framer_new();
    struct record r;
    sample_whole(s);
    if (!f || framer_feed(f, s->data, s->n, NULL))
        exit(1);
    while (framer_next(f, &r, NULL) > 0) {
        struct pages_entry entry;
        size_t offset = 0;
        if (r.type == RECORD_DEVICE)
            write_seed("blob", blobs++, r.payload, r.length);
        if (r.type == RECORD_CHECK)
            write_seed("disk", 100 + checks++, r.payload, r.length);
        if (r.type == RECORD_DISK && writes < 20)
            write_seed("disk", writes++, r.payload, r.length);
        while (r.type == RECORD_PAGES && pages_next(r.payload, r.length, &offset, &entry, NULL) > 0)
            if (entry.length && pages < 40)
                write_seed("page", pages++, entry.data, entry.length);
    }
    framer_free(f);
    sample_free(s);
}

/* See held_model.c: some of each. */
static void write_held(void)
{
    uint8_t octets[256];
    for (size_t i = 0; i < sizeof octets; i++)
        octets[i] = (uint8_t)(i * 151 + i / 16);
    write_seed("held", 0, octets, sizeof octets);
}

static void write_changed(void)
{
    uint8_t payload[CHANGED_HEAD_SIZE + 2 * CHANGED_RUN_SIZE];
    changed_head_write(payload, 1, SAMPLE_DISK_BYTES / DISK_BLOCK_SIZE);
    check_run_write(payload + CHANGED_HEAD_SIZE, 0, 2);
    check_run_write(payload + CHANGED_HEAD_SIZE + CHANGED_RUN_SIZE, 4, 1);
    write_seed("disk", 200, payload, sizeof payload);
}

/* See fuzz_journal: a body of two writes. */
static void write_journal(void)
{
    uint8_t data[100], body[300], *at = body;
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    for (unsigned i = 0; i < 2; i++) {
        size_t n = disk_encode(i, 4096, data, sizeof data, NULL, at + 4);
        memcpy(at, &(uint8_t[4]){(uint8_t)n}, 4);
        at += 4 + n;
    }
    write_seed("journal", 0, body, (size_t)(at - body));
}

/* See fuzz_regions: two records, of its 150 pages in regions of 4. */
static void write_regions(void)
{
    uint8_t octets[512] = {0}, *at = octets;
    for (uint64_t end = 19; end <= 38; end += 19) {
        uint8_t *length = at, *payload = at + 2;
        regions_head_write(payload, &(struct regions_head){.seed = 1, .end = end, .region_pages = 4});
        at = payload + REGIONS_HEAD_SIZE;
        for (uint64_t first = end - 15; first < end; first += 7) {
            regions_run_write(at, first, 3);
            at += REGIONS_RUN_SIZE + 3 * PROTO_DIGEST_SIZE;
        }
        length[0] = (uint8_t)(at - payload);
    }
    write_seed("regions", 0, octets, (size_t)(at - octets));
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: fuzz_seeds FOLDER\n", stderr);
        return 2;
    }
    folder = argv[1];
    if (mkdir(folder, 0777) && errno != EEXIST) {
        perror(folder);
        return 1;
    }
    for (unsigned epochs = 0; epochs <= 2; epochs++)
        write_stream(epochs, epochs);
    write_short_stream(3);
    write_contents();
    write_regions();
    write_held();
    write_changed();
    write_journal();
    return 0;
}
