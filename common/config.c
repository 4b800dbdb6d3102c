/* config: the INI file through inih, which gives lines and values; sections, types, ranges and duplicates are ours. */
#include "common/config.h"
#include "common/config_parse.h"
#include "common/config_whole.h"

#include <errno.h>
#include <ini.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The most that a line may have. inih cuts longer ones silently, keys and section names at 50 bytes: hence our reader
 * looks at each line before inih does. */
enum { LINE_BYTES = 16384, KEY_BYTES = 48 };

enum kind { K_NAME, K_TEXT, K_PORT, K_MS, K_SIZE, K_MODE, K_ISOLATED, K_FINGERPRINT, K_EARLY, K_COUNT, K_DISKS };

struct key {
    const char *name;
    enum kind kind;
    size_t offset;
    uint64_t min, max; /* of K_MS, K_SIZE, K_COUNT */
};

#define HOST(field) offsetof(struct config, field)
#define PEER(field) offsetof(struct config_peer, field)
#define VM(field)   offsetof(struct config_vm, field)
static const struct key host_keys[] = {
    {"name", K_NAME, HOST(name), 0, 0},
    {"listen", K_TEXT, HOST(listen), 0, 0},
    {"port", K_PORT, HOST(port), 0, 0},
    {"run_dir", K_TEXT, HOST(run_dir), 0, 0},
    {"state_dir", K_TEXT, HOST(state_dir), 0, 0},
    {"key", K_TEXT, HOST(key), 0, 0},
    {"certificate", K_TEXT, HOST(certificate), 0, 0},
    {"arbiter", K_TEXT, HOST(arbiter), 0, 0},
    {"etcd_ca", K_TEXT, HOST(etcd_ca), 0, 0},
    {"etcd_cert", K_TEXT, HOST(etcd_cert), 0, 0},
    {"etcd_key", K_TEXT, HOST(etcd_key), 0, 0},
    {"spool_dir", K_TEXT, HOST(spool_dir), 0, 0},
    {"disk_dir", K_TEXT, HOST(disk_dir), 0, 0},
    {"detect", K_MS, HOST(detect_ms), 50, 60000},
    {"restart_grace", K_MS, HOST(restart_grace_ms), 0, 10000},
    {"spare_after", K_MS, HOST(spare_after_ms), 0, 3600000},
    {"pause_bound", K_MS, HOST(pause_bound_ms), 0, 3600000},
    {"worker_bound", K_MS, HOST(worker_bound_ms), 0, 3600000},
    {"fence", K_TEXT, HOST(fence), 0, 0},
    {"fence_timeout", K_MS, HOST(fence_timeout_ms), 1000, 600000},
    {"keep_memory", K_MS, HOST(keep_memory_ms), 0, 86400000},
    {"staging", K_SIZE, HOST(staging_bytes), 1 << 20, (uint64_t)1 << 40},
    {"record", K_TEXT, HOST(record), 0, 0},
    {0},
};
static const struct key peer_keys[] = {
    {"address", K_TEXT, PEER(address), 0, 0},
    {"port", K_PORT, PEER(port), 0, 0},
    {"fingerprint", K_FINGERPRINT, PEER(fingerprint), 0, 0},
    {"accept", K_TEXT, PEER(accept), 0, 0},
    {0},
};
static const struct key vm_keys[] = {
    {"backend", K_NAME, VM(backend), 0, 0},
    {"mode", K_MODE, VM(mode), 0, 0},
    {"interval", K_MS, VM(interval_ms), 1, 10000},
    {"max_interval", K_MS, VM(max_interval_ms), 1, 60000},
    {"min_interval", K_MS, VM(min_interval_ms), 0, 10000},
    {"buffer", K_SIZE, VM(buffer_bytes), 64 << 10, (uint64_t)1 << 32},
    {"delta_cache", K_SIZE, VM(delta_cache_bytes), 0, (uint64_t)1 << 40},
    {"disk_sync_rate", K_SIZE, VM(disk_sync_rate), 0, (uint64_t)1 << 40},
    {"spares", K_TEXT, VM(spares), 0, 0},
    {"fence", K_TEXT, VM(fence), 0, 0},
    {"isolated", K_ISOLATED, VM(isolated), 0, 0},
    {"open_after", K_MS, VM(open_after_ms), 2000, 600000},
    {"disk", K_DISKS, 0, 0, 0},
    {"shared_disk", K_DISKS, 0, 0, 0},
    {0},
};
static const struct key fault_keys[] = {
    {"release", K_EARLY, HOST(fault_release_early), 0, 0},
    {"drop_page", K_COUNT, HOST(fault_drop_page), 0, 1000000000},
    {"stall", K_COUNT, HOST(fault_stall), 0, 1000000000},
    {0},
};

enum section { S_NONE, S_HOST, S_PEER, S_VM, S_FAULT };
static const char *const section_names[] = {"", "host", "peer", "vm", "fault"};

struct parser {
    FILE *in;
    struct config *c;
    enum section section;
    unsigned line, section_line;
    unsigned seen[S_FAULT + 1]; /* bit i: key i was given in this section */
    bool failed;
    struct errmsg *e;
};

static void put_text(char **at, const char *value)
{
    free(*at);
    *at = config_need(strdup(value));
}

#define FAIL(p, at, format, ...)                                                                                       \
    ((p)->failed = true, errmsg_set((p)->e, "%s:%u: " format, (p)->c->path, at, ##__VA_ARGS__))

static struct config_peer *last_peer(struct config *c)
{
    return &c->peers[c->peer_count - 1];
}

/* What only the end of a section shows. */
static int section_end(struct parser *p)
{
    if (p->section != S_PEER)
        return 0;
    const struct config_peer *peer = last_peer(p->c);
    if (!peer->address)
        return FAIL(p, p->section_line, "[peer %s] has no address: add `address = HOST`", peer->name);
    if (!peer->fingerprint[0])
        return FAIL(p, p->section_line, "[peer %s] has no fingerprint: `hikae fingerprint` prints it on that host",
                    peer->name);
    return 0;
}

static int add_named(struct parser *p, const char *name)
{
    struct config *c = p->c;
    if (!config_name_is_valid(name))
        return FAIL(p, p->line, "'%s' is no name: 1 to 63 of A-Z a-z 0-9 . _ - and not starting with . or -", name);
    if (p->section == S_PEER) {
        if (config_peer_by_name(c, name))
            return FAIL(p, p->line, "[peer %s] is there twice: join the two", name);
        c->peers = config_need(reallocarray(c->peers, c->peer_count + 1, sizeof(*c->peers)));
        c->peers[c->peer_count++] = (struct config_peer){
            .name = config_need(strdup(name)), .port = config_need(strdup("7702")), .accept = config_need(strdup(""))};
    } else {
        if (config_vm_is_defined(c, name))
            return FAIL(p, p->line, "[vm %s] is there twice: join the two", name);
        c->vms = config_need(reallocarray(c->vms, c->vm_count + 1, sizeof(*c->vms)));
        config_vm_defaults(&c->vms[c->vm_count++], name);
    }
    p->seen[p->section] = 0;
    return 0;
}

/* `text` is what stands between the brackets; it is changed. */
static int section_begin(struct parser *p, char *text)
{
    if (section_end(p))
        return -1;
    p->section_line = p->line;
    p->section = S_NONE;
    char *rest;
    const char *word = strtok_r(text, " \t", &rest), *name = strtok_r(NULL, " \t", &rest);
    for (int i = S_HOST; word && i <= S_FAULT; i++)
        if (!strcmp(word, section_names[i]))
            p->section = (enum section)i;
    if (p->section == S_NONE)
        return FAIL(p, p->line, "unknown section [%s]; known: [host] [peer NAME] [vm NAME] [fault]", word ? word : "");
    bool named = p->section == S_PEER || p->section == S_VM;
    if (named && (!name || strtok_r(NULL, " \t", &rest)))
        return FAIL(p, p->line, "write [%s NAME], with one name", word);
    if (!named && name)
        return FAIL(p, p->line, "write [%s], without a name", word);
    return named ? add_named(p, name) : 0;
}

static int set_number(struct parser *p, const struct key *k, const char *value, void *at)
{
    uint64_t n = 0;
    int bad = k->kind == K_MS ? config_parse_ms(value, &n) : config_parse_size(value, &n);
    const char *hint = k->kind == K_MS     ? "milliseconds, like 20, 20ms or 2s"
                       : k->kind == K_SIZE ? "bytes, like 65536, 64K, 16M or 1G"
                                           : "a number";
    if (bad)
        return FAIL(p, p->line, "%s = %s: not %s", k->name, value, hint);
    if (n < k->min || n > k->max)
        return FAIL(p, p->line, "%s = %s: must be from %llu to %llu%s", k->name, value, (unsigned long long)k->min,
                    (unsigned long long)k->max,
                    k->kind == K_MS     ? " ms"
                    : k->kind == K_SIZE ? " bytes"
                                        : "");
    if (k->kind == K_SIZE)
        *(uint64_t *)at = n;
    else
        *(unsigned *)at = (unsigned)n;
    return 0;
}

/* A disk that two VMs write to, or one VM twice, is lost. */
static bool disk_is_taken(const struct config *c, const char *path)
{
    for (size_t i = 0; i < c->vm_count; i++) {
        const struct config_vm *vm = &c->vms[i];
        for (unsigned d = 0; d < vm->disk_count; d++)
            if (!strcmp(vm->disks[d], path))
                return true;
        for (unsigned d = 0; d < vm->shared_count; d++)
            if (!strcmp(vm->shared_disks[d], path))
                return true;
    }
    return false;
}

static int set_disks(struct parser *p, struct config_vm *vm, const char *key, const char *value)
{
    char *words = config_need(strdup(value)), *rest;
    bool shared = !strcmp(key, "shared_disk");
    int bad = 0;
    for (char *word = strtok_r(words, " \t", &rest); word && !bad; word = strtok_r(NULL, " \t", &rest)) {
        if (*word != '/')
            bad = FAIL(p, p->line, "%s: '%s' is no absolute path", key, word);
        else if (disk_is_taken(p->c, word))
            bad = FAIL(p, p->line, "%s: %s is there twice: each disk belongs to one VM", key, word);
        else if (vm->disk_count + vm->shared_count == CONFIG_DISKS_MAX)
            bad = FAIL(p, p->line, "%s: a VM has at most %d disks", key, (int)CONFIG_DISKS_MAX);
        else
            config_vm_add_disk(vm, word, shared);
    }
    free(words);
    return bad || (shared ? vm->shared_count : vm->disk_count) ? bad : FAIL(p, p->line, "%s has no value", key);
}

static int set_value(struct parser *p, const struct key *k, const char *value, void *base)
{
    void *at = (char *)base + k->offset;
    switch (k->kind) {
    case K_MS:
    case K_SIZE:
    case K_COUNT:
        return set_number(p, k, value, at);
    case K_MODE:
        return config_parse_mode(value, at) ? FAIL(p, p->line, "mode = %s: must be periodic or on-output", value) : 0;
    case K_ISOLATED:
        return config_parse_isolated(value, at) ? FAIL(p, p->line, "isolated = %s: must be freeze or open", value) : 0;
    case K_FINGERPRINT:
        return config_parse_fingerprint(value, at)
                   ? FAIL(p, p->line, "fingerprint: must be 64 hex digits, as `hikae fingerprint` prints on that host")
                   : 0;
    case K_EARLY:
        if (strcmp(value, "early"))
            return FAIL(p, p->line, "release = %s: must be early", value);
        *(bool *)at = true;
        return 0;
    case K_NAME:
        if (!config_name_is_valid(value))
            return FAIL(p, p->line, "%s = %s: must be 1 to 63 of A-Z a-z 0-9 . _ -", k->name, value);
        break;
    case K_PORT:
        if (config_parse_port(value))
            return FAIL(p, p->line, "port = %s: must be from 1 to 65535", value);
        break;
    case K_DISKS:
        return set_disks(p, base, k->name, value);
    case K_TEXT:
        if (!*value && strcmp(k->name, "accept"))
            return FAIL(p, p->line, "%s has no value", k->name);
        break;
    }
    put_text(at, value);
    return 0;
}

static int unknown_key(struct parser *p, const struct key *keys, const char *name)
{
    char known[320] = "";
    for (const struct key *k = keys; k->name; k++) {
        strcat(known, " ");
        strcat(known, k->name);
    }
    return FAIL(p, p->line, "unknown key '%s' in [%s]; known:%s", name, section_names[p->section], known);
}

static int set_setting(struct parser *p, struct config_vm *vm, const char *name, const char *value)
{
    if (json_object_object_get_ex(vm->settings, name, NULL))
        return FAIL(p, p->line, "%s is given twice in [vm %s]", name, vm->name);
    json_object_object_add(vm->settings, name, config_need(json_object_new_string(value)));
    return 0;
}

static int set_key(struct parser *p, const char *name, const char *value)
{
    struct config *c = p->c;
    static const struct key *const tables[] = {NULL, host_keys, peer_keys, vm_keys, fault_keys};
    if (p->section == S_NONE)
        return FAIL(p, p->line, "'%s' stands before any section: put it below [host], [peer NAME] or [vm NAME]", name);
    struct config_vm *vm = p->section == S_VM ? &c->vms[c->vm_count - 1] : NULL;
    void *base = vm ? (void *)vm : p->section == S_PEER ? (void *)last_peer(c) : (void *)c;
    const struct key *keys = tables[p->section];
    for (unsigned i = 0; keys[i].name; i++) {
        if (strcmp(keys[i].name, name))
            continue;
        if (p->seen[p->section] & 1u << i)
            return FAIL(p, p->line, "%s is given twice in this section", name);
        p->seen[p->section] |= 1u << i;
        return set_value(p, &keys[i], value, base);
    }
    return vm ? set_setting(p, vm, name, value) : unknown_key(p, keys, name);
}

static int on_key(void *arg, const char *section, const char *name, const char *value)
{
    (void)section; /* cut at 50 bytes: ours is whole */
    struct parser *p = arg;
    if (p->failed)
        return 0;
    if (strlen(name) >= KEY_BYTES) {
        FAIL(p, p->line, "'%s...' is too long for a key", name);
        return 0;
    }
    return set_key(p, name, value) == 0;
}

/* inih's source of lines. NULL ends it, also after an error. */
static char *next_line(char *out, int size, void *arg)
{
    struct parser *p = arg;
    if (p->failed || !fgets(out, size, p->in))
        return NULL;
    p->line++;
    size_t n = strlen(out);
    if (n + 1 >= (size_t)size && out[n - 1] != '\n') {
        FAIL(p, p->line, "the line is longer than %d bytes", size - 3);
        return NULL;
    }
    if (n && out[n - 1] != '\n' && !feof(p->in)) {
        FAIL(p, p->line, "the line has a NUL byte");
        return NULL;
    }
    char *start = out + strspn(out, " \t"), *end = strchr(start, ']');
    if (*start == '[' && end) {
        if (end[1 + strspn(end + 1, " \t\r\n")]) {
            FAIL(p, p->line, "there is something behind the ']'");
            return NULL;
        }
        char text[256];
        size_t length = (size_t)(end - start - 1);
        if (length >= sizeof(text))
            length = sizeof(text) - 1;
        *(char *)mempcpy(text, start + 1, length) = 0;
        if (section_begin(p, text))
            return NULL;
    }
    return out;
}

static void host_defaults(struct config *c, const char *path)
{
    char host[64] = "";
    if (gethostname(host, sizeof(host) - 1) < 0 || !config_name_is_valid(host))
        strcpy(host, "localhost");
    c->path = config_need(strdup(path));
    c->name = config_need(strdup(host));
    c->listen = config_need(strdup("*"));
    c->port = config_need(strdup("7702"));
    c->run_dir = config_need(strdup("/run/hikae"));
    c->state_dir = config_need(strdup("/var/lib/hikae"));
    c->detect_ms = 500;
    c->restart_grace_ms = 60;
    c->spare_after_ms = 10000;
    c->pause_bound_ms = 1000;
    c->worker_bound_ms = 5000;
    c->keep_memory_ms = 600000;
    c->staging_bytes = 64 << 20;
    c->fence_timeout_ms = 30000;
    const char *slash = strrchr(path, '/');
    int n = slash ? (int)(slash - path) : 1;
    const char *dir = slash ? path : ".";
    if (asprintf(&c->key, "%.*s/key.pem", n, dir) < 0 || asprintf(&c->certificate, "%.*s/cert.pem", n, dir) < 0)
        abort();
}

static int check_whole(struct parser *p)
{
    struct config *c = p->c;
    if (!c->spool_dir)
        c->spool_dir = config_need(strdup(c->state_dir));
    if (!c->disk_dir && asprintf(&c->disk_dir, "%s/images", c->state_dir) < 0)
        abort();
    for (size_t i = 0; i < c->peer_count; i++) {
        if (!strcmp(c->peers[i].name, c->name))
            return errmsg_set(p->e, "%s: [peer %s] has the name of this host: name the other one", c->path, c->name);
        if (config_peer_by_fingerprint(c, c->peers[i].fingerprint) != &c->peers[i])
            return errmsg_set(p->e, "%s: [peer %s] has the fingerprint of another peer", c->path, c->peers[i].name);
    }
    for (size_t i = 0; i < c->vm_count; i++)
        if (c->vms[i].shared_count && c->vms[i].isolated == ISOLATED_OPEN)
            return errmsg_set(p->e,
                              "%s: [vm %s] has a shared_disk and isolated = open: two hosts might write to that disk, "
                              "which nobody could mend; leave out isolated",
                              c->path, c->vms[i].name);
    return 0;
}

static int parse(struct parser *p)
{
    ini_use_stack = false;
    ini_max_line = ini_initial_alloc = LINE_BYTES;
    ini_allow_multiline = false;
    ini_allow_inline_comments = false; /* a VM's options may hold anything */
    ini_stop_on_first_error = true;
    int line = ini_parse_stream(next_line, p, on_key, p);
    if (p->failed)
        return -1;
    if (ferror(p->in))
        return errmsg_set(p->e, "%s: cannot be read", p->c->path);
    if (line < 0)
        return errmsg_set(p->e, "%s: out of memory", p->c->path);
    if (line > 0)
        return FAIL(p, (unsigned)line, "neither `key = value` nor [section]");
    return section_end(p) || check_whole(p) ? -1 : 0;
}

struct config *config_load(const char *path, struct errmsg *e)
{
    FILE *in = fopen(path, "re");
    if (!in) {
        errmsg_set(e, "%s: cannot be read: %s%s", path, strerror(errno),
                   errno == ENOENT ? "; `hikae init` makes a configuration" : "");
        return NULL;
    }
    struct whole *w = config_need(calloc(1, sizeof(*w)));
    host_defaults(&w->config, path);
    struct parser p = {.in = in, .c = &w->config, .e = e};
    int r = parse(&p);
    fclose(in);
    if (!r)
        return &w->config;
    config_free(&w->config);
    return NULL;
}

static void clear_keys(const struct key *keys, void *base)
{
    for (const struct key *k = keys; k->name; k++)
        if (k->kind == K_TEXT || k->kind == K_NAME || k->kind == K_PORT)
            free(*(char **)((char *)base + k->offset));
}

void config_free(struct config *c)
{
    if (!c)
        return;
    struct whole *w = (struct whole *)c;
    free(c->path);
    clear_keys(host_keys, c);
    for (size_t i = 0; i < c->peer_count; i++) {
        free(c->peers[i].name);
        clear_keys(peer_keys, &c->peers[i]);
    }
    for (size_t i = 0; i < c->vm_count; i++)
        config_vm_clear(&c->vms[i]);
    for (size_t i = 0; i < w->default_count; i++) {
        config_vm_clear(w->defaults[i]);
        free(w->defaults[i]);
    }
    free(c->peers);
    free(c->vms);
    free(w->defaults);
    free(w);
}
