/*
 * Unit tests of common/roster.h. The workers are this program again, started with arguments: it registers at the
 * supervisor's socket and does what it is asked.
 */
#include "common/jsonget.h"
#include "common/roster.h"

#include <ev.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the worker ---- */

static void worker_say(struct control_conn *c, const char *json)
{
    struct json_object *j = json_tokener_parse(json);
    control_send(c, j);
    json_object_put(j);
}

static void worker_does(struct control_conn *c, struct json_object *request, void *arg)
{
    const char *command = json_get_text(request, "cmd", "");
    char text[100];
    (void)arg;
    if (!strcmp(command, "exit"))
        _exit(7);
    if (!strcmp(command, "crash"))
        raise(SIGKILL);
    if (!strcmp(command, "report"))
        worker_say(c,
                   "{\"status\":{\"vm\":\"web\",\"state\":\"PROTECTED\",\"replica_age_ms\":5,\"reason\":\"because\"},"
                   "\"hist\":{\"pause\":1}}");
    if (!strcmp(command, "leave"))
        worker_say(c, "{\"leave\":true}");
    if (!strcmp(command, "silent"))
        return;
    snprintf(text, sizeof text, "{\"reply\":%d,\"ok\":true,\"pid\":%d}", (int)json_get_u64(request, "id", 0),
             (int)getpid());
    worker_say(c, text);
    if (!strcmp(command, "last"))
        _exit(0);
}

static void worker_alone(struct control_conn *c, void *arg)
{
    (void)c, (void)arg;
    _exit(0); /* the test has ended */
}

static int worker_main(const char *path, const char *vm)
{
    static const struct control_handlers handlers = {.message = worker_does, .closed = worker_alone};
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct errmsg e;
    if (getsid(0) != getpid())
        return 9; /* not a session of its own: a signal to the supervisor's terminal would end it */
    struct control_conn *c = control_connect(loop, path, &handlers, NULL, &e);
    if (!c)
        return 8;
    char text[200];
    snprintf(text, sizeof text, "{\"register\":\"%s\",\"pid\":%d}", vm, (int)getpid());
    worker_say(c, text);
    ev_run(loop, 0);
    return 0;
}

/* ---- the supervisor ---- */

struct rig {
    struct ev_loop *loop;
    struct control_server *server;
    struct control_conn *client;
    struct roster *roster;
    unsigned ended, replies;
    int code, ended_pid;
    char ended_vm[64], reason[64];
    bool ok;
    int pid;
    char error[600], dir[32], path[64];
};

static void on_message(struct control_conn *c, struct json_object *message, void *arg)
{
    struct rig *g = arg;
    if (roster_message(g->roster, c, message))
        return;
    if (roster_forward(g->roster, json_get_text(message, "vm", ""), message, c))
        roster_refuse(c, "no such VM %s", "here");
}

static void on_closed(struct control_conn *c, void *arg)
{
    roster_closed(((struct rig *)arg)->roster, c);
}

static void on_answer(struct control_conn *c, struct json_object *message, void *arg)
{
    struct rig *g = arg;
    (void)c;
    g->replies++;
    g->ok = json_get_bool(message, "ok", false);
    g->pid = (int)json_get_u64(message, "pid", 0);
    assert_null(json_get(message, "reply")); /* the number was between roster and worker */
    snprintf(g->error, sizeof g->error, "%s", json_get_text(message, "error", ""));
}

static void on_ended(const char *vm, int pid, int code, struct json_object *last, void *arg)
{
    struct rig *g = arg;
    g->ended++;
    g->ended_pid = pid;
    g->code = code;
    snprintf(g->ended_vm, sizeof g->ended_vm, "%s", vm);
    snprintf(g->reason, sizeof g->reason, "%s", json_get_text(last, "reason", ""));
}

static void begin(struct rig *g)
{
    static const struct control_handlers server = {.message = on_message, .closed = on_closed};
    static const struct control_handlers client = {.message = on_answer};
    static const struct roster_handlers roster = {.ended = on_ended};
    struct errmsg e = {""};
    *g = (struct rig){.loop = ev_loop_new(EVFLAG_AUTO)};
    strcpy(g->dir, "/tmp/unit_roster.XXXXXX");
    assert_non_null(mkdtemp(g->dir));
    snprintf(g->path, sizeof g->path, "%s/sock", g->dir);
    g->roster = roster_new(g->loop, &roster, g);
    g->server = control_listen(g->loop, g->path, &server, g, &e);
    if (!g->server)
        fail_msg("%s", e.text);
    g->client = control_connect(g->loop, g->path, &client, g, &e);
    assert_non_null(g->client);
}

static void end(struct rig *g)
{
    if (g->client)
        control_close(g->client);
    roster_free(g->roster);
    control_server_free(g->server);
    ev_loop_destroy(g->loop);
    rmdir(g->dir);
}

static void spawn(struct rig *g, const char *vm)
{
    char *argv[] = {(char *)"/proc/self/exe", g->path, (char *)vm, NULL};
    struct errmsg e;
    assert_int_equal(roster_spawn(g->roster, vm, argv, -1, &e), 0);
}

static void ask(struct rig *g, const char *vm, const char *command)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "vm", json_object_new_string(vm));
    json_object_object_add(j, "cmd", json_object_new_string(command));
    control_send(g->client, j);
    json_object_put(j);
}

static void on_timeout(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    *(bool *)t->data = true;
}

static void run_until(struct rig *g, const unsigned *what, unsigned reaches)
{
    bool late = false;
    ev_timer t;
    ev_timer_init(&t, on_timeout, 20., 0.);
    t.data = &late;
    ev_timer_start(g->loop, &t);
    while (*what < reaches && !late)
        ev_run(g->loop, EVRUN_ONCE);
    ev_timer_stop(g->loop, &t);
    assert_false(late);
}

/* A request to a worker that has not registered yet waits for it; the reply comes from that worker. */
static void test_forward(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    spawn(&g, "web");
    spawn(&g, "db");
    assert_true(roster_has(g.roster, "web"));
    assert_false(roster_has(g.roster, "mail"));
    ask(&g, "web", "hello");
    run_until(&g, &g.replies, 1);
    assert_true(g.ok);
    int web = g.pid;
    ask(&g, "db", "hello");
    run_until(&g, &g.replies, 2);
    assert_true(g.ok);
    assert_true(web > 0 && g.pid > 0 && g.pid != web);
    ask(&g, "mail", "hello");
    run_until(&g, &g.replies, 3);
    assert_false(g.ok);
    assert_string_equal(g.error, "no such VM here");
    end(&g);
}

static void test_ends(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    spawn(&g, "web");
    ask(&g, "web", "report");
    run_until(&g, &g.replies, 1);
    int pid = g.pid;
    ask(&g, "web", "silent"); /* waits for a reply that will not come */
    ask(&g, "web", "exit");
    run_until(&g, &g.ended, 1);
    assert_int_equal(g.code, 7);
    assert_string_equal(g.ended_vm, "web");
    assert_int_equal(g.ended_pid, pid);
    assert_string_equal(g.reason, "because"); /* its last word */
    run_until(&g, &g.replies, 3);
    assert_false(g.ok);
    assert_string_equal(g.error, "because");
    assert_false(roster_has(g.roster, "web"));
    spawn(&g, "web"); /* may come again, and dies another way */
    ask(&g, "web", "crash");
    run_until(&g, &g.ended, 2);
    assert_int_equal(g.code, -1);
    run_until(&g, &g.replies, 4);
    assert_false(g.ok);
    assert_true(*g.error);
    end(&g);
}

/* The supervisor was slow: its worker's reply and its end are there at the same time. */
static void test_last_words(void **state)
{
    (void)state;
    enum { TRIES = 20 };
    struct rig g;
    begin(&g);
    for (unsigned i = 1; i <= TRIES; i++) {
        spawn(&g, "web");
        ask(&g, "web", "last");
        for (int turns = 0; g.replies < i && turns < 400; turns++) {
            usleep(20000);
            ev_run(g.loop, EVRUN_NOWAIT);
        }
        assert_int_equal(g.replies, i);
        assert_string_equal(g.error, "");
        assert_true(g.ok);
        run_until(&g, &g.ended, i);
    }
    end(&g);
}

static void test_no_program(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    char *argv[] = {(char *)"/nonexistent/worker", NULL};
    struct errmsg e;
    assert_int_equal(roster_spawn(g.roster, "web", argv, -1, &e), 0);
    ask(&g, "web", "hello");
    run_until(&g, &g.ended, 1);
    assert_int_equal(g.code, 127);
    run_until(&g, &g.replies, 1);
    assert_false(g.ok);
    end(&g);
}

/* A worker that has become another agent's is nobody's: it is not asked, not listed, and its end is not told. */
static void test_leave(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    spawn(&g, "web");
    ask(&g, "web", "report");
    run_until(&g, &g.replies, 1);
    int pid = g.pid;
    assert_true(pid > 1);
    ask(&g, "web", "leave");
    run_until(&g, &g.replies, 2);
    assert_false(g.ok); /* who waits for it is told at once, not at its end */
    assert_false(roster_has(g.roster, "web"));
    struct json_object *list = json_object_new_array();
    roster_statuses(g.roster, list, true);
    assert_int_equal(json_object_array_length(list), 0);
    json_object_put(list);
    spawn(&g, "web"); /* the name is free */
    ask(&g, "web", "hello");
    run_until(&g, &g.replies, 3);
    assert_true(g.ok);
    assert_true(g.pid != pid);
    kill(pid, SIGKILL);
    ask(&g, "web", "exit");
    run_until(&g, &g.ended, 1);
    assert_int_equal(g.code, 7); /* the second one's */
    assert_int_equal(g.ended, 1);
    end(&g);
}

/* The younger of two workers may have the name; the older one, that asks late, may not take it from it. */
static void test_newer(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    spawn(&g, "web");
    ask(&g, "web", "report");
    run_until(&g, &g.replies, 1);
    int older = g.pid;
    spawn(&g, "db");
    ask(&g, "db", "report");
    run_until(&g, &g.replies, 2);
    int younger = g.pid;
    assert_true(older > 1 && younger > 1 && older != younger);
    assert_true(roster_is_newer(g.roster, "db", older));
    assert_false(roster_is_newer(g.roster, "web", younger));
    assert_false(roster_is_newer(g.roster, "nobody", older));
    ask(&g, "web", "exit");
    ask(&g, "db", "exit");
    run_until(&g, &g.ended, 2);
    end(&g);
}

static void test_statuses(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    spawn(&g, "web");
    ask(&g, "web", "report");
    run_until(&g, &g.replies, 1);
    usleep(30000);
    for (int with_hist = 0; with_hist < 2; with_hist++) {
        struct json_object *list = json_object_new_array();
        roster_statuses(g.roster, list, with_hist);
        assert_int_equal(json_object_array_length(list), 1);
        struct json_object *j = json_object_array_get_idx(list, 0);
        assert_string_equal(json_get_text(j, "state", ""), "PROTECTED");
        double age = json_get_double(j, "report_age_ms", -1);
        assert_true(age >= 30);
        /* promise 5: the replica has grown older since it was reported */
        assert_true(json_get_double(j, "replica_age_ms", -1) >= 5 + age - 0.001);
        assert_int_equal(json_get(j, "hist") != NULL, with_hist);
        json_object_put(list);
    }
    end(&g);
}

/* Who asked has gone: the reply has nowhere to go, which hurts nobody. */
static void test_client_gone(void **state)
{
    (void)state;
    static const struct control_handlers client = {.message = on_answer};
    struct rig g;
    begin(&g);
    spawn(&g, "web");
    ask(&g, "web", "hello");
    ev_run(g.loop, EVRUN_NOWAIT);
    ev_run(g.loop, EVRUN_NOWAIT);
    control_close(g.client);
    struct errmsg e;
    g.client = control_connect(g.loop, g.path, &client, &g, &e);
    ask(&g, "web", "hello");
    run_until(&g, &g.replies, 1);
    assert_true(g.ok);
    assert_int_equal(g.replies, 1);
    end(&g);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return worker_main(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),    cmocka_unit_test(test_ends),        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_no_program), cmocka_unit_test(test_leave),       cmocka_unit_test(test_newer),
        cmocka_unit_test(test_statuses),   cmocka_unit_test(test_client_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
