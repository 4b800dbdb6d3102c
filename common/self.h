/*
 * self: what a process knows of itself.
 */
#ifndef HIKAE_COMMON_SELF_H
#define HIKAE_COMMON_SELF_H

#include <stdbool.h>
#include <stddef.h>

struct json_object;

/* Path of this program, so that it can start itself or a sibling again; `otherwise` (argv[0]) if the kernel doesn't
 * say. */
void self_path(char *out, size_t size, const char *otherwise);
/* Has the file that this process runs been replaced since by another one (an upgrade)? */
bool self_is_outdated(void);
/* Adds "rss_bytes", what is resident, and "rss_anon_bytes", what of it is no guest memory (which is mapped from a
 * shared file). */
void self_add_memory(struct json_object *j);

#endif
