/*
 * config_parse: the values of the configuration, each from its text. Pure; used by config.c and by the command line.
 */
#ifndef HIKAE_COMMON_CONFIG_PARSE_H
#define HIKAE_COMMON_CONFIG_PARSE_H

#include "common/config.h"

/* "20", "20ms", "2s", "1.5s" to milliseconds; fractions of a millisecond are refused. -1 if it is none. */
int config_parse_ms(const char *text, uint64_t *ms);
/* "65536", "64K", "16M", "1G" (powers of 1024) to bytes. -1 if it is none or too large. */
int config_parse_size(const char *text, uint64_t *bytes);
int config_parse_mode(const char *text, enum trigger_mode *mode); /* "periodic", "on-output" */
const char *config_mode_name(enum trigger_mode mode);
int config_parse_isolated(const char *text, enum isolated_policy *policy); /* "freeze", "open" */
const char *config_isolated_name(enum isolated_policy policy);
/* A SHA-256: 64 hex digits of either case, colons between octets allowed; gives lower case without colons. */
int config_parse_fingerprint(const char *text, char out[65]);
int config_parse_port(const char *text); /* 0 if it is 1 to 65535 */

#endif
