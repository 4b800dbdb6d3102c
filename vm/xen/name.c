#include "vm/xen/name.h"

#include "common/config.h"

#include <stdio.h>
#include <string.h>

bool xen_is_replica_name(const char *domain)
{
    size_t n = strlen(domain), suffix = strlen(XEN_REPLICA_SUFFIX);
    return n > suffix && strcmp(domain + n - suffix, XEN_REPLICA_SUFFIX) == 0;
}

int xen_disk_target_parse(const char *target, char vm[XEN_VM_NAME_MAX], unsigned *disk)
{
    size_t n = strcspn(target, ":");
    const char *number = target + n;
    if (n >= XEN_VM_NAME_MAX)
        return -1;
    memcpy(vm, target, n);
    vm[n] = '\0';
    *disk = 0;
    if (*number && (number[1] < '0' || number[1] > '9' || number[2]))
        return -1;
    if (*number)
        *disk = (unsigned)(number[1] - '0');
    return config_name_is_valid(vm) ? 0 : -1;
}

void xen_disk_target_format(char out[XEN_TARGET_MAX], const char *vm, unsigned disk)
{
    snprintf(out, XEN_TARGET_MAX, "%s:%u", vm, disk);
}
