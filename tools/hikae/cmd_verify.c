/* verify-disk, verify-memory: the order, then how far it has come, and the verdict. Ctrl-C ends it. */
#include "common/jsonget.h"
#include "tools/hikae/cli.h"

#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ORDER_MS = 30000, ASK_MS = 5000, POLL_MS = 100, NAMED_MAX = 20 };
enum { EXIT_EQUAL = 0, EXIT_DIFFERS = 1, EXIT_NOT_DONE = 2 };

/* What is compared, and how it is called. */
struct object {
    const char *command, *plural, *unit, *equal;
};
static const struct object disks = {"verify-disk", "disks", "blocks", "both hosts' disks are equal"},
                           memory = {"verify-memory", "memory", "pages", "both hosts' memory is equal"};
static const struct object *object;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

static struct json_object *ask(struct cli *c, const char *command, const char *flag, int timeout_ms, struct errmsg *e)
{
    struct json_object *request = agent_request(command, c->argv[0]);
    if (flag)
        json_object_object_add(request, flag, json_object_new_boolean(1));
    struct json_object *reply = agent_call(c, AGENT_PRIMARY, request, timeout_ms, e);
    json_object_put(request);
    return reply;
}

static int not_done(const struct cli *c, const char *why)
{
    cli_fail("%s: %s not compared: %s", c->argv[0], object == &disks ? "its disks were" : "its memory was", why);
    return EXIT_NOT_DONE;
}

static unsigned long long number(struct json_object *j, const char *key)
{
    return (unsigned long long)json_get_u64(j, key, 0);
}

/* ---- the verdict ---- */

static const char *why(struct json_object *verify, struct json_object *range)
{
    char key[24];
    snprintf(key, sizeof key, "%llu", number(range, "note"));
    return json_get_text(json_get(verify, "notes"), key, "");
}

static void print_range(struct json_object *verify, struct json_object *r)
{
    unsigned long long first = number(r, "first"), count = number(r, "count");
    if (object == &memory && count == 1)
        printf("  gfn %llx: %s\n", first, why(verify, r));
    else if (object == &memory)
        printf("  gfn %llx to %llx: %s\n", first, first + count - 1, why(verify, r));
    else if (count == 1)
        printf("  disk %llu: block %llu\n", number(r, "disk"), first);
    else
        printf("  disk %llu: blocks %llu to %llu\n", number(r, "disk"), first, first + count - 1);
}

static void print_ranges(struct json_object *verify)
{
    struct json_object *all = json_get_array(verify, "ranges");
    size_t n = all ? json_object_array_length(all) : 0;
    for (size_t i = 0; i < n && i < NAMED_MAX; i++)
        print_range(verify, json_object_array_get_idx(all, i));
    if (n > NAMED_MAX)
        printf("  and more: --json has them\n");
}

static void print_json(struct cli *c, struct json_object *verify)
{
    json_object_object_add(verify, "vm", json_object_new_string(c->argv[0]));
    puts(json_object_to_json_string_ext(verify, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int say(struct cli *c, struct json_object *verify)
{
    const char *result = json_get_text(verify, "result", "");
    bool equal = !strcmp(result, "equal");
    if (c->json)
        print_json(c, verify);
    if (!strcmp(result, "failed"))
        return not_done(c, json_get_text(verify, "error", "?"));
    if (c->json)
        return equal ? EXIT_EQUAL : EXIT_DIFFERS;
    printf("%s: %llu %s of %llu bytes compared, %llu differ", c->argv[0], number(verify, "compared"), object->unit,
           number(verify, "block_bytes"), number(verify, "differing"));
    if (equal) {
        printf(": %s\n", object->equal);
        return EXIT_EQUAL;
    }
    unsigned long long repaired = number(verify, "repaired"), left = number(verify, "unrepaired");
    if (repaired || left)
        printf(", %llu were repaired", repaired);
    if (left)
        printf(", %llu differ still", left);
    puts(c->repair ? "" : "; --repair sends them anew");
    print_ranges(verify);
    return EXIT_DIFFERS;
}

/* ---- on the way ---- */

static void show_progress(struct cli *c, struct json_object *verify, int *shown)
{
    unsigned long long total = number(verify, "blocks"), done = number(verify, "compared");
    int percent = total ? (int)(100 * done / total) : 100;
    if (c->json || percent == *shown)
        return;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s: %d %% of %llu MiB compared, %llu %s differ ", c->argv[0], percent, total >> 8,
                number(verify, "differing"), object->unit);
    else if (percent / 10 != *shown / 10 || *shown < 0)
        fprintf(stderr, "%s: %d %% of %llu MiB compared\n", c->argv[0], percent, total >> 8);
    *shown = percent;
}

/* -1: it goes on; else the exit code. */
static int look(struct cli *c, int *shown)
{
    struct errmsg e;
    int code = -1;
    struct json_object *reply = ask(c, "status", NULL, ASK_MS, &e);
    struct json_object *vm = vm_in_status(reply, "vms", c->argv[0]), *verify = vm ? json_get(vm, "verify") : NULL;
    if (!reply) {
        code = not_done(c, e.text);
    } else if (!verify || strcmp(json_get_text(verify, "of", ""), object->plural)) {
        code = not_done(c, "the VM's agent was restarted meanwhile");
    } else {
        show_progress(c, verify, shown);
        if (strcmp(json_get_text(verify, "result", ""), "running")) {
            if (*shown >= 0 && isatty(STDERR_FILENO))
                fputc('\n', stderr);
            code = say(c, verify);
        }
    }
    json_object_put(reply);
    return code;
}

static int follow(struct cli *c)
{
    int shown = -1, code;
    bool aborting = false;
    while ((code = look(c, &shown)) < 0) {
        struct errmsg e;
        if (interrupted && !aborting) {
            aborting = true;
            json_object_put(ask(c, object->command, "abort", ASK_MS, &e));
        }
        poll(NULL, 0, POLL_MS);
    }
    return code;
}

static int verify(struct cli *c, const struct object *what)
{
    struct errmsg e;
    object = what;
    if (!config_name_is_valid(c->argv[0]))
        return cli_usage(object->command, "'%s' is no VM name", c->argv[0]);
    if (!cli_config(c))
        return EXIT_NOT_DONE;
    struct json_object *reply = ask(c, object->command, c->repair ? "repair" : NULL, ORDER_MS, &e);
    if (!reply)
        return not_done(c, e.text);
    json_object_put(reply);
    signal(SIGINT, on_interrupt);
    return follow(c);
}

int cmd_verify_disk(struct cli *c)
{
    return verify(c, &disks);
}

int cmd_verify_memory(struct cli *c)
{
    return verify(c, &memory);
}
