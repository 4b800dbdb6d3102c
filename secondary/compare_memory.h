/*
 * compare_memory: what a replica's memory holds, beside what a primary says that it must (CHECK, PROTOCOL.md section
 * 3.11). Pure.
 */
#ifndef HIKAE_SECONDARY_COMPARE_MEMORY_H
#define HIKAE_SECONDARY_COMPARE_MEMORY_H

#include "proto/check.h"
#include "vm/page_set.h"

/* Compares the pages that a CHECK payload tells of with `memory`; `head` is what check_read has made of it.
 * `populated`: what of it may be other than zeroes; nothing else is read. The CHECKED payload, malloc'd; NULL: no
 * memory. */
uint8_t *compare_memory(const uint8_t *memory, const struct page_set *populated, const struct check_head *head,
                        const uint8_t *payload, size_t n, size_t *answer_n);

#endif
