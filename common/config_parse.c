#include "common/config_parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int config_parse_ms(const char *text, uint64_t *ms)
{
    uint64_t whole = 0, part = 0, part_unit = 1;
    const char *at = text;
    if (!isdigit((unsigned char)*at))
        return -1;
    for (; isdigit((unsigned char)*at); at++) {
        whole = whole * 10 + (uint64_t)(*at - '0');
        if (whole > 1000000000)
            return -1;
    }
    if (*at == '.') {
        if (!isdigit((unsigned char)*++at))
            return -1;
        for (; isdigit((unsigned char)*at) && part_unit < 1000; at++) {
            part = part * 10 + (uint64_t)(*at - '0');
            part_unit *= 10;
        }
    }
    while (*at == ' ')
        at++;
    uint64_t unit = !strcmp(at, "s") ? 1000 : !*at || !strcmp(at, "ms") ? 1 : 0;
    if (!unit || part * unit % part_unit)
        return -1;
    *ms = whole * unit + part * unit / part_unit;
    return 0;
}

int config_parse_size(const char *text, uint64_t *bytes)
{
    if (!isdigit((unsigned char)*text))
        return -1;
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (errno)
        return -1;
    unsigned shift = 0;
    if (*end) {
        const char *units = "KMG", *unit = strchr(units, toupper((unsigned char)*end));
        if (!unit || end[1])
            return -1;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    if (n > UINT64_MAX >> shift)
        return -1;
    *bytes = n << shift;
    return 0;
}

int config_parse_mode(const char *text, enum trigger_mode *mode)
{
    if (!strcmp(text, "periodic"))
        *mode = TRIGGER_PERIODIC;
    else if (!strcmp(text, "on-output"))
        *mode = TRIGGER_ON_OUTPUT;
    else
        return -1;
    return 0;
}

const char *config_mode_name(enum trigger_mode mode)
{
    return mode == TRIGGER_PERIODIC ? "periodic" : "on-output";
}

int config_parse_isolated(const char *text, enum isolated_policy *policy)
{
    if (strcmp(text, "freeze") && strcmp(text, "open"))
        return -1;
    *policy = strcmp(text, "open") ? ISOLATED_FREEZE : ISOLATED_OPEN;
    return 0;
}

const char *config_isolated_name(enum isolated_policy policy)
{
    return policy == ISOLATED_OPEN ? "open" : "freeze";
}

int config_parse_fingerprint(const char *text, char out[65])
{
    unsigned n = 0;
    for (; *text; text++) {
        if (*text == ':' && n && n % 2 == 0 && text[1] && text[1] != ':')
            continue;
        if (!isxdigit((unsigned char)*text) || n == 64)
            return -1;
        out[n++] = (char)tolower((unsigned char)*text);
    }
    out[n] = 0;
    return n == 64 ? 0 : -1;
}

int config_parse_port(const char *text)
{
    size_t n = strlen(text);
    if (!n || n > 5 || strspn(text, "0123456789") != n)
        return -1;
    int port = atoi(text);
    return port >= 1 && port <= 65535 ? 0 : -1;
}

bool config_name_is_valid(const char *name)
{
    size_t n = strlen(name);
    if (n < 1 || n > 63 || *name == '.' || *name == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", name[i]))
            return false;
    return true;
}
