/*
 * encoder: pages and device state in, whole records out. Pure but for the memory of its output; the pipeline runs it on
 * its thread.
 */
#ifndef HIKAE_PRIMARY_ENCODER_H
#define HIKAE_PRIMARY_ENCODER_H

#include "primary/pipeline.h"

struct encoder;
typedef void encoder_emit(struct pipeline_chunk *chunk, void *arg); /* takes the chunk over; may block */

struct encoder *encoder_new(const struct pipeline_config *c, encoder_emit *emit, void *arg); /* NULL: no memory */
void encoder_free(struct encoder *e);

/* All return -1 when out of memory: the stream can't go on then. */
int encoder_page(struct encoder *e, uint64_t epoch, uint64_t gfn, const uint8_t *page, bool remember);
/* The same, whatever the replica is believed to hold: the whole page. */
int encoder_page_anew(struct encoder *e, uint64_t epoch, uint64_t gfn, const uint8_t *page);
/* What was last sent of it, so far as that is remembered; else NULL. Valid until the next call. */
const uint8_t *encoder_last_sent(const struct encoder *e, uint64_t gfn);
int encoder_blob(struct encoder *e, uint64_t epoch, unsigned kind, const struct vm_blob *blob);
/* What was written to a disk: `data` of any length, or zeroes. */
int encoder_disk(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, const uint8_t *data,
                 uint64_t length);
int encoder_disk_zeroes(struct encoder *e, uint64_t epoch, unsigned disk, uint64_t offset, uint64_t length);
/* A CHECK payload, after the commit of that epoch. */
int encoder_check(struct encoder *e, uint64_t epoch, const uint8_t *payload, size_t n);
int encoder_flush(struct encoder *e);                  /* hands out the records under way */
int encoder_commit(struct encoder *e, uint64_t epoch); /* flushes, ends the epoch */

#endif
