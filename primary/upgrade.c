/*
 * upgrade: this process makes way for one of the program that is installed now. The VM runs on; its network is gone for
 * as long as a restart takes. Simply ending would be a death to the secondary, which might take over: so the protection
 * is ended first, by the arbiter's word, and the record still names the secondary for the successor.
 */
#include "common/log.h"
#include "primary/supervisor.h"
#include "primary/worker.h"

#include <stdio.h>

static bool can_make_way(const struct worker *w)
{
    return w->state == PROTECTION_OPEN || w->state == PROTECTION_CONNECTING || w->state == PROTECTION_SYNCING ||
           w->state == PROTECTION_SEALED || w->state == PROTECTION_PROTECTED;
}

static void make_way(struct worker *w, const char *why)
{
    w->upgrading = true;
    worker_event(w, EVENT_UNWANT, "%s", why);
    upgrade_proceed(w);
}

bool upgrade_make_way(struct worker *w, const char *why)
{
    if (!can_make_way(w) || move_forbids(w))
        return false;
    make_way(w, why);
    return true;
}

/* Not in a state in which output is held: nobody is to wait for an arbiter that is away. */
static void on_answer(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct worker *w = arg;
    char text[256];
    (void)now;
    w->upgrade_question = NULL;
    if (answer == ARBITER_NO_ANSWER) {
        snprintf(text, sizeof text, "the arbiter does not answer (%.160s): without it the VM's output would be held",
                 why);
        worker_answer(w, text);
        return;
    }
    worker_answer(w, NULL);
    log_info("makes way for the installed program");
    make_way(w, "the agent's process makes way for the installed program");
}

const char *upgrade_begin(struct worker *w, int reply_to)
{
    if (move_forbids(w))
        return move_forbids(w);
    if (!can_make_way(w))
        return "not now: `hikae status` says what it is waiting for";
    if (upgrade_is_under_way(w))
        return "it is being replaced already";
    w->upgrade_question = ownership_read(w, on_answer);
    if (!w->upgrade_question)
        return "not now: the arbiter can't be opened";
    w->reply_to = reply_to;
    return NULL;
}

bool upgrade_is_under_way(const struct worker *w)
{
    return w->upgrading || w->upgrade_question;
}

void upgrade_proceed(struct worker *w)
{
    if (!w->upgrading || w->state != PROTECTION_OPEN)
        return;
    w->exit_code = WORKER_REPLACE_ME;
    ev_timer_start(w->loop, &w->exit); /* a moment later: the secondary is being told */
}

void upgrade_end(struct worker *w)
{
    if (w->upgrade_question)
        arbiter_cancel(w->upgrade_question);
    w->upgrade_question = NULL;
}
