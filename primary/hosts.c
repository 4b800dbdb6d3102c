#include "primary/hosts.h"
#include "arbiter/fleet.h"
#include "common/jsonget.h"
#include "common/link.h"
#include "common/log.h"

#include <ev.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

static const double ROUND_S = 3., FIRST_S = 0.7;
enum { HOSTS_MAX = 1024 };

struct host {
    struct host *next;
    char name[64];
    struct json_object *says; /* owned */
    int64_t changed_at;       /* CLOCK_MONOTONIC ms */
};

struct hosts {
    struct ev_loop *loop;
    const struct config *config;
    struct json_object *(*statuses)(void *arg);
    void *arg;
    struct fleet *fleet;
    struct host *all;
    unsigned count;
    uint64_t serial; /* of our own word */
    char fingerprint[65], trouble[sizeof(struct errmsg)];
    ev_timer round;
};

static int64_t now_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- what this host says ---- */

static uint64_t memory_available(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return (uint64_t)kib << 10;
}

static uint64_t shared_memory_free(void) /* where replicas' memory is */
{
    struct statvfs s;
    return statvfs("/dev/shm", &s) ? 0 : (uint64_t)s.f_bavail * s.f_frsize;
}

static void copy(struct json_object *to, struct json_object *from, const char *key)
{
    struct json_object *v = json_get(from, key);
    if (v)
        json_object_object_add(to, key, json_object_get(v));
}

static struct json_object *short_statuses(const struct hosts *h)
{
    static const char *const keys[] = {"vm", "state", "peer", "term", "replica_age_ms", "reason"};
    struct json_object *all = h->statuses(h->arg), *out = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        struct json_object *one = json_object_new_object();
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            copy(one, json_object_array_get_idx(all, i), keys[k]);
        json_object_array_add(out, one);
    }
    json_object_put(all);
    return out;
}

static void add_u64(struct json_object *j, const char *key, uint64_t v)
{
    json_object_object_add(j, key, json_object_new_uint64(v));
}

static void add_text(struct json_object *j, const char *key, const char *v)
{
    json_object_object_add(j, key, json_object_new_string(v));
}

static struct json_object *own_word(struct hosts *h)
{
    struct json_object *j = json_object_new_object();
    uint64_t memory = memory_available(), shared = shared_memory_free();
    add_text(j, "name", h->config->name);
    add_text(j, "listen", h->config->listen);
    add_text(j, "port", h->config->port);
    add_text(j, "fingerprint", h->fingerprint);
    add_text(j, "version", HIKAE_VERSION);
    add_u64(j, "memory_available_bytes", memory);
    add_u64(j, "shm_free_bytes", shared);
    add_u64(j, "room_bytes", memory < shared ? memory : shared);
    add_u64(j, "serial", ++h->serial);
    add_u64(j, "at_ms", (uint64_t)now_ms(CLOCK_REALTIME));
    json_object_object_add(j, "vms", short_statuses(h));
    return j;
}

/* ---- what is heard ---- */

static struct host *host_of(struct hosts *h, const char *name)
{
    struct host *o = h->all;
    while (o && strcmp(o->name, name))
        o = o->next;
    if (o || h->count >= HOSTS_MAX)
        return o;
    o = calloc(1, sizeof *o);
    if (!o)
        abort();
    snprintf(o->name, sizeof o->name, "%s", name);
    o->next = h->all;
    h->all = o;
    h->count++;
    return o;
}

static void on_host(const char *name, const char *text, size_t n, void *arg)
{
    struct hosts *h = arg;
    struct json_object *says = json_parse_object(text, n);
    struct host *o = says ? host_of(h, name) : NULL;
    if (!o) {
        json_object_put(says);
        return;
    }
    int64_t now = now_ms(CLOCK_MONOTONIC);
    if (!o->says) {
        /* heard for the first time: how old it is only its own clock says; what is far off counts as of long ago */
        int64_t age = now_ms(CLOCK_REALTIME) - (int64_t)json_get_u64(says, "at_ms", 0);
        o->changed_at = age > 0 ? now - age : now;
    } else if (!json_object_equal(o->says, says)) {
        o->changed_at = now;
    }
    json_object_put(o->says);
    o->says = says;
}

static void on_done(const char *why, void *arg)
{
    struct hosts *h = arg;
    if (why && strcmp(why, h->trouble))
        log_warn("the fleet: %s", why);
    snprintf(h->trouble, sizeof h->trouble, "%s", why ? why : "");
}

static void on_round(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct hosts *h = t->data;
    static const struct fleet_handlers handlers = {.host = on_host, .done = on_done};
    struct errmsg e;
    if (!h->fleet && !(h->fleet = fleet_open(h->loop, h->config, &handlers, h, &e))) {
        on_done(e.text, h);
        return;
    }
    struct json_object *word = own_word(h);
    fleet_round(h->fleet, h->config->name, json_object_to_json_string_ext(word, JSON_C_TO_STRING_PLAIN));
    json_object_put(word);
}

/* ---- the view ---- */

static struct json_object *view_of(const struct host *o, int64_t now)
{
    struct json_object *j = json_object_new_object();
    json_object_object_foreach(o->says, key, value)
    {
        json_object_object_add(j, key, json_object_get(value));
    }
    add_text(j, "name", o->name); /* as its key says, whatever it says itself */
    add_u64(j, "age_ms", (uint64_t)(now - o->changed_at));
    json_object_object_add(j, "silent", json_object_new_boolean(now - o->changed_at > FLEET_LEASE_S * 1000));
    return j;
}

struct json_object *hosts_list(const struct hosts *h)
{
    struct json_object *out = json_object_new_array();
    int64_t now = now_ms(CLOCK_MONOTONIC);
    for (const struct host *o = h->all; o; o = o->next)
        json_object_array_add(out, view_of(o, now));
    for (size_t i = 0; i < h->config->peer_count; i++) {
        const struct host *o = h->all;
        while (o && strcmp(o->name, h->config->peers[i].name))
            o = o->next;
        if (o)
            continue;
        struct json_object *j = json_object_new_object();
        add_text(j, "name", h->config->peers[i].name);
        json_object_object_add(j, "silent", json_object_new_boolean(1));
        json_object_array_add(out, j);
    }
    return out;
}

const char *hosts_trouble(const struct hosts *h)
{
    return h->trouble;
}

struct hosts *hosts_new(struct ev_loop *loop, const struct config *c, struct json_object *(*statuses)(void *arg),
                        void *arg)
{
    struct hosts *h = calloc(1, sizeof *h);
    struct errmsg e;
    if (!h)
        abort();
    *h = (struct hosts){.loop = loop, .config = c, .statuses = statuses, .arg = arg};
    struct tls_identity *id = tls_identity_load(c->key, c->certificate, &e);
    if (id)
        tls_identity_fingerprint(id, h->fingerprint);
    tls_identity_free(id);
    ev_timer_init(&h->round, on_round, FIRST_S, ROUND_S);
    h->round.data = h;
    ev_timer_start(loop, &h->round);
    return h;
}

void hosts_free(struct hosts *h)
{
    ev_timer_stop(h->loop, &h->round);
    fleet_free(h->fleet);
    for (struct host *o = h->all, *next; o; o = next) {
        next = o->next;
        json_object_put(o->says);
        free(o);
    }
    free(h);
}
