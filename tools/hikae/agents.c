/* agents: requests to this host's agents over their control sockets. */
#include "common/control.h"
#include "common/jsonget.h"
#include "tools/hikae/cli.h"

#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

const char *agent_name(enum agent agent)
{
    return agent == AGENT_PRIMARY ? "hikae-primary" : "hikae-secondary";
}

struct json_object *agent_request(const char *command, const char *vm)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "cmd", json_object_new_string(command));
    if (vm)
        json_object_object_add(j, "vm", json_object_new_string(vm));
    return j;
}

struct json_object *agent_call(const struct cli *c, enum agent agent, struct json_object *request, int timeout_ms,
                               struct errmsg *e)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s.sock", c->config->run_dir, agent == AGENT_PRIMARY ? "primary" : "secondary");
    struct json_object *reply = control_call(path, request, timeout_ms, e);
    if (!reply || json_get_bool(reply, "ok", false))
        return reply;
    errmsg_set(e, "%s", json_get_text(reply, "error", "the agent refused without a reason: see its log"));
    json_object_put(reply);
    return NULL;
}

struct json_object *vm_in_status(struct json_object *reply, const char *list, const char *vm)
{
    struct json_object *all = reply ? json_get_array(reply, list) : NULL;
    for (size_t i = 0; all && i < json_object_array_length(all); i++)
        if (!strcmp(json_get_text(json_object_array_get_idx(all, i), "vm", ""), vm))
            return json_object_array_get_idx(all, i);
    return NULL;
}
