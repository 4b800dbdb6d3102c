/* campaign: see campaign.h. */
#include "tests/campaign/campaign.h"

#include "tests/campaign/faults.h"
#include "tests/campaign/procs.h"
#include "tests/campaign/sight.h"
#include "tests/campaign/wire.h"
#include "tools/demo/etcd.h"
#include "tools/demo/run.h"
#include "tools/demo/view.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum {
    POLL_MS = 20,
    UP_MS = 30000,
    GUEST_UP_MS = 120000,
    SETTLE_MS = 60000,
    CALM_MS = 1000,  /* longer than a detection takes */
    HELP_MS = 15000, /* a VM that nobody protects by then is told to be */
    TIDY_MS = 15000
};

/* ---- the beginning ---- */

static int wait_up(struct campaign *c, struct errmsg *e)
{
    struct sight g;
    for (int64_t end = now_ms() + UP_MS; now_ms() < end; sleep_ms(POLL_MS)) {
        sight_take(c->tracker, &c->scene, &g);
        if (g.primary_answers[0] && g.primary_answers[1] && g.secondary_answers[0] && g.secondary_answers[1] &&
            etcd_is_healthy())
            return 0;
    }
    return errmsg_set(e, "agents and arbiter are not up after %d s", UP_MS / 1000);
}

static int wait_reply(struct campaign *c, int timeout_ms, struct errmsg *e)
{
    struct client_report r;
    if (client_report(c->client, &r))
        return errmsg_set(e, "the client's process died");
    uint64_t before = r.replies;
    for (int64_t end = now_ms() + timeout_ms; now_ms() < end; sleep_ms(POLL_MS)) {
        if (client_report(c->client, &r))
            return errmsg_set(e, "the client's process died");
        if (r.replies > before)
            return 0;
    }
    return errmsg_set(e, "the guest does not answer the client after %d s", timeout_ms / 1000);
}

static int protect(const struct campaign *c, int on, struct errmsg *e)
{
    const struct scene *s = &c->scene;
    const char *const words[] = {"protect", "demo", "--to", s->hosts[!on].name, "--no-wait", NULL};
    return host_hikae(&s->hosts[on], s->options, e, words);
}

static int wait_settled(struct campaign *c, struct sight *g, struct errmsg *e)
{
    char text[480];
    for (int64_t end = now_ms() + SETTLE_MS; now_ms() < end; sleep_ms(POLL_MS)) {
        sight_take(c->tracker, &c->scene, g);
        int active = sight_settled(g);
        if (active >= 0) {
            c->scene.active = active;
            return 0;
        }
    }
    sight_describe(g, text, sizeof text);
    return errmsg_set(e, "not protected after %d s: %s", SETTLE_MS / 1000, text);
}

int campaign_start(struct campaign *c, struct errmsg *e)
{
    struct scene *s = &c->scene;
    struct sight g;
    for (int i = 0; i < 2; i++)
        if (host_boot(&s->hosts[i], s->options, e))
            return -1;
    if (wait_up(c, e))
        return -1;
    c->ledger.link_rate = wire_rate(s->hosts, e);
    if (c->ledger.link_rate <= 0 ||
        host_hikae(&s->hosts[0], s->options, e, (const char *const[]){"start", "demo", NULL}) ||
        wait_reply(c, GUEST_UP_MS, e) || protect(c, 0, e) || wait_settled(c, &g, e))
        return -1;
    c->term = g.vm[s->active].term;
    view_say("the VM (%u MB) is protected, %s -> %s; seed %" PRIu64, s->options->memory_mb, s->hosts[s->active].name,
             s->hosts[!s->active].name, c->ledger.seed);
    return 0;
}

/* ---- one event ---- */

/* Says `hikae protect` in the place of a VM that should do so by itself. */
static void help(struct campaign *c, struct outcome *o, const struct sight *g)
{
    struct errmsg e;
    for (int i = 0; i < 2 && !o->helped; i++)
        if (g->vm[i].present && !strcmp(g->vm[i].state, "UNPROTECTED") && !protect(c, i, &e))
            o->helped = true;
}

/* Its connection will hardly come back: there is nothing to wait for. */
static bool client_is_wronged(struct campaign *c)
{
    struct client_report r;
    return client_report(c->client, &r) == 0 && (client_errors(&r) || r.violations);
}

/* Until one VM is protected, stays so for longer than a silence is detected in, and its client hears from it. Returns
 * whether it ever was not; *at: since when it is (CLOCK_REALTIME ms). */
static bool settle(struct campaign *c, struct outcome *o, struct sight *g, double *at)
{
    struct errmsg e;
    int64_t begin = now_ms(), since = begin;
    bool was_away = false;
    for (*at = wall_ms(); now_ms() - begin < SETTLE_MS; sleep_ms(POLL_MS)) {
        sight_take(c->tracker, &c->scene, g);
        int active = sight_settled(g);
        if (active < 0) {
            was_away = true;
            since = now_ms();
            *at = wall_ms();
            if (since - begin > HELP_MS)
                help(c, o, g);
        } else if (now_ms() - since > CALM_MS && (client_is_wronged(c) || wait_reply(c, 1000, &e) == 0)) {
            c->scene.active = active;
            o->settled = true;
            return was_away;
        }
    }
    sight_describe(g, o->text, sizeof o->text);
    for (int i = 0; i < 2; i++)
        if (vm_runs(&g->vm[i]) || vm_is_protected(&g->vm[i]))
            o->silent_vm = wait_reply(c, 1000, &e) != 0 && procs_count(&c->scene.hosts[i], ROLE_QEMU) > 0;
    return was_away;
}

static void tidy(struct campaign *c, struct outcome *o)
{
    char text[256];
    for (int64_t end = now_ms() + TIDY_MS; o->settled; sleep_ms(10 * POLL_MS)) {
        o->leftovers = sight_leftovers(&c->scene, text, sizeof text);
        if (!o->leftovers || now_ms() > end)
            break;
    }
    if (o->leftovers)
        snprintf(o->text, sizeof o->text, "left over: %s", text);
}

static void log_begin(const struct campaign *c, const struct event *v)
{
    fprintf(c->log,
            "{\"seed\": %" PRIu64
            ", \"event\": %u, \"kind\": \"%s\", \"on\": \"%s\", \"delay_ms\": %u, \"hold_ms\": %u, "
            "\"amount\": %u}\n",
            c->ledger.seed, v->number, kind_info(v->kind)->name, c->scene.hosts[c->scene.active].name, v->delay_ms,
            v->hold_ms, v->amount);
    fflush(c->log);
}

static void log_end(const struct campaign *c, const struct outcome *o, double ended)
{
    const struct timeline *t = &o->survivor;
    fprintf(c->log,
            "{\"event\": %u, \"began\": %.1f, \"ended\": %.1f, \"held_ms\": %.1f, \"settled\": %s, \"moved\": %s, "
            "\"switches\": %" PRIu64 ", \"terms\": %" PRIu64
            ", \"detected\": %.1f, \"claimed\": %.1f, \"loaded\": %.1f, \"running\": %.1f, "
            "\"gap_ms\": %.1f, \"reprotect_ms\": %.1f, \"wire_bytes\": %" PRIu64 ", \"note\": \"%s\"}\n",
            o->event.number, o->at, ended, o->held_ms, o->settled ? "true" : "false", o->moved ? "true" : "false",
            o->switches, o->terms, t->detected, t->claimed, t->loaded, t->running, o->gap_ms, o->reprotect_ms,
            o->wire_bytes, o->text);
    fflush(c->log);
}

/* What the client, the witness and the survivor say of it. */
static int observe(struct campaign *c, struct outcome *o, const struct sight *g, const struct witness_report *before,
                   struct errmsg *e)
{
    struct witness_report now = witness_report(c->witness);
    const struct vm_status *vm = &g->vm[c->scene.active];
    if (client_report(c->client, &o->client))
        return errmsg_set(e, "the client's process died");
    o->gap_ms = o->client.gap_ms;
    o->switches = now.switches - before->switches;
    o->overlooked = now.overlooked - before->overlooked;
    if (o->settled) {
        o->terms = vm->term - c->term;
        o->survivor = vm->timeline;
        /* A worker counts from its start. One that went on has counted before. */
        bool went_on = !o->moved && vm->wire_bytes >= c->wire_bytes;
        o->wire_bytes = vm->wire_bytes - (went_on ? c->wire_bytes : 0);
        c->term = vm->term;
    }
    return 0;
}

static int play(struct campaign *c, struct outcome *o, struct errmsg *e)
{
    struct scene *s = &c->scene;
    const struct event *v = &o->event;
    int was_active = s->active;
    struct sight g;

    log_begin(c, v);
    struct witness_report before = witness_report(c->witness);
    client_mark(c->client);
    double before_it = wall_ms();
    if (fault_begin(s, v, &o->at, e))
        return -1;
    sleep_ms(v->hold_ms);
    if (fault_end(s, v, was_active, e))
        return -1;
    double ended = wall_ms();
    o->held_ms = ended - before_it;
    double settled;
    bool was_away = settle(c, o, &g, &settled);
    o->moved = o->settled && s->active != was_active;
    tidy(c, o);
    if (observe(c, o, &g, &before, e))
        return -1;
    double both_up = o->moved && o->survivor.running > ended ? o->survivor.running : ended;
    o->reprotect_ms = was_away ? settled - both_up : -1;
    log_end(c, o, ended);
    return 0;
}

/* Something happened between two events, when nothing should. */
static void note_change(struct campaign *c, int was_active, const struct vm_status *vm)
{
    bool moved = c->scene.active != was_active;
    c->ledger.unneeded_failovers += moved;
    c->ledger.unneeded_claims++;
    fprintf(c->log, "{\"between\": true, \"moved\": %s, \"terms\": %" PRIu64 "}\n", moved ? "true" : "false",
            vm->term - c->term);
    view_say("        between two events: the VM %s, term %" PRIu64 " is now %" PRIu64, moved ? "moved" : "stayed",
             c->term, vm->term);
}

/* The moment of the event: the VM is protected, and was since the last one. */
static int wait_for_the_moment(struct campaign *c, const struct event *v, struct errmsg *e)
{
    struct sight g;
    int active = c->scene.active;
    sleep_ms(v->delay_ms);
    if (wait_settled(c, &g, e))
        return -1;
    for (int64_t end = now_ms() + UP_MS; !etcd_is_healthy(); sleep_ms(POLL_MS))
        if (now_ms() > end)
            return errmsg_set(e, "the arbiter's members are not well");
    if (g.vm[c->scene.active].term != c->term)
        note_change(c, active, &g.vm[c->scene.active]);
    c->term = g.vm[c->scene.active].term;
    c->wire_bytes = g.vm[c->scene.active].wire_bytes;
    return 0;
}

static int one(struct campaign *c, struct event v, struct errmsg *e)
{
    struct outcome o = {.event = v, .reprotect_ms = -1};
    char line[1024];
    if (wait_for_the_moment(c, &v, e) || play(c, &o, e))
        return -1;
    ledger_add(&c->ledger, &o);
    ledger_line(&c->ledger, &o, line, sizeof line);
    view_say("%s", line);
    return 0;
}

static int run_listed(struct campaign *c, struct errmsg *e)
{
    unsigned number = 0;
    for (const char *at = c->kinds; *at && ledger_is_clean(&c->ledger);) {
        size_t n = strcspn(at, ",");
        if (one(c, plan_event_of(c->ledger.seed, ++number, kind_by_name(at, n)), e))
            return -1;
        at += n + (at[n] == ',');
    }
    return 0;
}

int campaign_run(struct campaign *c, struct errmsg *e)
{
    unsigned number = 0;
    if (c->kinds)
        return run_listed(c, e);
    while (c->ledger.failovers < c->ledger.wanted && ledger_is_clean(&c->ledger))
        if (one(c, plan_event(c->ledger.seed, ++number), e))
            return -1;
    return 0;
}
