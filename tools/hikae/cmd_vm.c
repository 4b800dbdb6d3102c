/* start, stop, unprotect, set, failover, abort: one order to one agent. */
#include "common/config_parse.h"
#include "common/jsonget.h"
#include "tools/hikae/cli.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

enum { LONG_MS = 120000 }; /* starting, ending and taking over a VM may take a while */

/* Sends `request` (taken over) and prints the outcome. */
static int order(struct cli *c, enum agent agent, struct json_object *request, const char *done)
{
    struct errmsg e;
    struct json_object *reply = agent_call(c, agent, request, LONG_MS, &e);
    const char *vm = json_get_text(request, "vm", "");
    int code = EXIT_OK;
    if (!reply)
        code = cli_fail("%s: %s", vm, e.text);
    else if (c->json)
        puts(json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    else
        printf("%s: %s\n", vm, json_get_text(reply, "text", done));
    json_object_put(reply);
    json_object_put(request);
    return code;
}

static int simple(struct cli *c, const char *command, enum agent agent, const char *done)
{
    if (!config_name_is_valid(c->argv[0]))
        return cli_usage(command, "'%s' is no VM name", c->argv[0]);
    if (!cli_config(c))
        return EXIT_FAILED;
    struct json_object *request = agent_request(command, c->argv[0]);
    if (c->force)
        json_object_object_add(request, "force", json_object_new_boolean(true));
    return order(c, agent, request, done);
}

int cmd_start(struct cli *c)
{
    return simple(c, "start", AGENT_PRIMARY, "runs");
}

int cmd_grow(struct cli *c)
{
    return simple(c, "grow", AGENT_PRIMARY, "has its disks as large as their stores, and is protected anew");
}

int cmd_stop(struct cli *c)
{
    return simple(c, "stop", AGENT_PRIMARY, "is being stopped, see `hikae status`");
}

int cmd_unprotect(struct cli *c)
{
    return simple(c, "unprotect", AGENT_PRIMARY, "is no longer to be protected");
}

int cmd_failover(struct cli *c)
{
    return simple(c, "failover", AGENT_SECONDARY, "failover has begun, see `hikae status`");
}

int cmd_abort(struct cli *c)
{
    return simple(c, "abort", AGENT_PRIMARY, "its move is aborted, it goes on here");
}

int request_mode(struct json_object *request, const char *command, const char *text)
{
    enum trigger_mode mode;
    if (config_parse_mode(text, &mode))
        return cli_usage(command, "mode '%s': must be on-output or periodic", text);
    json_object_object_add(request, "mode", json_object_new_string(text));
    return EXIT_OK;
}

int request_interval(struct json_object *request, const char *command, const char *text)
{
    uint64_t ms;
    if (config_parse_ms(text, &ms) || ms < 1 || ms > 10000)
        return cli_usage(command, "interval '%s': must be 1 to 10000 ms, like 20, 20ms or 2s", text);
    json_object_object_add(request, "interval_ms", json_object_new_uint64(ms));
    return EXIT_OK;
}

static int request_isolated(struct json_object *request, const char *text)
{
    enum isolated_policy policy;
    if (config_parse_isolated(text, &policy))
        return cli_usage("set", "isolated '%s': must be freeze or open", text);
    json_object_object_add(request, "isolated", json_object_new_string(text));
    return EXIT_OK;
}

static int request_disk_sync_rate(struct json_object *request, const char *text)
{
    uint64_t rate = 0;
    if (strcmp(text, "none") && config_parse_size(text, &rate))
        return cli_usage("set", "disk_sync_rate '%s': must be octets per second, like 20M, or none", text);
    json_object_object_add(request, "disk_sync_rate", json_object_new_uint64(rate));
    return EXIT_OK;
}

/* "interval 20ms", "interval=20ms", any number of them. */
static int add_settings(struct json_object *request, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        char *key = argv[i], *value = strchr(key, '=');
        if (value)
            *value++ = 0;
        else if (++i < argc)
            value = argv[i];
        else
            return cli_usage("set", "%s needs a value", key);
        int code = !strcmp(key, "interval")   ? request_interval(request, "set", value)
                   : !strcmp(key, "mode")     ? request_mode(request, "set", value)
                   : !strcmp(key, "isolated") ? request_isolated(request, value)
                   : !strcmp(key, "disk_sync_rate")
                       ? request_disk_sync_rate(request, value)
                       : cli_usage("set", "unknown setting '%s'; known: disk_sync_rate interval isolated mode", key);
        if (code)
            return code;
    }
    return EXIT_OK;
}

int cmd_set(struct cli *c)
{
    if (!config_name_is_valid(c->argv[0]))
        return cli_usage("set", "'%s' is no VM name", c->argv[0]);
    struct json_object *request = agent_request("set", c->argv[0]);
    int code = add_settings(request, c->argc - 1, c->argv + 1);
    if (!code && !cli_config(c))
        code = EXIT_FAILED;
    if (!code)
        return order(c, AGENT_PRIMARY, request, "set");
    json_object_put(request);
    return code;
}
