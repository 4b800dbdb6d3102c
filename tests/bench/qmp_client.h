/*
 * qmp_client: a QMP connection to a QEMU that is not Hikae's. It shares no code with vm/qemu: what the benchmark
 * measures of either side is measured by QEMU's own events.
 */
#ifndef HIKAE_BENCH_QMP_CLIENT_H
#define HIKAE_BENCH_QMP_CLIENT_H

#include "common/errmsg.h"

struct json_object;
struct qmp_client;

/* Connects, tries again for timeout_ms while nobody listens. NULL with `e`. */
struct qmp_client *qmp_client_open(const char *path, int timeout_ms, struct errmsg *e);
void qmp_client_close(struct qmp_client *c);
/* Runs a command; `arguments` is JSON text or NULL. The result, to be put by the caller, or NULL with `e`. */
struct json_object *qmp_client_call(struct qmp_client *c, const char *command, const char *arguments, struct errmsg *e);
/* Waits for an event of that name, one that came already included. Its time by QEMU's clock (CLOCK_REALTIME, ms), or -1
 * with `e`. */
double qmp_client_event(struct qmp_client *c, const char *name, int timeout_ms, struct errmsg *e);

#endif
