/*
 * roster: a supervisor's workers. A worker is a process of its own session that outlives its supervisor: it registers
 * over the control socket ({"register":VM,"pid":N}), reports ({"status":{..}}, {"hist":{..}}) and answers requests that
 * carry an id
 * ({"reply":ID,..}). The loop must not be libev's default one, which reaps children itself. The roster starts them,
 * watches them by pidfd, keeps their last word and passes requests on.
 */
#ifndef HIKAE_COMMON_ROSTER_H
#define HIKAE_COMMON_ROSTER_H

#include "common/control.h"
#include "common/errmsg.h"

#include <stdbool.h>
#include <stdint.h>

struct ev_loop;
struct json_object;
struct roster;

struct roster_handlers {
    /* The worker of `vm` ended. `code`: its exit code, -1: killed by a signal or not our child. `last`: its last status
     * (borrowed) or NULL. Starting it again in here is allowed. */
    void (*ended)(const char *vm, int pid, int code, struct json_object *last, void *arg);
};

struct roster *roster_new(struct ev_loop *loop, const struct roster_handlers *h, void *arg);
void roster_free(struct roster *r); /* the workers run on */

/* Starts a worker process: argv[0] is the program. fd >= 0 is passed on as descriptor 3. 0, or -1 with `e`. */
int roster_spawn(struct roster *r, const char *vm, char *const argv[], int fd, struct errmsg *e);
/* Workers that were started without a name and have not registered with one yet. */
unsigned roster_unnamed(const struct roster *r);
/* Was the worker of `vm` started after the one with this pid? */
bool roster_is_newer(const struct roster *r, const char *vm, int pid);
bool roster_has(const struct roster *r, const char *vm);
/* Counts the process `pid` as the worker of `vm`, as if it had registered: one that lives but may not be able to. */
void roster_adopt(struct roster *r, const char *vm, int pid);
/* Each worker; pidfd (borrowed) is -1 if it died before it could be watched. The roster must not be changed by it. */
void roster_each(struct roster *r, void (*visit)(const char *vm, int pid, int pidfd, void *arg), void *arg);
/* How often that worker has reported its status so far. */
uint64_t roster_reports(const struct roster *r, int pid);
/* To be called first for each message of the control server: true if it was a worker's and is dealt with.
 * {"leave":true}: the process has become something else (a worker of the other agent); it is forgotten but for being
 * reaped. */
bool roster_message(struct roster *r, struct control_conn *c, struct json_object *message);
/* To be called for each closed connection, worker's or client's. */
void roster_closed(struct roster *r, struct control_conn *c);
/* Passes a client's request to the worker of `vm` (waits until that has registered) and its reply back to the client.
 * The client gets an error if the worker ends first. -1: there is no such worker. client may be NULL: no reply wanted.
 */
int roster_forward(struct roster *r, const char *vm, struct json_object *request, struct control_conn *client);
/* Asks all workers to report ({"cmd":"report"}) and calls `done` when they have, or after a moment for those that
 * don't; not if the client has gone meanwhile. */
typedef void roster_refreshed(struct control_conn *client, struct json_object *request, void *arg);
void roster_refresh(struct roster *r, struct control_conn *client, struct json_object *request, roster_refreshed *done);
/* Appends each worker's status to the array, with "report_age_ms" and, if wanted, "hist". */
void roster_statuses(struct roster *r, struct json_object *array, bool with_hist);
/* Sends {"ok":false,"error":text} to a client. */
void roster_refuse(struct control_conn *client, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
