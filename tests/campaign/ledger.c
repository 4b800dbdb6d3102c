/* ledger: see ledger.h. What it says for people and programs is in verdict.c. */
#include "tests/campaign/ledger.h"

#include <stdio.h>

/* Frames from two hosts in turn, more often than the arbiter has let the VM change its owner. */
static uint64_t dual(const struct outcome *o)
{
    return o->switches > o->terms ? o->switches - o->terms : 0;
}

/* A busy machine may hold up the rules' removal, or the signal. */
static bool is_overrun(const struct outcome *o)
{
    enum { SHORT_MS = 330 }; /* what is promised to change nothing at a detection time of 500 ms */
    return kind_info(o->event.kind)->moves == MOVES_NOTHING && o->event.hold_ms < SHORT_MS && o->held_ms > SHORT_MS;
}

static void count_moves(struct ledger *l, const struct outcome *o)
{
    const struct kind_info *k = kind_info(o->event.kind);
    bool overrun = is_overrun(o), tolerant = k->moves == MOVES_TOLERATED || overrun;
    unsigned allowed = k->moves <= MOVES_MAY || tolerant ? 1 : 0, moves = (unsigned)o->switches;
    l->dual_active += dual(o);
    l->missed += k->moves == MOVES_MUST && o->settled && !o->moved;
    l->unneeded_failovers += moves > allowed ? moves - allowed : 0;
    l->tolerated_failovers += tolerant && o->moved;
    l->unneeded_claims += k->moves == MOVES_NOTHING && !overrun && o->terms;
    l->overruns += overrun;
    l->failovers += k->moves <= MOVES_MAY && o->moved;
    l->moved[o->event.kind] += o->moved;
}

static void measure(struct ledger *l, const struct outcome *o)
{
    enum notice n = kind_info(o->event.kind)->notice;
    if (o->reprotect_ms >= 0) {
        figures_add(&l->reprotect_ms, o->reprotect_ms);
        figures_add(&l->reprotect_mb, (double)o->wire_bytes / 1e6);
    }
    if (!o->moved)
        figures_add(&l->stay_gap, o->gap_ms);
    if (!o->moved || kind_info(o->event.kind)->moves > MOVES_MAY)
        return;
    figures_add(&l->detected[n], o->survivor.detected - o->at);
    figures_add(&l->running[n], o->survivor.running - o->at);
    figures_add(&l->gap[n], o->gap_ms);
}

void ledger_add(struct ledger *l, const struct outcome *o)
{
    l->events++;
    l->done[o->event.kind]++;
    l->client = o->client;
    l->helped += o->helped;
    l->not_settled += !o->settled;
    l->left_paused += o->silent_vm;
    l->leftovers += (uint64_t)o->leftovers;
    l->overlooked += o->overlooked + (o->moved && !o->switches);
    count_moves(l, o);
    if (o->settled)
        measure(l, o);
}

bool ledger_is_clean(const struct ledger *l)
{
    return !l->dual_active && !l->terms_twice && !l->left_paused && !l->leftovers && !l->overlooked && !l->missed &&
           !l->unneeded_failovers && !l->not_settled && !client_errors(&l->client) && !l->client.violations &&
           !l->client.memory_errors;
}

void ledger_clear(struct ledger *l)
{
    for (int i = 0; i < 3; i++) {
        figures_clear(&l->detected[i]);
        figures_clear(&l->running[i]);
        figures_clear(&l->gap[i]);
    }
    figures_clear(&l->stay_gap);
    figures_clear(&l->reprotect_ms);
    figures_clear(&l->reprotect_mb);
}
