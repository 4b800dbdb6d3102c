/*
 * repeated: what is tried again and again fails with the same words again and again. Which of these are to be said: the
 * first, any other text, and once a minute the same. Pure; times are nanoseconds of any one clock.
 */
#ifndef HIKAE_COMMON_REPEATED_H
#define HIKAE_COMMON_REPEATED_H

#include <stdint.h>

enum { REPEATED_TEXT = 320 };
#define REPEATED_EVERY (INT64_C(60) * 1000000000)

struct repeated {
    char text[REPEATED_TEXT]; /* "": nothing was heard yet; a longer text is known by its beginning */
    unsigned times;
    int64_t said_at;
};

/* `text` has happened once more. 0: it need not be said; 1: it is new; else: how many times it has happened by now. */
unsigned repeated_heard(struct repeated *r, const char *text, int64_t now);
void repeated_forget(struct repeated *r); /* whatever comes is new */

#endif
