/*
 * state: the state of a QEMU's devices, saved into a file in memory and loaded from one, over QMP. Whether that QEMU is
 * the VM or only its devices (Xen) is none of its business.
 *
 * Deadlines as in qmp.h.
 */
#ifndef HIKAE_VM_QMP_STATE_H
#define HIKAE_VM_QMP_STATE_H

#include "vm/qmp/qmp.h"
#include "vm/vm.h"

enum { QMP_STREAM_HEADER = 8 }; /* magic and version, before the first section */

/* The file that one QEMU saves its state to, again and again. */
struct qmp_state {
    int fd;      /* as opened for QEMU: the offset is shared with it */
    int read_fd; /* both -1: not open */
    long long fdset;
    unsigned save_id; /* the command that saves, while it is under way; else 0 */
};
/* Makes the file and gives it to QEMU, once per connection. On error too, qmp_state_close is due. */
int qmp_state_open(struct qmp_state *s, struct qmp *q, int64_t deadline, struct errmsg *e);
void qmp_state_close(struct qmp_state *s);
/* What qmp_prepare is for a command: it will be qmp_state_begin. */
void qmp_state_prepare(const struct qmp_state *s, struct qmp *q);
/* Starts saving and does not wait for it. QEMU stands still afterwards, whether or not it did before. */
int qmp_state_begin(struct qmp_state *s, struct qmp *q, int64_t deadline, struct errmsg *e);
/* Waits for it and appends the stream. */
int qmp_state_end(struct qmp_state *s, struct qmp *q, struct vm_blob *out, int64_t deadline, struct errmsg *e);

/* Does this begin as a QEMU stream does, and hold more than that? */
bool qmp_is_stream(const uint8_t *data, size_t n);

/* How a migration goes, as told by events: qmp_migration_event for each, from the connection's event handler. */
struct qmp_migration {
    bool done, failed;
};
void qmp_migration_event(struct qmp_migration *m, const char *event, struct json_object *data);
/* Runs `command` (migrate or migrate-incoming) on a descriptor and waits for its end. The capability "events" must be
 * on. */
int qmp_migrate(struct qmp *q, struct qmp_migration *m, const char *command, int fd, int64_t deadline,
                struct errmsg *e);

/* A file in memory with these pieces one after the other, its offset at 0, to be closed by the caller; -1. */
int qmp_stream_file(const struct vm_blob *pieces, size_t n, struct errmsg *e);
/* Appends the whole of a file. */
int qmp_file_append(int fd, struct vm_blob *out, struct errmsg *e);

#endif
