/*
 * file: the register of a VM in a shared directory. Blocking; called from the threads of file_jobs.c only.
 */
#ifndef HIKAE_ARBITER_FILE_H
#define HIKAE_ARBITER_FILE_H

#include "arbiter/arbiter.h"

#include <stdbool.h>

/* Is `dir` a directory that we may write to? Errors name the remedy. */
int file_register_check(const char *dir, struct errmsg *e);
/* Fill *now (GRANTED, REFUSED) or `why` (REFUSED, NO_ANSWER). */
enum arbiter_answer file_register_read(const char *dir, const char *vm, struct arbiter_register *now,
                                       struct errmsg *why);
/* local: nobody else has this directory; terms may be left out. */
enum arbiter_answer file_register_claim(const char *dir, const char *vm, const struct arbiter_register *want,
                                        bool local, struct arbiter_register *now, struct errmsg *why);

#endif
