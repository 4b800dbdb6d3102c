#include "common/heap.h"

#include <malloc.h>

enum { HEAP_KEPT = 32 << 20, MAPPED_FROM = 4 << 20 };

void heap_keep(void)
{
    (void)mallopt(M_TRIM_THRESHOLD, HEAP_KEPT);
    (void)mallopt(M_MMAP_THRESHOLD, MAPPED_FROM);
}
