/* choice: which host is to hold a replica (`protect --to auto`). Pure. */
#ifndef HIKAE_PRIMARY_CHOICE_H
#define HIKAE_PRIMARY_CHOICE_H

#include "common/errmsg.h"

#include <stddef.h>
#include <stdint.h>

struct config;
struct json_object;

/* Of the [peer]s that are in `hosts` (objects with name, silent, room_bytes) and not silent, the one with most room, if
 * that is `need` bytes or more; the first one of equals. Its name, borrowed from `c`, with `why` = the reason; NULL
 * with `why` = all peers and what is wrong with each. */
const char *choice_make(const struct config *c, struct json_object *hosts, uint64_t need, struct errmsg *why);

#endif
