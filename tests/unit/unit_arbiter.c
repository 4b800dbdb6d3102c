/*
 * unit_arbiter: the file arbiter grants each term to exactly one, whatever races, hangs or vanishes. A FIFO in the
 * place of a term's file stands for a file server that hangs: opening it blocks until somebody writes.
 */
#include "arbiter/arbiter.h"
#include "arbiter/file.h"

#include <dirent.h>
#include <ev.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char base[64], url[80];
static struct ev_loop *loop;
static struct arbiter *arbiter;

struct got {
    unsigned calls;
    enum arbiter_answer answer;
    struct arbiter_register now;
    char why[512];
    bool free_arbiter;
};

static void on_answer(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct got *got = arg;
    got->calls++;
    got->answer = answer;
    got->now = *now;
    snprintf(got->why, sizeof(got->why), "%s", why);
    if (got->free_arbiter) {
        arbiter_free(arbiter);
        arbiter = NULL;
    }
    ev_break(loop, EVBREAK_ALL);
}

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

static void wait_for(struct got *got)
{
    assert_int_equal(got->calls, 0); /* never from inside the call */
    for (int i = 0; i < 100 && !got->calls; i++)
        run_for(0.1);
    assert_int_equal(got->calls, 1);
}

static struct got claim(uint64_t term, const char *owner, const char *mode)
{
    struct got got = {0};
    struct arbiter_register want = {.term = term};
    strcpy(want.owner, owner);
    strcpy(want.mode, mode);
    assert_non_null(arbiter_claim(arbiter, "web", &want, 2000, on_answer, &got));
    wait_for(&got);
    return got;
}

static struct got look(void)
{
    struct got got = {0};
    assert_non_null(arbiter_read(arbiter, "web", 2000, on_answer, &got));
    wait_for(&got);
    return got;
}

static void empty_dir(const char *path)
{
    DIR *d = opendir(path);
    const struct dirent *entry;
    while (d && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            char name[512];
            snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
            if (entry->d_type == DT_DIR)
                empty_dir(name);
            else
                unlink(name);
        }
    if (d)
        closedir(d);
    rmdir(path);
}

static int setup(void **state)
{
    (void)state;
    strcpy(base, "/tmp/hikae-unit-arbiter-XXXXXX");
    assert_non_null(mkdtemp(base));
    snprintf(url, sizeof(url), "file:%s", base);
    loop = ev_loop_new(0);
    arbiter = arbiter_open(loop, url, NULL);
    assert_non_null(arbiter);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arbiter_free(arbiter);
    ev_loop_destroy(loop);
    empty_dir(base);
    return 0;
}

static void term_path(char out[256], unsigned term)
{
    snprintf(out, 256, "%s/web/term.%020u", base, term);
}

static void put_term(unsigned term, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/web", base);
    mkdir(path, 0700);
    term_path(path, term);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    if (text)
        fputs(text, f);
    else
        fprintf(f, "{\"term\":%u,\"owner\":\"other\",\"mode\":\"protected\"}", term);
    fclose(f);
}

static void put_fifo(unsigned term)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/web", base);
    mkdir(path, 0700);
    term_path(path, term);
    assert_int_equal(mkfifo(path, 0600), 0);
}

/* Returns when somebody hangs in the FIFO. */
static int enter_fifo(unsigned term)
{
    char path[256];
    term_path(path, term);
    int fd = -1;
    for (int i = 0; i < 500 && fd < 0; i++, usleep(10000))
        fd = open(path, O_WRONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static void release_fifo(int fd, unsigned term)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "{\"term\":%u,\"owner\":\"other\",\"mode\":\"protected\"}", term);
    assert_int_equal(write(fd, text, (size_t)n), n);
    close(fd);
}

static void test_terms_only_grow(void **state)
{
    (void)state;
    struct got got = look();
    assert_int_equal(got.answer, ARBITER_GRANTED);
    assert_int_equal(got.now.term, 0);
    assert_int_equal(claim(2, "host-a", "protected").answer, ARBITER_REFUSED); /* not the next */
    assert_int_equal(claim(0, "host-a", "protected").answer, ARBITER_REFUSED);
    assert_int_equal(claim(1, "host-a", "protected").answer, ARBITER_GRANTED);
    assert_int_equal(claim(1, "host-a", "protected").answer, ARBITER_GRANTED); /* the same again */
    got = claim(1, "host-a", "alone");
    assert_int_equal(got.answer, ARBITER_REFUSED);
    got = claim(1, "host-b", "protected");
    assert_int_equal(got.answer, ARBITER_REFUSED);
    assert_string_equal(got.now.owner, "host-a");
    assert_non_null(strstr(got.why, "term 1, owner host-a, protected"));
    got = claim(2, "host-b", "alone");
    assert_int_equal(got.answer, ARBITER_GRANTED);
    assert_string_equal(got.now.mode, "alone");
    assert_int_equal(claim(1, "host-a", "protected").answer, ARBITER_REFUSED); /* of the past */
    got = look();
    assert_int_equal(got.now.term, 2);
    assert_string_equal(got.now.owner, "host-b");
}

static void test_keeps_the_last_eight(void **state)
{
    (void)state;
    for (unsigned term = 1; term <= 20; term++)
        assert_int_equal(claim(term, "host-a", "protected").answer, ARBITER_GRANTED);
    char path[256];
    for (unsigned term = 1; term <= 20; term++) {
        term_path(path, term);
        assert_int_equal(access(path, F_OK) == 0, term > 12);
    }
    snprintf(path, sizeof(path), "%s/web", base);
    DIR *d = opendir(path);
    unsigned n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    assert_int_equal(n, 8 + 2); /* no litter */
}

enum { RIVALS = 6, ROUNDS = 60 };
static atomic_uint wins[ROUNDS + 1];

static void *rival(void *arg)
{
    struct arbiter_register want = {.mode = "protected"}, now;
    snprintf(want.owner, sizeof(want.owner), "host-%c", *(const char *)arg);
    struct errmsg why;
    do {
        if (file_register_read(base, "web", &now, &why) != ARBITER_GRANTED)
            return "no answer to a read";
        want.term = now.term + 1;
        if (want.term > ROUNDS)
            break;
        enum arbiter_answer a = file_register_claim(base, "web", &want, false, &now, &why);
        if (a == ARBITER_NO_ANSWER)
            return "no answer to a claim";
        if (a == ARBITER_GRANTED)
            atomic_fetch_add(&wins[want.term], 1);
        /* A refusal may also mean: ours, but overtaken before we looked again. */
    } while (want.term < ROUNDS);
    return NULL;
}

static void test_one_winner_per_term(void **state)
{
    (void)state;
    pthread_t threads[RIVALS];
    char names[RIVALS];
    for (int i = 0; i < RIVALS; i++) {
        names[i] = (char)('a' + i);
        assert_int_equal(pthread_create(&threads[i], NULL, rival, &names[i]), 0);
    }
    unsigned won = 0;
    for (int i = 0; i < RIVALS; i++) {
        void *why;
        pthread_join(threads[i], &why);
        if (why)
            fail_msg("%s", (const char *)why);
    }
    for (int term = 1; term <= ROUNDS; term++) {
        assert_true(wins[term] <= 1);
        won += wins[term];
    }
    assert_true(won > ROUNDS / 4);
    assert_int_equal(look().now.term, ROUNDS);
}

/* Sleeps between reading term 4 and linking term 5, while the register goes on to 20 and 5 is removed. */
static void test_sleeper_is_refused(void **state)
{
    (void)state;
    put_fifo(4);
    struct got got = {0};
    struct arbiter_register want = {.term = 5, .owner = "host-a", .mode = "alone"};
    arbiter_claim(arbiter, "web", &want, 10000, on_answer, &got);
    int fifo = enter_fifo(4);
    for (unsigned term = 13; term <= 20; term++)
        put_term(term, NULL);
    release_fifo(fifo, 4);
    wait_for(&got);
    assert_int_equal(got.answer, ARBITER_REFUSED);
    assert_int_equal(got.now.term, 20);
    char path[256];
    term_path(path, 5);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_hang_is_no_answer_and_late_result_is_dropped(void **state)
{
    (void)state;
    put_fifo(3);
    struct got got = {0}, cancelled = {0};
    arbiter_read(arbiter, "web", 100, on_answer, &got);
    struct arbiter_request *r = arbiter_read(arbiter, "web", 100, on_answer, &cancelled);
    arbiter_cancel(r);
    double before = ev_time();
    wait_for(&got);
    assert_true(ev_time() - before < 1);
    assert_int_equal(got.answer, ARBITER_NO_ANSWER);
    assert_non_null(strstr(got.why, "no answer within 100 ms"));
    release_fifo(enter_fifo(3), 3);
    run_for(0.2);
    assert_int_equal(got.calls, 1);
    assert_int_equal(cancelled.calls, 0);
}

static void test_many_hang(void **state)
{
    (void)state;
    enum { MANY = 40 };
    struct got got[MANY] = {{0}};
    put_fifo(3);
    for (int i = 0; i < MANY; i++)
        arbiter_read(arbiter, "web", 50, on_answer, &got[i]);
    for (int i = 0; i < MANY; i++)
        while (!got[i].calls)
            run_for(0.1);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(got[i].answer, ARBITER_NO_ANSWER);
    char path[256];
    term_path(path, 3);
    int fd = open(path, O_RDWR | O_NONBLOCK); /* lets all of them in, and out with nothing */
    usleep(100000);
    unlink(path);
    put_term(3, NULL);
    close(fd);
    usleep(100000);
    assert_int_equal(look().now.term, 3); /* the threads are free again */
}

static void test_free_while_hung(void **state)
{
    (void)state;
    struct got got = {0};
    put_fifo(3);
    arbiter_read(arbiter, "web", 1000, on_answer, &got);
    int fifo = enter_fifo(3);
    arbiter_free(arbiter);
    arbiter = NULL;
    release_fifo(fifo, 3);
    usleep(50000);
    run_for(0.05);
    assert_int_equal(got.calls, 0);
}

static void test_free_in_callback(void **state)
{
    (void)state;
    struct got first = {.free_arbiter = true}, second = {.free_arbiter = true};
    arbiter_read(arbiter, "web", 1000, on_answer, &first);
    arbiter_read(arbiter, "db", 1000, on_answer, &second);
    usleep(50000); /* both are done when the loop looks */
    run_for(1);
    run_for(0.05);
    assert_int_equal(first.calls + second.calls, 1);
}

static void test_bad_content_and_lost_directory(void **state)
{
    (void)state;
    struct got got;
    static const char *const bad[] = {"", "{}", "{\"term\":7,\"owner\":\"a\"}",
                                      "{\"term\":6,\"owner\":\"a\",\"mode\":\"alone\"}",
                                      "{\"term\":7,\"owner\":\"../x\",\"mode\":\"alone\"}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        put_term(7, bad[i]);
        got = look();
        assert_int_equal(got.answer, ARBITER_NO_ANSWER);
        assert_non_null(strstr(got.why, "damaged"));
        assert_int_equal(claim(8, "host-a", "alone").answer, ARBITER_NO_ANSWER);
    }
    empty_dir(base);
    got = look();
    assert_int_equal(got.answer, ARBITER_NO_ANSWER);
    assert_non_null(strstr(got.why, "is the shared path mounted?"));
    assert_int_equal(claim(1, "host-a", "alone").answer, ARBITER_NO_ANSWER);
}

static void test_names_that_are_paths(void **state)
{
    (void)state;
    struct got got = {0};
    struct arbiter_register want = {.term = 1, .owner = "host-a", .mode = "alone"};
    arbiter_claim(arbiter, "../evil", &want, 50, on_answer, &got);
    wait_for(&got);
    assert_int_equal(got.answer, ARBITER_NO_ANSWER);
    assert_int_equal(access("/tmp/evil", F_OK), -1);
}

static void test_open_errors(void **state)
{
    (void)state;
    struct errmsg e;
    assert_null(arbiter_open(loop, NULL, &e));
    assert_non_null(strstr(e.text, "arbiter = file:DIR"));
    assert_null(arbiter_open(loop, "zookeeper:x", &e));
    assert_non_null(strstr(e.text, "unknown kind"));
    assert_null(arbiter_open(loop, "file:/no/such/place", &e));
    assert_non_null(strstr(e.text, "create it, on a path that both hosts share"));
    assert_null(arbiter_open(loop, "file:/etc/passwd", &e));
    assert_non_null(strstr(e.text, "is no directory"));
}

#define ARBITER_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        ARBITER_TEST(test_terms_only_grow),
        ARBITER_TEST(test_keeps_the_last_eight),
        ARBITER_TEST(test_one_winner_per_term),
        ARBITER_TEST(test_sleeper_is_refused),
        ARBITER_TEST(test_hang_is_no_answer_and_late_result_is_dropped),
        ARBITER_TEST(test_many_hang),
        ARBITER_TEST(test_free_while_hung),
        ARBITER_TEST(test_free_in_callback),
        ARBITER_TEST(test_bad_content_and_lost_directory),
        ARBITER_TEST(test_names_that_are_paths),
        ARBITER_TEST(test_open_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
