/*
 * control: JSON lines over a unix stream socket, on a libev loop. Used between the `hikae` command, the supervisors and
 * their workers. One message is one JSON object on one line, at most CONTROL_LINE_MAX bytes.
 */
#ifndef HIKAE_COMMON_CONTROL_H
#define HIKAE_COMMON_CONTROL_H

#include "common/errmsg.h"

#include <stddef.h>

struct ev_loop;
struct json_object;
struct control_server;
struct control_conn;

enum { CONTROL_LINE_MAX = 1 << 20 };

struct control_handlers {
    /* `message` is borrowed. Closing `c` in here is allowed. A line that is no JSON object closes the connection with a
     * reply {"ok":false,"error":..}. */
    void (*message)(struct control_conn *c, struct json_object *message, void *arg);
    /* The peer is gone; `c` is freed after the call. Not called after control_close. */
    void (*closed)(struct control_conn *c, void *arg);
};

/* Listens at `path`, mode 0600. A stale socket (nobody listens) is replaced; an occupied one is an error that says so.
 */
struct control_server *control_listen(struct ev_loop *loop, const char *path, const struct control_handlers *h,
                                      void *arg, struct errmsg *e);
void control_server_free(struct control_server *s); /* closes all its connections, removes the socket */
struct control_conn *control_connect(struct ev_loop *loop, const char *path, const struct control_handlers *h,
                                     void *arg, struct errmsg *e);
/* Queues one line; takes no reference. The queue is bounded (8 MiB): beyond it the connection is closed, as a reader
 * that does not read. */
void control_send(struct control_conn *c, struct json_object *message);
void control_close(struct control_conn *c);
void control_set_data(struct control_conn *c, void *data); /* the owner's pointer for this connection */
void *control_data(const struct control_conn *c);
/* Blocking, without a loop, for the command line: sends `request`, waits for one line. NULL with `e`: e.g. "no agent
 * listens at PATH: is hikae-primary running?". timeout_ms < 0: for ever. The reply is owned by the caller. */
struct json_object *control_call(const char *path, struct json_object *request, int timeout_ms, struct errmsg *e);

#endif
