/*
 * unit_fleet: rounds of the fleet's file carrier, whose work is done by a thread: what one host publishes the other one
 * reads, a round that fails says why, and it can be freed at any moment. Meant for ThreadSanitizer too. A FIFO in the
 * place of a host's file stands for a file server that hangs.
 */
#include "arbiter/fleet.h"
#include "common/config.h"

#include <dirent.h>
#include <ev.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static struct ev_loop *loop;
static char base[32], carrier[48], hosts[48];

struct round {
    struct fleet *fleet;
    unsigned ends, found;
    char text[2][64]; /* of hosts a and b */
    char why[512];
    bool free_when_done;
};

static void on_host(const char *name, const char *text, size_t n, void *arg)
{
    struct round *r = arg;
    r->found++;
    assert_int_equal(strlen(text), n);
    assert_true(!strcmp(name, "a") || !strcmp(name, "b"));
    snprintf(r->text[*name - 'a'], sizeof r->text[0], "%s", text);
}

static void on_done(const char *why, void *arg)
{
    struct round *r = arg;
    r->ends++;
    snprintf(r->why, sizeof r->why, "%s", why ? why : "");
    if (r->free_when_done)
        fleet_free(r->fleet);
    ev_break(loop, EVBREAK_ALL);
}

static void open_fleet(struct round *r)
{
    static const struct fleet_handlers handlers = {.host = on_host, .done = on_done};
    struct config c = {.arbiter = carrier};
    struct errmsg e;
    *r = (struct round){.fleet = fleet_open(loop, &c, &handlers, r, &e)};
    assert_non_null(r->fleet);
}

static void on_time(struct ev_loop *l, ev_timer *w, int events)
{
    (void)w, (void)events;
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

static void finish(struct round *r)
{
    for (int i = 0; i < 200 && !r->ends; i++)
        run_for(0.1);
    assert_int_equal(r->ends, 1);
}

static void do_round(struct round *r, const char *name, const char *text)
{
    r->ends = r->found = 0;
    fleet_round(r->fleet, name, text);
    assert_int_equal(r->ends, 0); /* never from inside the call */
    finish(r);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(base, "/tmp/unit-fleet-XXXXXX");
    assert_non_null(mkdtemp(base));
    snprintf(carrier, sizeof carrier, "file:%s", base);
    snprintf(hosts, sizeof hosts, "%s/hosts", base);
    loop = ev_loop_new(0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const names[] = {"hosts/a.json", "hosts/b.json", "hosts/c.json", "hosts", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[96];
        snprintf(path, sizeof path, "%s/%s", base, names[i]);
        remove(path);
    }
    ev_loop_destroy(loop);
    return 0;
}

static void hosts_hear_of_each_other(void **state)
{
    (void)state;
    struct round a, b;
    open_fleet(&a);
    open_fleet(&b);
    do_round(&a, "a", "{\"n\":1}");
    assert_int_equal(a.found, 1);
    do_round(&b, "b", "{\"n\":2}");
    assert_int_equal(b.found, 2);
    do_round(&a, "a", "{\"n\":3}");
    assert_int_equal(a.found, 2);
    assert_string_equal(a.text[0], "{\"n\":3}");
    assert_string_equal(a.text[1], "{\"n\":2}");
    fleet_free(a.fleet);
    fleet_free(b.fleet);
}

/* Two hosts' rounds at the same time, again and again: each reads whole texts. */
static void rounds_meet(void **state)
{
    (void)state;
    struct round r[2];
    open_fleet(&r[0]);
    open_fleet(&r[1]);
    for (unsigned i = 0; i < 50; i++) {
        char text[32];
        snprintf(text, sizeof text, "{\"n\":%u}", i);
        r[0].ends = r[1].ends = 0;
        fleet_round(r[0].fleet, "a", text);
        fleet_round(r[1].fleet, "b", text);
        finish(&r[0]);
        finish(&r[1]);
        assert_string_equal(r[0].why, "");
        assert_string_equal(r[0].text[0], text);
        assert_string_equal(r[1].text[1], text);
    }
    fleet_free(r[0].fleet);
    fleet_free(r[1].fleet);
}

static void a_folder_that_is_away_is_missed(void **state)
{
    (void)state;
    struct round r;
    open_fleet(&r);
    assert_int_equal(rmdir(base), 0);
    do_round(&r, "a", "{}");
    assert_non_null(strstr(r.why, "is the shared path mounted?"));
    assert_int_equal(access(base, F_OK), -1);
    assert_int_equal(mkdir(base, 0700), 0);
    do_round(&r, "a", "{}");
    assert_string_equal(r.why, "");
    fleet_free(r.fleet);
}

static unsigned threads(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/task");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void is_freed_at_any_moment(void **state)
{
    (void)state;
    struct round r;
    unsigned before = threads();
    for (long i = 0; i < 40; i++) {
        open_fleet(&r);
        fleet_round(r.fleet, "a", "{}");
        nanosleep(&(struct timespec){.tv_nsec = i * 20000}, NULL);
        fleet_free(r.fleet);
        ev_run(loop, EVRUN_NOWAIT);
        assert_int_equal(r.ends, 0);
    }
    open_fleet(&r);
    r.free_when_done = true;
    do_round(&r, "a", "{}");
    while (threads() > before) /* what they hold is theirs until they end: it is no leak */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* The thread stays with the file server; the loop and the end do not wait for it. */
static void a_server_that_hangs_holds_nothing(void **state)
{
    (void)state;
    struct round r;
    char fifo[64];
    assert_int_equal(mkdir(hosts, 0755), 0);
    snprintf(fifo, sizeof fifo, "%s/c.json", hosts);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    open_fleet(&r);
    fleet_round(r.fleet, "a", "{}");
    run_for(0.1);
    fleet_round(r.fleet, "a", "{}"); /* there is one already */
    assert_int_equal(r.ends, 0);
    fleet_free(r.fleet);
    int fd = open(fifo, O_WRONLY); /* it goes on, by itself: there is nobody to tell */
    assert_true(fd >= 0);
    close(fd);
    run_for(0.1);
    assert_int_equal(r.ends, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hosts_hear_of_each_other),          TEST(rounds_meet),
        TEST(a_folder_that_is_away_is_missed),   TEST(is_freed_at_any_moment),
        TEST(a_server_that_hangs_holds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
