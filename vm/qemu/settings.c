/*
 * settings: see settings.h.
 */
#include "vm/qemu/settings.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t qemu_parse_size(const char *text)
{
    char *end;
    if (*text < '0' || *text > '9')
        return 0;
    unsigned long long n = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (*end && strchr("kK", *end))
        shift = 10;
    else if (*end && strchr("mM", *end))
        shift = 20;
    else if (*end && strchr("gG", *end))
        shift = 30;
    else if (*end)
        return 0;
    if ((shift && end[1]) || n > (1ULL << 44) >> shift)
        return 0;
    n <<= shift;
    return n % (1 << 20) == 0 ? n : 0;
}

bool qemu_parse_mac(const char *text, uint8_t mac[6])
{
    int end = 0;
    return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
                  &end) == 6 &&
           end == 17 && text[17] == '\0';
}

bool qemu_bridge_is_valid(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n > 0 && n < 16 && name[n] == '\0' && name[0] != '.' && name[0] != '-';
}

/* QEMU takes KVM wherever /dev/kvm opens. On a machine whose processor shows no virtualization extension, that is an
 * emulation of KVM which may be there and not work: TCG is the choice then. */
static const char *default_accel(void)
{
    char line[8192];
    bool flags = false, extension = false;
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && !flags && fgets(line, sizeof line, f)) {
        flags = strncmp(line, "flags", 5) == 0;
        extension = flags && (strstr(line, " vmx") || strstr(line, " svm"));
    }
    if (f)
        fclose(f);
    return flags && !extension ? "tcg" : "kvm:tcg";
}

struct key {
    const char *name;
    int (*set)(struct qemu_settings *s, const char *value, struct errmsg *e);
};

static int set_memory(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->memory = qemu_parse_size(value);
    return s->memory ? 0 : errmsg_set(e, "memory = %s: write a size in whole MiB, e.g. 512M or 4G", value);
}

static int set_cpus(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || n < 1 || n > 255)
        return errmsg_set(e, "cpus = %s: write a number from 1 to 255", value);
    s->cpus = (unsigned)n;
    return 0;
}

static int set_machine(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->machine = value;
    if (strncmp(value, "pc", 2) == 0 || strncmp(value, "q35", 3) == 0)
        return 0;
    return errmsg_set(e, "machine = %s: write pc or q35 (or a version of theirs, e.g. pc-i440fx-7.2)", value);
}

static int set_accel(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->accel = value;
    if (strcmp(value, "kvm") == 0 || strcmp(value, "tcg") == 0 || strcmp(value, "kvm:tcg") == 0)
        return 0;
    return errmsg_set(e, "accel = %s: write kvm, tcg or kvm:tcg", value);
}

static int set_options(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    (void)e;
    s->options = value;
    return 0;
}

static int set_bridge(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->bridge = value;
    return qemu_bridge_is_valid(value) ? 0 : errmsg_set(e, "bridge = %s: write an interface's name, e.g. br0", value);
}

static int set_mac(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    uint8_t mac[6];
    s->mac = value;
    if (qemu_parse_mac(value, mac) && !(mac[0] & 1))
        return 0;
    return errmsg_set(e, "mac = %s: write six hex pairs of a unicast address, e.g. 52:54:00:12:34:56", value);
}

static int set_netbuf(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->plug = strcmp(value, "plug") == 0;
    return s->plug || strcmp(value, "relay") == 0 ? 0 : errmsg_set(e, "netbuf = %s: write relay or plug", value);
}

static int set_qemu(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->qemu = value;
    return *value ? 0 : errmsg_set(e, "qemu = : write the program, e.g. qemu-system-x86_64");
}

static int set_qmp(struct qemu_settings *s, const char *value, struct errmsg *e)
{
    s->qmp = value;
    return *value == '/' ? 0 : errmsg_set(e, "qmp = %s: write the absolute path of a QMP socket", value);
}

static const struct key keys[] = {
    {"memory", set_memory},   {"cpus", set_cpus},     {"machine", set_machine}, {"accel", set_accel},
    {"options", set_options}, {"bridge", set_bridge}, {"mac", set_mac},         {"netbuf", set_netbuf},
    {"qemu", set_qemu},       {"qmp", set_qmp},
};
enum { KEYS = sizeof keys / sizeof keys[0] };

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < KEYS; i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

/* A VM that is only attached to has its shape from the running QEMU; keys that would say otherwise are a mistake. */
static int check_attach_keys(struct json_object *settings, struct errmsg *e)
{
    json_object_object_foreach(settings, name, value)
    {
        (void)value;
        if (strcmp(name, "qmp") != 0 && strcmp(name, "bridge") != 0)
            return errmsg_set(e, "%s: together with qmp (a QEMU that runs already) only bridge may be set; remove %s",
                              name, name);
    }
    return 0;
}

int qemu_settings_read(struct qemu_settings *s, struct json_object *settings, struct errmsg *e)
{
    *s = (struct qemu_settings){.memory = 512 << 20,
                                .cpus = 1,
                                .machine = "pc",
                                .accel = default_accel(),
                                .options = "",
                                .qemu = "qemu-system-x86_64"};
    if (!settings)
        return 0;
    json_object_object_foreach(settings, name, value)
    {
        const struct key *key = find_key(name);
        if (!key)
            return errmsg_set(e,
                              "unknown key %s: backend qemu knows memory, cpus, machine, accel, options, bridge, mac, "
                              "netbuf, qemu, and qmp (to attach)",
                              name);
        if (!json_object_is_type(value, json_type_string))
            return errmsg_set(e, "%s: must be a string", name);
        if (key->set(s, json_object_get_string(value), e) < 0)
            return -1;
    }
    return s->qmp ? check_attach_keys(settings, e) : 0;
}
