/*
 * shape: what a domain is made of, as far as a replica must know it, and its form as JSON, in which it goes to the
 * other host. Pure. What comes from JSON is words from another host: every field is checked, and there is none that
 * names a program, a file or a script.
 */
#ifndef HIKAE_VM_XEN_SHAPE_H
#define HIKAE_VM_XEN_SHAPE_H

#include "common/errmsg.h"
#include "vm/vm.h"

#include <stdbool.h>
#include <stdint.h>

struct json_object;

enum {
    SHAPE_SPECIALS_MAX = 64,
    SHAPE_PARAMS_MAX = 32,
    SHAPE_BLOB_MAX = 64 * 1024,
    SHAPE_VCPUS_MAX = 128,
    SHAPE_RANGES_MAX = 16,
    SHAPE_SERIALS_MAX = 4,
    SHAPE_CDROMS_MAX = 4,
};
#define SHAPE_PAGES_MAX (UINT64_C(1) << 28) /* 1 TiB */

struct shape_nic {
    int devid;
    uint8_t mac[6];
    char bridge[16];
    bool openvswitch; /* that is one of Open vSwitch, not a Linux bridge */
    char model[16];   /* HVM: what the device model emulates; "": nothing, it is Xen's interface only */
    bool emulated;    /* HVM: that is what the guest uses, not Xen's interface */
};

struct shape_disk { /* at the place of its number at the VM's disk server */
    char vdev[8];   /* by what the guest knows it: xvda ..; of an HVM domain hda .. as well */
};

/* The machine of an HVM domain. */
struct shape_hvm {
    bool transparent;  /* the guest has no drivers for Xen and knows nothing of checkpoints */
    bool direct_boot;  /* from a kernel, not from a disk */
    bool platform_pci; /* it has Xen's platform device */
    bool hpet, vpt_align;
    unsigned timer_mode, serials;
    char cdroms[SHAPE_CDROMS_MAX][4]; /* names of drives without a CD */
    unsigned cdrom_count;
    char model[16]; /* version of the device model (QEMU): its state fits no other */
};

struct shape {
    bool is_hvm; /* else PVH */
    struct shape_hvm hvm;
    uint8_t uuid[16];
    unsigned vcpus;
    uint64_t memory_kb;
    uint32_t grant_frames, maptrack_frames;
    int grant_version; /* -1: Xen's default */
    struct {
        uint32_t mode, khz, incarnation;
        uint64_t ns;
    } tsc;
    struct {
        uint64_t index, value;
    } params[SHAPE_PARAMS_MAX]; /* HVM_PARAM_*, only those that are not 0 */
    unsigned param_count;
    struct page_ranges ram;
    uint64_t specials[SHAPE_SPECIALS_MAX]; /* gfns above RAM that hold a page: ACPI tables, rings */
    unsigned special_count;
    struct shape_nic nics[VM_MAX_NICS];
    unsigned nic_count;
    struct shape_disk disks[VM_MAX_DISKS];
    unsigned disk_count;
    struct vm_blob cpuid, msr; /* arrays of xen_cpuid_leaf_t and xen_msr_entry_t */
    struct vm_blob context;    /* HVM context of some moment: what a replica is made with */
};

void shape_free(struct shape *s);
/* gfn after the last one of RAM. */
uint64_t shape_span(const struct shape *s);
/* 0 if there is no such parameter. */
uint64_t shape_param(const struct shape *s, uint64_t index);

/* Is this a network card that a device model may have ("": none)? The name is part of its command line. */
bool shape_is_card(const char *name);

/* Is this the name of an IDE drive, hda to hdd? */
bool shape_is_cdrom(const char *name);

/* Is this the name of a disk of Xen's own, xvda to xvdz, or of a part of one, xvda1? */
bool shape_is_vdev(const char *name);

/* The number by which xenstore knows the disk of this name, if a device model emulates it: the first four. Else 0. */
unsigned shape_emulated_disk(const char *vdev);

/* Is this the name of a whole disk that an HVM domain may have: xvda to xvdz, hda to hdd? */
bool shape_is_drive(const char *name);

/* A new object, owned by the caller; NULL: no memory. */
struct json_object *shape_to_json(const struct shape *s);
/* Fills *s (then shape_free it, whatever is returned). */
int shape_from_json(struct shape *s, struct json_object *j, struct errmsg *e);

#endif
