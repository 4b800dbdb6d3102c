/* protect: the order, and then what becomes of it, with a progress bar on a terminal. */
#include "common/jsonget.h"
#include "tools/hikae/cli.h"
#include "tools/hikae/status_line.h"

#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ORDER: starting a VM that does not run yet may take a while. STUCK: so long without progress is told as failure,
 * though the agent goes on trying. */
enum { ORDER_MS = 120000, ASK_MS = 5000, POLL_MS = 250, STUCK_MS = 30000, BAR = 40, LINE_BYTES = 1024 };

struct follow {
    bool terminal, bar_shown;
    char state[32], reason[512];
    uint64_t done;
    long long progress_at; /* when something last changed */
};

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void end_bar(struct follow *f)
{
    if (f->bar_shown)
        fputs("\r\033[K", stderr);
    f->bar_shown = false;
}

static void show_bar(struct follow *f, const char *vm, uint64_t done, uint64_t total)
{
    char bar[BAR + 1];
    double part = total ? (double)done / (double)total : 0;
    int filled = (int)(part * BAR + 0.5);
    memset(bar, ' ', BAR);
    memset(bar, '#', (size_t)(filled > BAR ? BAR : filled));
    bar[BAR] = 0;
    fprintf(stderr, "\r\033[K%s  [%s] %3.0f %%  %llu of %llu pages", vm, bar, 100 * part, (unsigned long long)done,
            (unsigned long long)total);
    f->bar_shown = true;
}

static void note_change(struct follow *f, struct json_object *vm, bool quiet)
{
    const char *state = json_get_text(vm, "state", ""), *reason = json_get_text(vm, "reason", "");
    uint64_t done = json_get_u64(vm, "sync_done", 0);
    bool told = !strcmp(state, f->state) && !strcmp(reason, f->reason);
    if (strcmp(state, f->state) || done != f->done)
        f->progress_at = now_ms();
    f->done = done;
    snprintf(f->state, sizeof(f->state), "%s", state);
    snprintf(f->reason, sizeof(f->reason), "%s", reason);
    if (told || quiet || (!strcmp(state, "SYNCING") && f->terminal) || !strcmp(state, "PROTECTED"))
        return;
    char line[LINE_BYTES];
    end_bar(f);
    status_line_vm(vm, 0, line, sizeof(line));
    fprintf(stderr, "%s\n", line);
}

/* -1: go on; else the exit code. */
static int judge(struct cli *c, struct follow *f, struct json_object *vm)
{
    const char *name = c->argv[0], *state = f->state;
    if (!strcmp(state, "PROTECTED")) {
        char line[LINE_BYTES];
        end_bar(f);
        status_line_vm(vm, 0, line, sizeof(line));
        puts(c->json ? json_object_to_json_string_ext(vm, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
                     : line);
        return EXIT_OK;
    }
    if (!strcmp(state, "LOST") || !strcmp(state, "STOPPED"))
        return end_bar(f), cli_fail("%s: is %s: %s", name, state, f->reason);
    if (now_ms() - f->progress_at > STUCK_MS)
        return end_bar(f),
               cli_fail("%s: still %s%s%s; the agent goes on trying: `hikae status %s`, or `hikae unprotect %s`", name,
                        state, *f->reason ? ": " : "", f->reason, name, name);
    if (!strcmp(state, "SYNCING") && f->terminal && !c->json)
        show_bar(f, name, f->done, json_get_u64(vm, "sync_total", 0));
    return -1;
}

static int follow(struct cli *c)
{
    struct follow f = {.terminal = isatty(STDERR_FILENO), .progress_at = now_ms()};
    int code = -1;
    while (code < 0) {
        struct errmsg e;
        struct json_object *request = agent_request("status", c->argv[0]);
        struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, ASK_MS, &e);
        struct json_object *vm = vm_in_status(reply, "vms", c->argv[0]);
        json_object_put(request);
        if (!reply) {
            end_bar(&f);
            code = cli_fail("%s", e.text);
        } else if (!vm) {
            if (now_ms() - f.progress_at > STUCK_MS)
                code = cli_fail("%s: the agent took the order and knows no such VM: see its log", c->argv[0]);
        } else {
            note_change(&f, vm, c->json);
            code = judge(c, &f, vm);
        }
        json_object_put(reply);
        if (code < 0)
            poll(NULL, 0, POLL_MS);
    }
    return code;
}

static int make_request(const struct cli *c, struct json_object *request)
{
    json_object_object_add(request, "to", json_object_new_string(c->to));
    if (c->spares)
        json_object_object_add(request, "spares", config_words(c->spares));
    int code = c->mode ? request_mode(request, "protect", c->mode) : EXIT_OK;
    return !code && c->interval ? request_interval(request, "protect", c->interval) : code;
}

static int check_spares(const struct cli *c, struct json_object *spares)
{
    for (size_t i = 0; spares && i < json_object_array_length(spares); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(spares, i));
        if (!config_peer_by_name(c->config, name))
            return cli_fail("%s has no [peer %s], which is to be a spare", c->config->path, name);
    }
    return EXIT_OK;
}

static int send_order(struct cli *c, struct json_object *request)
{
    struct errmsg e;
    if (!cli_config(c))
        return EXIT_FAILED;
    if (!config_peer_by_name(c->config, c->to))
        return cli_fail("%s has no [peer %s]: `hikae init` on that host prints what to add here", c->config->path,
                        c->to);
    if (check_spares(c, json_get_array(request, "spares")))
        return EXIT_FAILED;
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, ORDER_MS, &e);
    if (!reply)
        return cli_fail("%s: %s", c->argv[0], e.text);
    if (c->no_wait && c->json)
        puts(json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    else if (c->no_wait)
        printf("%s: will be protected by %s, see `hikae status`\n", c->argv[0], c->to);
    json_object_put(reply);
    return EXIT_OK;
}

/* The trigger is a setting of the VM of its own, which outlives the protection. */
static int send_settings(struct cli *c)
{
    struct errmsg e;
    struct json_object *request = agent_request("set", c->argv[0]);
    int code = c->mode ? request_mode(request, "protect", c->mode) : EXIT_OK;
    if (!code && c->interval)
        code = request_interval(request, "protect", c->interval);
    struct json_object *reply = code ? NULL : agent_call(c, AGENT_PRIMARY, request, ORDER_MS, &e);
    if (!code && !reply)
        code = cli_fail("%s: mode and interval were not set: %s", c->argv[0], e.text);
    json_object_put(reply);
    json_object_put(request);
    return code;
}

/* --to auto: the agent knows the fleet. */
static bool choose(struct cli *c, char chosen[64])
{
    struct errmsg e;
    if (!cli_config(c))
        return false;
    struct json_object *request = agent_request("choose", c->argv[0]);
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, ASK_MS, &e);
    json_object_put(request);
    if (!reply) {
        cli_fail("%s: %s", c->argv[0], e.text);
        return false;
    }
    snprintf(chosen, 64, "%s", json_get_text(reply, "to", ""));
    c->to = chosen;
    fprintf(stderr, "%s: to %s: %s\n", c->argv[0], chosen, json_get_text(reply, "text", ""));
    json_object_put(reply);
    return true;
}

int cmd_protect(struct cli *c)
{
    if (!config_name_is_valid(c->argv[0]))
        return cli_usage("protect", "'%s' is no VM name", c->argv[0]);
    if (!c->to)
        return cli_usage("protect", "--to HOST is missing: which [peer] is to hold the replica?");
    char chosen[64];
    if (!strcmp(c->to, "auto") && !choose(c, chosen))
        return EXIT_FAILED;
    struct json_object *request = agent_request("protect", c->argv[0]);
    int code = make_request(c, request);
    if (!code)
        code = send_order(c, request);
    json_object_put(request);
    if (!code && (c->mode || c->interval))
        code = send_settings(c);
    return code || c->no_wait ? code : follow(c);
}
