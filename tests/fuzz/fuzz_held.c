/* fuzz_held: what a guest and its agents may do to held writes, beside a plain array of octets. */
#include "held_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    held_model_run(data, n);
    return 0;
}
