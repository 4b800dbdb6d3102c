/*
 * config: the host's configuration, an INI file (default /etc/hikae/hikae.conf). Strict: an unknown section or key, a
 * value out of range, a key given twice is an error that names file and line. See docs/hikae.conf.5 for the keys.
 */
#ifndef HIKAE_COMMON_CONFIG_H
#define HIKAE_COMMON_CONFIG_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

struct config_peer { /* [peer NAME] */
    char *name;
    char *address;        /* host name or address of its secondary agent */
    char *port;           /* default 7702 */
    char fingerprint[65]; /* SHA-256 of its certificate (DER), 64 lower-case hex digits */
    char *accept;         /* VMs it may send here: names and shell patterns, blank-separated; default "" (none) */
};

enum trigger_mode { TRIGGER_PERIODIC, TRIGGER_ON_OUTPUT };

/* What a primary does with the VM's output when neither the secondary nor the arbiter answers. */
enum isolated_policy { ISOLATED_FREEZE, ISOLATED_OPEN };

enum { CONFIG_DISKS_MAX = 8 };

struct config_vm { /* [vm NAME]; every VM that is not mentioned (one that failed over to here) has the defaults */
    char *name;
    char *backend;                /* default "qemu" */
    struct json_object *settings; /* all other keys, as strings, checked by the backend */
    enum trigger_mode mode;       /* mode = periodic | on-output; default on-output */
    unsigned interval_ms;     /* interval, 1 to 10000; default 20. Longest time between checkpoints in mode on-output is
                                 max_interval */
    unsigned max_interval_ms; /* default 200 */
    unsigned min_interval_ms; /* least time from resume to the next pause, default 1 */
    uint64_t buffer_bytes;    /* buffer: most bytes of held frames, default 16M */
    uint64_t delta_cache_bytes; /* delta_cache, default 128M */
    uint64_t
        disk_sync_rate; /* disk_sync_rate: octets per second of a sync of its disks; default 0: as fast as it goes */
    char *spares; /* peers that may hold the replica when the wanted one stays away, blank-separated; NULL: none */
    char *fence;  /* in place of [host] fence; NULL: as there */
    enum isolated_policy isolated; /* isolated = freeze | open; default freeze */
    char **disks;           /* disk: files, volumes, block devices, absolute paths, disk 0 first; disk_count of them */
    unsigned disk_count;    /* 0 to 8 */
    char **shared_disks;    /* shared_disk: likewise, those that both hosts see; behind the others */
    unsigned shared_count;  /* 0 to 8 - disk_count */
    unsigned open_after_ms; /* open_after: for how long no claim is answered before `open` opens; 2 s to 10 min,
                               default 5000 */
};

struct config {
    char *path;
    /* [host] */
    char *name;                           /* default: the machine's host name */
    char *listen;                         /* default "*" (all) */
    char *port;                           /* default "7702" */
    char *run_dir;                        /* default /run/hikae */
    char *state_dir;                      /* default /var/lib/hikae */
    char *key, *certificate;              /* default: key.pem and cert.pem in the config file's folder */
    char *arbiter;                        /* "file:DIR", "etcd:https://HOST:PORT,..", "none" */
    char *etcd_ca, *etcd_cert, *etcd_key; /* PEM files; NULL: none */
    char *spool_dir;                      /* where staging spills to, default state_dir */
    char *disk_dir;            /* where a replica's disks are made if none are named, default state_dir/images */
    unsigned detect_ms;        /* detection time T, default 500, 50 to 60000 */
    unsigned restart_grace_ms; /* after a connection reset, before claiming; default 60, 0 to 10000 */
    unsigned spare_after_ms;   /* so long a secondary is tried before a spare is; default 10000, 0 to 3600000 */
    unsigned pause_bound_ms;   /* a worker that has not moved for so long with its VM paused is replaced; default 1000,
                                  0: never */
    unsigned worker_bound_ms;  /* the same in any other case; default 5000 */
    char *fence; /* command that must succeed on the host that takes over, before the VM runs there; NULL: none */
    unsigned fence_timeout_ms; /* fence_timeout: of one attempt, 1 s to 10 min, default 30 s */
    unsigned keep_memory_ms;   /* keep_memory: how long the memory of a VM or replica that was given up is kept for a
                                  re-sync; default 10 min, 0 (never) to a day */
    uint64_t staging_bytes;    /* staging: most memory for received, uncommitted epochs of one VM, default 64M; then
                                  spool_dir */
    char *record;              /* debug: folder where received streams are recorded; NULL: none */
    /* [fault]: negative controls for tests. Any of them is shouted out in log and status. */
    bool fault_release_early; /* release = early: output is not held */
    unsigned fault_drop_page; /* drop_page = N: one dirty page in N is not sent; 0: none */
    unsigned fault_stall;     /* stall = N: a worker stops itself (SIGSTOP) in its Nth pause of the VM; 0: never */

    struct config_peer *peers;
    size_t peer_count;
    struct config_vm *vms;
    size_t vm_count;
};

/* NULL with `e` = "FILE:LINE: what, and what to write instead". */
struct config *config_load(const char *path, struct errmsg *e);
void config_free(struct config *c);
const struct config_peer *config_peer_by_name(const struct config *c, const char *name);
const struct config_peer *config_peer_by_fingerprint(const struct config *c, const char *hex);
/* The section of `name`, or one of defaults (never NULL; valid as long as `c`). */
const struct config_vm *config_vm(const struct config *c, const char *name);
bool config_vm_is_defined(const struct config *c, const char *name);
/* Does `peer` may send VM `vm` here? (fnmatch over accept) */
bool config_peer_may_send(const struct config_peer *peer, const char *vm);
/* A list separated by blanks or commas as a new JSON array of strings. `text` may be NULL. */
struct json_object *config_words(const char *text);
/* Is there somebody who may decide whose a VM is? Not with `arbiter = none`: nothing but an order starts a replica. */
bool config_has_arbiter(const struct config *c);
/* VM and host names: 1 to 63 of [A-Za-z0-9._-], not starting with '.' or '-'. */
bool config_name_is_valid(const char *name);

#endif
