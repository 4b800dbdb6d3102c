/*
 * limit: what a pause cannot be shorter than on this machine.
 */
#ifndef HIKAE_DEMO_LIMIT_H
#define HIKAE_DEMO_LIMIT_H

#include <stdint.h>

/* Median time of copying that many pages, scattered over 256 MB, into one buffer that was used before. 0 for 0 pages.
 */
double limit_memcpy_ms(uint64_t pages);

#endif
