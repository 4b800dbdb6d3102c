#include "vm/xen/state.h"

#include <string.h>

enum { CONTEXT_MAX = 64 * 1024 * 16 }; /* several kB for each of 128 vCPUs */

struct head {
    char magic[8];
    uint32_t context_size, reserved;
};
_Static_assert(sizeof(struct head) == 16, "head of a domain's state");

static const char magic[8] = "HkXenS2";

size_t state_begin(struct vm_blob *out)
{
    size_t at = out->size;
    struct head h = {.context_size = 0};
    memcpy(h.magic, magic, sizeof magic);
    return vm_blob_append(out, &h, sizeof h) < 0 ? STATE_FAILED : at;
}

void state_context_ends(struct vm_blob *out, size_t at)
{
    struct head h;
    memcpy(&h, out->data + at, sizeof h);
    h.context_size = (uint32_t)(out->size - at - sizeof h);
    memcpy(out->data + at, &h, sizeof h);
}

bool state_take_apart(const struct vm_blob *state, bool has_model, struct state_parts *out)
{
    struct head h;
    if (state->size <= sizeof h)
        return false;
    memcpy(&h, state->data, sizeof h);
    size_t left = state->size - sizeof h;
    if (memcmp(h.magic, magic, sizeof magic) != 0 || h.context_size == 0 || h.context_size > CONTEXT_MAX ||
        h.context_size > left)
        return false;
    *out = (struct state_parts){.context = state->data + sizeof h,
                                .context_size = h.context_size,
                                .model = state->data + sizeof h + h.context_size,
                                .model_size = left - h.context_size};
    return (out->model_size > 0) == has_model;
}
