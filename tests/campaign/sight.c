/* sight: see sight.h. */
#include "tests/campaign/sight.h"

#include "tests/campaign/procs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRESH_MS = 1000 };

void sight_take(struct tracker *t, const struct scene *s, struct sight *out)
{
    *out = (struct sight){0};
    for (int i = 0; i < 2; i++) {
        if (s->hosts[i].pid <= 0)
            continue;
        out->primary_answers[i] = tracker_poll(t, &s->hosts[i], false, &out->vm[i]) == 0;
        out->secondary_answers[i] = tracker_poll_replica(t, &s->hosts[i], &out->replica[i]) == 0;
    }
}

static bool has_no_vm(const struct vm_status *s)
{
    return !s->present || !strcmp(s->state, "LOST") || !strcmp(s->state, "STOPPED");
}

int sight_settled(const struct sight *g)
{
    for (int i = 0; i < 2; i++) {
        bool here = g->primary_answers[i] && vm_is_protected(&g->vm[i]) && g->vm[i].report_age_ms < FRESH_MS;
        bool there = g->secondary_answers[!i] && g->replica[!i].present && !strcmp(g->replica[!i].state, "STANDBY");
        if (here && there && g->primary_answers[!i] && has_no_vm(&g->vm[!i]) && !g->replica[i].present)
            return i;
    }
    return -1;
}

int sight_leftovers(const struct scene *s, char *text, size_t size)
{
    int over = 0;
    size_t used = 0;
    *text = '\0';
    for (int i = 0; i < 2; i++) {
        const struct host *h = &s->hosts[i];
        bool has_vm = i == s->active;
        const struct {
            const char *what;
            int is, want;
        } counts[] = {
            {"QEMU", procs_count(h, ROLE_QEMU), 1},
            {"primary workers", procs_count(h, ROLE_PRIMARY_WORKER), has_vm},
            {"secondary workers", procs_count(h, ROLE_SECONDARY_WORKER), !has_vm},
            {"folders of VMs", procs_run_dirs(h), 1},
        };
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            if (counts[k].is == counts[k].want)
                continue;
            over += abs(counts[k].is - counts[k].want);
            if (used < size)
                used += (size_t)snprintf(text + used, size - used, "%s%s: %d %s, want %d", used ? "; " : "", h->name,
                                         counts[k].is, counts[k].what, counts[k].want);
        }
    }
    return over;
}

void sight_describe(const struct sight *g, char *text, size_t size)
{
    const char *state[2], *reason[2], *replica[2];
    for (int i = 0; i < 2; i++) {
        state[i] = g->vm[i].present ? g->vm[i].state : g->primary_answers[i] ? "no VM" : "no answer";
        reason[i] = g->vm[i].present ? g->vm[i].reason : "";
        replica[i] = g->replica[i].present ? g->replica[i].state : g->secondary_answers[i] ? "none" : "no answer";
    }
    snprintf(text, size, "host-a: VM %s %s (replica: %s); host-b: VM %s %s (replica: %s)", state[0], reason[0],
             replica[0], state[1], reason[1], replica[1]);
}
