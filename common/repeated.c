#include "common/repeated.h"

#include <stdio.h>
#include <string.h>

unsigned repeated_heard(struct repeated *r, const char *text, int64_t now)
{
    if (!r->times || strncmp(r->text, text, sizeof r->text - 1)) {
        snprintf(r->text, sizeof r->text, "%s", text);
        r->times = 0;
    }
    r->times++;
    if (r->times > 1 && now - r->said_at < REPEATED_EVERY)
        return 0;
    r->said_at = now;
    return r->times;
}

void repeated_forget(struct repeated *r)
{
    *r = (struct repeated){0};
}
