/*
 * status_line: one honest line of text from the JSON status of one VM (primary) or replica (secondary). Pure. Fields
 * that are missing are left out; nothing is called protected that its agent does not call so.
 */
#ifndef HIKAE_TOOLS_HIKAE_STATUS_LINE_H
#define HIKAE_TOOLS_HIKAE_STATUS_LINE_H

#include <stddef.h>

struct json_object;

/* Without the newline, cut to `size`. `width`: of the column of names. */
void status_line_vm(struct json_object *vm, int width, char *out, size_t size);
void status_line_replica(struct json_object *replica, int width, char *out, size_t size);

#endif
