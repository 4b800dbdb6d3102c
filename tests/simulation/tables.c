/*
 * tables: prints the two state tables by asking them, row by row. What the documentation and the Promela model say of
 * them is thus what the agents do.
 *   tables --markdown   for docs/failover.md
 *   tables --dot        for graphviz
 *   tables --promela    for tests/model/hikae.pml
 */
#include "primary/protection.h"
#include "secondary/standby.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

struct names {
    const char *const *states, *const *events, *const *actions;
    unsigned state_count, event_count, action_count;
};

struct machine {
    const char *title, *prefix; /* prefix of names in the model */
    struct names names;
    unsigned (*step)(unsigned *state, unsigned event);
};

#define COUNT(array) ((unsigned)(sizeof(array) / sizeof *(array)))

/* In the order of the enumerations. */
static const char *const protection_states[] = {"CLAIMING",  "OPEN",    "CONNECTING", "SYNCING",  "SEALED",
                                                "PROTECTED", "HANDING", "ISOLATED",   "DISPUTED", "AT_RISK",
                                                "STOPPING",  "LOST",    "ENDED"};
static const char *const protection_events[] = {"GRANTED",   "REFUSED",    "NO_ANSWER",    "UNANSWERED",   "WANT",
                                                "UNWANT",    "READY",      "LINK_DOWN",    "CHECKPOINTED", "ACKED",
                                                "HAND_OVER", "TAKEN_OVER", "VM_SHUT_DOWN", "VM_GONE",      "VM_STUCK"};
static const char *const protection_actions[] = {
    "CLAIM",         "CLAIM_LATER", "CONNECT",     "CONNECT_LATER", "SYNC",      "STOP_SYNC",  "RESUME",
    "BYE_UNPROTECT", "BYE_STOPPED", "BYE_CRASHED", "HANG_UP",       "OPEN_GATE", "CLOSE_GATE", "DESTROY"};
static const char *const standby_states[] = {"GREETING", "SYNCING",  "READY", "GRACE",  "ORPHANED",
                                             "CLAIMING", "STARTING", "OVER",  "DROPPED"};
static const char *const standby_events[] = {"MADE",    "COMMIT",   "RESET",    "GRACE_OVER", "SILENT", "CRASHED",
                                             "LOST",    "RELEASED", "FAILOVER", "HANDED",     "YIELD",  "TROUBLE",
                                             "DAMAGED", "GRANTED",  "REFUSED",  "NO_ANSWER",  "LOADED"};
static const char *const standby_actions[] = {"SAY_READY", "APPLY", "WAIT",           "CLAIM", "CLAIM_LATER",
                                              "HANG_UP",   "START", "BECOME_PRIMARY", "DROP"};

_Static_assert(COUNT(protection_states) == PROTECTION_STATES, "a state has no name");
_Static_assert(COUNT(protection_events) == PROTECTION_EVENTS, "an event has no name");
_Static_assert(1 << (COUNT(protection_actions) - 1) == ACTION_DESTROY, "an action has no name");
_Static_assert(COUNT(standby_states) == STANDBY_STATES, "a state has no name");
_Static_assert(COUNT(standby_events) == STANDBY_EVENTS, "an event has no name");
_Static_assert(1 << (COUNT(standby_actions) - 1) == STANDBY_ACT_DROP, "an action has no name");

static unsigned step_protection(unsigned *state, unsigned event)
{
    enum protection_state s = *state;
    unsigned actions = protection_step(&s, event);
    *state = s;
    return actions;
}

static unsigned step_standby(unsigned *state, unsigned event)
{
    enum standby_state s = *state;
    unsigned actions = standby_step(&s, event);
    *state = s;
    return actions;
}

static const struct machine machines[] = {
    {"Primary",
     "P",
     {protection_states, protection_events, protection_actions, PROTECTION_STATES, PROTECTION_EVENTS,
      COUNT(protection_actions)},
     step_protection},
    {"Secondary",
     "S",
     {standby_states, standby_events, standby_actions, STANDBY_STATES, STANDBY_EVENTS, COUNT(standby_actions)},
     step_standby},
};

typedef void row_printer(const struct machine *m, unsigned from, unsigned event, unsigned to, unsigned actions);

static void each_row(const struct machine *m, row_printer *print)
{
    for (unsigned from = 0; from < m->names.state_count; from++) {
        for (unsigned event = 0; event < m->names.event_count; event++) {
            unsigned to = from, actions = m->step(&to, event);
            if (to != from || actions)
                print(m, from, event, to, actions);
        }
    }
}

static void print_lower(const char *name)
{
    for (; *name; name++)
        putchar(*name == '_' ? ' ' : tolower((unsigned char)*name));
}

static void print_actions(const struct machine *m, unsigned actions)
{
    const char *comma = "";
    for (unsigned a = 0; a < m->names.action_count; a++) {
        if (!(actions & 1U << a))
            continue;
        fputs(comma, stdout);
        print_lower(m->names.actions[a]);
        comma = ", ";
    }
}

static void markdown_row(const struct machine *m, unsigned from, unsigned event, unsigned to, unsigned actions)
{
    printf("| %s | ", m->names.states[from]);
    print_lower(m->names.events[event]);
    printf(" | %s | ", m->names.states[to]);
    print_actions(m, actions);
    printf(" |\n");
}

static void mermaid_row(const struct machine *m, unsigned from, unsigned event, unsigned to, unsigned actions)
{
    (void)actions;
    if (from == to)
        return;
    printf("    %s --> %s: ", m->names.states[from], m->names.states[to]);
    print_lower(m->names.events[event]);
    printf("\n");
}

static void dot_row(const struct machine *m, unsigned from, unsigned event, unsigned to, unsigned actions)
{
    printf("    %s -> %s [label=\"", m->names.states[from], m->names.states[to]);
    print_lower(m->names.events[event]);
    printf("\\n");
    print_actions(m, actions);
    printf("\"];\n");
}

static void promela_row(const struct machine *m, unsigned from, unsigned event, unsigned to, unsigned actions)
{
    const char *p = m->prefix;
    printf("    :: s == %s_%s && ev == %sE_%s -> s = %s_%s; act = %u\n", p, m->names.states[from], p,
           m->names.events[event], p, m->names.states[to], actions);
}

static void markdown(const struct machine *m)
{
    printf("### %s\n\n```mermaid\nstateDiagram-v2\n", m->title);
    each_row(m, mermaid_row);
    printf("```\n\n| state | event | next | actions |\n|---|---|---|---|\n");
    each_row(m, markdown_row);
    printf("\n");
}

static void dot(const struct machine *m)
{
    printf("digraph %s {\n    rankdir=LR;\n", m->title);
    each_row(m, dot_row);
    printf("}\n");
}

static void promela_names(const char *prefix, const char *const *names, unsigned n, int bits)
{
    for (unsigned i = 0; i < n; i++)
        printf("#define %s_%s %u\n", prefix, names[i], bits ? 1U << i : i);
}

static void promela(const struct machine *m)
{
    char prefix[8];
    promela_names(m->prefix, m->names.states, m->names.state_count, 0);
    snprintf(prefix, sizeof prefix, "%sE", m->prefix);
    promela_names(prefix, m->names.events, m->names.event_count, 0);
    snprintf(prefix, sizeof prefix, "%sA", m->prefix);
    promela_names(prefix, m->names.actions, m->names.action_count, 1);
    printf("inline %s_STEP(s, ev, act) {\n    act = 0;\n    if\n", m->prefix);
    each_row(m, promela_row);
    printf("    :: else -> skip\n    fi\n}\n\n");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *option;
        void (*print)(const struct machine *m);
    } formats[] = {{"--markdown", markdown}, {"--dot", dot}, {"--promela", promela}};
    for (unsigned f = 0; argc == 2 && f < COUNT(formats); f++) {
        if (strcmp(argv[1], formats[f].option))
            continue;
        for (unsigned i = 0; i < COUNT(machines); i++)
            formats[f].print(&machines[i]);
        return 0;
    }
    fprintf(stderr, "usage: tables --markdown | --dot | --promela\n");
    return 2;
}
