#include "tests/integration/agents_command.h"

#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static char said[65536];

FILE *hikae_begin(const struct host *h, const char *arguments)
{
    char programs[512], command[1024];
    agents_program_dir(programs, sizeof programs);
    snprintf(command, sizeof command, "%s/hikae --config %s/hikae.conf %s 2>&1; echo \"exit $?\"", programs, h->dir,
             arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    return f;
}

int hikae_end(FILE *f)
{
    said[fread(said, 1, sizeof said - 1, f)] = 0;
    pclose(f); /* the harness may have reaped it: its status is in what it said */
    print_message("%s", said);
    char *end = strstr(said, "exit ");
    assert_non_null(end);
    *end = 0;
    return atoi(end + 5);
}

int hikae(const struct host *h, const char *arguments)
{
    return hikae_end(hikae_begin(h, arguments));
}

const char *hikae_said(void)
{
    return said;
}

void hikae_says(const char *part)
{
    if (!strstr(said, part))
        fail_msg("\"%s\" does not say \"%s\"", said, part);
}
