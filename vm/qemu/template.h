/*
 * template: what a QEMU is, apart from the host it runs on: its command line without sockets, files of ours and memory.
 * Made from the configuration or from a running QEMU's command line, sent to the other host as JSON, and made into a
 * command line again, for the VM and for its replica alike.
 *
 * Every option in a template has passed the allow-list of options.c, on the host that made it and again on the one
 * that was given it.
 */
#ifndef HIKAE_VM_QEMU_TEMPLATE_H
#define HIKAE_VM_QEMU_TEMPLATE_H

#include "common/errmsg.h"
#include "vm/qemu/words.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

enum { TEMPLATE_NICS_MAX = 8, TEMPLATE_DISKS_MAX = 8, TEMPLATE_MEMORY_MIN = 1 << 20 };

/* Names of the block devices that -device refers to: this and the number of the disk. */
#define TEMPLATE_DISK_ID "hikae-disk"

struct template_nic {
    char id[32]; /* of the netdev */
    char mac[18];
    char bridge[16]; /* "": none */
    bool plug;       /* a tap, whose output is held by a plug; else a stream netdev, for a relay */
};

struct template
{
    uint64_t memory;  /* bytes */
    char ram_id[32];  /* of the memory backend: names the RAM block in QEMU's streams */
    char program[64]; /* without folder, as qemu-system-x86_64 */
    char version[32]; /* of QEMU, informational */
    struct words args;
    unsigned nic_count;
    struct template_nic nics[TEMPLATE_NICS_MAX];
    unsigned disk_count; /* those that `args` has devices for: 0 to disk_count - 1 */
};

enum template_source {
    FROM_CONFIG,  /* an admin's words: options that Hikae sets itself are refused */
    FROM_PROCESS, /* a foreign QEMU's words: those are left out */
    FROM_FACTS,   /* our own notes: as FROM_CONFIG, but files may be gone by now */
    FROM_PEER     /* words from another host: as FROM_CONFIG, and files must be there and readable by everybody */
};

/* What a foreign command line says about host-specific things, found while filtering it. */
struct template_found {
    bool configuration_off; /* -global migration.send-configuration=off */
    char net_paths[TEMPLATE_NICS_MAX][108];
    char ifnames[TEMPLATE_NICS_MAX][16];      /* of taps */
    char disk_paths[TEMPLATE_DISKS_MAX][108]; /* by number: the disk server's socket; "": there is none */
    char still_path[108];
};

/* Passes `in` through the allow-list into t->args (and ram_id, nics). `base`: folder that relative file names belong
 * to. `found` may be NULL. */
int template_filter(struct template *t, const struct words *in, enum template_source source, const char *base,
                    struct template_found *found, struct errmsg *e);
/* Pins what an alias chose: the machine's versioned type and the accelerator ("" leaves it). */
int template_pin(struct template *t, const char *machine, const char *accel, struct errmsg *e);
void template_free(struct template *t);

struct json_object *template_to_json(const struct template *t); /* NULL: no memory */
/* Validates the shape and all options. local_bridge (may be NULL) replaces the bridge of NIC 0. */
int template_from_json(struct template *t, struct json_object *j, enum template_source source, const char *local_bridge,
                       struct errmsg *e);

/* Where things of one VM are on this host. */
struct template_paths {
    const char *name, *program, *run_dir, *ram, *qmp;
    const char *net[TEMPLATE_NICS_MAX];                                            /* of relays */
    int tap[TEMPLATE_NICS_MAX];                                                    /* of plugs: QEMU's descriptor */
    const char *disk_socket[TEMPLATE_DISKS_MAX], *disk_export[TEMPLATE_DISKS_MAX]; /* of NBD */
};
/* The options by which a QEMU has a disk of a disk server, and by which that knows what QEMU flushes by itself (there
 * is one of these, if there are disks). A QEMU that is attached to must have the very same. */
void template_disk(unsigned disk, const char *socket, const char *export_name, struct words *out);
void template_still(const char *socket, struct words *out);
/* The whole command line, program first. */
int template_command(const struct template *t, const struct template_paths *p, bool replica, struct words *out,
                     struct errmsg *e);

#endif
