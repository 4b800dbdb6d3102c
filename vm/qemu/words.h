/*
 * words: a list of strings, as command lines are made of. Pure but for memory.
 */
#ifndef HIKAE_VM_QEMU_WORDS_H
#define HIKAE_VM_QEMU_WORDS_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>

struct words {
    char **at; /* NULL-terminated when n > 0 */
    size_t n, capacity;
    bool failed; /* out of memory at some time: check once, at the end */
};

void words_add(struct words *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void words_free(struct words *w);
/* Splits as a shell would: blanks, '...', "..." (with \" and \\), backslash. No variables, no wildcards. */
int words_split(struct words *w, const char *text, struct errmsg *e);
/* Of a comma list "first,key=value,flag": finds `key`; copies its value ("on" for a bare flag). false: not there. */
bool comma_value(const char *list, const char *key, char *out, size_t size);
/* A copy of `list` without `key`; the caller frees it. NULL: no memory. */
char *comma_without(const char *list, const char *key);

#endif
