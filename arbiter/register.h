/*
 * register: {term, owner, mode} as text, and what a claim means. Pure; the backends share it.
 */
#ifndef HIKAE_ARBITER_REGISTER_H
#define HIKAE_ARBITER_REGISTER_H

#include "arbiter/arbiter.h"

#include <stdbool.h>
#include <stddef.h>

bool register_same(const struct arbiter_register *a, const struct arbiter_register *b);
/* {"term":7,"owner":"host-a","mode":"protected"}, malloc'd. */
char *register_text(const struct arbiter_register *r);
/* 0, or -1 if it is anything else than a register whose term is at least 1. */
int register_parse(const char *text, size_t n, struct arbiter_register *out);
/* Fills `why` with whose it is and returns REFUSED. */
enum arbiter_answer register_refuse(const struct arbiter_register *now, struct errmsg *why);

#endif
