/*
 * template: see template.h.
 */
#include "vm/qemu/template.h"

#include "vm/qemu/options.h"
#include "vm/qemu/settings.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

enum { ARGS_MAX = 256, ARG_MAX_BYTES = 4096 };

static char **find_word(struct template *t, const char *option)
{
    for (size_t i = 0; i + 1 < t->args.n; i++)
        if (strcmp(t->args.at[i], option) == 0)
            return &t->args.at[i + 1];
    return NULL;
}

/* Gives each NIC of a command line its MAC: that of the device on its netdev; QEMU's default is made explicit. */
static int fill_macs(struct template *t, struct errmsg *e)
{
    unsigned next_default = 0x56;
    for (unsigned n = 0; n < t->nic_count; n++) {
        struct template_nic *nic = &t->nics[n];
        char netdev[32], mac[18];
        bool found = false;
        for (size_t i = 0; i + 1 < t->args.n && !found; i++) {
            char **device = &t->args.at[i + 1];
            if (strcmp(t->args.at[i], "-device") != 0 || !comma_value(*device, "netdev", netdev, sizeof netdev) ||
                strcmp(netdev, nic->id) != 0)
                continue;
            found = true;
            if (!comma_value(*device, "mac", mac, sizeof mac)) {
                snprintf(mac, sizeof mac, "52:54:00:12:34:%02x", next_default++);
                char *with_mac;
                if (asprintf(&with_mac, "%s,mac=%s", *device, mac) < 0)
                    return errmsg_set(e, "out of memory");
                free(*device);
                *device = with_mac;
            }
            memcpy(nic->mac, mac, sizeof mac);
        }
        uint8_t bytes[6];
        if (!found || !qemu_parse_mac(nic->mac, bytes))
            return errmsg_set(e, "netdev %s: no -device with netdev=%s and a valid mac=", nic->id, nic->id);
    }
    return 0;
}

int template_filter(struct template *t, const struct words *in, enum template_source source, const char *base,
                    struct template_found *found, struct errmsg *e)
{
    struct template_found unused = {0};
    struct option_context c = {.t = t, .found = found ? found : &unused, .source = source, .base = base};
    for (size_t i = 0; i < in->n;) {
        const char *word = in->at[i];
        if (word[0] != '-' || word[1] == '\0')
            return errmsg_set(e, "\"%s\": an option (-...) was expected here", word);
        int used = option_take(&c, word + (word[1] == '-' ? 2 : 1), i + 1 < in->n ? in->at[i + 1] : NULL, e);
        if (used < 0)
            return -1;
        i += (size_t)used;
    }
    if (t->args.failed)
        return errmsg_set(e, "out of memory");
    if (!find_word(t, "-machine"))
        return errmsg_set(e, "-machine is missing");
    return fill_macs(t, e);
}

int template_pin(struct template *t, const char *machine, const char *accel, struct errmsg *e)
{
    char **word = find_word(t, "-machine");
    if (!word)
        return errmsg_set(e, "-machine is missing");
    char *rest = comma_without(*word, *accel ? "accel" : "no such key"), *pinned = NULL, *typeless;
    if (!rest)
        return errmsg_set(e, "out of memory");
    typeless = comma_without(rest, "type");
    free(rest);
    if (!typeless)
        return errmsg_set(e, "out of memory");
    /* The first item is the type, unless it is key=value. */
    size_t first = strcspn(typeless, ",");
    const char *others = memchr(typeless, '=', first) ? typeless : typeless + first + (typeless[first] == ',');
    int n = asprintf(&pinned, "%s%s%s%s%s", machine, *others ? "," : "", others, *accel ? ",accel=" : "", accel);
    free(typeless);
    if (n < 0)
        return errmsg_set(e, "out of memory");
    free(*word);
    *word = pinned;
    return 0;
}

void template_free(struct template *t)
{
    words_free(&t->args);
    *t = (struct template){0};
}

static void add_string(struct json_object *j, const char *key, const char *value)
{
    json_object_object_add(j, key, json_object_new_string(value));
}

struct json_object *template_to_json(const struct template *t)
{
    struct json_object *j = json_object_new_object(), *args = json_object_new_array(), *nics = json_object_new_array();
    add_string(j, "program", t->program);
    add_string(j, "version", t->version);
    add_string(j, "ram_id", t->ram_id);
    json_object_object_add(j, "memory", json_object_new_int64((int64_t)t->memory));
    for (size_t i = 0; i < t->args.n; i++)
        json_object_array_add(args, json_object_new_string(t->args.at[i]));
    json_object_object_add(j, "args", args);
    for (unsigned i = 0; i < t->nic_count; i++) {
        struct json_object *nic = json_object_new_object();
        add_string(nic, "id", t->nics[i].id);
        add_string(nic, "mac", t->nics[i].mac);
        /* By another key: an agent that knows relays only misses "bridge", and refuses what it could not start. */
        add_string(nic, t->nics[i].plug ? "plug" : "bridge", t->nics[i].bridge);
        json_object_array_add(nics, nic);
    }
    json_object_object_add(j, "nics", nics);
    return j;
}

/* Copies a string member made of letters, digits and "_.-" (and `more`), of at most size - 1 bytes. */
static int get_name(struct json_object *j, const char *key, const char *more, char *out, size_t size, struct errmsg *e)
{
    struct json_object *value;
    if (!json_object_object_get_ex(j, key, &value) || !json_object_is_type(value, json_type_string))
        return errmsg_set(e, "the VM's description has no string \"%s\"", key);
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    const char *text = json_object_get_string(value);
    size_t n = strlen(text), good = 0;
    while (good < n && (strchr(plain, text[good]) || strchr(more, text[good])))
        good++;
    if (good != n || n >= size || (int)n != json_object_get_string_len(value))
        return errmsg_set(e, "the VM's description: \"%s\" is too long or has a character that is not allowed", key);
    memcpy(out, text, n + 1);
    return 0;
}

static int read_nics(struct template *t, struct json_object *j, const char *local_bridge, struct errmsg *e)
{
    struct json_object *nics;
    if (!json_object_object_get_ex(j, "nics", &nics) || !json_object_is_type(nics, json_type_array) ||
        json_object_array_length(nics) > TEMPLATE_NICS_MAX)
        return errmsg_set(e, "the VM's description has no \"nics\", or too many");
    for (size_t i = 0; i < json_object_array_length(nics); i++) {
        struct json_object *entry = json_object_array_get_idx(nics, i);
        struct template_nic *nic = &t->nics[i];
        nic->plug = json_object_object_get_ex(entry, "plug", NULL);
        if (get_name(entry, "id", "", nic->id, sizeof nic->id, e) < 0 ||
            get_name(entry, "mac", ":", nic->mac, sizeof nic->mac, e) < 0 ||
            get_name(entry, nic->plug ? "plug" : "bridge", "", nic->bridge, sizeof nic->bridge, e) < 0)
            return -1;
        if (i == 0 && local_bridge)
            snprintf(nic->bridge, sizeof nic->bridge, "%s", local_bridge);
        if (!*nic->id || (*nic->bridge && !qemu_bridge_is_valid(nic->bridge)))
            return errmsg_set(e, "the VM's description: NIC %zu has no valid id or bridge", i);
        t->nic_count++;
    }
    return 0;
}

static int read_args(struct template *t, struct json_object *j, enum template_source source, struct errmsg *e)
{
    struct json_object *args;
    struct words words = {0};
    if (!json_object_object_get_ex(j, "args", &args) || !json_object_is_type(args, json_type_array) ||
        json_object_array_length(args) > ARGS_MAX)
        return errmsg_set(e, "the VM's description has no \"args\", or too many");
    int status = 0;
    for (size_t i = 0; i < json_object_array_length(args) && status == 0; i++) {
        struct json_object *word = json_object_array_get_idx(args, i);
        int length = json_object_is_type(word, json_type_string) ? json_object_get_string_len(word) : -1;
        if (length < 0 || length > ARG_MAX_BYTES || strlen(json_object_get_string(word)) != (size_t)length)
            status = errmsg_set(e, "the VM's description: word %zu of \"args\" is no valid string", i);
        else
            words_add(&words, "%s", json_object_get_string(word));
    }
    if (status == 0)
        status = words.failed ? errmsg_set(e, "out of memory") : template_filter(t, &words, source, "/", NULL, e);
    words_free(&words);
    return status;
}

int template_from_json(struct template *t, struct json_object *j, enum template_source source, const char *local_bridge,
                       struct errmsg *e)
{
    *t = (struct template){0};
    struct json_object *memory;
    if (!json_object_is_type(j, json_type_object) || !json_object_object_get_ex(j, "memory", &memory) ||
        !json_object_is_type(memory, json_type_int))
        return errmsg_set(e, "the VM's description has no \"memory\": was it made by backend qemu?");
    int64_t bytes = json_object_get_int64(memory);
    if (bytes < TEMPLATE_MEMORY_MIN || bytes > (1LL << 44) || bytes % TEMPLATE_MEMORY_MIN)
        return errmsg_set(e, "the VM's description: memory of %lld bytes is out of range", (long long)bytes);
    t->memory = (uint64_t)bytes;
    if (get_name(j, "program", "", t->program, sizeof t->program, e) < 0 ||
        get_name(j, "version", "", t->version, sizeof t->version, e) < 0 ||
        get_name(j, "ram_id", "", t->ram_id, sizeof t->ram_id, e) < 0)
        return -1;
    if (source == FROM_PEER && strncmp(t->program, "qemu-system-", 12) != 0)
        return errmsg_set(e, "the VM's description: program %s is no qemu-system-...", t->program);
    if (!*t->ram_id)
        return errmsg_set(e, "the VM's description: \"ram_id\" is empty");
    if (read_nics(t, j, local_bridge, e) < 0 || read_args(t, j, source, e) < 0) {
        template_free(t);
        return -1;
    }
    return 0;
}

/* The options of t->args, with the memory backend put into -machine. A replica's serial output goes to files of this
 * host's choice: the path was the other host's. */
static void add_args(const struct template *t, const struct template_paths *p, bool replica, struct words *out)
{
    unsigned serials = 0;
    for (size_t i = 0; i < t->args.n; i++) {
        const char *word = t->args.at[i], *before = i > 0 ? t->args.at[i - 1] : "";
        if (strcmp(before, "-machine") == 0)
            words_add(out, "%s,memory-backend=%s", word, t->ram_id);
        else if (replica && strcmp(before, "-serial") == 0 && strncmp(word, "file:", 5) == 0)
            words_add(out, "file:%s/serial%u.log", p->run_dir, serials++);
        else
            words_add(out, "%s", word);
    }
}

/* A disk server that is started anew is found again: meanwhile requests wait, for as long as a guest's kernel does. */
void template_disk(unsigned disk, const char *socket, const char *export_name, struct words *out)
{
    words_add(out, "-blockdev");
    words_add(out,
              "driver=nbd,node-name=" TEMPLATE_DISK_ID
              "%u,server.type=unix,server.path=%s,export=%s,reconnect-delay=120,discard=unmap",
              disk, socket, export_name);
}

/* QEMU flushes in each pause. A drive without a device comes before all disks: by its flush the disk server knows what
 * follows for QEMU's own (disk/server/set.h). */
void template_still(const char *socket, struct words *out)
{
    words_add(out, "-drive");
    words_add(out, "if=none,id=hikae-still,driver=nbd,server.type=unix,server.path=%s,export=still,reconnect-delay=120",
              socket);
}

static int add_disks(const struct template *t, const struct template_paths *p, size_t longest, struct words *out,
                     struct errmsg *e)
{
    for (unsigned i = 0; i < t->disk_count; i++) {
        if (!p->disk_socket[i])
            return errmsg_set(e, "disk %u of the VM has no disk server", i);
        if (strlen(p->disk_socket[i]) > longest || strchr(p->disk_socket[i], ','))
            return errmsg_set(e, "%s: too long for a unix socket, or with a comma: choose another run_dir",
                              p->disk_socket[i]);
        template_disk(i, p->disk_socket[i], p->disk_export[i], out);
    }
    if (t->disk_count)
        template_still(p->disk_socket[0], out);
    return 0;
}

int template_command(const struct template *t, const struct template_paths *p, bool replica, struct words *out,
                     struct errmsg *e)
{
    const size_t longest = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (strchr(p->ram, ',') || strchr(p->run_dir, ','))
        return errmsg_set(e, "%s: QEMU can't have a comma in the name of this folder", p->run_dir);
    words_add(out, "%s", p->program);
    words_add(out, "-name");
    words_add(out, "%s", p->name);
    words_add(out, "-m");
    words_add(out, "%lluB", (unsigned long long)t->memory);
    words_add(out, "-object");
    words_add(out, "memory-backend-file,id=%s,mem-path=%s,size=%llu,share=on", t->ram_id, p->ram,
              (unsigned long long)t->memory);
    add_args(t, p, replica, out);
    for (unsigned i = 0; i < t->nic_count; i++) {
        words_add(out, "-netdev");
        if (t->nics[i].plug) {
            words_add(out, "tap,id=%s,fd=%d,vhost=off", t->nics[i].id, p->tap[i]);
            continue;
        }
        if (strlen(p->net[i]) > longest)
            return errmsg_set(e, "%s: too long for a unix socket: choose a shorter run_dir", p->net[i]);
        words_add(out, "stream,id=%s,server=on,addr.type=unix,addr.path=%s", t->nics[i].id, p->net[i]);
    }
    if (add_disks(t, p, longest, out, e) < 0)
        return -1;
    if (strlen(p->qmp) > longest)
        return errmsg_set(e, "%s: too long for a unix socket: choose a shorter run_dir", p->qmp);
    static const char *const always[] = {"-display", "none", "-only-migratable", "-no-shutdown", "-qmp"};
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        words_add(out, "%s", always[i]);
    words_add(out, "unix:%s,server=on,wait=off", p->qmp);
    words_add(out, "-S"); /* a VM is started by `cont`, when everything about it has been found to be well */
    if (replica) {
        words_add(out, "-incoming");
        words_add(out, "defer");
    }
    return out->failed ? errmsg_set(e, "out of memory") : 0;
}
