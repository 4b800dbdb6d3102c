/*
 * hosts: the supervisor's view of the fleet. Every few seconds it says what this host has and runs, and hears what the
 * others say. How old a host's word is, is measured by our own clock from when it last changed.
 */
#ifndef HIKAE_PRIMARY_HOSTS_H
#define HIKAE_PRIMARY_HOSTS_H

#include "common/config.h"

struct ev_loop;
struct hosts;
struct json_object;

/* statuses: gives this host's VMs as `status` does; owned by the caller of it. */
struct hosts *hosts_new(struct ev_loop *loop, const struct config *c, struct json_object *(*statuses)(void *arg),
                        void *arg);
void hosts_free(struct hosts *h);
/* An array of what is known, each with "age_ms" and "silent"; a [peer] that was never heard is there with its name
 * alone. Owned by the caller. */
struct json_object *hosts_list(const struct hosts *h);
const char *hosts_trouble(const struct hosts *h); /* why the last round failed; "": it went well */

#endif
