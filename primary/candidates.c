#include "primary/candidates.h"

#include <limits.h>
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
    if (c->failures < UINT_MAX)
        c->failures++;
    if (c->n < 2 || now - c->failing_since < patience)
        return false;
    c->at = (c->at + 1) % c->n;
    candidates_succeeded(c); /* the next one begins anew */
    return true;
}

unsigned candidates_wait_ms(const struct candidates *c)
{
    unsigned ms = CANDIDATE_QUICK_MS;
    for (unsigned i = CANDIDATE_QUICK_TRIES; i < c->failures && ms < CANDIDATE_SLOW_MS; i++)
        ms *= 2;
    return ms < CANDIDATE_SLOW_MS ? ms : CANDIDATE_SLOW_MS;
}

void candidates_succeeded(struct candidates *c)
{
    c->failing_since = 0;
    c->failures = 0;
}
