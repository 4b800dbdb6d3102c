/*
 * staging: what has been received of an epoch that isn't committed yet. In memory up to a limit, beyond it in an
 * unlinked file. Serves promise 2: until the commit nothing of it touches the replica.
 */
#ifndef HIKAE_COMMON_STAGING_H
#define HIKAE_COMMON_STAGING_H

#include "common/errmsg.h"

#include <stddef.h>
#include <stdint.h>

struct staging;

struct staging *staging_new(uint64_t limit_bytes, const char *spool_dir); /* NULL: no memory */
void staging_free(struct staging *s);
/* Keeps a copy. -1: no memory, or the spool directory is full or not writable; nothing is changed then. */
int staging_add(struct staging *s, const uint8_t *data, size_t n, struct errmsg *e);
/* Hands all pieces to `each`, in order; keeps them. `each` returns 0, or another value, which ends it and is returned.
 * -1 with `e`: also if a piece could not be read back; some were handed out. */
int staging_each(struct staging *s, int (*each)(const uint8_t *data, size_t n, void *arg), void *arg, struct errmsg *e);
/* Hands all pieces to `each`, in order, then is empty. -1: a piece could not be read back; some were handed out. */
int staging_drain(struct staging *s, void (*each)(const uint8_t *data, size_t n, void *arg), void *arg,
                  struct errmsg *e);
void staging_clear(struct staging *s);
uint64_t staging_bytes(const struct staging *s);

#endif
