/* unit_control: JSON lines both ways, and all that a bad peer may do: rubbish, endless lines, not reading, going away.
 */
#include "common/control.h"
#include "common/jsonget.h"

#include <ev.h>
#include <json-c/json.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/hikae-unit-control-XXXXXX", path[64];
static struct ev_loop *loop;
static struct control_server *server;
static unsigned got, closed;
static struct control_conn *last;

static void echo(struct control_conn *c, struct json_object *m, void *arg)
{
    (void)arg;
    got++;
    last = c;
    const char *cmd = json_get_text(m, "cmd", "");
    if (!strcmp(cmd, "close")) {
        control_close(c);
    } else if (!strcmp(cmd, "free-server")) {
        control_server_free(server);
        server = NULL;
    } else if (!strcmp(cmd, "flood")) {
        char *big = malloc(1 << 20);
        memset(big, 'x', 1 << 20);
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "x", json_object_new_string_len(big, (1 << 20) - 100));
        for (int i = 0; i < 20; i++)
            control_send(c, j);
        json_object_put(j);
        free(big);
    } else {
        control_send(c, m);
    }
}

static void on_closed(struct control_conn *c, void *arg)
{
    (void)c;
    (void)arg;
    closed++;
}

static const struct control_handlers handlers = {echo, on_closed};

static void on_time(struct ev_loop *l, ev_timer *w, int events)
{
    (void)w;
    (void)events;
    ev_break(l, EVBREAK_ALL);
}

static void run_for(double seconds)
{
    ev_timer t;
    ev_timer_init(&t, on_time, seconds, 0);
    ev_now_update(loop);
    ev_timer_start(loop, &t);
    ev_run(loop, 0);
    ev_timer_stop(loop, &t);
}

static int setup(void **state)
{
    (void)state;
    got = closed = 0;
    last = NULL;
    loop = ev_loop_new(0);
    server = control_listen(loop, path, &handlers, NULL, NULL);
    return server ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    control_server_free(server);
    ev_loop_destroy(loop);
    return access(path, F_OK) == 0; /* the socket is gone */
}

static int dial(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void say(int fd, const char *text, size_t n)
{
    assert_int_equal(write(fd, text, n), n);
    run_for(0.02);
}

static void expect(int fd, const char *text)
{
    char buffer[4096];
    ssize_t n = recv(fd, buffer, sizeof(buffer) - 1, MSG_DONTWAIT);
    buffer[n < 0 ? 0 : n] = 0;
    if (!strstr(buffer, text))
        fail_msg("expected %s, got '%s'", text, buffer);
}

static void test_lines(void **state)
{
    (void)state;
    int fd = dial();
    say(fd, "{\"a\":1}\n{\"a\":", 13);
    expect(fd, "{\"a\":1}\n");
    say(fd, "2} \n\n", 4);
    expect(fd, "{\"a\":2}\n");
    assert_int_equal(got, 2);
    close(fd);
    run_for(0.02);
    assert_int_equal(closed, 1);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_rubbish(void **state)
{
    (void)state;
    static const char *const bad[] = {"hello\n", "[1]\n", "{\"a\":1} x\n", "{\"a\":\n", "\n", "{\"a\":\"\xff\"}\n",
                                      "17\n"};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        int fd = dial();
        say(fd, bad[i], strlen(bad[i]));
        expect(fd, "\"ok\":false,\"error\":\"a message must be one JSON object");
        char byte;
        assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0); /* closed */
        close(fd);
        assert_int_equal(closed, i + 1);
    }
    assert_int_equal(got, 0);
}

static void test_deep_nesting(void **state)
{
    (void)state;
    static char deep[200000];
    memset(deep, '[', sizeof(deep));
    memcpy(deep, "{\"a\":", 5);
    deep[sizeof(deep) - 1] = '\n';
    int fd = dial();
    say(fd, deep, sizeof(deep));
    run_for(0.05);
    assert_int_equal(closed, 1);
    close(fd);
}

static void *endless(void *arg)
{
    static char x[65536];
    memset(x, 'x', sizeof(x));
    for (int i = 0; i < 40; i++)
        if (send(*(int *)arg, x, sizeof(x), MSG_NOSIGNAL) < 0)
            return NULL;
    return NULL;
}

static void test_endless_line(void **state)
{
    (void)state;
    int fd = dial();
    pthread_t t;
    pthread_create(&t, NULL, endless, &fd);
    for (int i = 0; i < 100 && !closed; i++)
        run_for(0.02);
    pthread_join(t, NULL);
    assert_int_equal(closed, 1);
    close(fd);
}

static void test_reader_that_does_not_read(void **state)
{
    (void)state;
    int fd = dial();
    say(fd, "{\"cmd\":\"flood\"}\n", 16);
    run_for(0.05);
    assert_int_equal(closed, 1);
    close(fd);
}

static void test_close_in_handler(void **state)
{
    (void)state;
    int fd = dial();
    say(fd, "{\"cmd\":\"close\"}\n{\"a\":1}\n", 24);
    assert_int_equal(got, 1);
    assert_int_equal(closed, 0); /* not after control_close */
    close(fd);
    fd = dial();
    say(fd, "{\"cmd\":\"free-server\"}\n", 22);
    assert_null(server);
    close(fd);
}

static void test_occupied_and_stale(void **state)
{
    (void)state;
    struct errmsg e;
    assert_null(control_listen(loop, path, &handlers, NULL, &e));
    assert_non_null(strstr(e.text, "another process listens there"));
    control_server_free(server);
    /* A process that was killed leaves its socket. */
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    close(fd);
    server = control_listen(loop, path, &handlers, NULL, &e);
    assert_non_null(server);
    char other[128];
    snprintf(other, sizeof(other), "%s/file", dir);
    fclose(fopen(other, "w"));
    assert_null(control_listen(loop, other, &handlers, NULL, &e));
    assert_non_null(strstr(e.text, "no socket"));
    unlink(other);
    memset(other, 'x', sizeof(other) - 1);
    other[127] = 0;
    assert_null(control_listen(loop, other, &handlers, NULL, &e));
    assert_non_null(strstr(e.text, "shorter run_dir"));
}

static unsigned client_got, client_closed;
static void *seen;

static void on_client(struct control_conn *c, struct json_object *m, void *arg)
{
    (void)arg;
    seen = control_data(c);
    client_got += (unsigned)json_get_u64(m, "n", 0);
}

static void on_client_closed(struct control_conn *c, void *arg)
{
    (void)c;
    (void)arg;
    client_closed++;
}

static void test_connect_from_the_loop(void **state)
{
    (void)state;
    static const struct control_handlers client = {on_client, on_client_closed};
    struct errmsg e;
    struct control_conn *c = control_connect(loop, path, &client, NULL, &e);
    assert_non_null(c);
    control_set_data(c, &e);
    for (int i = 1; i <= 3; i++) {
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "n", json_object_new_int(i));
        control_send(c, j);
        json_object_put(j);
    }
    run_for(0.05);
    assert_int_equal(client_got, 6);
    assert_ptr_equal(seen, &e);
    control_close(last); /* the server's end */
    run_for(0.05);
    assert_int_equal(client_closed, 1);
    assert_null(control_connect(loop, "/no/primary.sock", &client, NULL, &e));
    assert_non_null(strstr(e.text, "no agent listens at /no/primary.sock: is hikae-primary running?"));
}

struct call {
    const char *text;
    struct json_object *reply;
    struct errmsg e;
};

static void *caller(void *arg)
{
    struct call *call = arg;
    struct json_object *j = json_tokener_parse(call->text);
    call->reply = control_call(path, j, 300, &call->e);
    json_object_put(j);
    return NULL;
}

static void call(struct call *c)
{
    pthread_t t;
    pthread_create(&t, NULL, caller, c);
    run_for(0.5);
    pthread_join(t, NULL);
}

static void test_blocking_call(void **state)
{
    (void)state;
    struct call c = {.text = "{\"hello\":\"world\"}"};
    call(&c);
    assert_string_equal(json_get_text(c.reply, "hello", ""), "world");
    json_object_put(c.reply);
    c = (struct call){.text = "{\"cmd\":\"close\"}"};
    call(&c);
    assert_null(c.reply);
    assert_non_null(strstr(c.e.text, "closed the connection without an answer"));
    struct errmsg e;
    struct json_object *j = json_object_new_object();
    assert_null(control_call(path, j, 50, &e)); /* nobody runs the loop */
    assert_non_null(strstr(e.text, "no answer in time"));
    json_object_put(j);
}

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/test.sock", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    return rmdir(dir);
}

#define CONTROL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CONTROL_TEST(test_lines),
        CONTROL_TEST(test_rubbish),
        CONTROL_TEST(test_deep_nesting),
        CONTROL_TEST(test_endless_line),
        CONTROL_TEST(test_reader_that_does_not_read),
        CONTROL_TEST(test_close_in_handler),
        CONTROL_TEST(test_occupied_and_stale),
        CONTROL_TEST(test_connect_from_the_loop),
        CONTROL_TEST(test_blocking_call),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
