/*
 * errmsg: one line that says what is wrong, where, and what to do. Functions that can fail for reasons a
 * person has to read take a `struct errmsg *` as last argument and return -1 after filling it.
 */
#ifndef HIKAE_COMMON_ERRMSG_H
#define HIKAE_COMMON_ERRMSG_H

struct errmsg {
    char text[512]; /* NUL-terminated, no trailing newline; cut when longer */
};

/* Fills `e` (NULL: nothing is kept) and returns -1, so that `return errmsg_set(e, ...)` reads well. */
int errmsg_set(struct errmsg *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
