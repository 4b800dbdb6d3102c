#include "secondary/supervisor.h"
#include "common/file.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "common/roster.h"
#include "common/state.h"
#include "common/tcp.h"
#include "secondary/cleaner.h"
#include "secondary/watching.h"
#include "vm/remains.h"

#include <errno.h>
#include <ev.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENERS_MAX = 8, GREETINGS_MAX = 32 };
static const double SETTLE_S = 0.5, REST_S = 0.5;

struct supervisor {
    struct ev_loop *loop;
    struct config *config;
    const char *program;
    struct control_server *server;
    struct roster *roster;
    struct watching watching;
    struct watchdog *watchdog;
    int fds[LISTENERS_MAX];
    ev_io listeners[LISTENERS_MAX];
    int listener_count;
    ev_timer settle, rested, expire;
    ev_signal terminate, interrupt;
};

/* ---- connections ---- */

static void on_rested(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    struct supervisor *s = t->data;
    for (int i = 0; i < s->listener_count; i++)
        ev_io_start(loop, &s->listeners[i]);
}

/* Too much comes in: listens again a moment later. */
static void rest(struct supervisor *s)
{
    for (int i = 0; i < s->listener_count; i++)
        ev_io_stop(s->loop, &s->listeners[i]);
    ev_timer_set(&s->rested, REST_S, 0.);
    ev_timer_start(s->loop, &s->rested);
}

static void on_connection(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct supervisor *s = io->data;
    struct errmsg e;
    int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            rest(s);
        return;
    }
    if (roster_unnamed(s->roster) >= GREETINGS_MAX) {
        close(fd);
        log_warn("a connection is refused: %d others have not said yet who they are", GREETINGS_MAX);
        rest(s);
        return;
    }
    char *argv[] = {(char *)s->program, "--config", s->config->path, "--worker", NULL};
    if (roster_spawn(s->roster, "", argv, fd, &e))
        log_error("%s", e.text);
    close(fd);
}

/* Ends what a worker that is no more has left, in a process of its own. */
static void clean_up_after(struct supervisor *s, const char *vm, const char *run_dir)
{
    struct errmsg e;
    char *argv[] = {(char *)s->program, "--config", s->config->path, "--clean", (char *)vm, (char *)run_dir, NULL};
    if (roster_spawn(s->roster, "", argv, -1, &e))
        log_error("%s", e.text);
}

static void on_ended(const char *vm, int pid, int code, struct json_object *last, void *arg)
{
    struct supervisor *s = arg;
    char run_dir[400];
    if (!*vm || !code)
        return;
    worker_run_dir(run_dir, s->config, vm, pid);
    clean_up_after(s, vm, run_dir);
    log_error("the worker with the replica of %s ended unexpectedly, last seen as %s: it can't take over any more, the "
              "primary goes on alone and will make a new one",
              vm, json_get_text(last, "state", "?"));
}

/* Workers that outlived our predecessor have registered by now. A replica whose worker has not is nobody's. */
static void on_settled(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct supervisor *s = t->data;
    struct errmsg e;
    char **names = vm_record_list(s->config->state_dir, &e);
    for (char **n = names; n && *n; n++) {
        struct vm_record r;
        if (roster_has(s->roster, *n) || vm_record_load(s->config->state_dir, *n, &r, &e))
            continue;
        if (!strcmp(r.role, "standby"))
            clean_up_after(s, *n, r.run_dir);
        vm_record_clear(&r);
    }
    vm_record_names_free(names);
}

/* ---- requests ---- */

static void status(struct control_conn *c, struct json_object *request, void *arg)
{
    struct supervisor *s = arg;
    (void)request;
    struct json_object *j = json_object_new_object(), *all = json_object_new_array();
    roster_statuses(s->roster, all, false);
    json_object_object_add(j, "ok", json_object_new_boolean(1));
    json_object_object_add(j, "host", json_object_new_string(s->config->name));
    json_object_object_add(j, "replicas", all);
    control_send(c, j);
    json_object_put(j);
}

/* A new connection brings a VM. If a worker has a replica of it, that has to let go first: its answer is the admission.
 */
static void admit(struct supervisor *s, struct control_conn *c, const char *vm, int pid)
{
    if (roster_is_newer(s->roster, vm, pid)) { /* a connection that was given up, and whose worker was slow */
        roster_refuse(c, "a newer connection has brought VM %s already", vm);
        return;
    }
    struct json_object *j = json_object_new_object();
    if (roster_has(s->roster, vm)) {
        json_object_object_add(j, "cmd", json_object_new_string("yield"));
        roster_forward(s->roster, vm, j, c);
    } else {
        json_object_object_add(j, "ok", json_object_new_boolean(1));
        control_send(c, j);
    }
    json_object_put(j);
}

static void on_message(struct control_conn *c, struct json_object *m, void *arg)
{
    struct supervisor *s = arg;
    if (roster_message(s->roster, c, m))
        return;
    const char *command = json_get_text(m, "cmd", ""), *vm = json_get_text(m, "vm", "");
    if (!strcmp(command, "status"))
        roster_refresh(s->roster, c, m, status);
    else if (!config_name_is_valid(vm))
        roster_refuse(c, "'%.80s' is no VM name", vm);
    else if (!strcmp(command, "admit"))
        admit(s, c, vm, (int)json_get_u64(m, "pid", 0));
    else if (strcmp(command, "failover") && strcmp(command, "drop"))
        roster_refuse(c, "unknown command '%.40s'", command);
    else if (roster_forward(s->roster, vm, m, c))
        roster_refuse(c, "no replica of '%s' on this host (see `hikae status`)", vm);
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
    log_info("%s: ending; the replicas and their workers live on", strsignal(w->signum));
    ev_break(loop, EVBREAK_ALL);
}

static int listen_control(struct supervisor *s, struct errmsg *e)
{
    static const struct control_handlers handlers = {.message = on_message, .closed = on_closed};
    char path[300];
    snprintf(path, sizeof path, "%s/secondary.sock", s->config->run_dir);
    if (dir_make(s->config->run_dir, 0700, e) || dir_make(s->config->state_dir, 0700, e))
        return -1;
    s->server = control_listen(s->loop, path, &handlers, s, e);
    return s->server ? 0 : -1;
}

static int listen_peers(struct supervisor *s, struct errmsg *e)
{
    s->listener_count = tcp_listen(s->config->listen, s->config->port, s->fds, LISTENERS_MAX, e);
    for (int i = 0; i < s->listener_count; i++) {
        ev_io_init(&s->listeners[i], on_connection, s->fds[i], EV_READ);
        s->listeners[i].data = s;
        ev_io_start(s->loop, &s->listeners[i]);
    }
    return s->listener_count > 0 ? 0 : -1;
}

static void watch_signals(struct supervisor *s)
{
    ev_signal_init(&s->terminate, on_signal, SIGTERM);
    ev_signal_init(&s->interrupt, on_signal, SIGINT);
    ev_signal_start(s->loop, &s->terminate);
    ev_signal_start(s->loop, &s->interrupt);
}

int supervisor_main(struct config *config, const char *program)
{
    static const struct roster_handlers handlers = {.ended = on_ended};
    struct supervisor s = {.loop = ev_loop_new(EVFLAG_AUTO), .config = config, .program = program};
    struct errmsg e;
    if (listen_control(&s, &e)) {
        log_error("%s", e.text);
        ev_loop_destroy(s.loop);
        return 1;
    }
    s.roster = roster_new(s.loop, &handlers, &s);
    int result = listen_peers(&s, &e);
    if (result) {
        log_error("%s", e.text);
    } else {
        watch_signals(&s);
        s.watching = (struct watching){.config = config, .roster = s.roster};
        s.watchdog = watching_new(s.loop, &s.watching);
        ev_timer_init(&s.rested, on_rested, REST_S, 0.);
        s.rested.data = &s;
        ev_timer_init(&s.settle, on_settled, SETTLE_S, 0.);
        s.settle.data = &s;
        ev_timer_start(s.loop, &s.settle);
        ev_init(&s.expire, on_expire);
        s.expire.data = &s;
        on_expire(s.loop, &s.expire, 0);
        log_info("ready, host %s, listening on %s port %s", config->name, config->listen, config->port);
        ev_run(s.loop, 0);
    }
    for (int i = 0; i < s.listener_count; i++)
        close(s.fds[i]);
    watchdog_free(s.watchdog);
    roster_free(s.roster);
    control_server_free(s.server);
    ev_loop_destroy(s.loop);
    return result ? 1 : 0;
}
