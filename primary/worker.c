/*
 * worker: life of one VM's worker process. It finds its VM, feeds what happens to the protection table and carries out
 * the actions that come back. It outlives its supervisor and is restarted by it; the VM outlives both.
 */
#include "primary/worker.h"
#include "common/config_parse.h"
#include "common/file.h"
#include "common/heap.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "disk/client.h"
#include "primary/supervisor.h"
#include "primary/watched.h"
#include "vm/remains.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { LOCK_TRIES = 1000, LOCK_RETRY_US = 2000, TAKEOVER_MS = 2000 };
static const double EXIT_S = 0.05, RESUME_RETRY_S = 1., NETWORK_LOST_S = 0.5;

/* ---- the record on disk ---- */

int worker_save_record(struct worker *w, const char *role)
{
    struct vm_record *r = &w->record, there;
    struct errmsg e;
    int got = vm_record_load(w->config->state_dir, w->name, &there, &e);
    bool others =
        !got && !strcmp(there.role, "standby") && strcmp(there.run_dir, w->run_dir) && w->begin != BEGIN_ADOPT;
    vm_record_clear(&there);
    if (others)
        return 0; /* a replica is held here meanwhile: its record is the one that counts */
    snprintf(r->name, sizeof r->name, "%s", w->name);
    snprintf(r->role, sizeof r->role, "%s", role);
    snprintf(r->peer, sizeof r->peer, "%s", w->peer);
    snprintf(r->run_dir, sizeof r->run_dir, "%s", w->run_dir);
    snprintf(r->reason, sizeof r->reason, "%s", w->reason);
    r->term = w->term;
    if (!vm_record_save(w->config->state_dir, r, &e))
        return 0;
    log_error("the VM's record can't be written: %s", e.text); /* protection goes on; a restart would know less */
    return -1;
}

/* ---- the VM ---- */

bool worker_check_vm(struct worker *w)
{
    enum vm_state s = w->vm ? w->ops->state(w->vm) : VM_RUNNING;
    if (s == VM_SHUT_DOWN)
        worker_event(w, EVENT_VM_SHUT_DOWN, "the guest has shut down");
    else if (s == VM_GONE)
        worker_event(w, EVENT_VM_GONE, "the VM's process died");
    return s == VM_SHUT_DOWN || s == VM_GONE;
}

bool worker_is_outgrown(struct worker *w)
{
    struct vm_info now;
    w->ops->info(w->vm, &now);
    bool same = now.pages == w->info.pages && now.nic_count == w->info.nic_count;
    for (unsigned i = 0; same && i < now.nic_count; i++)
        same = !strcmp(now.nics[i].ifname, w->info.nics[i].ifname) && !memcmp(now.nics[i].mac, w->info.nics[i].mac, 6);
    if (same)
        return false;
    log_info("the VM has other memory or network interfaces than when it was found: starting anew");
    w->exit_code = WORKER_REPLACE_ME;
    ev_break(w->loop, EVBREAK_ALL);
    return true;
}

static void on_vm_event(struct ev_loop *loop, ev_io *io, int events)
{
    (void)events;
    if (worker_check_vm(io->data))
        ev_io_stop(loop, io);
}

/* A process that is killed closes its sockets before it is gone: that is looked at a moment later. */
static void on_network_lost(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    struct worker *w = t->data;
    if (!w->vm || worker_check_vm(w))
        return;
    log_error("the VM lives, but its network is lost: starting anew");
    if (upgrade_make_way(w, "a network interface of the VM is gone"))
        return;       /* simply ending would be a death to the secondary, which might take over */
    w->exit_code = 1; /* the successor connects it again */
    ev_break(loop, EVBREAK_ALL);
}

/* A directory that no other incarnation of a VM of this name uses. */
static int make_run_dir(struct worker *w, struct errmsg *e)
{
    snprintf(w->run_dir, sizeof w->run_dir, "%s/vms/%s.%d", w->config->run_dir, w->name, (int)getpid());
    return dir_make(w->run_dir, 0700, e);
}

static void watch_vm(struct worker *w)
{
    w->record.boot[0] = 0; /* it lives now */
    w->ops->info(w->vm, &w->info);
    ev_io_init(&w->vm_event, on_vm_event, w->ops->event_fd(w->vm), EV_READ);
    w->vm_event.data = w;
    ev_io_start(w->loop, &w->vm_event);
}

/* What is kept of this VM's memory on this host, or would be. NULL: the admin wants nothing kept. */
static const char *remains_of(const struct worker *w, char path[REMAINS_PATH_MAX])
{
    remains_path(path, w->config->run_dir, w->name);
    return w->config->keep_memory_ms ? path : NULL;
}

static void on_waits(void *arg)
{
    struct worker *w = arg;
    session_keep_alive(w);
    if (w->disks.client) /* the guest may have to wait for its flush before it can suspend itself */
        disk_set_urgent(w->disks.client);
}

static void on_stopped(void *arg)
{
    struct worker *w = arg;
    if (!w->disks.client)
        return;
    if (w->ops->drains_disks)
        disk_set_stopped(w->disks.client);
    else /* the host's kernel goes on, and may act upon what is answered: a write behind a barrier */
        disk_set_urgent(w->disks.client);
}

/* Not later: what is flushed from here on is the guest's, and not answered before it is done. */
static void on_goes_on(void *arg)
{
    struct worker *w = arg;
    if (w->disks.client)
        disk_set_pausing(w->disks.client, false);
}

static struct vm_told of_pauses(struct worker *w)
{
    return (struct vm_told){.waits = on_waits, .stopped = on_stopped, .goes_on = on_goes_on, .arg = w};
}

/* Takes the VM that the record says runs here; it is resumed in any case: what our predecessor left paused must not
 * stay so. */
static int find_vm(struct worker *w, struct errmsg *e)
{
    struct vm_spec spec = {
        .name = w->name, .run_dir = w->run_dir, .settings = w->record.settings, .told = of_pauses(w)};
    struct errmsg of_disks, second;
    int disks = disks_find(w, &of_disks);
    if (shared_are_lost(w)) /* its hypervisor may wait for them, and answer nobody */
        return errmsg_set(e,
                          "the VM can't go on: its disk server has ended with writes to shared disks that were not let "
                          "out yet");
    spec.disks = disks ? NULL : w->disks.at;
    spec.disk_count = disks ? 0 : w->disks.n;
    if (w->ops->attach(&spec, &w->vm, e))
        return -1;
    watch_vm(w);
    if (disks)
        *e = of_disks;
    int result = disks || network_open(w, e) ? -1 : 0;
    if (w->ops->resume(w->vm, result ? &second : e))
        return -1;
    if (w->begin != BEGIN_ADOPT)
        disks_tell_sizes(w);
    return result;
}

static void discard_remains(const struct worker *w)
{
    char path[REMAINS_PATH_MAX];
    remains_path(path, w->config->run_dir, w->name);
    remains_discard(path);
}

static int begin_vm(struct worker *w, struct errmsg *e)
{
    struct json_object *settings = w->settings->settings;
    struct vm_spec spec = {.name = w->name, .run_dir = w->run_dir, .settings = settings, .told = of_pauses(w)};
    if (make_run_dir(w, e))
        return -1;
    /* First: should this process die in between, its successor finds the VM, and does not start a second one. */
    if (w->cold_boot && worker_save_record(w, "running"))
        return errmsg_set(e, "the VM's record can't be written, so it is not started");
    discard_remains(w);
    bool runs = w->ops->is_foreign(settings);
    if (runs ? disks_find(w, e) : disks_start(w, e))
        return -1;
    spec.disks = w->disks.at;
    spec.disk_count = w->disks.n;
    if (runs ? w->ops->attach(&spec, &w->vm, e) : w->ops->launch(&spec, &w->vm, e))
        return -1;
    watch_vm(w);
    return network_open(w, e);
}

static void remove_run_dir(struct worker *w)
{
    if (*w->run_dir && rmdir(w->run_dir) && errno != ENOENT)
        log_debug("%s: %s", w->run_dir, strerror(errno));
}

/* A VM that runs elsewhere now, or may be taken over there, may be wanted here as a replica soon. One that was stopped
 * may not. */
static bool is_worth_keeping(struct worker *w)
{
    return w->state == PROTECTION_LOST || (*w->peer && w->vm && w->ops->state(w->vm) == VM_GONE);
}

static void destroy_vm(struct worker *w)
{
    char path[REMAINS_PATH_MAX];
    const char *remains = is_worth_keeping(w) ? remains_of(w, path) : NULL;
    network_seal(w);
    network_close(w);
    if (shared_are_lost(w))
        disks_cut(w);
    if (w->vm) {
        ev_io_stop(w->loop, &w->vm_event);
        w->ops->retire(w->vm, remains);
        w->vm = NULL;
    } else if (w->ops && *w->run_dir) { /* its process is gone, its files may not be */
        struct vm_spec spec = {
            .name = w->name, .run_dir = w->run_dir, .settings = w->record.settings, .remains = remains};
        struct errmsg e;
        if (w->ops->clear(&spec, &e) < 0)
            log_warn("%s", e.text);
    }
    disks_end(w);
    if (!remains)
        discard_remains(w);
    else if (remains_exist(remains))
        log_info("the memory is kept for %u s: a replica of this VM would begin with it",
                 w->config->keep_memory_ms / 1000);
    remove_run_dir(w);
}

/* ---- the end ---- */

void worker_answer(struct worker *w, const char *error)
{
    if (!w->reply_to)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "reply", json_object_new_int(w->reply_to));
    json_object_object_add(j, "ok", json_object_new_boolean(!error));
    if (error)
        json_object_object_add(j, "error", json_object_new_string(error));
    if (w->supervisor)
        control_send(w->supervisor, j);
    json_object_put(j);
    w->reply_to = 0;
}

static void on_exit_timer(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)t, (void)events;
    ev_break(loop, EVBREAK_ALL);
}

/* Ends the worker a moment later, so that the supervisor gets to know why. */
static void finish(struct worker *w, int exit_code)
{
    w->exit_code = exit_code;
    report_now(w);
    ev_timer_start(w->loop, &w->exit);
}

static void give_up(struct worker *w, const char *what)
{
    log_error("%s", what);
    snprintf(w->reason, sizeof w->reason, "%s", what);
    worker_answer(w, what);
    bool ran_before = w->record_runs || w->begin == BEGIN_ADOPT;
    if (w->begin == BEGIN_ADOPT && w->record_runs)
        worker_save_record(w, "running"); /* so that it is tried again */
    if (w->vm && (!ran_before || w->cold_boot) && !w->ops->is_foreign(w->settings->settings))
        destroy_vm(w); /* launched a moment ago, it never had any output */
    w->state = PROTECTION_ENDED;
    finish(w, ran_before ? 1 : 2); /* 1: the supervisor tries again */
}

/* ---- who holds the replica ---- */

/* The wanted host first, then the spares. */
static void set_candidates(struct worker *w, const char *peer)
{
    struct json_object *spares = w->record.spares;
    candidates_clear(&w->candidates);
    bool wanted = candidates_add(&w->candidates, peer);
    for (size_t i = 0; wanted && spares && i < json_object_array_length(spares); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(spares, i));
        if (name && strcmp(name, w->config->name))
            candidates_add(&w->candidates, name);
    }
    snprintf(w->peer, sizeof w->peer, "%s", candidates_now(&w->candidates));
}

void worker_peer_failed(struct worker *w)
{
    if (disks_output_waits(w)) /* it is not its fault */
        return;
    if (!candidates_failed(&w->candidates, clock_now(), w->config->spare_after_ms * INT64_C(1000000)))
        return;
    log_warn("%s is away: it is %s's turn to hold the replica", w->peer, candidates_now(&w->candidates));
    snprintf(w->peer, sizeof w->peer, "%s", candidates_now(&w->candidates));
}

/* ---- actions ---- */

/* Whatever went wrong in a checkpoint: a VM that is ours runs (promise 4). */
static void resume_vm(struct worker *w)
{
    struct errmsg e;
    if (!w->vm || !w->ops->resume(w->vm, &e) || worker_check_vm(w))
        return;
    log_error("the VM can't be resumed: %s; trying again", e.text);
    snprintf(w->reason, sizeof w->reason, "the VM stands still and can't be resumed: %.200s", e.text);
    ev_timer_start(w->loop, &w->resume_retry);
}

static void on_resume_retry(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    w->reason[0] = 0;
    resume_vm(w);
}

static void open_gate(struct worker *w)
{
    struct errmsg e;
    if (!w->vm && begin_vm(w, &e)) {
        give_up(w, e.text);
        return;
    }
    disks_free_output(w);
    resume_vm(w);
    worker_save_record(w, "running");
    worker_answer(w, NULL);
    if (*w->peer && !w->upgrading)
        worker_event(w, EVENT_WANT, "%s", w->reason);
}

static void close_gate(struct worker *w)
{
    network_hold(w);
}

static void end_vm(struct worker *w)
{
    destroy_vm(w);
    w->run_dir[0] = 0;
    worker_answer(w, w->reason);
    worker_save_record(w, move_is_done(w) ? "moved" : w->state == PROTECTION_LOST ? "lost" : "stopped");
    finish(w, 0);
}

static void act(struct worker *w, unsigned actions)
{
    if (actions & ACTION_CLAIM)
        ownership_claim(w);
    if (actions & ACTION_CLAIM_LATER)
        ownership_claim_later(w);
    if (actions & ACTION_CONNECT)
        session_connect(w);
    if (actions & ACTION_CONNECT_LATER)
        session_connect_later(w);
    if (actions & ACTION_SYNC)
        checkpoint_sync(w);
    if (actions & ACTION_STOP_SYNC)
        checkpoint_stop(w);
    if (actions & ACTION_RESUME)
        resume_vm(w);
    if (actions & ACTION_BYE_UNPROTECT)
        session_bye(w, BYE_UNPROTECT, "the VM is no longer protected by this host");
    if (actions & ACTION_BYE_STOPPED)
        shared_settle(w);
    if (actions & ACTION_BYE_STOPPED)
        session_bye(w, BYE_VM_STOPPED, w->reason);
    if (actions & ACTION_BYE_CRASHED)
        shared_cut(w);
    if (actions & ACTION_BYE_CRASHED)
        session_bye(w, BYE_VM_CRASHED, w->reason);
    if (actions & ACTION_HANG_UP)
        session_close(w);
    if (actions & ACTION_OPEN_GATE)
        open_gate(w);
    if (actions & ACTION_CLOSE_GATE)
        close_gate(w);
    if (actions & ACTION_DESTROY)
        end_vm(w);
}

static bool is_trouble(enum protection_event event)
{
    return event == EVENT_REFUSED || event == EVENT_LINK_DOWN || event == EVENT_TAKEN_OVER || event == EVENT_VM_GONE ||
           event == EVENT_VM_STUCK;
}

static void log_event(struct worker *w, enum protection_state before, enum protection_event event, const char *reason)
{
    if (w->state != before) {
        void (*log)(const char *format, ...) = is_trouble(event) ? log_warn : log_info;
        log("%s -> %s (%s%s%s)", protection_state_name(before), protection_state_name(w->state),
            protection_event_name(event), *reason ? ": " : "", reason);
        repeated_forget(&w->repeated);
        return;
    }
    unsigned times = *reason ? repeated_heard(&w->repeated, reason, clock_now()) : 0;
    if (times == 1)
        log_warn("%s", reason);
    else if (times)
        log_warn("still: %s (%u tries)", reason, times);
}

/* The reason is that of the state it stands beside (promise 5): none is carried along to the next one. But what the
 * arbiter settles is the consequence of what it was asked for, and not of its having been silent meanwhile. */
static void note_reason(struct worker *w, enum protection_state before, enum protection_event event, const char *reason)
{
    bool moved = w->state != before;
    if (moved && event == EVENT_GRANTED)
        reason = w->cause;
    else if (moved && event != EVENT_UNANSWERED)
        snprintf(w->cause, sizeof w->cause, "%s", reason);
    if (moved || *reason)
        snprintf(w->reason, sizeof w->reason, "%s", reason);
}

void worker_event(struct worker *w, enum protection_event event, const char *reason_format, ...)
{
    enum protection_state before = w->state;
    char reason[sizeof w->reason];
    va_list args;
    va_start(args, reason_format);
    vsnprintf(reason, sizeof reason, reason_format, args);
    va_end(args);
    unsigned actions = protection_step(&w->state, event);
    if (w->state != before || actions) {
        log_event(w, before, event, reason);
        note_reason(w, before, event, reason);
    }
    if (w->state == PROTECTION_LOST)
        move_follow(w, event); /* what is told of the loss depends on it */
    act(w, actions);
    move_follow(w, event);
    if (w->state == PROTECTION_PROTECTED && before != w->state) {
        candidates_succeeded(&w->candidates);
        worker_save_record(w, "running"); /* by whom: it may be a spare */
    }
    if (w->state != before)
        report_now(w);
    upgrade_proceed(w);
}

/* ---- requests ---- */

static void set(struct worker *w, struct json_object *request)
{
    const char *mode = json_get_text(request, "mode", NULL);
    if (mode)
        w->record.mode = strcmp(mode, "periodic") ? TRIGGER_ON_OUTPUT : TRIGGER_PERIODIC;
    w->record.interval_ms = (unsigned)json_get_u64(request, "interval_ms", w->record.interval_ms);
    config_parse_isolated(json_get_text(request, "isolated", config_isolated_name(w->record.isolated)),
                          &w->record.isolated);
    if (json_get(request, "disk_sync_rate"))
        disks_set_sync_rate(w, json_get_u64(request, "disk_sync_rate", 0));
    checkpoint_configure(w);
    worker_save_record(w, "running");
}

static const char *check_set(const struct worker *w, struct json_object *request)
{
    const char *mode = json_get_text(request, "mode", "periodic");
    uint64_t interval = json_get_u64(request, "interval_ms", 1);
    enum isolated_policy isolated;
    if (strcmp(mode, "periodic") && strcmp(mode, "on-output"))
        return "mode is periodic or on-output";
    if (config_parse_isolated(json_get_text(request, "isolated", "freeze"), &isolated))
        return "isolated is freeze or open";
    if (isolated == ISOLATED_OPEN && w->disks.shared.disks)
        return "the VM has a shared disk, which two hosts might write to if isolated were open: it stays freeze";
    return interval < 1 || interval > 10000 ? "interval is 1 to 10000 ms" : NULL;
}

/* A peer may have been added since this worker started. */
static const struct config_peer *find_peer(struct worker *w, const char *name)
{
    struct errmsg e;
    if (config_peer_by_name(w->config, name))
        return config_peer_by_name(w->config, name);
    struct config *now = config_load(w->config->path, &e);
    if (!now) {
        log_warn("the configuration can't be read again: %s", e.text);
        return NULL;
    }
    config_free(w->config);
    *w->config_owner = w->config = now;
    w->settings = config_vm(now, w->name);
    return config_peer_by_name(now, name);
}

void worker_want_peer(struct worker *w, const char *peer, const char *why)
{
    candidates_clear(&w->candidates);
    candidates_add(&w->candidates, peer);
    snprintf(w->peer, sizeof w->peer, "%s", peer);
    worker_event(w, *peer ? EVENT_WANT : EVENT_UNWANT, "%s", why);
}

static const char *migrate(struct worker *w, struct json_object *request)
{
    const char *to = json_get_text(request, "to", "");
    return find_peer(w, to) ? move_migrate(w, to)
                            : "no such [peer] in this host's configuration: add it with `hikae peer add`";
}

static const char *protect(struct worker *w, struct json_object *request)
{
    const char *to = json_get_text(request, "to", "");
    struct json_object *spares = json_get_array(request, "spares");
    if (!find_peer(w, to))
        return "no such [peer] in this host's configuration: add it with `hikae peer add`";
    if (*w->peer && strcmp(w->peer, to))
        return "the VM is protected by another host: `hikae unprotect` it first";
    if (spares) {
        json_object_put(w->record.spares);
        w->record.spares = json_object_get(spares);
    }
    set_candidates(w, to);
    if (w->state == PROTECTION_OPEN)
        worker_event(w, EVENT_WANT, "%s", "");
    else if (w->state == PROTECTION_CONNECTING)
        session_hurry(w);
    worker_save_record(w, "running");
    return NULL;
}

static const char *unprotect(struct worker *w)
{
    if (move_forbids(w))
        return move_forbids(w);
    set_candidates(w, "");
    worker_event(w, EVENT_UNWANT, "by the admin");
    worker_save_record(w, "running");
    return NULL;
}

static const char *verify(struct worker *w, bool of_memory, struct json_object *request)
{
    if (!json_get_bool(request, "abort", false))
        return verify_begin(w, of_memory, json_get_bool(request, "repair", false));
    verify_abort(w, "aborted by the admin");
    return NULL;
}

static void on_request(struct control_conn *c, struct json_object *request, void *arg)
{
    struct worker *w = arg;
    const char *command = json_get_text(request, "cmd", ""), *error = NULL;
    int id = (int)json_get_u64(request, "id", 0);
    (void)c;
    if (w->state == PROTECTION_LOST || w->state == PROTECTION_ENDED) {
        w->reply_to = id;
        worker_answer(w, w->reason); /* this process is on its way out */
        return;
    }
    if (!strcmp(command, "start")) {
        w->reply_to = id;
        if (w->state != PROTECTION_CLAIMING && w->state != PROTECTION_STOPPING)
            worker_answer(w, NULL);
        return;
    }
    if (!strcmp(command, "upgrade") && !(error = upgrade_begin(w, id)))
        return; /* it is answered when it is known whether it can be done */
    if (!strcmp(command, "protect"))
        error = protect(w, request);
    else if (!strcmp(command, "unprotect"))
        error = unprotect(w);
    else if (!strcmp(command, "switchover"))
        error = move_switchover(w);
    else if (!strcmp(command, "migrate"))
        error = migrate(w, request);
    else if (!strcmp(command, "abort"))
        error = move_abort(w);
    else if (!strcmp(command, "verify-disk") || !strcmp(command, "verify-memory"))
        error = verify(w, !strcmp(command, "verify-memory"), request);
    else if (!strcmp(command, "grow"))
        error = disks_grow(w);
    else if (!strcmp(command, "stop"))
        worker_event(w, EVENT_VM_SHUT_DOWN, "by the admin");
    else if (!strcmp(command, "set") && !(error = check_set(w, request)))
        set(w, request);
    w->reply_to = id;
    report_now(w); /* first: who asks for the status after the answer sees what he ordered */
    worker_answer(w, error);
}

/* ---- the supervisor ---- */

static void on_supervisor_closed(struct control_conn *c, void *arg)
{
    (void)c;
    struct worker *w = arg;
    w->supervisor = NULL;
    ev_timer_again(w->loop, &w->supervisor_retry);
}

static void register_at_supervisor(struct ev_loop *loop, ev_timer *t, int events)
{
    static const struct control_handlers handlers = {.message = on_request, .closed = on_supervisor_closed};
    (void)events;
    struct worker *w = t->data;
    struct errmsg e;
    char path[300];
    snprintf(path, sizeof path, "%s/primary.sock", w->config->run_dir);
    w->supervisor = control_connect(loop, path, &handlers, w, &e);
    if (!w->supervisor) {
        ev_timer_again(loop, t); /* it will come back: workers outlive it */
        return;
    }
    ev_timer_stop(loop, t);
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "register", json_object_new_string(w->name));
    json_object_object_add(j, "pid", json_object_new_int((int)getpid()));
    control_send(w->supervisor, j);
    json_object_put(j);
    report_now(w);
}

/* ---- life ---- */

/* One worker per VM and host, whoever started it. The descriptor is kept until the process ends. */
static int lock_vm(const struct worker *w, struct errmsg *e)
{
    char path[400];
    snprintf(path, sizeof path, "%s/vms", w->config->run_dir);
    if (dir_make(path, 0700, e))
        return -1;
    snprintf(path, sizeof path, "%s/vms/%s.lock", w->config->run_dir, w->name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    /* A worker that lost this VM a moment ago may still be on its way out. */
    for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB); tries++) {
        if (w->begin == BEGIN_ADOPT && tries < LOCK_TRIES) {
            usleep(LOCK_RETRY_US);
            continue;
        }
        return errmsg_set(e, "another worker runs for this VM (%s is locked)", path);
    }
    return 0;
}

static int load_record(struct worker *w, struct errmsg *e)
{
    int got = vm_record_load(w->config->state_dir, w->name, &w->record, e);
    if (got < 0) {
        w->record_runs = true; /* perhaps: it is tried again */
        return -1;
    }
    if (!got && !strcmp(w->record.role, "standby") && w->begin != BEGIN_ADOPT)
        return errmsg_set(e, "this host holds a replica of the VM for %s: to run it here, `hikae failover %s`",
                          w->record.peer, w->name);
    w->term_seen = w->record.term;
    w->record_runs = !got && (!strcmp(w->record.role, "running") || w->begin == BEGIN_ADOPT);
    w->may_run_elsewhere = !got && !w->record_runs && (!strcmp(w->record.role, "lost") || *w->record.peer);
    if (!w->record_runs) {
        vm_record_clear(&w->record);
        w->record.mode = w->settings->mode;
        w->record.interval_ms = w->settings->interval_ms;
        w->record.isolated = w->settings->isolated;
        w->record.open_after_ms = w->settings->open_after_ms;
        w->record.disk_sync_rate = UINT64_MAX;
        snprintf(w->record.backend, sizeof w->record.backend, "%s", w->settings->backend);
        w->record.settings = json_object_get(w->settings->settings);
        w->record.spares = config_words(w->settings->spares);
        return 0;
    }
    w->term = w->record.term;
    set_candidates(w, w->record.peer); /* of a VM that was taken over: the host it came from, once that is back */
    snprintf(w->run_dir, sizeof w->run_dir, "%s", w->record.run_dir);
    return 0;
}

/* The term was claimed by the secondary agent's worker, which this process was before: the VM is ours. */
static int adopt(struct worker *w, struct errmsg *e)
{
    const char *term = getenv("HIKAE_TERM"), *timeline = getenv("HIKAE_TIMELINE"), *origin = getenv("HIKAE_ORIGIN");
    w->term = term ? strtoull(term, NULL, 10) : 0;
    if (!w->term)
        return errmsg_set(e, "--adopt is for the secondary agent only");
    w->timeline = timeline ? json_parse_object(timeline, strlen(timeline)) : NULL;
    w->ownership.register_read = true;
    network_adopt(w);
    if (find_vm(w, e))
        return -1;
    if (!json_get(w->timeline, "running"))
        report_mark(w, "running");
    discard_remains(w);
    snprintf(w->origin, sizeof w->origin, "%s", origin ? origin : "taken over");
    w->state = PROTECTION_OPEN;
    open_gate(w);
    network_announce(w);
    report_mark(w, "announced");
    return 0;
}

/* This host was started again since the VM ran here. If nobody has taken it over it is started anew, but not before a
 * replica has had the time to notice: its memory is worth more. */
static void prepare_cold_boot(struct worker *w)
{
    remove_run_dir(w);
    w->run_dir[0] = 0;
    w->cold_boot = true;
    if (*w->peer)
        ownership_wait(w, 2 * w->config->detect_ms + w->config->restart_grace_ms + TAKEOVER_MS);
    if (!config_vm_is_defined(w->config, w->name)) {
        worker_event(w, EVENT_VM_SHUT_DOWN, "this host was rebooted and has no section [vm %s] to start the VM by",
                     w->name);
        return;
    }
    json_object_put(w->record.settings);
    w->record.settings = json_object_get(w->settings->settings);
    log_warn("this host was rebooted: the VM is started anew if nobody has taken it over");
}

static int begin(struct worker *w, struct errmsg *e)
{
    if (w->begin == BEGIN_ADOPT)
        return adopt(w, e);
    ownership_claim(w); /* first: the secondary may be about to claim as well */
    if (!*w->run_dir)
        return 0; /* it is begun when the claim is granted */
    if (!find_vm(w, e))
        return 0;
    struct errmsg second;
    char path[REMAINS_PATH_MAX];
    struct vm_spec spec = {.name = w->name, .run_dir = w->run_dir, .settings = w->record.settings};
    spec.remains = *w->peer ? remains_of(w, path) : NULL; /* it may have been taken over */
    spec.doomed = shared_are_lost(w);
    if (spec.doomed)
        disks_cut(w);
    bool foreign = w->ops->is_foreign(w->record.settings), rebooted = vm_record_is_of_other_boot(&w->record);
    if (w->vm || (w->ops->clear(&spec, &second) && !(foreign && rebooted)))
        return -1; /* it is there but can't be taken: it is tried again */
    disks_end(w);  /* nobody's now, but who starts the VM anew, or a replica, needs the stores */
    if (rebooted && !foreign) {
        prepare_cold_boot(w);
        return 0;
    }
    /* It died without an agent to tell the replica so, or its host did: who starts it again is not us. No claim: that
     * would fence the replica, which may take over. */
    log_warn("%s", e->text);
    snprintf(w->reason, sizeof w->reason, "its process is gone");
    w->ownership.only_look = true;
    return 0;
}

static void init_timers(struct worker *w)
{
    ev_timer_init(&w->supervisor_retry, register_at_supervisor, 0., 0.2);
    ev_timer_init(&w->exit, on_exit_timer, EXIT_S, 0.);
    ev_timer_init(&w->resume_retry, on_resume_retry, RESUME_RETRY_S, 0.);
    ev_timer_init(&w->network_lost, on_network_lost, NETWORK_LOST_S, 0.);
    w->network_lost.data = w;
    w->supervisor_retry.data = w->exit.data = w->resume_retry.data = w;
}

static int set_up(struct worker *w, struct errmsg *e)
{
    if (lock_vm(w, e))
        return -1;
    if (watched_begin(w->loop, w->config->run_dir, w->name, e))
        log_warn("%s", e->text);
    if (load_record(w, e))
        return -1;
    const struct vm_ops *backend = vm_backend(w->record.backend, e);
    if (!backend)
        return -1;
    w->ops = watched_vm(backend, w->config->fault_stall);
    checkpoint_configure(w);
    return begin(w, e);
}

int worker_main(struct config **config, const struct worker_options *options)
{
    struct worker w = {.config_owner = config,
                       .config = *config,
                       .name = options->vm,
                       .begin = options->begin,
                       .force = options->force};
    struct errmsg e;
    heap_keep();
    w.loop = ev_loop_new(EVFLAG_AUTO);
    w.settings = config_vm(w.config, options->vm);
    init_timers(&w);
    network_init(&w);
    ownership_init(&w);
    session_init(&w);
    report_init(&w);
    move_init(&w);
    disks_init(&w);
    if (checkpoint_init(&w, &e)) {
        log_error("%s", e.text);
        return 1;
    }
    register_at_supervisor(w.loop, &w.supervisor_retry, 0);
    if (set_up(&w, &e))
        give_up(&w, e.text);
    ev_run(w.loop, 0);

    session_close(&w);
    upgrade_end(&w);
    ownership_end(&w);
    checkpoint_end(&w);
    verify_end(&w);
    disks_let_go(&w);
    network_close(&w);
    if (w.vm)
        w.ops->detach(w.vm);
    watched_end(w.loop);
    if (w.supervisor)
        control_close(w.supervisor);
    report_end(&w);
    vm_record_clear(&w.record);
    tls_identity_free(w.session.identity);
    ev_loop_destroy(w.loop);
    return w.exit_code;
}
