/*
 * agents_command: the command hikae, as an admin of one of the hosts uses it.
 */
#ifndef HIKAE_TESTS_AGENTS_COMMAND_H
#define HIKAE_TESTS_AGENTS_COMMAND_H

#include "tests/integration/agents.h"

#include <stdio.h>

/* Starts it with these arguments, and waits for its end: its exit code. What it said is kept. */
FILE *hikae_begin(const struct host *h, const char *arguments);
int hikae_end(FILE *f);
int hikae(const struct host *h, const char *arguments);
const char *hikae_said(void); /* on both outputs; valid until the next one ends */
void hikae_says(const char *part);

#endif
