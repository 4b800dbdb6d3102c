/* logs: see logs.h. */
#include "tests/campaign/logs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TERM = 1 << 20, AGENTS = 2 };

static const char *const agents[AGENTS] = {"primary", "secondary"};

static void path_of(const struct host *h, const char *agent, char path[256])
{
    snprintf(path, 256, "%s/%s.log", h->dir, agent);
}

/* "the VM is ours, term 4" of a primary, "(granted: term 5)" of a replica; 0: no such line. */
static unsigned long term_in(const char *line)
{
    static const char *const words[] = {"the VM is ours, term ", "(granted: term "};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *at = strstr(line, words[i]);
        if (at)
            return strtoul(at + strlen(words[i]), NULL, 10);
    }
    return 0;
}

static void read_log(const struct host *h, const char *agent, unsigned char *seen, struct log_grants *g)
{
    char path[256], line[1024];
    path_of(h, agent, path);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long term = term_in(line);
        if (!term || term >= MAX_TERM)
            continue;
        g->granted += !seen[term];
        g->twice += seen[term] == 1;
        if (seen[term] < 2)
            seen[term]++;
    }
    if (f)
        fclose(f);
}

void logs_forget(const struct host hosts[2])
{
    char path[256];
    for (int i = 0; i < 2 * AGENTS; i++) {
        path_of(&hosts[i / AGENTS], agents[i % AGENTS], path);
        unlink(path);
    }
}

struct log_grants logs_grants(const struct host hosts[2])
{
    struct log_grants g = {0};
    unsigned char *seen = calloc(MAX_TERM, 1);
    for (int i = 0; seen && i < 2 * AGENTS; i++)
        read_log(&hosts[i / AGENTS], agents[i % AGENTS], seen, &g);
    free(seen);
    return g;
}
