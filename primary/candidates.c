#include "primary/candidates.h"

#include <string.h>

void candidates_clear(struct candidates *c)
{
    *c = (struct candidates){0};
}

bool candidates_add(struct candidates *c, const char *name)
{
    if (!*name || strlen(name) >= CANDIDATE_NAME || c->n == CANDIDATES_MAX)
        return false;
    for (unsigned i = 0; i < c->n; i++)
        if (!strcmp(c->names[i], name))
            return false;
    strcpy(c->names[c->n++], name);
    return true;
}

const char *candidates_now(const struct candidates *c)
{
    return c->n ? c->names[c->at] : "";
}

bool candidates_failed(struct candidates *c, int64_t now, int64_t patience)
{
    if (!c->failing_since)
        c->failing_since = now;
    if (c->n < 2 || now - c->failing_since < patience)
        return false;
    c->at = (c->at + 1) % c->n;
    c->failing_since = 0;
    return true;
}

void candidates_succeeded(struct candidates *c)
{
    c->failing_since = 0;
}
