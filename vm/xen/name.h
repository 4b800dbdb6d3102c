/*
 * name: names by which a domain and its disks are known to be ours. Pure; for the backend and for hikae-block.
 */
#ifndef HIKAE_VM_XEN_NAME_H
#define HIKAE_VM_XEN_NAME_H

#include <stdbool.h>

#define XEN_REPLICA_SUFFIX "--hikae" /* of a replica's domain, until it takes over */
#define XEN_DISK_SCRIPT    "block-hikae"

enum { XEN_VM_NAME_MAX = 64, XEN_TARGET_MAX = XEN_VM_NAME_MAX + 8 };

bool xen_is_replica_name(const char *domain);

/* target= of a disk: "VM" or "VM:N", disk N of the VM's disk server. -1: it is neither. */
int xen_disk_target_parse(const char *target, char vm[XEN_VM_NAME_MAX], unsigned *disk);
void xen_disk_target_format(char out[XEN_TARGET_MAX], const char *vm, unsigned disk);

#endif
