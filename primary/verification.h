/*
 * verification: a comparison of all of a VM's disks, or of its memory, with the replica's, as a plan and its outcome:
 * what is to be looked at next, what the secondary has found, what is to be sent anew, and the verdict. Pure; the shell
 * is verify.c.
 *
 * One look at a time is under way (next, then looked), any number of them are unanswered, and answers come in their
 * order. With `repair` what differs is looked at again, sent, and compared once more: only what is equal then counts as
 * repaired.
 */
#ifndef HIKAE_PRIMARY_VERIFICATION_H
#define HIKAE_PRIMARY_VERIFICATION_H

#include "proto/check.h"

struct verification;

enum { VERIFICATION_RANGES_MAX = 1000 }; /* that are named */

struct verification_range {
    unsigned disk;         /* or CHECK_MEMORY */
    uint64_t first, count; /* blocks */
    unsigned note;         /* what was said of all of them */
};

struct verification_step {
    unsigned disk;
    uint64_t first, end; /* blocks */
    bool repair;
};

struct verification_counts { /* blocks */
    uint64_t total, compared;
    uint64_t differing; /* of those compared */
    uint64_t repaired;  /* sent anew, and found to be equal since */
    uint64_t left;      /* sent anew, and they differ still */
};

struct verification *verification_new(const struct disk_sizes *sizes, bool repair); /* NULL: no memory */
struct verification *verification_new_of_memory(uint64_t pages, bool repair);       /* NULL: no memory */
/* Of memory: a page that may differ. What is found of it is not counted, named or repaired. */
void verification_exempt(struct verification *v, uint64_t gfn);
void verification_free(struct verification *v); /* NULL is allowed */

/* What to look at, up to `end` or less. False: nothing just now. */
bool verification_next(const struct verification *v, struct verification_step *out);
/* That was looked at, up to `end`. */
void verification_looked(struct verification *v, const struct verification_step *step, uint64_t end);
/* A valid CHECKED about a step of which [first, end) was looked at. notes: what is to be said of each of these blocks
 * if it differs; NULL: nothing (0). -1: no memory. */
int verification_answered(struct verification *v, const struct verification_step *step, const uint8_t *payload,
                          size_t n, const uint8_t *notes);

bool verification_is_done(const struct verification *v); /* all is compared, and what was to be repaired is */
void verification_counts(const struct verification *v, struct verification_counts *out);
/* What differs, or did before it was repaired: disk by disk, ascending; the first VERIFICATION_RANGES_MAX. */
const struct verification_range *verification_ranges(const struct verification *v, size_t *n);

#endif
