/*
 * state: the state of a domain as it goes to the other host: its context, and of an HVM domain its device model's
 * state after that. Pure.
 */
#ifndef HIKAE_VM_XEN_STATE_H
#define HIKAE_VM_XEN_STATE_H

#include "vm/vm.h"

#include <stdbool.h>
#include <stdint.h>

#define STATE_FAILED SIZE_MAX

/* Appends the head; the context follows. Returns what state_context_ends wants, or STATE_FAILED: no memory. */
size_t state_begin(struct vm_blob *out);
/* All of the context has been appended to `out`. */
void state_context_ends(struct vm_blob *out, size_t head);

struct state_parts { /* parts of the blob */
    uint8_t *context, *model;
    uint32_t context_size;
    size_t model_size;
};
/* False: it is not such a state. */
bool state_take_apart(const struct vm_blob *state, bool has_model, struct state_parts *out);

#endif
