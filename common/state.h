/*
 * state: what must outlive a process: one JSON file per VM, STATE_DIR/vms/NAME.json, written whole and synced. The
 * primary agent keeps in it what it needs to take up its VM again after a crash.
 */
#ifndef HIKAE_COMMON_STATE_H
#define HIKAE_COMMON_STATE_H

#include "common/config.h"
#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

struct vm_record {
    char name[64];
    char backend[16];
    struct json_object *settings; /* owned; may be NULL */
    uint64_t term;
    char peer[64];     /* "": not protected */
    char role[16];     /* "running", "standby", "lost", "stopped" */
    char reason[320];  /* for people: why it is lost or stopped */
    char boot[40];     /* this host's boot id when it was written; "" is set when it is saved: now */
    char run_dir[256]; /* of the VM's or replica's sockets on this host; "": none */
    struct json_object
        *spares; /* owned; names of hosts that may hold the replica when `peer` stays away; may be NULL */
    struct json_object *addresses; /* owned; what to announce after a failover; may be NULL */
    enum trigger_mode mode;
    unsigned interval_ms;
    enum isolated_policy isolated;
    unsigned open_after_ms;
    uint64_t disk_sync_rate; /* UINT64_MAX: nobody has set it, the configuration's */
};

/* Fills *r (then vm_record_clear it). 1: there is no such record, *r is cleared. -1: unreadable or damaged, `e` names
 * the file; it is left where it is. */
int vm_record_load(const char *state_dir, const char *name, struct vm_record *r, struct errmsg *e);
/* When it returns 0 the record is on the disk. Makes the directories. */
int vm_record_save(const char *state_dir, const struct vm_record *r, struct errmsg *e);
/* Is it from before this host was started again? (Then no process that it speaks of lives.) */
bool vm_record_is_of_other_boot(const struct vm_record *r);
/* No such record is fine. */
int vm_record_remove(const char *state_dir, const char *name, struct errmsg *e);
/* Puts the references, zeroes the rest. */
void vm_record_clear(struct vm_record *r);
/* The names of all records, sorted, malloc'd, ended by NULL; free with vm_record_names_free. NULL with `e`. A directory
 * that does not exist yet is an empty list. */
char **vm_record_list(const char *state_dir, struct errmsg *e);
void vm_record_names_free(char **names);

#endif
