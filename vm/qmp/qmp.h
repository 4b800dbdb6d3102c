/*
 * qmp: a small blocking client of QEMU's monitor protocol (JSON lines on a unix socket), with deadlines. It knows the
 * protocol's framing, not what commands mean.
 *
 * QEMU 7.2 reads its monitor octet by octet, each with a turn of an event loop: 2 us, so that to read a command takes
 * as long as to do what it says. What is needed in a hurry is therefore prepared.
 *
 * Deadlines are absolute, in milliseconds of qmp_now_ms().
 */
#ifndef HIKAE_VM_QMP_QMP_H
#define HIKAE_VM_QMP_QMP_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

/* Called for each event that is met while reading; `data` may be NULL; both are borrowed. */
typedef void qmp_event_fn(void *arg, const char *event, struct json_object *data);

enum { QMP_PREPARED_MAX = 256 };

struct qmp {
    int fd; /* -1: not connected */
    bool eof;
    char *buffer;
    size_t used, capacity;
    unsigned last_id;
    struct json_object *stash; /* a reply that came in before it was asked for */
    struct json_object *greeting;
    char prepared[QMP_PREPARED_MAX]; /* all of a command, of which QEMU has all but the end */
    unsigned prepared_id;            /* its id; 0: none is */
    bool torn;                       /* the last one was sent in part */
    qmp_event_fn *event;
    void *arg;
};

int64_t qmp_now_ms(void);
/* Connects, reads the greeting, negotiates. One attempt; errno is kept in *reason (0: not a connect error). */
int qmp_open(struct qmp *q, const char *path, int64_t deadline, int *reason, struct errmsg *e);
void qmp_close(struct qmp *q);
/* Sends {"execute":command,"arguments":{...}} with `arguments` as JSON text (NULL: none), and `fd` along if not -1.
 * Returns the id to wait for, 0 on error. */
unsigned qmp_send(struct qmp *q, const char *command, const char *arguments, int fd, int64_t deadline,
                  struct errmsg *e);
/* The next qmp_send will be of exactly this command, or so it seems: sends all of it but its end. Another one that is
 * sent instead takes it back. It is an offer: what goes wrong with it shows when something is sent. */
void qmp_prepare(struct qmp *q, const char *command, const char *arguments);
/* Waits for the reply to `id`. 0: *result (may be NULL) is the "return" member, owned by the caller. -1: e says what
 * QEMU said. Replies to earlier ids, whose waiting was given up, are dropped. */
int qmp_wait(struct qmp *q, unsigned id, struct json_object **result, int64_t deadline, struct errmsg *e);
/* Both in one. */
int qmp_call(struct qmp *q, const char *command, const char *arguments, struct json_object **result, int64_t deadline,
             struct errmsg *e);
/* Reads until an event handler has made *flag true. */
int qmp_wait_flag(struct qmp *q, const bool *flag, int64_t deadline, const char *what, struct errmsg *e);
/* Takes in what has arrived, never blocks. Sets q->eof when QEMU has closed. */
void qmp_drain(struct qmp *q);

#endif
