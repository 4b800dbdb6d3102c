/* switchover, migrate: the order, then what becomes of it, round by round; Ctrl-C aborts the move. abort: from
 * elsewhere. */
#include "common/jsonget.h"
#include "tools/hikae/cli.h"

#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { ORDER_MS = 30000, ASK_MS = 5000, POLL_MS = 100 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

struct follow {
    uint64_t round;
    bool told_syncing, aborting;
};

static struct json_object *ask(struct cli *c, const char *command, int timeout_ms, struct errmsg *e)
{
    struct json_object *request = agent_request(command, c->argv[0]);
    if (!strcmp(command, "migrate"))
        json_object_object_add(request, "to", json_object_new_string(c->argv[1]));
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, timeout_ms, e);
    json_object_put(request);
    return reply;
}

static void show_progress(struct follow *f, struct cli *c, struct json_object *vm, struct json_object *move)
{
    uint64_t round = json_get_u64(move, "round", 0);
    if (c->json || strcmp(json_get_text(vm, "state", ""), "SYNCING"))
        return;
    if (!f->told_syncing)
        fprintf(stderr, "%s: memory goes to %s, %llu pages\n", c->argv[0], json_get_text(move, "to", "?"),
                (unsigned long long)json_get_u64(vm, "sync_total", 0));
    else if (round != f->round)
        fprintf(stderr, "%s: round %llu, %llu pages that were written meanwhile\n", c->argv[0],
                (unsigned long long)round, (unsigned long long)json_get_u64(move, "round_pages", 0));
    f->told_syncing = true;
    f->round = round;
}

static int done(struct cli *c, const char *to)
{
    if (c->json)
        printf("{\"vm\":\"%s\",\"moved\":true,\"to\":\"%s\"}\n", c->argv[0], to);
    else
        printf("%s: runs on %s now\n", c->argv[0], to);
    return EXIT_OK;
}

/* Its new host may have made us its secondary before we could look. */
static bool is_replica_of(struct cli *c, const char *host)
{
    struct errmsg e;
    struct json_object *request = agent_request("status", c->argv[0]);
    struct json_object *reply = agent_call(c, AGENT_SECONDARY, request, ASK_MS, &e);
    struct json_object *replica = vm_in_status(reply, "replicas", c->argv[0]);
    bool is = replica && !strcmp(json_get_text(replica, "from", ""), host);
    json_object_put(request);
    json_object_put(reply);
    return is;
}

/* -1: go on; else the exit code. `to`: where it goes, for a worker that has ended meanwhile. */
static int judge(struct follow *f, struct cli *c, struct json_object *reply, const char *to)
{
    struct json_object *vm = vm_in_status(reply, "vms", c->argv[0]), *move = vm ? json_get(vm, "move") : NULL;
    const char *state = vm ? json_get_text(vm, "state", "") : "", *result = json_get_text(move, "result", "");
    if (!strcmp(state, "MOVED") || !strcmp(result, "done"))
        return done(c, to);
    if (!strcmp(result, "failed"))
        return cli_fail("%s: not moved: %s. It goes on here", c->argv[0], json_get_text(move, "error", "?"));
    if (!vm || !move)
        return is_replica_of(c, to)
                   ? done(c, to)
                   : cli_fail("%s: the agent was restarted during the move (%s): see `hikae status` here and on %s",
                              c->argv[0], vm ? state : "no such VM", to);
    show_progress(f, c, vm, move);
    return -1;
}

static int follow(struct cli *c, const char *to)
{
    struct follow f = {0};
    int code = -1;
    while (code < 0) {
        struct errmsg e;
        if (interrupted && !f.aborting) {
            f.aborting = true;
            fprintf(stderr, "%s: aborting\n", c->argv[0]);
            json_object_put(ask(c, "abort", ASK_MS, &e)); /* if it is too late the status tells how it ended */
        }
        struct json_object *reply = ask(c, "status", ASK_MS, &e);
        code = reply ? judge(&f, c, reply, to) : cli_fail("%s", e.text);
        json_object_put(reply);
        if (code < 0)
            poll(NULL, 0, POLL_MS);
    }
    return code;
}

/* The host that holds the VM's replica: "" if there is none. */
static void find_peer(struct cli *c, char to[64])
{
    struct errmsg e;
    struct json_object *reply = ask(c, "status", ASK_MS, &e);
    struct json_object *vm = vm_in_status(reply, "vms", c->argv[0]);
    snprintf(to, 64, "%s", vm ? json_get_text(vm, "peer", "") : "");
    json_object_put(reply);
}

static int move(struct cli *c, const char *command)
{
    struct errmsg e;
    char to[64] = "";
    if (!config_name_is_valid(c->argv[0]))
        return cli_usage(command, "'%s' is no VM name", c->argv[0]);
    if (!cli_config(c))
        return EXIT_FAILED;
    if (c->argc > 1)
        snprintf(to, sizeof to, "%s", c->argv[1]);
    else
        find_peer(c, to);
    struct json_object *reply = ask(c, command, ORDER_MS, &e);
    if (!reply)
        return cli_fail("%s: %s", c->argv[0], e.text);
    json_object_put(reply);
    if (c->no_wait)
        return printf("%s: on its way to %s, see `hikae status`\n", c->argv[0], to), EXIT_OK;
    signal(SIGINT, on_interrupt);
    return follow(c, to);
}

int cmd_switchover(struct cli *c)
{
    return move(c, "switchover");
}

int cmd_migrate(struct cli *c)
{
    return move(c, "migrate");
}
