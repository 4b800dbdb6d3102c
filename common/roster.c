#include "common/roster.h"
#include "common/jsonget.h"
#include "common/log.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKER_FD = 3 };

struct worker {
    struct worker *next;
    struct roster *roster;
    char vm[64];
    pid_t pid;
    int pidfd;
    ev_io exit;
    struct control_conn *conn; /* NULL: not registered (yet) */
    bool left;                 /* no worker of ours any more, but still our child */
    struct json_object *status, *hist;
    ev_tstamp status_at;
    uint64_t reports;
};

struct pending { /* a request that is not answered */
    struct pending *next;
    int id;
    struct worker *worker;
    struct control_conn *client; /* NULL: nobody waits */
    struct json_object *request; /* NULL: it was sent */
};

struct refresh { /* somebody wants to know what is true now */
    struct refresh *next;
    ev_tstamp since;
    struct control_conn *client;
    struct json_object *request;
    roster_refreshed *done;
};

struct roster {
    struct ev_loop *loop;
    struct refresh *refreshes;
    ev_timer refresh_limit;
    struct roster_handlers handlers;
    void *arg;
    struct worker *workers;
    struct pending *pending;
    int last_id;
};

static const double REFRESH_S = 0.05;

/* ---- what is true now ---- */

static bool has_reported_since(const struct roster *r, ev_tstamp t)
{
    for (const struct worker *w = r->workers; w; w = w->next)
        if (w->conn && !w->left && w->status && w->status_at < t)
            return false;
    return true;
}

static void refresh_free(struct refresh *f)
{
    json_object_put(f->request);
    free(f);
}

/* Answers those who have waited long enough, or for whom all have reported. */
static void finish_refreshes(struct roster *r, bool all)
{
    for (struct refresh **at = &r->refreshes; *at;) {
        struct refresh *f = *at;
        if (!all && !has_reported_since(r, f->since)) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        f->done(f->client, f->request, r->arg);
        refresh_free(f);
    }
    if (!r->refreshes)
        ev_timer_stop(r->loop, &r->refresh_limit);
}

static void on_refresh_limit(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    finish_refreshes(t->data, true);
}

struct roster *roster_new(struct ev_loop *loop, const struct roster_handlers *h, void *arg)
{
    struct roster *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    *r = (struct roster){.loop = loop, .handlers = *h, .arg = arg};
    ev_timer_init(&r->refresh_limit, on_refresh_limit, REFRESH_S, 0.);
    r->refresh_limit.data = r;
    return r;
}

static void worker_free(struct worker *w)
{
    ev_io_stop(w->roster->loop, &w->exit);
    if (w->pidfd >= 0)
        close(w->pidfd);
    if (w->conn) {
        control_set_data(w->conn, NULL);
        control_close(w->conn);
    }
    json_object_put(w->status);
    json_object_put(w->hist);
    free(w);
}

void roster_free(struct roster *r)
{
    ev_timer_stop(r->loop, &r->refresh_limit);
    for (struct refresh *f = r->refreshes, *next; f; f = next) {
        next = f->next;
        refresh_free(f);
    }
    for (struct pending *p = r->pending, *next; p; p = next) {
        next = p->next;
        json_object_put(p->request);
        free(p);
    }
    for (struct worker *w = r->workers, *next; w; w = next) {
        next = w->next;
        worker_free(w);
    }
    free(r);
}

static struct worker *find(const struct roster *r, const char *vm)
{
    for (struct worker *w = r->workers; w; w = w->next)
        if (!w->left && !strcmp(w->vm, vm))
            return w;
    return NULL;
}

unsigned roster_unnamed(const struct roster *r)
{
    unsigned n = 0;
    for (const struct worker *w = r->workers; w; w = w->next)
        n += !w->left && !*w->vm;
    return n;
}

bool roster_is_newer(const struct roster *r, const char *vm, int pid)
{
    for (const struct worker *w = r->workers; w; w = w->next) { /* the youngest first */
        if (w->pid == pid)
            return false;
        if (!w->left && !strcmp(w->vm, vm))
            return true;
    }
    return false;
}

bool roster_has(const struct roster *r, const char *vm)
{
    return find(r, vm);
}

void roster_refuse(struct control_conn *client, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "ok", json_object_new_boolean(0));
    json_object_object_add(j, "error", json_object_new_string(text));
    if (client)
        control_send(client, j);
    json_object_put(j);
}

/* ---- requests ---- */

static void remove_pending(struct roster *r, struct pending *gone)
{
    struct pending **at = &r->pending;
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    json_object_put(gone->request);
    free(gone);
}

static void send_pending(struct pending *p)
{
    json_object_object_add(p->request, "id", json_object_new_int(p->id));
    control_send(p->worker->conn, p->request);
    json_object_put(p->request);
    p->request = NULL;
}

int roster_forward(struct roster *r, const char *vm, struct json_object *request, struct control_conn *client)
{
    struct worker *w = find(r, vm);
    struct pending *p = w ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return -1;
    *p = (struct pending){
        .next = r->pending, .id = ++r->last_id, .worker = w, .client = client, .request = json_object_get(request)};
    r->pending = p;
    if (w->conn)
        send_pending(p);
    return 0;
}

static void on_reply(struct roster *r, struct worker *w, int id, struct json_object *reply)
{
    for (struct pending *p = r->pending; p; p = p->next) {
        if (p->id == id && p->worker == w) {
            json_object_object_del(reply, "reply");
            if (p->client)
                control_send(p->client, reply);
            remove_pending(r, p);
            return;
        }
    }
}

/* Whoever waits for this worker waits in vain. */
static void fail_pending(struct roster *r, struct worker *w)
{
    for (struct pending *p = r->pending, *next; p; p = next) {
        next = p->next;
        if (p->worker != w)
            continue;
        const char *reason = json_get_text(w->status, "reason", "");
        roster_refuse(p->client, "%s", *reason ? reason : "the VM's worker ended; see the agent's log");
        remove_pending(r, p);
    }
}

void roster_closed(struct roster *r, struct control_conn *c)
{
    struct worker *w = control_data(c);
    if (w && w->conn == c)
        w->conn = NULL; /* its end is noticed by its pidfd */
    for (struct pending *p = r->pending; p; p = p->next)
        if (p->client == c)
            p->client = NULL;
    for (struct refresh **at = &r->refreshes; *at;) {
        struct refresh *f = *at;
        if (f->client != c) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        refresh_free(f);
    }
}

/* ---- processes ---- */

static void on_exit_of(struct ev_loop *loop, ev_io *io, int events)
{
    (void)loop, (void)events;
    struct worker *w = io->data;
    struct roster *r = w->roster;
    siginfo_t info = {0};
    int code = -1;
    if (!waitid(P_PIDFD, (id_t)w->pidfd, &info, WEXITED | WNOHANG) && info.si_code == CLD_EXITED)
        code = info.si_status;
    struct worker **at = &r->workers;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    fail_pending(r, w);
    struct json_object *last = json_object_get(w->status);
    char vm[64];
    memcpy(vm, w->vm, sizeof vm);
    bool left = w->left;
    int pid = (int)w->pid;
    worker_free(w);
    if (!left)
        r->handlers.ended(vm, pid, code, last, r->arg);
    json_object_put(last);
}

static struct worker *add_worker(struct roster *r, const char *vm, pid_t pid)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        abort();
    *w = (struct worker){.next = r->workers, .roster = r, .pid = pid};
    snprintf(w->vm, sizeof w->vm, "%s", vm);
    r->workers = w;
    w->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    ev_io_init(&w->exit, on_exit_of, w->pidfd, EV_READ);
    ev_set_priority(&w->exit, EV_MINPRI); /* what it said before it ended comes first */
    w->exit.data = w;
    if (w->pidfd >= 0)
        ev_io_start(r->loop, &w->exit);
    return w;
}

static void forget(struct roster *r, struct worker *w)
{
    struct worker **at = &r->workers;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    fail_pending(r, w);
    worker_free(w);
}

static void run_child(char *const argv[], int fd)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid(); /* no signal of ours, and no terminal's, reaches it */
    if (fd >= 0 && fd != WORKER_FD)
        dup2(fd, WORKER_FD); /* the copy is not close-on-exec */
    else if (fd == WORKER_FD)
        fcntl(fd, F_SETFD, 0);
    execv(argv[0], argv);
    fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int roster_spawn(struct roster *r, const char *vm, char *const argv[], int fd, struct errmsg *e)
{
    pid_t pid = fork();
    if (pid < 0)
        return errmsg_set(e, "can't start a worker: %s", strerror(errno));
    if (!pid)
        run_child(argv, fd);
    add_worker(r, vm, pid);
    return 0;
}

void roster_adopt(struct roster *r, const char *vm, int pid)
{
    struct worker *w = add_worker(r, vm, pid);
    if (w->pidfd < 0) /* it died in the meantime */
        forget(r, w);
}

void roster_each(struct roster *r, void (*visit)(const char *vm, int pid, int pidfd, void *arg), void *arg)
{
    for (struct worker *w = r->workers; w; w = w->next)
        if (!w->left)
            visit(w->vm, (int)w->pid, w->pidfd, arg);
}

uint64_t roster_reports(const struct roster *r, int pid)
{
    for (const struct worker *w = r->workers; w; w = w->next)
        if (w->pid == pid)
            return w->reports;
    return 0;
}

/* ---- messages ---- */

static void on_register(struct roster *r, struct control_conn *c, struct json_object *message)
{
    const char *vm = json_get_text(message, "register", "");
    pid_t pid = (pid_t)json_get_u64(message, "pid", 0);
    struct worker *w = r->workers;
    while (w && w->pid != pid)
        w = w->next;
    if (!w) /* one that outlived our predecessor, or that was the other agent's */
        w = add_worker(r, vm, pid);
    if (w->pidfd < 0) { /* it died in the meantime */
        forget(r, w);
        return;
    }
    if (w->conn && w->conn != c) {
        control_set_data(w->conn, NULL);
        control_close(w->conn);
    }
    snprintf(w->vm, sizeof w->vm, "%s", vm); /* the secondary's workers learn it from their peer */
    w->conn = c;
    control_set_data(c, w);
    for (struct pending *p = r->pending; p; p = p->next)
        if (p->worker == w && p->request)
            send_pending(p);
}

static void leave(struct roster *r, struct worker *w)
{
    w->left = true;
    json_object_put(w->status);
    w->status = NULL;
    fail_pending(r, w);
}

bool roster_message(struct roster *r, struct control_conn *c, struct json_object *message)
{
    struct worker *w = control_data(c);
    if (json_get(message, "register")) {
        on_register(r, c, message);
        return true;
    }
    if (!w)
        return false;
    if (json_get(message, "leave")) {
        leave(r, w);
        return true;
    }
    struct json_object *status = json_get(message, "status"), *hist = json_get(message, "hist");
    if (status) {
        json_object_put(w->status);
        w->status = json_object_get(status);
        w->status_at = ev_time();
        w->reports++;
    }
    if (hist) {
        json_object_put(w->hist);
        w->hist = json_object_get(hist);
    }
    if (status)
        finish_refreshes(r, false);
    if (json_get(message, "reply"))
        on_reply(r, w, (int)json_get_u64(message, "reply", 0), message);
    return true;
}

void roster_refresh(struct roster *r, struct control_conn *client, struct json_object *request, roster_refreshed *done)
{
    struct refresh *f = malloc(sizeof *f);
    struct json_object *j = json_object_new_object();
    if (!f || !j)
        abort();
    *f = (struct refresh){
        .next = r->refreshes, .since = ev_time(), .client = client, .request = json_object_get(request), .done = done};
    r->refreshes = f;
    json_object_object_add(j, "cmd", json_object_new_string("report"));
    for (struct worker *w = r->workers; w; w = w->next)
        if (w->conn && !w->left)
            control_send(w->conn, j);
    json_object_put(j);
    if (!ev_is_active(&r->refresh_limit)) {
        ev_timer_set(&r->refresh_limit, REFRESH_S, 0.);
        ev_timer_start(r->loop, &r->refresh_limit);
    }
    if (has_reported_since(r, f->since))
        finish_refreshes(r, false);
}

void roster_statuses(struct roster *r, struct json_object *array, bool with_hist)
{
    for (struct worker *w = r->workers; w; w = w->next) {
        if (!w->status)
            continue;
        struct json_object *copy = NULL;
        json_object_deep_copy(w->status, &copy, NULL);
        double age_ms = (ev_time() - w->status_at) * 1000;
        json_object_object_add(copy, "report_age_ms", json_object_new_double(age_ms));
        double replica_age = json_get_double(copy, "replica_age_ms", -1);
        if (replica_age >= 0)
            json_object_object_add(copy, "replica_age_ms", json_object_new_double(replica_age + age_ms));
        if (with_hist && w->hist)
            json_object_object_add(copy, "hist", json_object_get(w->hist));
        json_object_array_add(array, copy);
    }
}
