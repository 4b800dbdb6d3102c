/*
 * stay: a sandbox that stands and obeys lines on stdin: for clients, guests and schedules of others.
 */
#ifndef HIKAE_DEMO_STAY_H
#define HIKAE_DEMO_STAY_H

#include "tools/demo/drill.h"

/* Prints the ways in and obeys until the process is killed: the end of stdin does not end it. */
void stay(struct drill *d) __attribute__((noreturn));

#endif
