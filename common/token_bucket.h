/*
 * token_bucket: so much per second and no more, on average; what was not used for a moment may be used at once. And how
 * fast something goes, for people. Pure: the time is passed in, ns of a monotonic clock.
 */
#ifndef HIKAE_COMMON_TOKEN_BUCKET_H
#define HIKAE_COMMON_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct token_bucket { /* zeroes: new, and full */
    bool begun;
    int64_t at;   /* when `level` was true */
    double level; /* octets that may be taken; below 0: more was taken, and is waited for */
};

/* ns from now until something may be taken; 0: now, as it always is with rate 0, which is none. rate: octets per
 * second, another one may be given each time. What may pile up is what comes in 50 ms. */
int64_t token_bucket_wait(struct token_bucket *b, uint64_t rate, int64_t now);
/* Takes n, however much there is. */
void token_bucket_take(struct token_bucket *b, uint64_t n);

struct speed { /* zeroes: not known yet */
    bool begun;
    int64_t at;
    uint64_t done;
    double per_s; /* the last seconds count most */
};

/* So much is done by now. Less than before: it began anew. */
void speed_note(struct speed *s, uint64_t done, int64_t now);
/* Seconds that the rest will take at this speed; -1: not known. */
double speed_eta(const struct speed *s, uint64_t rest);

#endif
