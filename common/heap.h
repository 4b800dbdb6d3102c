/*
 * heap: malloc, as a worker wants it.
 */
#ifndef HIKAE_COMMON_HEAP_H
#define HIKAE_COMMON_HEAP_H

/* From here on what is freed stays with the process, up to 16 MiB of each thread. A worker makes and frees records of
 * up to 256 KiB by the thousand; to malloc's own mind each is a mapping of its own, or the heap's end, given back and
 * asked for anew, and its pages cleared by the kernel at first touch: a quarter of what such a record costs. */
void heap_keep(void);

#endif
