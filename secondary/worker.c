/*
 * worker: life of the process that serves one primary's connection. It begins with an accepted socket and ends in one
 * of three ways: the replica is dropped, the replica was never made, or the process becomes the VM's primary worker.
 */
#include "secondary/worker.h"
#include "common/heap.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "vm/remains.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double EXIT_S = 0.05, SUPERVISOR_RETRY_S = 0.2;

int64_t worker_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- the supervisor ---- */

static void send(struct worker *w, struct json_object *j)
{
    if (w->supervisor)
        control_send(w->supervisor, j);
    json_object_put(j);
}

static void reply(struct worker *w, int id, const char *error)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "reply", json_object_new_int(id));
    json_object_object_add(j, "ok", json_object_new_boolean(!error));
    if (error)
        json_object_object_add(j, "error", json_object_new_string(error));
    send(w, j);
}

static void register_here(struct worker *w)
{
    w->admitted = true;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "register", json_object_new_string(w->vm_name));
    json_object_object_add(j, "pid", json_object_new_int((int)getpid()));
    send(w, j);
    report_now(w);
}

static void on_admission(struct worker *w, struct json_object *message)
{
    bool welcome = json_get_bool(message, "ok", false);
    if (welcome)
        register_here(w);
    session_admitted(w, welcome ? NULL : json_get_text(message, "error", "refused by this host's agent"));
}

static void yield(struct worker *w, int id)
{
    worker_event(w, STANDBY_EVENT_YIELD, "the primary came anew");
    reply(w, id, w->state == STANDBY_DROPPED ? NULL : "this host is taking the VM over just now");
}

static void fail_over(struct worker *w, int id, bool force)
{
    char what[320];
    if (w->state != STANDBY_READY && w->state != STANDBY_GRACE && w->state != STANDBY_ORPHANED) {
        reply(w, id, "there is no committed epoch to start from");
        return;
    }
    if (!force && !config_has_arbiter(w->config)) {
        snprintf(what, sizeof what,
                 "DANGER: there is no arbiter to say whether %s still runs the VM; if it does, the VM runs twice, with "
                 "one address and two histories. Make sure that it is off there, then `hikae failover %s --force`",
                 w->peer->name, w->vm_name);
        reply(w, id, what);
        return;
    }
    if (force && config_has_arbiter(w->config)) {
        reply(w, id, "--force is for arbiter = none; here the arbiter decides: leave it out");
        return;
    }
    w->reply_to = id;
    failover_mark(w, "detected");
    worker_event(w, STANDBY_EVENT_FAILOVER, "failover by the admin");
}

static void on_message(struct control_conn *c, struct json_object *m, void *arg)
{
    struct worker *w = arg;
    const char *command = json_get_text(m, "cmd", "");
    int id = (int)json_get_u64(m, "id", 0);
    (void)c;
    if (json_get(m, "ok")) {
        if (!w->said_hello) /* else it is the answer to something that could not be read */
            on_admission(w, m);
    } else if (!strcmp(command, "report"))
        report_now(w);
    else if (!strcmp(command, "yield"))
        yield(w, id);
    else if (!strcmp(command, "failover"))
        fail_over(w, id, json_get_bool(m, "force", false));
    else if (!strcmp(command, "drop")) {
        worker_event(w, STANDBY_EVENT_RELEASED, "dropped by the admin");
        reply(w, id, w->state == STANDBY_DROPPED ? NULL : "the VM is being taken over");
    } else {
        reply(w, id, "unknown command");
    }
}

static void on_supervisor_closed(struct control_conn *c, void *arg)
{
    (void)c;
    struct worker *w = arg;
    w->supervisor = NULL;
    ev_timer_again(w->loop, &w->supervisor_retry);
}

static void connect_supervisor(struct ev_loop *loop, ev_timer *t, int events)
{
    static const struct control_handlers handlers = {.message = on_message, .closed = on_supervisor_closed};
    (void)events;
    struct worker *w = t->data;
    struct errmsg e;
    char path[300];
    snprintf(path, sizeof path, "%s/secondary.sock", w->config->run_dir);
    w->supervisor = control_connect(loop, path, &handlers, w, &e);
    if (!w->supervisor) {
        ev_timer_again(loop, t);
        return;
    }
    ev_timer_stop(loop, t);
    if (w->admitted)
        register_here(w);
}

/* ---- actions ---- */

static void on_exit_timer(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)t, (void)events;
    ev_break(loop, EVBREAK_ALL);
}

/* The primary may come back for this VM's replica, unless it said that it is done with it. Memory of a replica that was
 * damaged is not trusted. */
static bool is_worth_keeping(enum standby_event event)
{
    return event != STANDBY_EVENT_RELEASED && event != STANDBY_EVENT_DAMAGED;
}

static void drop(struct worker *w)
{
    struct errmsg e;
    char path[REMAINS_PATH_MAX];
    const char *remains = cleaner_remains(w->config, w->vm_name, path);
    failover_end_fencing(w);
    session_bye(w, BYE_TROUBLE, w->reason);
    network_close(&w->network);
    if (w->vm) {
        ev_io_stop(w->loop, &w->vm_event);
        w->ops->retire(w->vm, w->keep ? remains : NULL);
    }
    w->vm = NULL;
    disks_drop(w);
    if (!w->keep && w->admitted)
        remains_discard(path);
    else if (remains && remains_exist(remains))
        log_info("the memory is kept for %u s: the next replica of this VM begins with it",
                 w->config->keep_memory_ms / 1000);
    if (*w->run_dir)
        rmdir(w->run_dir);
    /* the record of this replica, unless a newer one of the same VM has replaced it */
    struct vm_record r;
    if (*w->record.role && !vm_record_load(w->config->state_dir, w->vm_name, &r, &e)) {
        if (!strcmp(r.run_dir, w->run_dir))
            vm_record_remove(w->config->state_dir, w->vm_name, &e);
        vm_record_clear(&r);
    }
    ev_timer_start(w->loop, &w->exit);
}

static void apply(struct worker *w)
{
    struct errmsg e;
    disks_commit(w); /* before the ACK: whether that may go depends on it */
    session_ack(w);
    if (replica_commit(w->replica, &e)) {
        log_error("%s", e.text);
        worker_event(w, STANDBY_EVENT_DAMAGED, "%s", e.text);
    }
}

static void on_grace_over(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    worker_event(t->data, STANDBY_EVENT_GRACE_OVER, "%s", "");
}

static void wait_grace(struct worker *w)
{
    ev_now_update(w->loop); /* this turn of the loop may have been a long one */
    replica_abort(w->replica);
    disks_abort(w);
    ev_timer_init(&w->grace, on_grace_over, w->config->restart_grace_ms / 1000., 0.);
    w->grace.data = w;
    ev_timer_start(w->loop, &w->grace);
    failover_warm(w);
}

static void become_primary(struct worker *w)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "leave", json_object_new_boolean(1));
    if (w->reply_to)
        reply(w, w->reply_to, NULL);
    send(w, j);
    failover_become_primary(w);
    ev_break(w->loop, EVBREAK_ALL);
}

static void act(struct worker *w, unsigned actions)
{
    if (actions & STANDBY_ACT_SAY_READY)
        session_say_ready(w);
    if (actions & STANDBY_ACT_APPLY)
        apply(w);
    if (actions & STANDBY_ACT_WAIT)
        wait_grace(w);
    if (actions & STANDBY_ACT_CLAIM)
        failover_claim(w);
    if (actions & STANDBY_ACT_CLAIM_LATER) {
        network_close(&w->network); /* what piles up meanwhile is for nobody */
        ev_timer_start(w->loop, &w->claim_retry);
    }
    if (actions & STANDBY_ACT_HANG_UP)
        session_close(w);
    if (actions & STANDBY_ACT_START)
        failover_start(w);
    if (actions & STANDBY_ACT_BECOME_PRIMARY)
        become_primary(w);
    if (actions & STANDBY_ACT_DROP)
        drop(w);
}

/* arbiter = none: what would be a reason to claim is a reason to ask the admin. */
static enum standby_event without_arbiter(struct worker *w, enum standby_event event, char reason[sizeof w->reason])
{
    bool lost = event == STANDBY_EVENT_GRACE_OVER || event == STANDBY_EVENT_SILENT || event == STANDBY_EVENT_CRASHED;
    if (config_has_arbiter(w->config) || !lost || (w->state != STANDBY_READY && w->state != STANDBY_GRACE))
        return event;
    char why[160];
    snprintf(why, sizeof why, "%.150s", *reason ? reason : w->reason);
    snprintf(reason, sizeof w->reason,
             "%s; without an arbiter it is not started: make sure that %s is off, then `hikae failover %s --force`",
             why, w->peer->name, w->vm_name);
    return STANDBY_EVENT_LOST;
}

static bool is_detection(enum standby_event event)
{
    return event == STANDBY_EVENT_RESET || event == STANDBY_EVENT_SILENT || event == STANDBY_EVENT_CRASHED;
}

/* For the timeline of a failover: how old is what we start from, and since when do we know. */
static void note_detection(struct worker *w)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double now_ms = (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
    failover_mark(w, "detected");
    json_object_object_add(w->timeline, "last_commit",
                           json_object_new_double(now_ms - (double)(worker_now() - w->committed_at) / 1e6));
}

void worker_event(struct worker *w, enum standby_event event, const char *reason_format, ...)
{
    enum standby_state before = w->state;
    char reason[sizeof w->reason];
    va_list args;
    va_start(args, reason_format);
    vsnprintf(reason, sizeof reason, reason_format, args);
    va_end(args);
    if (is_detection(event) && before == STANDBY_READY)
        note_detection(w);
    event = without_arbiter(w, event, reason);
    unsigned actions = standby_step(&w->state, event);
    w->keep = is_worth_keeping(event);
    if (*reason && (actions || w->state != before))
        memcpy(w->reason, reason, sizeof w->reason);
    if (w->state != before)
        log_info("%s -> %s (%s%s%s)", standby_state_name(before), standby_state_name(w->state),
                 standby_event_name(event), *reason ? ": " : "", reason);
    act(w, actions);
    if (w->state != before)
        report_now(w);
}

/* ---- life ---- */

static void init_timers(struct worker *w)
{
    ev_timer_init(&w->supervisor_retry, connect_supervisor, 0., SUPERVISOR_RETRY_S);
    ev_timer_init(&w->exit, on_exit_timer, EXIT_S, 0.);
    w->supervisor_retry.data = w->exit.data = w;
}

static void clean_up(struct worker *w)
{
    session_close(w);
    failover_end_fencing(w);
    arbiter_free(w->arbiter);
    if (w->recording)
        fclose(w->recording);
    if (w->vm) {
        ev_io_stop(w->loop, &w->vm_event);
        w->ops->detach(w->vm);
    }
    replica_free(w->replica);
    disks_close(w);
    free(w->acks.at);
    framer_free(w->framer);
    stream_check_free(w->check);
    tls_identity_free(w->identity);
    if (w->supervisor)
        control_close(w->supervisor);
    vm_record_clear(&w->record);
    json_object_put(w->timeline);
    ev_loop_destroy(w->loop);
}

int worker_main(struct config *config, const char *program, int fd)
{
    struct worker w = {.config = config, .program = program, .loop = ev_loop_new(EVFLAG_AUTO)};
    struct errmsg e;
    heap_keep();
    init_timers(&w);
    report_init(&w);
    connect_supervisor(w.loop, &w.supervisor_retry, 0);
    int result = session_begin(&w, fd, &e);
    if (result)
        log_error("%s", e.text);
    else
        ev_run(w.loop, 0);
    clean_up(&w);
    return result ? 2 : 0;
}
