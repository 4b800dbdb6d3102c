/*
 * xen: the backend's own view of a domain, shared by its files and by nobody else.
 *
 *   backend.c     the vm_ops table, what both kinds of VM share: handles, state, end
 *   attach.c      a domain that runs: finding it, what is refused, its shape
 *   layout.c      where its pages are; mapping them
 *   checkpoint.c  log-dirty, suspend, context, resume
 *   replica.c     a paused domain that holds the replica, and giving it its state; create.c: libxl making it
 *   hvm.c         an HVM domain's machine, and a replica's; model.c: its device model
 *   refuse.c      configurations that can't be checkpointed
 *   keep.c        a replica whose agent died, and who takes it over
 *   change.c      memory and devices that its admin changes meanwhile
 *   disks.c       its disks, and a replica's; name.c: by which names they are known; drives.c: those that a guest has
 *                 by way of its device model
 *   facts.c       RUN_DIR/domain.json, by which a restarted agent knows its domain again
 *   shape.c       what a domain is made of, as JSON; skeleton.c: as the stream that libxl restores; bitmap.c; state.c
 */
#ifndef HIKAE_VM_XEN_XEN_H
#define HIKAE_VM_XEN_XEN_H

#include "common/errmsg.h"
#include "vm/qmp/qmp.h"
#include "vm/qmp/state.h"
#include "vm/vm.h"
#include "vm/xen/name.h"
#include "vm/xen/shape.h"

#include <libxl.h>
#include <xenctrl.h>
#include <xenforeignmemory.h>
#include <xenstore.h>

#include <stdbool.h>

enum { XEN_NAME_MAX = 128, XEN_RUN_DIR_MAX = 480, MODEL_PATH_MAX = 64, DRIVES_MAX = 4 };

struct xen_log { /* what the libraries have to say; the last error is for our own messages */
    xentoollog_logger vtable;
    char last[256];
};

struct facts { /* RUN_DIR/domain.json */
    uint32_t domid;
    uint8_t uuid[16];
    bool replica;               /* it was never given its state */
    bool emulated[VM_MAX_NICS]; /* as in its shape */
    unsigned nic_count;
};

struct model {
    struct qmp qmp; /* not connected if the domain is PVH */
    struct qmp_state saved;
    struct qmp_migration migration;
    bool stopped;                /* by events */
    bool doubted;                /* the domain did not come to a stand: perhaps for an answer of its model's */
    char drives[DRIVES_MAX][64]; /* transparent: the block devices of dom0 that are its disks */
    unsigned drive_count;
};

struct vm {
    char name[XEN_NAME_MAX];
    char run_dir[XEN_RUN_DIR_MAX];
    struct vm_told told;
    struct shape shape;

    struct xen_log log;
    xc_interface *xc;
    xenforeignmemory_handle *foreign;
    struct xs_handle *xs;
    libxl_ctx *ctx;
    struct model model;

    uint8_t *memory; /* of shape_span() pages; where the domain has none there is memory of nobody */
    uint64_t span;
    xc_hypercall_buffer_t dirty; /* a bit per page of span, rounded up to pages */
    struct vm_blob context;      /* HVM: of the last pause */
    struct facts facts;          /* if it is `known` */
    const char *changed;         /* what is not so any more; NULL: nothing */
    uint64_t full_pages;         /* that it had when it was found; 0: not known yet */
    char target[24];             /* of its memory, as xenstore says it */
    char devices[256];           /* what it has */

    uint32_t domid;        /* XEN_NO_DOMAIN: there is none yet */
    uint32_t context_size; /* 0: not asked for yet */
    int events;            /* epoll: xenstore's watches, and `wakeup` */
    int wakeup;            /* eventfd: something is left to do when there is time for it, in `state` */
    bool replica;          /* made by replica_create in this process: memory is writable */
    bool loaded;           /* a replica that has been given its state */
    bool kept;             /* a replica that was another agent's: its memory is not empty */
    bool resumed;          /* xenstored is still to be told that the domain goes on */
    bool armed;
    bool known;   /* an agent has protected it before, and noted that */
    bool watched; /* memory target and devices are */
    bool pausing; /* between pause and resume: a suspended domain is as we want it */
    bool shut_down, gone;
};
#define XEN_NO_DOMAIN UINT32_MAX

/* ---- backend.c ---- */
extern const struct vm_ops hikae_vm_ops;
struct vm *xen_new(const struct vm_spec *spec, struct errmsg *e);
/* What the hypervisor says of our domain. False: it is gone. */
bool xen_info(const struct vm *vm, xc_domaininfo_t *info);
bool xen_is_suspended(const xc_domaininfo_t *info);
/* Did the device model of a VM stand still when last looked at, and has not been told to go on? */
bool xen_model_stands(const struct vm *vm);
/* Reads all pending watches, and looks after what they tell of. */
void xen_drain_watches(struct vm *vm);
void xen_detach(struct vm *vm);
void xen_destroy(struct vm *vm);
/* -1 with `what`, errno and what the libraries said. */
int xen_error(const struct vm *vm, struct errmsg *e, const char *what);
/* Before something that runs hotplug scripts: what one of them says is kept, whatever libxl says after it. */
void xen_forget_errors(struct vm *vm);

/* ---- facts.c ---- */
int facts_write(const struct vm *vm, struct errmsg *e);
int facts_read(const char *run_dir, struct facts *f, struct errmsg *e); /* 1: read; 0: none; -1 */
void facts_remove(const char *run_dir);

/* ---- keep.c ---- */
/* Notes at the replica's domain whose it is. */
int keep_own(struct vm *vm, struct errmsg *e);
/* Notes that it is whole, and as what it was made. */
int keep_finish(struct vm *vm, struct errmsg *e);
/* Is it still that of vm->run_dir? */
bool keep_is_owned(const struct vm *vm);
/* Notes that it is given its state: it is the VM from here on, nobody's replica. */
int keep_load(struct vm *vm, struct errmsg *e);
bool keep_is_loaded(const struct vm *vm, uint32_t domid);
/* 1: domain `domid`, which bears the name of this replica, is one of the same shape that never ran; vm->domid is set.
 * 0: it is not. -1 */
int keep_take(struct vm *vm, uint32_t domid, struct errmsg *e);

/* ---- change.c ---- */
/* What the domain is now is what it is to stay. */
int change_watch(struct vm *vm, struct errmsg *e);
bool change_is_sign(const char *token);
/* Sets vm->changed if the domain is not any more what it was. */
void change_look(struct vm *vm);
/* Takes our map away from a domain that was changed, as soon as nobody needs it. */
void change_let_go(struct vm *vm);

/* ---- attach.c ---- */
int xen_attach(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
int xen_launch(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
int xen_describe(struct vm *vm, struct json_object **out, struct errmsg *e);
/* -1 with "can't be protected" and why. */
int xen_refuse(const struct vm *vm, struct errmsg *e, const char *why);
/* The domain's HVM context, appended. */
int xen_context(struct vm *vm, struct vm_blob *out, struct errmsg *e);

/* ---- layout.c ---- */
/* Finds where the domain has pages: shape.ram and shape.specials. */
int layout_find(struct vm *vm, struct errmsg *e);
/* Maps shape.ram at vm->memory, and makes the dirty bitmap. */
int layout_map(struct vm *vm, bool writable, struct errmsg *e);
void layout_unmap(struct vm *vm);
/* Reads or writes the special pages, of which rings of this host's own are not written; `pages` is special_count
 * pages. */
int layout_specials(struct vm *vm, uint8_t *pages, bool write, struct errmsg *e);

/* ---- checkpoint.c ---- */
int xen_arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e);
int xen_populated(struct vm *vm, struct page_ranges *out, struct errmsg *e);
int xen_pause(struct vm *vm, struct errmsg *e);
int xen_state_begin(struct vm *vm, struct errmsg *e);
int xen_dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e);
int xen_state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e);
int xen_resume(struct vm *vm, struct errmsg *e);
int xen_disarm(struct vm *vm, struct errmsg *e);
/* Lets a suspended domain go on where it was. */
int xen_wake(struct vm *vm, struct errmsg *e);
/* What `xen_wake` left for later: xenstored is told, so that it tells of the next suspension. */
void xen_settle(struct vm *vm);

/* ---- hvm.c ---- */
/* Fills shape.hvm from a configuration that is not refused. */
int hvm_read(struct vm *vm, const libxl_domain_config *c, struct errmsg *e);
/* Does its guest help, and which network interfaces does it use? */
int hvm_read_guest(struct vm *vm, struct errmsg *e);
/* What a replica's configuration has beyond a PVH domain's. Its strings are libxl's to free. */
int hvm_config(struct vm *vm, libxl_domain_config *c, struct errmsg *e);

/* ---- disks.c ---- */
/* Fills shape.disks from a configuration that is not refused. */
int disks_read(struct vm *vm, const libxl_domain_config *c, struct errmsg *e);
/* The disks of a replica's configuration, and its drives without a CD. Its strings are libxl's to free. */
int disks_config(const struct vm *vm, libxl_domain_config *c, struct errmsg *e);

/* ---- model.c: each call waits for the answer unless said otherwise, VM_CALL_MS at most ---- */
void model_init(struct vm *vm);
void model_close(struct vm *vm);
/* Of the socket that model_open connects to. */
void model_path(uint32_t domid, char out[MODEL_PATH_MAX]);
/* Connects; fills shape.hvm.model. */
int model_open(struct vm *vm, struct errmsg *e);
/* Takes in what it has said meanwhile. True: its process has ended. */
bool model_has_ended(struct vm *vm);
/* Shall what it writes into the guest's memory be marked as dirty? */
int model_track(struct vm *vm, bool on, struct errmsg *e);
/* Stops it and starts saving its state. From here on it writes nothing into the guest's memory nor to its disks, and
 * its state is what it was, whatever the guest does. */
int model_stop(struct vm *vm, struct errmsg *e);
/* It goes on, after what is under way. */
int model_continue(struct vm *vm, struct errmsg *e);
int model_save_end(struct vm *vm, struct vm_blob *out, struct errmsg *e);
/* Ends the process of a domain, if it has one. libxl only asks it to end (SIGHUP) and goes on: one that hangs does not
 * hear that, and would keep the domain's disks open for ever. What the guest was told to be done needs no model to be
 * done. */
void model_end(const struct vm *vm, uint32_t domid);
/* Of a replica: what `model_load` needs and can be done long before. */
int model_prepare(struct vm *vm, struct errmsg *e);
/* Of a replica, VM_SETUP_MS at most. The model stands still then, and announces nothing. */
int model_load(struct vm *vm, uint8_t *state, size_t n, struct errmsg *e);

/* ---- drives.c ---- */
/* Which are the guest's disks, if it has no drivers of Xen's for them? */
int drives_find(struct vm *vm, struct errmsg *e);
/* Writes what dom0's page cache holds of them, while the guest runs: the pause has the less to write. */
void drives_write_back(const struct vm *vm);
/* The guest is suspended: waits until the device model has done what it was told to trim. QEMU 7.2 hangs for good if it
 * is stopped between two pieces of a trim (of 32 MB each): the next one waits for the end of the stop, and that for the
 * whole trim. libxl has QEMU ignore trims, so each turn of its loop does a piece, and is what a question takes. */
int drives_settle(struct vm *vm, struct errmsg *e);
void drives_prepare(struct vm *vm); /* it will be told the device model next */

/* ---- create.c ---- */
/* A paused domain from a stream. Connects its device model if it has one. */
int create_domain(struct vm *vm, libxl_domain_config *c, int stream, struct errmsg *e);

/* ---- replica.c ---- */
int xen_replica_create(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
int xen_load(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e);

#endif
