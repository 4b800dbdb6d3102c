/*
 * vm.h: what a hypervisor must do for us. One `struct vm_ops` per backend, in a loadable module
 * (hikae-vm-NAME.so) that exports it as the symbol `hikae_vm_ops`. No slot is optional.
 *
 * A `struct vm` is either a *running VM* (made by launch or attach, used by the primary) or a *replica*
 * (made by replica_create, used by the secondary). All calls come from one thread and block; each has its
 * own deadline inside (seconds) and then fails rather than hangs. All return 0, or -1 with `e` filled,
 * unless said otherwise.
 *
 * Guest memory is an array of pages of VM_PAGE_SIZE bytes, named by their guest frame number (gfn), 0 to
 * vm_info.pages - 1, contiguous at the address that `memory` gives. gfns that the guest has no memory
 * for (the hole for devices below 4 GiB) are never reported by `populated` or `dirty`; what is written there in a
 * replica is lost.
 */
#ifndef HIKAE_VM_VM_H
#define HIKAE_VM_VM_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;
struct vm; /* backend's own */

enum { VM_PAGE_SIZE = 4096, VM_MAX_NICS = 8, VM_MAX_DISKS = 8, VM_ABI = 11 };
/* Backends' deadlines: a call of a checkpoint (pause to resume) ends within the first, any other within the second.
 * One that does not is stuck, and so is the process that made it. */
enum { VM_CALL_MS = 5000, VM_SETUP_MS = 30000 };

/* A growing list of gfn ranges, ascending and disjoint. Zero-initialised is empty; reused between scans. */
struct page_range {
    uint64_t first, count;
};
struct page_ranges {
    struct page_range *at;
    size_t n, capacity;
    uint64_t pages; /* sum of count */
};
int page_ranges_add(struct page_ranges *r, uint64_t first, uint64_t count); /* joins neighbours; -1: no memory */
void page_ranges_clear(struct page_ranges *r);                              /* keeps the allocation */
void page_ranges_free(struct page_ranges *r);

/* A growing byte buffer, owned by the caller. */
struct vm_blob {
    uint8_t *data;
    size_t size, capacity;
};
int vm_blob_append(struct vm_blob *b, const void *data, size_t n); /* -1: no memory */
void vm_blob_free(struct vm_blob *b);

/* How the VM's network interface reaches us. */
struct vm_nic {
    uint8_t mac[6];
    char bridge[16];       /* bridge on this host that the NIC belongs to; "" if none */
    char stream_path[108]; /* relay: unix socket of QEMU's stream netdev; "" when the backend is plugged instead */
    char ifname[16];       /* plug: the host's interface of this NIC; "" when relayed */
};

/* A disk of the VM: an export of the disk server of this host (disk/server.h), which runs already. */
struct vm_disk {
    char socket[108]; /* where that listens for NBD */
    char export_name[12];
    uint64_t bytes;
};

/* How a pause goes on, of whatever call it is part. Who is told must not call this interface. NULL: nobody wants to
 * know. */
struct vm_told {
    void (*waits)(void *arg);   /* several times a second, for a guest that still runs */
    void (*stopped)(void *arg); /* the vCPUs stand still; I/O that they have begun may be under way */
    void (*goes_on)(void *arg); /* they are about to run, also if they do */
    void *arg;
};

/* How to make or find a VM. Strings are borrowed for the call. */
struct vm_spec {
    const char *name;
    const char *run_dir;          /* existing directory of this VM's sockets and pid file, e.g. /run/hikae/vms/NAME */
    struct json_object *settings; /* launch: the VM's section of the config, keys to strings; attach: likewise or what
                                     `describe` gave; replica_create: what `describe` gave on the primary */
    const char *remains;          /* vm/remains.h, or NULL. replica_create: begins with that memory if it fits, and uses
                                     it up in any case; clear: keeps the memory of what it ends there */
    bool doomed;                  /* clear: a VM that runs can't go on, and is ended as well, whoever has started it */
    const struct vm_disk *disks;  /* launch, attach (NULL: not known), replica_create: in the order in which the guest
                                     sees them */
    unsigned disk_count;
    struct vm_told told; /* launch, attach: for the life of the VM's handle */
};

struct vm_info {
    uint64_t pages;
    int pid; /* of the process that is the VM, 0 if there is none */
    unsigned nic_count;
    struct vm_nic nics[VM_MAX_NICS];
    bool from_remains; /* a replica whose memory was not empty at first */
    /* The hypervisor itself writes to a page of the guest's, which no `dirty` reports: the guest is given it anew
     * wherever it goes on. Its gfn just now. */
    bool has_own_page;
    uint64_t own_page;
    char note[128]; /* for status: e.g. "QEMU 7.2.22, tcg, userfaultfd by preload" */
};

enum vm_state { VM_RUNNING, VM_PAUSED, VM_SHUT_DOWN /* the guest ended by itself */, VM_GONE /* crashed or killed */ };

struct vm_ops {
    uint32_t abi; /* VM_ABI */
    const char *name;
    bool drains_disks; /* when `pause` returns, is every write that the VM has begun in its disks' log? */

    /* ---- both kinds ---- */
    void (*info)(const struct vm *vm, struct vm_info *out);
    /* Writable for a replica, read-only for a running VM. Stable for the life of `vm`, but for what `describe` says. */
    uint8_t *(*memory)(struct vm *vm);
    /* Never blocks for long; may be called at any time, also after an error. */
    enum vm_state (*state)(struct vm *vm);
    /* A descriptor that becomes readable when `state` may have changed (then call state), for the event loop. */
    int (*event_fd)(const struct vm *vm);
    /* Frees `vm` and leaves the VM as it is: running VMs run on, a replica's process stays paused. */
    void (*detach)(struct vm *vm);
    /* Ends the VM or replica with its processes and files on this host, frees `vm`. Works on a hung VM too. */
    void (*destroy)(struct vm *vm);
    /* The same, but the memory's content is kept as the VM's remains (vm/remains.h), in place of older ones, as soon as
     * no process can write to it any more. A backend that can't keep it, or NULL: destroys. */
    void (*retire)(struct vm *vm, const char *remains);

    /* Ends what a dead agent has left in spec->run_dir: a replica that was never given its state, or the files of a VM
     * whose process is gone. 0: nothing is left. 1: a VM that runs, or may run, is there: nothing was touched. With
     * spec->settings also of a VM that was started by somebody else, and that nothing is known of but these. 2: only
     * with spec->remains, from a backend that can't keep a replica's memory without the replica: it is left as it is,
     * and the next replica_create of the same VM begins with it. */
    int (*clear)(const struct vm_spec *spec, struct errmsg *e);

    /* ---- running VM ---- */
    /* By these settings, is the VM started by somebody else (then it is attached to, and never ended because something
     * of ours failed), or launched by us? */
    bool (*is_foreign)(struct json_object *settings);
    /* Starts the VM from its config; it runs when this returns. */
    int (*launch)(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
    /* Finds a VM that already runs (or is paused) on this host, ours or not, and sets up dirty tracking. Does not
     * change whether it runs. Everything that can't be checkpointed is refused here, before the guest is touched. */
    int (*attach)(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
    /* What another host must know to make a replica: a new JSON object, owned by the caller. If somebody has changed
     * what the VM is made of, `info` and `memory` tell of it from here on; a change that can't be protected fails.
     * Not while armed. */
    int (*describe)(struct vm *vm, struct json_object **out, struct errmsg *e);
    /* Once before a first sync: arms dirty tracking (all that changes from here on is reported by `dirty`) and
     * appends to `initial` what a replica needs besides memory and device state. May pause the VM meanwhile. */
    int (*arm)(struct vm *vm, struct vm_blob *initial, struct errmsg *e);
    /* Adds the ranges that may hold something other than zeroes. Of a replica too. */
    int (*populated)(struct vm *vm, struct page_ranges *out, struct errmsg *e);
    /* Returns when the vCPUs stand still and the VM's I/O is drained. Once per checkpoint, as the next five are. */
    int (*pause)(struct vm *vm, struct errmsg *e);
    /* Paused: starts saving the device state without waiting for it (may do nothing and leave it to the end). */
    int (*state_begin)(struct vm *vm, struct errmsg *e);
    /* Paused: adds the pages written since the last call or arm, and starts anew. */
    int (*dirty)(struct vm *vm, struct page_ranges *out, struct errmsg *e);
    /* In a first sync, while the VM runs: as `dirty`. A backend that can't do that exactly makes the VM stand still
     * meanwhile. */
    int (*dirty_running)(struct vm *vm, struct page_ranges *out, struct errmsg *e);
    /* Paused: waits for the device state and appends it. */
    int (*state_end)(struct vm *vm, struct vm_blob *out, struct errmsg *e);
    /* Also resumes a VM that somebody else paused, a replica that `load` left paused, and does nothing to one that
     * runs. */
    int (*resume)(struct vm *vm, struct errmsg *e);
    /* A disk of it (vm_spec.disks) is larger now, its disk server says so already: tells the guest. May fail for as
     * long as the hypervisor has not heard from the server, and be asked for again, also with the size that it knows.
     */
    int (*disk_grown)(struct vm *vm, unsigned disk, uint64_t bytes, struct errmsg *e);
    /* Ends dirty tracking; the VM runs at full speed again. */
    int (*disarm)(struct vm *vm, struct errmsg *e);

    /* ---- replica ---- */
    /* Makes everything that can be made before failover: process, devices, memory (empty, but for spec->remains).
     * Paused: from here on nobody but its owner writes to that memory. Validates `settings` as what it is: words from
     * another host. */
    int (*replica_create)(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
    /* At failover: gives the replica its devices' state. It stays paused, is a VM that `attach` + `resume` will run. */
    int (*load)(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e);
};

/* dirty_running for a backend that must make the VM stand still. */
int vm_dirty_paused(const struct vm_ops *ops, struct vm *vm, struct page_ranges *out, struct errmsg *e);

/* Loads backend `name` from the directory named by HIKAE_MODULE_DIR or the installed one. NULL with `e` filled: no such
 * module, or one of another ABI. Never unloaded. */
const struct vm_ops *vm_backend(const char *name, struct errmsg *e);

#endif
