/*
 * held_model: drives disk/server/held.h by octets, beside two plain arrays: what the guest sees, and what the disk has.
 * For unit_held and fuzz_held.
 */
#ifndef HIKAE_TESTS_HELD_MODEL_H
#define HIKAE_TESTS_HELD_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* Carries out what the octets say; aborts when the two differ from what held says. */
void held_model_run(const uint8_t *octets, size_t n);

#endif
