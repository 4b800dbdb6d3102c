/*
 * options_parse: the command line of hikae-demo.
 */
#ifndef HIKAE_DEMO_OPTIONS_PARSE_H
#define HIKAE_DEMO_OPTIONS_PARSE_H

#include "common/errmsg.h"
#include "tools/demo/options.h"

/* 0: go on; 1: help was asked for and printed; -1 with `e`. What `o` points to lives as long as the program. */
int options_parse(int argc, char **argv, struct options *o, struct errmsg *e);

#endif
