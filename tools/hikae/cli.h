/*
 * cli: what the commands of `hikae` share. main.c parses the command line into a struct cli; each command is one
 * function that returns the exit code.
 */
#ifndef HIKAE_TOOLS_HIKAE_CLI_H
#define HIKAE_TOOLS_HIKAE_CLI_H

#include "common/config.h"
#include "common/errmsg.h"

#include <stdbool.h>

struct json_object;

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct cli {
    const char *config_path;
    bool json, no_wait, watch, force, all, repair;
    const char *to, *name, *listen, *accept, *port, *mode, *interval, *spares;
    int argc; /* arguments of the command, its name not counted */
    char **argv;
    struct config *config; /* NULL before cli_config */
};

/* Prints "hikae: ..." to stderr and returns EXIT_FAILED. */
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for wrong use: names the help, returns EXIT_USAGE. */
int cli_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Loads the configuration once; false after printing why not. */
bool cli_config(struct cli *c);

enum agent { AGENT_PRIMARY, AGENT_SECONDARY };
const char *agent_name(enum agent agent); /* "hikae-primary" */
/* One request to an agent of this host. The reply is the caller's; NULL with `e` when there is none or it is
 * {"ok":false}. */
struct json_object *agent_call(const struct cli *c, enum agent agent, struct json_object *request, int timeout_ms,
                               struct errmsg *e);
/* {"cmd":command,"vm":vm}; vm may be NULL. */
struct json_object *agent_request(const char *command, const char *vm);
/* That VM's part of a status reply, in "vms" or "replicas"; borrowed, NULL: there is none. `reply` may be NULL. */
struct json_object *vm_in_status(struct json_object *reply, const char *list, const char *vm);
/* Add mode and interval_ms from their texts; EXIT_USAGE after printing why not. */
int request_mode(struct json_object *request, const char *command, const char *text);
int request_interval(struct json_object *request, const char *command, const char *text);

int cmd_init(struct cli *c);
int cmd_fingerprint(struct cli *c);
int cmd_peer(struct cli *c);
int cmd_start(struct cli *c);
int cmd_stop(struct cli *c);
int cmd_grow(struct cli *c);
int cmd_protect(struct cli *c);
int cmd_unprotect(struct cli *c);
int cmd_set(struct cli *c);
int cmd_failover(struct cli *c);
int cmd_switchover(struct cli *c);
int cmd_migrate(struct cli *c);
int cmd_abort(struct cli *c);
int cmd_status(struct cli *c);
int cmd_upgrade(struct cli *c);
int cmd_verify_disk(struct cli *c);
int cmd_verify_memory(struct cli *c);

#endif
