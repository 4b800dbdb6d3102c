#include "common/errmsg.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int errmsg_set(struct errmsg *e, const char *format, ...)
{
    if (!e)
        return -1;
    /* Not straight into e->text: callers wrap a message by passing e->text as an argument. */
    char text[sizeof(e->text)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    memcpy(e->text, text, strlen(text) + 1);
    return -1;
}
