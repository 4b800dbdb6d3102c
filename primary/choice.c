#include "primary/choice.h"
#include "common/config.h"
#include "common/jsonget.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

static struct json_object *find(struct json_object *hosts, const char *name)
{
    for (size_t i = 0; hosts && i < json_object_array_length(hosts); i++) {
        struct json_object *h = json_object_array_get_idx(hosts, i);
        if (!strcmp(json_get_text(h, "name", ""), name))
            return h;
    }
    return NULL;
}

static unsigned long long mib(uint64_t bytes)
{
    return (unsigned long long)(bytes >> 20);
}

const char *choice_make(const struct config *c, struct json_object *hosts, uint64_t need, struct errmsg *why)
{
    const char *best = NULL;
    uint64_t most = 0;
    char list[320] = "";
    size_t n = 0;
    for (size_t i = 0; i < c->peer_count; i++) {
        const char *name = c->peers[i].name;
        struct json_object *h = find(hosts, name);
        bool silent = !h || json_get_bool(h, "silent", true);
        uint64_t room = json_get_u64(h, "room_bytes", 0);
        if (!silent && room >= need && (!best || room > most)) {
            best = name;
            most = room;
        }
        if (n >= sizeof list)
            continue;
        if (silent)
            n += (size_t)snprintf(list + n, sizeof list - n, "; %s: has not said anything lately", name);
        else
            n += (size_t)snprintf(list + n, sizeof list - n, "; %s: room for %llu MiB", name, mib(room));
    }
    if (best)
        errmsg_set(why, "%s has room for %llu MiB, the VM needs %llu MiB", best, mib(most), mib(need));
    else
        errmsg_set(why, "no host has room for the %llu MiB of the VM%s", mib(need),
                   c->peer_count ? list : ": this host has no [peer]");
    return best;
}
