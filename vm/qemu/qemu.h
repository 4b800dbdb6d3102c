/*
 * qemu: the backend's own view of a VM, shared by its files and by nobody else.
 *
 *   backend.c     the vm_ops table, what both kinds of VM share
 *   launch.c      starting QEMU, for a VM and for a replica; facts.c remembers it in RUN_DIR/vm.json
 *   discover.c    attaching to a QEMU that runs: ours (vm.json) or a foreign one
 *   checkpoint.c  pause, state, dirty, resume, load: the stages of a checkpoint and of a failover
 *   track*.c      dirty tracking; inject.c and preload.c bring it into QEMU
 *   template.c    what a QEMU is, apart from its host; options.c the allow-list, settings.c the configuration's keys
 */
#ifndef HIKAE_VM_QEMU_QEMU_H
#define HIKAE_VM_QEMU_QEMU_H

#include "vm/process.h"
#include "vm/qemu/template.h"
#include "vm/qemu/track.h"
#include "vm/qmp/qmp.h"
#include "vm/qmp/state.h"
#include "vm/vm.h"

#include <limits.h>
#include <sys/types.h>

enum {
    QEMU_DEADLINE_MS = VM_CALL_MS,
    QEMU_ATTACH_DEADLINE_MS = 10000,
    QEMU_START_DEADLINE_MS = 15000,
    QEMU_PATH_MAX = 512
};

struct vm {
    char name[64];
    char run_dir[QEMU_PATH_MAX];
    char qmp_path[QEMU_PATH_MAX];
    char ram_path[QEMU_PATH_MAX];    /* of a file that we made; "" for a foreign QEMU's */
    char net_path[VM_MAX_NICS][108]; /* of relays */
    char ifname[VM_MAX_NICS][16];    /* of taps */
    bool taps_are_up;                /* those of a VM that is ours */
    struct template shape;
    bool ours;     /* launched by us: vm.json and the RAM file are ours to remove */
    bool replica;  /* made by replica_create in this process: memory is writable */
    bool loaded;   /* a replica that has been given its state */
    bool announce; /* it was loaded, and the network has not been told yet */
    bool from_remains;

    pid_t pid;
    unsigned long long start_time;
    int pidfd, event_fd; /* epoll of QMP socket and pidfd */
    struct qmp qmp;
    bool running, shut_down, gone; /* by events and query-status */
    struct vm_told told;
    bool pausing;                   /* it was told to stop: what STOP says is of that */
    struct qmp_migration migration; /* of `arm` or `load` */
    struct qmp_state saved;
    bool save_later; /* asked to begin saving, which waits for the scan (qemu_state_begin) */

    int ram_fd;
    uint8_t *memory;
    struct track track;
};

/* ---- backend.c ---- */
extern const struct vm_ops hikae_vm_ops;
struct vm *qemu_new(const struct vm_spec *spec, struct errmsg *e);
/* Connects QMP, makes event_fd, asks for the state. pid and pidfd must be set. */
int qemu_connect(struct vm *vm, int64_t deadline, struct errmsg *e);
int qemu_open_pidfd(struct vm *vm, struct errmsg *e);
/* Maps shape.memory bytes of ram_fd as vm->memory. */
int qemu_map(struct vm *vm, bool writable, struct errmsg *e);
void qemu_detach(struct vm *vm);
void qemu_destroy(struct vm *vm);

/* ---- facts.c: RUN_DIR/vm.json ---- */
struct facts {
    pid_t pid;
    unsigned long long start_time;
    bool replica; /* not loaded yet: must not run */
    char ram_path[QEMU_PATH_MAX], qmp_path[QEMU_PATH_MAX], ifname[VM_MAX_NICS][16];
    struct template shape;
};
int facts_write(const struct vm *vm, struct errmsg *e);
/* 1: read. 0: there are none. -1: malformed. The caller frees f->shape. */
int facts_read(const char *run_dir, struct facts *f, struct errmsg *e);
/* Is the process that the facts tell of alive? */
bool facts_alive(const struct facts *f);
/* Removes the files that belong to the VM: sockets, memory, vm.json. */
void facts_clean(const char *run_dir, const char *ram_path, unsigned nic_count);
void facts_net_path(const char *run_dir, unsigned nic, char out[108]);

/* ---- launch.c ---- */
int qemu_launch(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
int qemu_replica_create(const struct vm_spec *spec, struct vm **out, struct errmsg *e);

/* ---- discover.c ---- */
int qemu_attach(const struct vm_spec *spec, struct vm **out, struct errmsg *e);
/* Aliases ("pc", "kvm:tcg") may mean something else on the other host: asks QEMU what they meant here. */
int qemu_pin_shape(struct vm *vm, int64_t deadline, struct errmsg *e);
/* RAM mapping, page sizes, RAM blocks, userfaultfd: opens vm->track and vm->ram_fd. */
int qemu_setup_tracking(struct vm *vm, int64_t deadline, struct errmsg *e);

/* ---- checkpoint.c ---- */
int qemu_arm(struct vm *vm, struct vm_blob *initial, struct errmsg *e);
int qemu_populated(struct vm *vm, struct page_ranges *out, struct errmsg *e);
int qemu_pause(struct vm *vm, struct errmsg *e);
void qemu_say_stopped(const struct vm *vm); /* vm_spec.told */
int qemu_state_begin(struct vm *vm, struct errmsg *e);
int qemu_dirty(struct vm *vm, struct page_ranges *out, struct errmsg *e);
int qemu_state_end(struct vm *vm, struct vm_blob *out, struct errmsg *e);
int qemu_resume(struct vm *vm, struct errmsg *e);
/* Until it runs for the first time, a VM's taps are down: a replica hears nothing and says nothing. Brings up those of
 * a VM of ours, as ports of their bridges; once. */
int qemu_connect_taps(struct vm *vm, struct errmsg *e);
int qemu_disarm(struct vm *vm, struct errmsg *e);
int qemu_load(struct vm *vm, const struct vm_blob *initial, const struct vm_blob *state, struct errmsg *e);

#endif
