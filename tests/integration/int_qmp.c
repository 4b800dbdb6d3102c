/* int_qmp: the client of QEMU's monitor with a real QEMU: what is prepared of a command, and what becomes of it. */
#include "vm/qmp/qmp.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATIENCE_MS = 30000, A_WHILE_US = 50000 };

static struct errmsg error;
static char dir[] = "/tmp/hikae-qmp-XXXXXX", path[64];
static pid_t qemu;
static struct qmp q = {.fd = -1};
static unsigned events;

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail_msg("%s: %s", #call, error.text);                                                                     \
    } while (0)

static int64_t soon(void)
{
    return qmp_now_ms() + PATIENCE_MS;
}

static void on_event(void *arg, const char *event, struct json_object *data)
{
    (void)arg, (void)data;
    events += strcmp(event, "STOP") == 0 || strcmp(event, "RESUME") == 0;
}

static int begin(void **state)
{
    (void)state;
    char monitor[96];
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/qmp", dir);
    snprintf(monitor, sizeof monitor, "unix:%s,server=on,wait=off", path);
    qemu = fork();
    if (qemu)
        return qemu < 0 ? -1 : 0;
    execlp("qemu-system-x86_64", "qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-qmp",
           monitor, (char *)NULL);
    _exit(127);
}

static int end(void **state)
{
    (void)state;
    kill(qemu, SIGKILL);
    waitpid(qemu, NULL, 0);
    unlink(path);
    return rmdir(dir);
}

static int connect_to_it(void **state)
{
    (void)state;
    int reason, result = -1;
    q.event = on_event;
    for (int64_t until = soon(); result < 0 && qmp_now_ms() < until; usleep(result < 0 ? 20000 : 0))
        result = qmp_open(&q, path, until, &reason, &error);
    events = 0;
    return result;
}

static int hang_up(void **state)
{
    (void)state;
    qmp_close(&q);
    return 0;
}

static bool runs(void)
{
    struct json_object *status, *running;
    MUST(qmp_call(&q, "query-status", NULL, &status, soon(), &error));
    assert_true(json_object_object_get_ex(status, "running", &running));
    bool is = json_object_get_boolean(running);
    json_object_put(status);
    return is;
}

/* It is done when it is sent, not before. */
static void is_done_when_sent(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        qmp_prepare(&q, "stop", NULL);
        usleep(A_WHILE_US);
        qmp_drain(&q);
        assert_int_equal(events, 2 * i);
        MUST(qmp_call(&q, "stop", NULL, NULL, soon(), &error));
        assert_int_equal(events, 2 * i + 1);
        qmp_prepare(&q, "cont", NULL);
        MUST(qmp_call(&q, "cont", NULL, NULL, soon(), &error));
        assert_int_equal(events, 2 * i + 2);
    }
    assert_true(runs());
}

/* Also while the one before it is under way; the replies come in order. */
static void follows_another(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        unsigned stopping = qmp_send(&q, "stop", NULL, -1, soon(), &error);
        qmp_prepare(&q, "cont", NULL);
        qmp_prepare(&q, "quit", NULL); /* one at a time: this is nothing */
        unsigned going_on = qmp_send(&q, "cont", NULL, -1, soon(), &error);
        assert_true(stopping && going_on && stopping != going_on);
        MUST(qmp_wait(&q, stopping, NULL, soon(), &error));
        MUST(qmp_wait(&q, going_on, NULL, soon(), &error));
        assert_int_equal(events, 2 * i + 2);
    }
}

/* With other words too. */
static void another_takes_it_back(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        qmp_prepare(&q, "stop", NULL);
        assert_true(runs());
        qmp_prepare(&q, "human-monitor-command", "{\"command-line\":\"stop\"}");
        MUST(qmp_call(&q, "human-monitor-command", "{\"command-line\":\"info status\"}", NULL, soon(), &error));
        qmp_prepare(&q, "quit", NULL);
        usleep(A_WHILE_US);
        qmp_drain(&q);
        assert_true(runs());
    }
    assert_int_equal(events, 0);
}

/* A connection that breaks takes it along. */
static void goes_with_the_connection(void **state)
{
    qmp_prepare(&q, "stop", NULL);
    usleep(A_WHILE_US);
    hang_up(state);
    assert_int_equal(connect_to_it(state), 0);
    assert_true(runs());
    assert_int_equal(events, 0);
}

/* It is only an offer. */
static void too_long(void **state)
{
    (void)state;
    char arguments[QMP_PREPARED_MAX + 64];
    snprintf(arguments, sizeof arguments, "{\"command-line\":\"info status%*s\"}", QMP_PREPARED_MAX, "");
    qmp_prepare(&q, "human-monitor-command", arguments);
    MUST(qmp_call(&q, "human-monitor-command", arguments, NULL, soon(), &error));
    assert_true(runs());
}

int main(void)
{
#define ONE(test) cmocka_unit_test_setup_teardown(test, connect_to_it, hang_up)
    const struct CMUnitTest tests[] = {
        ONE(is_done_when_sent),        ONE(follows_another), ONE(another_takes_it_back),
        ONE(goes_with_the_connection), ONE(too_long),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
