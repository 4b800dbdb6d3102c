/*
 * stages SOCKET VM SECONDS: by stage, how long the pauses of that VM's checkpoints were, as the agent that listens at
 * SOCKET says of itself. A line of JSON. The agent's histograms count from its start: what came in those seconds is the
 * difference.
 */
#include "common/control.h"
#include "common/hist.h"
#include "common/jsonget.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_MS = 20000 };

/* In the order of a checkpoint; `pages` is a number, the others are ns. */
static const char *const keys[] = {"pause", "stop", "scan", "copy", "state", "net", "resume", "commit", "pages"};
static const char *const titles[] = {"pause", "suspend", "clean",  "copy", "context",
                                     "net",   "resume",  "commit", "pages"};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "stages: %s\n", what);
    exit(1);
}

/* The histograms of `vm`; owned by the caller. */
static struct json_object *ask(const char *path, const char *vm)
{
    struct errmsg e;
    struct json_object *request = json_object_new_object();
    json_object_object_add(request, "cmd", json_object_new_string("status"));
    json_object_object_add(request, "hist", json_object_new_boolean(true));
    struct json_object *reply = control_call(path, request, ANSWER_MS, &e), *hist = NULL;
    json_object_put(request);
    if (!reply)
        fail(e.text);
    struct json_object *vms = json_get_array(reply, "vms");
    for (size_t i = 0; vms && i < json_object_array_length(vms); i++) {
        struct json_object *j = json_object_array_get_idx(vms, i);
        if (!strcmp(json_get_text(j, "vm", ""), vm))
            hist = json_object_get(json_get(j, "hist"));
    }
    json_object_put(reply);
    if (!hist)
        fail("the agent has no figures of that VM");
    return hist;
}

static uint64_t in_bucket(struct json_object *hist, uint64_t bucket)
{
    struct json_object *list = json_get_array(hist, "buckets");
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *pair = json_object_array_get_idx(list, i);
        if (json_object_get_uint64(json_object_array_get_idx(pair, 0)) == bucket)
            return json_object_get_uint64(json_object_array_get_idx(pair, 1));
    }
    return 0;
}

/* What `later` has more than `earlier`, in place. Its max remains that of all. */
static void subtract(struct json_object *later, struct json_object *earlier)
{
    struct json_object *list = json_get_array(later, "buckets");
    uint64_t count = 0;
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *pair = json_object_array_get_idx(list, i);
        uint64_t bucket = json_object_get_uint64(json_object_array_get_idx(pair, 0));
        uint64_t n = json_object_get_uint64(json_object_array_get_idx(pair, 1)) - in_bucket(earlier, bucket);
        json_object_array_put_idx(pair, 1, json_object_new_uint64(n));
        count += n;
    }
    json_object_object_add(later, "count", json_object_new_uint64(count));
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "stages SOCKET VM SECONDS\n");
        return 2;
    }
    struct json_object *before = ask(argv[1], argv[2]);
    sleep((unsigned)atoi(argv[3]));
    struct json_object *after = ask(argv[1], argv[2]);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct json_object *later = json_get(after, keys[i]);
        struct hist *h = hist_new();
        double unit = strcmp(keys[i], "pages") ? 1e6 : 1;
        if (!later)
            fail("the agent's answer is not what was expected");
        subtract(later, json_get(before, keys[i]));
        if (hist_from_json(h, later) < 0)
            fail("the agent's histograms are broken");
        printf("%s\"%s\":{\"p50\":%.2f,\"p99\":%.2f}", i ? "," : "{", titles[i], (double)hist_percentile(h, 50) / unit,
               (double)hist_percentile(h, 99) / unit);
        hist_free(h);
    }
    printf("}\n");
    json_object_put(before);
    json_object_put(after);
    return 0;
}
