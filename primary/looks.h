/*
 * looks: the looks (look.h) that were taken and are not settled yet, oldest first, and what becomes of them at the end
 * of an epoch: what is there is sent, if that is wanted, and told by a CHECK. The pipeline's thread has it, but for the
 * notes.
 */
#ifndef HIKAE_PRIMARY_LOOKS_H
#define HIKAE_PRIMARY_LOOKS_H

#include "primary/encoder.h"

struct looks;

struct looks *looks_new(void); /* NULL: no memory */
void looks_free(struct looks *s);

/* Has a look at memory. *populated, if not NULL, is taken over: what is populated from here on, with what is captured
 * later. -1: no memory. */
int looks_take_memory(struct looks *s, struct look *l, const uint8_t *memory, struct page_set **populated);
/* One that was taken (taken over), whose CHECK is to have this seed. */
void looks_add(struct looks *s, struct look *l, uint64_t seed);
/* What the guest wrote. -1: no memory. */
int looks_write(struct looks *s, const struct disk_write *w);
int looks_page(struct looks *s, uint64_t gfn, const uint8_t *page);

/* Of those that are exact at the end of that epoch, all of whose writes are known: sends what repairs; then, after its
 * COMMIT, tells all, and forgets them. -1: no memory. */
int looks_repair(struct looks *s, struct encoder *e, const struct capture *c);
int looks_check(struct looks *s, struct encoder *e, const struct capture *c);
/* Of a look at memory, from any thread: see pipeline_notes. */
uint8_t *looks_notes(struct looks *s, uint64_t number);

#endif
