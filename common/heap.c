#include "common/heap.h"

#include <malloc.h>

enum { HEAP_KEPT = 16 << 20, MAPPED_FROM = 4 << 20 };

void heap_keep(void)
{
    (void)mallopt(M_TRIM_THRESHOLD, HEAP_KEPT);
    (void)mallopt(M_MMAP_THRESHOLD, MAPPED_FROM);
}
