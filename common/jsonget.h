/*
 * jsonget: tolerant look-ups in JSON objects that somebody else wrote: a missing field, or one of another type, is the
 * default that the caller gives. `j` may be NULL or no object.
 */
#ifndef HIKAE_COMMON_JSONGET_H
#define HIKAE_COMMON_JSONGET_H

#include <stdbool.h>
#include <stdint.h>

struct json_object;

const char *json_get_text(struct json_object *j, const char *key, const char *otherwise); /* borrowed from j */
uint64_t json_get_u64(struct json_object *j, const char *key, uint64_t otherwise);        /* negative: otherwise */
double json_get_double(struct json_object *j, const char *key, double otherwise);
bool json_get_bool(struct json_object *j, const char *key, bool otherwise);
struct json_object *json_get(struct json_object *j, const char *key);         /* borrowed; NULL */
struct json_object *json_get_array(struct json_object *j, const char *key);   /* borrowed; NULL if it is none */
bool json_list_has(struct json_object *j, const char *key, const char *text); /* is `text` in that array? */

/* Parses exactly one JSON object, nothing but blanks around it, nesting limited. NULL if it is anything else. */
struct json_object *json_parse_object(const char *text, unsigned long n);

#endif
