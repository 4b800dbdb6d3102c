/* upgrade: lets the VMs' processes of the agent make way for the installed program, one after the other. */
#include "common/jsonget.h"
#include "tools/hikae/cli.h"

#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

enum { ASK_MS = 5000, POLL_MS = 100, PATIENCE = 300 /* polls */ };

static struct json_object *status_of(struct cli *c, struct errmsg *e)
{
    struct json_object *request = agent_request("status", NULL);
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, ASK_MS, e);
    json_object_put(request);
    return reply;
}

/* Of the VM in a status reply (borrowed): NULL if it is not there. */
static struct json_object *find(struct json_object *reply, const char *vm)
{
    struct json_object *all = json_get_array(reply, "vms");
    for (size_t i = 0; all && i < json_object_array_length(all); i++)
        if (!strcmp(json_get_text(json_object_array_get_idx(all, i), "vm", ""), vm))
            return json_object_array_get_idx(all, i);
    return NULL;
}

/* Until another process speaks for the VM than `before`. */
static int wait_for_another(struct cli *c, const char *vm, const char *before)
{
    struct errmsg e;
    for (int i = 0; i < PATIENCE; i++) {
        poll(NULL, 0, POLL_MS);
        struct json_object *reply = status_of(c, &e);
        const char *now = json_get_text(find(reply, vm), "worker", "");
        bool there = *now && strcmp(now, before);
        json_object_put(reply);
        if (there)
            return EXIT_OK;
    }
    return cli_fail("%s: the agent took the order, but its process is still the same: see `hikae status %s`", vm, vm);
}

static int upgrade(struct cli *c, struct json_object *vm, struct json_object *done)
{
    struct errmsg e;
    const char *name = json_get_text(vm, "vm", "");
    struct json_object *request = agent_request("upgrade", name);
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, ASK_MS, &e);
    int code = reply ? wait_for_another(c, name, json_get_text(vm, "worker", "")) : cli_fail("%s: %s", name, e.text);
    json_object_put(request);
    json_object_put(reply);
    if (code)
        return code;
    json_object_array_add(done, json_object_new_string(name));
    if (!c->json)
        printf("%s: runs on under the installed program\n", name);
    return EXIT_OK;
}

static int upgrade_outdated(struct cli *c, struct json_object *reply, struct json_object *done)
{
    struct json_object *all = json_get_array(reply, "vms");
    int code = EXIT_OK;
    for (size_t i = 0; all && i < json_object_array_length(all); i++) {
        struct json_object *vm = json_object_array_get_idx(all, i);
        if (json_get_bool(vm, "outdated", false) && upgrade(c, vm, done))
            code = EXIT_FAILED; /* the others all the same */
    }
    if (!code && !json_object_array_length(done) && !c->json)
        puts("nothing to do: every VM's process is of the installed program");
    return code;
}

int cmd_upgrade(struct cli *c)
{
    struct errmsg e;
    if (c->argc && !config_name_is_valid(c->argv[0]))
        return cli_usage("upgrade", "'%s' is no VM name", c->argv[0]);
    if (!cli_config(c))
        return EXIT_FAILED;
    struct json_object *reply = status_of(c, &e), *done = json_object_new_array();
    int code;
    if (!reply)
        code = cli_fail("%s", e.text);
    else if (!c->argc)
        code = upgrade_outdated(c, reply, done);
    else if (!find(reply, c->argv[0]))
        code = cli_fail("no VM '%s' runs on %s: `hikae status` lists all", c->argv[0], c->config->name);
    else
        code = upgrade(c, find(reply, c->argv[0]), done);
    if (c->json) {
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "ok", json_object_new_boolean(!code));
        json_object_object_add(j, "upgraded", json_object_get(done));
        puts(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
        json_object_put(j);
    }
    json_object_put(done);
    json_object_put(reply);
    return code;
}
