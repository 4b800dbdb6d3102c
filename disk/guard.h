/*
 * guard: sees to it that a VM's disk server lives. When the server has ended it is started again; when it hangs it is
 * ended first. It also sees when a store grows, of which nobody else is told.
 *
 * All on a thread of its own: who protects the VM may wait for the VM, which waits for its disks. Whether the server
 * hangs is judged as of a worker (common/watch.h): it gives a sign of life when it says hello to a new connection.
 *
 * A new server is never started before the process of the old one has ended. So its clients have heard of its end
 * (disk_is_whole, disk/client.h) before any request is answered by the new one.
 */
#ifndef HIKAE_DISK_GUARD_H
#define HIKAE_DISK_GUARD_H

#include "common/errmsg.h"
#include "common/watch.h"

#include <stdbool.h>

struct disk_guard;

/* Of the server of `dir`, which has been started by disk_server_start. `paused`: does the VM stand still? Called on the
 * guard's thread. NULL with `e`. */
struct disk_guard *disk_guard_start(const char *dir, const struct watch_bounds *bounds, bool (*paused)(void),
                                    struct errmsg *e);
/* The server lives on, unguarded. Waits for a start that is under way. NULL is allowed. */
void disk_guard_stop(struct disk_guard *g);

int disk_guard_fd(const struct disk_guard *g); /* for the loop; readable: disk_guard_news has something to say; also
                                                  when a store has grown */
/* Does a server serve again, or still? False: not yet; why in `e`. */
bool disk_guard_news(struct disk_guard *g, struct errmsg *e);
/* Is the store of that disk larger by now than the disk? Both sizes, octets. */
bool disk_guard_has_grown(struct disk_guard *g, unsigned disk, uint64_t *disk_bytes, uint64_t *store_bytes);

#endif
