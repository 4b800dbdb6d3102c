/*
 * settings: the keys of a VM's section in the configuration that this backend owns. Pure.
 */
#ifndef HIKAE_VM_QEMU_SETTINGS_H
#define HIKAE_VM_QEMU_SETTINGS_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

struct qemu_settings {
    uint64_t memory; /* bytes */
    unsigned cpus;
    const char *machine, *accel, *options, *qemu;
    const char *bridge, *mac; /* NULL: not given; either makes a NIC */
    bool plug;                /* netbuf = plug: the NIC is a tap */
    const char *qmp;          /* NULL: the VM is launched by us */
};

/* Reads and validates all keys. Strings are borrowed from `settings` (which may be NULL: all defaults). */
int qemu_settings_read(struct qemu_settings *s, struct json_object *settings, struct errmsg *e);
/* "512M", "2G", "1048576K" or bytes to bytes; 0: malformed, or no multiple of 1 MiB. */
uint64_t qemu_parse_size(const char *text);
bool qemu_parse_mac(const char *text, uint8_t mac[6]);
bool qemu_bridge_is_valid(const char *name);

#endif
