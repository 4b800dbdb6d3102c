/* status: what both agents of this host say, merged to one line per VM. */
#include "common/jsonget.h"
#include "tools/hikae/cli.h"
#include "tools/hikae/status_line.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ASK_MS = 3000, LINE_BYTES = 1024 };

struct both {
    struct json_object *primary, *secondary; /* replies, owned; NULL: no answer */
};

static struct json_object *ask(const struct cli *c, enum agent agent, bool quiet)
{
    struct errmsg e;
    struct json_object *request = agent_request("status", c->argc ? c->argv[0] : NULL);
    struct json_object *reply = agent_call(c, agent, request, ASK_MS, &e);
    json_object_put(request);
    if (!reply && !quiet)
        cli_fail("%s", e.text);
    return reply;
}

static const char *name_of(struct json_object *j)
{
    return json_get_text(j, "vm", "");
}

static bool is_wanted(const struct cli *c, struct json_object *j)
{
    return !c->argc || !strcmp(name_of(j), c->argv[0]);
}

static struct json_object *find_in(struct json_object *list, const char *vm)
{
    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        if (!strcmp(name_of(json_object_array_get_idx(list, i)), vm))
            return json_object_array_get_idx(list, i);
    return NULL;
}

static bool has_state(struct json_object *j, const char *const *states)
{
    const char *state = json_get_text(j, "state", "");
    for (; *states; states++)
        if (!strcmp(state, *states))
            return true;
    return false;
}

/* After a failover both agents know the VM: the one that has it, or may get it, speaks. */
static bool primary_speaks(struct json_object *vm, struct json_object *replicas)
{
    static const char *const past[] = {"LOST", "STOPPED", NULL};
    return !(has_state(vm, past) && find_in(replicas, name_of(vm)));
}

static bool secondary_speaks(struct json_object *replica, struct json_object *vms)
{
    static const char *const past[] = {"LOST", "STOPPED", NULL}, *const over[] = {"TAKEN_OVER", "DROPPED", NULL};
    struct json_object *vm = find_in(vms, name_of(replica));
    return !vm || has_state(vm, past) || !has_state(replica, over);
}

static int widest(const struct cli *c, struct json_object *list)
{
    size_t width = 0;
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *j = json_object_array_get_idx(list, i);
        if (is_wanted(c, j) && strlen(name_of(j)) > width)
            width = strlen(name_of(j));
    }
    return (int)width;
}

/* Returns the number of lines. */
static int print_lines(const struct cli *c, const struct both *b)
{
    struct json_object *vms = json_get_array(b->primary, "vms"), *replicas = json_get_array(b->secondary, "replicas");
    int lines = 0, width = widest(c, vms) > widest(c, replicas) ? widest(c, vms) : widest(c, replicas);
    char line[LINE_BYTES];
    for (size_t i = 0; vms && i < json_object_array_length(vms); i++) {
        struct json_object *vm = json_object_array_get_idx(vms, i);
        if (!is_wanted(c, vm) || !primary_speaks(vm, replicas))
            continue;
        status_line_vm(vm, width, line, sizeof(line));
        puts(line);
        lines++;
    }
    for (size_t i = 0; replicas && i < json_object_array_length(replicas); i++) {
        struct json_object *replica = json_object_array_get_idx(replicas, i);
        if (!is_wanted(c, replica) || !secondary_speaks(replica, vms))
            continue;
        status_line_replica(replica, width, line, sizeof(line));
        puts(line);
        lines++;
    }
    return lines;
}

static struct json_object *chosen(const struct cli *c, struct json_object *list)
{
    struct json_object *out = json_object_new_array();
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *j = json_object_array_get_idx(list, i);
        if (is_wanted(c, j))
            json_object_array_add(out, json_object_get(j));
    }
    return out;
}

static int print_json(const struct cli *c, const struct both *b)
{
    struct json_object *j = json_object_new_object(), *agents = json_object_new_object();
    struct json_object *vms = chosen(c, json_get_array(b->primary, "vms"));
    struct json_object *replicas = chosen(c, json_get_array(b->secondary, "replicas"));
    int n = (int)(json_object_array_length(vms) + json_object_array_length(replicas));
    json_object_object_add(agents, "primary", json_object_new_boolean(b->primary != NULL));
    json_object_object_add(agents, "secondary", json_object_new_boolean(b->secondary != NULL));
    json_object_object_add(j, "host", json_object_new_string(c->config->name));
    json_object_object_add(j, "agents", agents);
    json_object_object_add(j, "vms", vms);
    json_object_object_add(j, "replicas", replicas);
    puts(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(j);
    return n;
}

static int show(const struct cli *c, bool quiet)
{
    struct both b = {ask(c, AGENT_PRIMARY, quiet), ask(c, AGENT_SECONDARY, quiet)};
    int code = b.primary || b.secondary ? EXIT_OK : EXIT_FAILED;
    int n = c->json ? print_json(c, &b) : code == EXIT_OK ? print_lines(c, &b) : 0;
    if (code == EXIT_OK && !n && c->argc)
        code = cli_fail("no VM '%s' is known on %s%s", c->argv[0], c->config->name,
                        b.primary && b.secondary ? ": `hikae status` lists all" : ", as far as its agents answered");
    else if (code == EXIT_OK && !n && !c->json)
        printf("no VM runs here under hikae, and no replica is held: `hikae start VM`, `hikae protect VM --to HOST`\n");
    json_object_put(b.primary);
    json_object_put(b.secondary);
    return code;
}

/* ---- all hosts ---- */

static void print_host(struct json_object *host, const char *self)
{
    const char *name = json_get_text(host, "name", "?");
    double age = json_get_double(host, "age_ms", -1);
    if (age < 0)
        printf("%s: never heard of\n", name);
    else if (json_get_bool(host, "silent", true))
        printf("%s: SILENT for %.0f s; what it said last:\n", name, age / 1000);
    else
        printf("%s%s: room for %llu MiB, hikae %s\n", name, strcmp(name, self) ? "" : " (this host)",
               (unsigned long long)json_get_u64(host, "room_bytes", 0) >> 20, json_get_text(host, "version", "?"));
    struct json_object *vms = json_get_array(host, "vms");
    for (size_t i = 0; vms && i < json_object_array_length(vms); i++) {
        char line[LINE_BYTES];
        status_line_vm(json_object_array_get_idx(vms, i), 0, line, sizeof(line));
        printf("  %s\n", line);
    }
}

/* What the fleet's carrier brings: as old as is said, and of other hosts. */
static int show_all(const struct cli *c)
{
    struct errmsg e;
    struct json_object *request = agent_request("fleet", NULL);
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, ASK_MS, &e);
    json_object_put(request);
    if (!reply)
        return cli_fail("%s", e.text);
    struct json_object *hosts = json_get_array(reply, "hosts");
    const char *trouble = json_get_text(reply, "trouble", "");
    if (c->json)
        puts(json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    for (size_t i = 0; !c->json && hosts && i < json_object_array_length(hosts); i++)
        print_host(json_object_array_get_idx(hosts, i), json_get_text(reply, "host", ""));
    if (*trouble)
        cli_fail("this host hears of the others no more: %s", trouble);
    int code = *trouble ? EXIT_FAILED : EXIT_OK;
    json_object_put(reply);
    return code;
}

static int watch(const struct cli *c)
{
    bool screen = isatty(STDOUT_FILENO) && !c->json;
    for (bool first = true;; first = false) {
        if (screen)
            fputs("\033[H\033[J", stdout);
        if (screen || !c->json) {
            char clock[16];
            time_t now = time(NULL);
            strftime(clock, sizeof(clock), "%H:%M:%S", localtime(&now));
            printf("%s %s\n", clock, c->config->name);
        }
        if (c->all)
            show_all(c);
        else
            show(c, !first && !screen);
        if (fflush(stdout) == EOF)
            return EXIT_FAILED;
        sleep(1);
    }
}

int cmd_status(struct cli *c)
{
    if (c->argc && !config_name_is_valid(c->argv[0]))
        return cli_usage("status", "'%s' is no VM name", c->argv[0]);
    if (!cli_config(c))
        return EXIT_FAILED;
    if (c->all && c->argc)
        return cli_usage("status", "--all shows all VMs: leave '%s' out", c->argv[0]);
    return c->watch ? watch(c) : c->all ? show_all(c) : show(c, false);
}
