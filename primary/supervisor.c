#include "primary/supervisor.h"
#include "common/config_parse.h"
#include "common/file.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "common/roster.h"
#include "common/state.h"
#include "primary/choice.h"
#include "primary/hosts.h"
#include "primary/watching.h"
#include "vm/remains.h"
#include "vm/vm.h"

#include <ev.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double SETTLE_S = 0.5, RESTART_S = 1.0;
enum { QUICK_RESTARTS = 3 };

struct restart { /* of a worker that keeps dying */
    struct restart *next;
    struct supervisor *supervisor;
    char vm[64];
    unsigned count;
    ev_tstamp last;
    ev_timer timer;
};

struct supervisor {
    struct ev_loop *loop;
    struct config *config;
    const char *program;
    struct control_server *server;
    struct roster *roster;
    struct restart *restarts;
    struct watchdog *watchdog;
    ev_timer settle, expire;
    struct hosts *hosts;
    ev_signal terminate, interrupt;
};

static int spawn(struct supervisor *s, const char *vm, bool force, struct errmsg *e)
{
    char *argv[] = {(char *)s->program,       "--config", s->config->path, "--worker", (char *)vm,
                    force ? "--force" : NULL, NULL};
    return roster_spawn(s->roster, vm, argv, -1, e);
}

/* ---- workers that end ---- */

static bool runs_here(struct supervisor *s, const char *vm)
{
    struct vm_record r;
    struct errmsg e;
    int got = vm_record_load(s->config->state_dir, vm, &r, &e);
    bool runs = got < 0 || (!got && !strcmp(r.role, "running")); /* unreadable: the worker will say why */
    vm_record_clear(&r);
    return runs;
}

static void start_again(struct supervisor *s, const char *vm)
{
    struct errmsg e;
    if (!roster_has(s->roster, vm) && runs_here(s, vm) && spawn(s, vm, false, &e))
        log_error("VM %s: %s", vm, e.text);
}

static void on_restart(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct restart *r = t->data;
    start_again(r->supervisor, r->vm);
}

static struct restart *restart_of(struct supervisor *s, const char *vm)
{
    struct restart *r = s->restarts;
    while (r && strcmp(r->vm, vm))
        r = r->next;
    if (r)
        return r;
    r = calloc(1, sizeof *r);
    if (!r)
        abort();
    *r = (struct restart){.next = s->restarts, .supervisor = s};
    snprintf(r->vm, sizeof r->vm, "%s", vm);
    ev_timer_init(&r->timer, on_restart, RESTART_S, 0.);
    r->timer.data = r;
    s->restarts = r;
    return r;
}

/* A worker that died while it took the VM over, when the record did not say yet that it runs here: what is left is the
 * secondary agent's to judge. */
static void clean_up_after(struct supervisor *s, const char *vm, int pid)
{
    char program[512], run_dir[400];
    struct errmsg e;
    const char *slash = strrchr(s->program, '/');
    snprintf(program, sizeof program, "%.*shikae-secondary", slash ? (int)(slash + 1 - s->program) : 0, s->program);
    snprintf(run_dir, sizeof run_dir, "%s/vms/%s.%d", s->config->run_dir, vm, pid);
    char *argv[] = {program, "--config", s->config->path, "--clean", (char *)vm, run_dir, NULL};
    if (!access(run_dir, F_OK) && roster_spawn(s->roster, "", argv, -1, &e))
        log_error("%s", e.text);
}

/* At once the first times, so that it beats the secondary's grace; then once a second. */
static void on_ended(const char *vm, int pid, int code, struct json_object *last, void *arg)
{
    struct supervisor *s = arg;
    (void)last;
    if (code == 0 || code == 2)
        return;
    if (code == WORKER_REPLACE_ME) {
        start_again(s, vm);
        return;
    }
    if (!runs_here(s, vm)) {
        clean_up_after(s, vm, pid);
        return;
    }
    struct restart *r = restart_of(s, vm);
    ev_tstamp now = ev_time();
    r->count = now - r->last > 10. ? 1 : r->count + 1;
    r->last = now;
    log_warn("the worker of VM %s ended unexpectedly (%s), starting it again", vm, code < 0 ? "killed" : "failed");
    if (r->count <= QUICK_RESTARTS) {
        start_again(s, vm);
        return;
    }
    ev_timer_stop(s->loop, &r->timer);
    ev_timer_set(&r->timer, RESTART_S, 0.);
    ev_timer_start(s->loop, &r->timer);
}

/* Workers that outlived our predecessor have registered by now, unless they are stuck: those are found by their pages,
 * for the watchdog. VMs without one get one. */
static void on_settled(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct supervisor *s = t->data;
    struct errmsg e;
    char **names = vm_record_list(s->config->state_dir, &e);
    for (char **n = names; n && *n; n++) {
        int pid = roster_has(s->roster, *n) ? 0 : watching_find(s->config, *n);
        if (pid)
            roster_adopt(s->roster, *n, pid);
        start_again(s, *n);
    }
    vm_record_names_free(names);
}

/* ---- requests ---- */

/* A VM without a worker: what its record last said. */
static void add_record(struct supervisor *s, struct json_object *all, const char *vm)
{
    struct vm_record r;
    struct errmsg e;
    if (roster_has(s->roster, vm) || vm_record_load(s->config->state_dir, vm, &r, &e))
        return;
    const char *state = !strcmp(r.role, "lost")      ? "LOST"
                        : !strcmp(r.role, "moved")   ? "MOVED"
                        : !strcmp(r.role, "stopped") ? "STOPPED"
                        : !strcmp(r.role, "running") ? "UNKNOWN"
                                                     : NULL;
    const char *reason =
        !strcmp(r.role, "running") ? "it has no agent's worker at the moment; see the agent's log" : r.reason;
    if (state) {
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "vm", json_object_new_string(vm));
        json_object_object_add(j, "state", json_object_new_string(state));
        json_object_object_add(j, "reason", json_object_new_string(reason));
        json_object_object_add(j, "term", json_object_new_uint64(r.term));
        json_object_array_add(all, j);
    }
    vm_record_clear(&r);
}

/* All VMs of this host, as `status` says them. Owned by the caller. */
static struct json_object *statuses(void *arg)
{
    struct supervisor *s = arg;
    struct errmsg e;
    struct json_object *all = json_object_new_array();
    roster_statuses(s->roster, all, false);
    char **names = vm_record_list(s->config->state_dir, &e);
    for (char **n = names; n && *n; n++)
        add_record(s, all, *n);
    vm_record_names_free(names);
    return all;
}

static void fleet(struct supervisor *s, struct control_conn *c)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "ok", json_object_new_boolean(1));
    json_object_object_add(j, "host", json_object_new_string(s->config->name));
    json_object_object_add(j, "trouble", json_object_new_string(hosts_trouble(s->hosts)));
    json_object_object_add(j, "hosts", hosts_list(s->hosts));
    control_send(c, j);
    json_object_put(j);
}

/* Of a VM that runs its pages; else what the configuration says. 0: not known. */
static uint64_t memory_of(struct supervisor *s, const char *vm)
{
    struct json_object *all = statuses(s);
    uint64_t bytes = 0;
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        struct json_object *one = json_object_array_get_idx(all, i);
        if (!strcmp(json_get_text(one, "vm", ""), vm))
            bytes = json_get_u64(one, "pages", 0) * VM_PAGE_SIZE;
    }
    json_object_put(all);
    if (!bytes && config_vm_is_defined(s->config, vm) &&
        config_parse_size(json_get_text(config_vm(s->config, vm)->settings, "memory", "512M"), &bytes))
        bytes = 0;
    return bytes;
}

static void choose(struct supervisor *s, struct control_conn *c, const char *vm)
{
    struct errmsg why;
    struct json_object *hosts = hosts_list(s->hosts);
    uint64_t need = memory_of(s, vm);
    const char *to = need ? choice_make(s->config, hosts, need, &why) : NULL;
    json_object_put(hosts);
    if (!need) {
        roster_refuse(c, "no VM '%s' runs here, and %s has no section [vm %s]", vm, s->config->path, vm);
        return;
    }
    if (!to) {
        roster_refuse(c, "%s", why.text);
        return;
    }
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "ok", json_object_new_boolean(1));
    json_object_object_add(j, "to", json_object_new_string(to));
    json_object_object_add(j, "text", json_object_new_string(why.text));
    control_send(c, j);
    json_object_put(j);
}

static void status(struct control_conn *c, struct json_object *request, void *arg)
{
    struct supervisor *s = arg;
    struct json_object *j = json_object_new_object(), *all = json_object_new_array();
    struct errmsg e;
    roster_statuses(s->roster, all, json_get_bool(request, "hist", false));
    char **names = vm_record_list(s->config->state_dir, &e);
    for (char **n = names; n && *n; n++)
        add_record(s, all, *n);
    vm_record_names_free(names);
    json_object_object_add(j, "ok", json_object_new_boolean(1));
    json_object_object_add(j, "host", json_object_new_string(s->config->name));
    json_object_object_add(j, "vms", all);
    control_send(c, j);
    json_object_put(j);
}

static struct json_object *start_request(const char *vm)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "cmd", json_object_new_string("start"));
    json_object_object_add(j, "vm", json_object_new_string(vm));
    return j;
}

/* start, or protect of a VM that does not run yet */
static int ensure_worker(struct supervisor *s, struct control_conn *c, const char *vm, const char *command, bool force)
{
    struct errmsg e;
    if (roster_has(s->roster, vm))
        return 0;
    if (!config_vm_is_defined(s->config, vm) && !runs_here(s, vm)) {
        roster_refuse(c, "no VM '%s' runs here, and %s has no section [vm %s] to start or find it by", vm,
                      s->config->path, vm);
        return -1;
    }
    if (spawn(s, vm, force, &e)) {
        roster_refuse(c, "%s", e.text);
        return -1;
    }
    if (strcmp(command, "start")) {
        struct json_object *j = start_request(vm);
        roster_forward(s->roster, vm, j, NULL);
        json_object_put(j);
    }
    return 0;
}

static void on_message(struct control_conn *c, struct json_object *m, void *arg)
{
    static const char *const known[] = {"start",   "protect", "unprotect", "set",         "stop",          "switchover",
                                        "migrate", "abort",   "upgrade",   "verify-disk", "verify-memory", "grow"};
    struct supervisor *s = arg;
    if (roster_message(s->roster, c, m))
        return;
    const char *command = json_get_text(m, "cmd", ""), *vm = json_get_text(m, "vm", "");
    if (!strcmp(command, "status")) {
        roster_refresh(s->roster, c, m, status);
        return;
    }
    if (!strcmp(command, "fleet")) {
        fleet(s, c);
        return;
    }
    if (!strcmp(command, "choose") && config_name_is_valid(vm)) {
        choose(s, c, vm);
        return;
    }
    size_t i = 0;
    while (i < sizeof known / sizeof *known && strcmp(command, known[i]))
        i++;
    if (i == sizeof known / sizeof *known) {
        roster_refuse(c, "unknown command '%.40s'", command);
        return;
    }
    if (!config_name_is_valid(vm)) {
        roster_refuse(c, "'%.80s' is no VM name", vm);
        return;
    }
    bool force = json_get_bool(m, "force", false);
    if (force && config_has_arbiter(s->config)) {
        roster_refuse(c, "--force is for arbiter = none; here the arbiter decides: leave it out");
        return;
    }
    if (i < 2 && ensure_worker(s, c, vm, command, force))
        return;
    if (roster_forward(s->roster, vm, m, c))
        roster_refuse(c, "no VM '%s' runs here (see `hikae status`)", vm);
}

static void on_closed(struct control_conn *c, void *arg)
{
    struct supervisor *s = arg;
    roster_closed(s->roster, c);
}

/* ---- life ---- */

/* What was kept of a VM's memory, and no replica has begun with. */
static void on_expire(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    const struct supervisor *s = t->data;
    ev_timer_set(t, remains_expire(s->config->run_dir, s->config->keep_memory_ms), 0.);
    ev_timer_start(loop, t);
}

static void on_signal(struct ev_loop *loop, ev_signal *w, int events)
{
    (void)events;
    log_info("%s: ending; the VMs and their workers run on", strsignal(w->signum));
    ev_break(loop, EVBREAK_ALL);
}

static void watch_signals(struct supervisor *s)
{
    ev_signal_init(&s->terminate, on_signal, SIGTERM);
    ev_signal_init(&s->interrupt, on_signal, SIGINT);
    ev_signal_start(s->loop, &s->terminate);
    ev_signal_start(s->loop, &s->interrupt);
}

static int listen_here(struct supervisor *s, struct errmsg *e)
{
    static const struct control_handlers handlers = {.message = on_message, .closed = on_closed};
    char path[300];
    snprintf(path, sizeof path, "%s/primary.sock", s->config->run_dir);
    if (dir_make(s->config->run_dir, 0700, e) || dir_make(s->config->state_dir, 0700, e))
        return -1;
    s->server = control_listen(s->loop, path, &handlers, s, e);
    return s->server ? 0 : -1;
}

int supervisor_main(struct config *config, const char *program)
{
    static const struct roster_handlers handlers = {.ended = on_ended};
    struct supervisor s = {.loop = ev_loop_new(EVFLAG_AUTO), .config = config, .program = program};
    struct errmsg e;
    if (listen_here(&s, &e)) {
        log_error("%s", e.text);
        ev_loop_destroy(s.loop);
        return 1;
    }
    s.roster = roster_new(s.loop, &handlers, &s);
    s.watchdog = watching_new(s.loop, config, s.roster);
    s.hosts = hosts_new(s.loop, config, statuses, &s);
    watch_signals(&s);
    ev_timer_init(&s.settle, on_settled, SETTLE_S, 0.);
    s.settle.data = &s;
    ev_timer_start(s.loop, &s.settle);
    ev_init(&s.expire, on_expire);
    s.expire.data = &s;
    on_expire(s.loop, &s.expire, 0);
    log_info("ready, host %s", config->name);
    ev_run(s.loop, 0);
    hosts_free(s.hosts);
    watchdog_free(s.watchdog);
    roster_free(s.roster);
    control_server_free(s.server);
    ev_loop_destroy(s.loop);
    for (struct restart *r = s.restarts, *next; r; r = next) {
        next = r->next;
        free(r);
    }
    return 0;
}
