/*
 * remains: what is kept of the memory of a VM or replica that was given up on this host, so that the next replica of
 * that VM begins with it and only what differs has to be sent. For backends whose guest memory is a file.
 *
 * RUN_DIR/vms/NAME.remains is a link to that file. Whoever wants the file renames the link first, and the file next:
 * of several only one gets it, and nobody else still knows its name. So one file never serves two VMs, and none is
 * there twice. An agent that restarts finds it by its name; what nobody has asked for expires.
 */
#ifndef HIKAE_VM_REMAINS_H
#define HIKAE_VM_REMAINS_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

enum { REMAINS_PATH_MAX = 384 };

/* Where the remains of a VM are. */
void remains_path(char out[REMAINS_PATH_MAX], const char *run_dir, const char *vm);
bool remains_exist(const char *remains);
/* Removes them with their memory; nothing is done if there are none. */
void remains_discard(const char *remains);
/* Discards all of this host that are older than so many milliseconds; returns in how many seconds to do it again. */
double remains_expire(const char *run_dir, unsigned age_ms);

/* ---- for backends ---- */

/* Memory is needed for a VM, whose directory is given (RUN_DIR/vms/NAME.PID): all remains of this host are discarded.
 */
void remains_make_room(const char *vm_run_dir);

/* Makes `file`, which no process uses any more, the remains; older ones are discarded. It is renamed to `kept`, a name
 * on the same file system that nothing else uses. -1 with `e`: nothing is kept, and `file` is where it was or gone. */
int remains_keep(const char *remains, const char *file, const char *kept, struct errmsg *e);
/* Hands the memory out as `file` (on the same file system; replaced if it is there). False: there are none, or they are
 * not a file of `bytes` bytes of our own; those are discarded. */
bool remains_take(const char *remains, const char *file, uint64_t bytes);

#endif
