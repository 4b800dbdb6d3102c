/*
 * int_etcd: the etcd arbiter against a real cluster of three, whose members are killed and stopped, with and without
 * TLS.
 */
#include "arbiter/arbiter.h"
#include "arbiter/fleet.h"
#include "common/config.h"
#include "tests/integration/etcd_cluster.h"

#include <ev.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { TIMEOUT_MS = 1000, RACES = 50, NO_TEST = 77 };

static struct etcd_cluster plain, secure;
static struct ev_loop *loop;
static struct arbiter *arbiter;
static unsigned vm_number;
static char vm[16]; /* a fresh one for each test */

struct got {
    unsigned calls;
    enum arbiter_answer answer;
    struct arbiter_register now;
    char why[512];
    double seconds; /* the request took */
    bool free_arbiter;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_answer(enum arbiter_answer answer, const struct arbiter_register *now_is, const char *why, void *arg)
{
    struct got *got = arg;
    got->calls++;
    got->answer = answer;
    got->now = *now_is;
    got->seconds = now() - got->seconds;
    snprintf(got->why, sizeof(got->why), "%s", why);
    if (got->free_arbiter) {
        arbiter_free(arbiter);
        arbiter = NULL;
    }
    ev_break(loop, EVBREAK_ALL);
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

static void wait_for(const struct got *got)
{
    assert_int_equal(got->calls, 0); /* never from inside the call */
    for (int i = 0; i < 50 && !got->calls; i++)
        run_for(0.1);
    assert_int_equal(got->calls, 1);
}

static struct arbiter_register of(uint64_t term, const char *owner, const char *mode)
{
    struct arbiter_register r = {.term = term};
    strcpy(r.owner, owner);
    strcpy(r.mode, mode);
    return r;
}

static struct got claim(uint64_t term, const char *owner, const char *mode)
{
    struct got got = {.seconds = now()};
    struct arbiter_register want = of(term, owner, mode);
    assert_non_null(arbiter_claim(arbiter, vm, &want, TIMEOUT_MS, on_answer, &got));
    wait_for(&got);
    return got;
}

static struct got look(void)
{
    struct got got = {.seconds = now()};
    assert_non_null(arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &got));
    wait_for(&got);
    return got;
}

static void assert_answer(const struct got *got, enum arbiter_answer answer, uint64_t term, const char *owner)
{
    if (got->answer != answer || got->now.term != term || strcmp(got->now.owner, owner))
        fail_msg("answer %d, term %llu of %s: %s", got->answer, (unsigned long long)got->now.term, got->now.owner,
                 got->why);
}

/* As an agent does: asks again until there is an answer. The seconds that it took. */
static double claim_until_granted(uint64_t term, const char *owner)
{
    double start = now();
    struct got got;
    do
        got = claim(term, owner, "alone");
    while (got.answer == ARBITER_NO_ANSWER && now() < start + 20);
    assert_answer(&got, ARBITER_GRANTED, term, owner);
    return now() - start;
}

static struct arbiter *open_at(const char *url, const char *ca, const char *cert, const char *key)
{
    struct config c = {
        .arbiter = (char *)url, .etcd_ca = (char *)ca, .etcd_cert = (char *)cert, .etcd_key = (char *)key};
    struct errmsg e;
    struct arbiter *a = arbiter_open_config(loop, &c, &e);
    if (!a)
        fail_msg("%s", e.text);
    return a;
}

static int fresh(void **state)
{
    (void)state;
    loop = ev_loop_new(0);
    arbiter = open_at(plain.url, NULL, NULL, NULL);
    snprintf(vm, sizeof(vm), "vm%u", ++vm_number);
    return 0;
}

static int fresh_secure(void **state)
{
    (void)state;
    loop = ev_loop_new(0);
    arbiter = open_at(secure.url, secure.ca, secure.cert, secure.key);
    snprintf(vm, sizeof(vm), "vm%u", ++vm_number);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    arbiter_free(arbiter);
    arbiter = NULL;
    ev_loop_destroy(loop);
    return 0;
}

static void use(const char *url)
{
    arbiter_free(arbiter);
    arbiter = open_at(url, NULL, NULL, NULL);
}

/* ---- tests ---- */

static void test_terms_only_grow(void **state)
{
    (void)state;
    struct got got = look();
    assert_answer(&got, ARBITER_GRANTED, 0, "");
    got = claim(2, "host-a", "alone");
    assert_answer(&got, ARBITER_REFUSED, 0, "");
    got = claim(1, "host-a", "alone");
    assert_answer(&got, ARBITER_GRANTED, 1, "host-a");
    got = claim(2, "host-b", "protected");
    assert_answer(&got, ARBITER_GRANTED, 2, "host-b");
    assert_string_equal(got.now.mode, "protected");
    print_message("a claim on a warm connection: %.1f ms\n", got.seconds * 1e3);
    got = claim(2, "host-b", "protected"); /* already so */
    assert_answer(&got, ARBITER_GRANTED, 2, "host-b");
    got = claim(2, "host-b", "alone");
    assert_answer(&got, ARBITER_REFUSED, 2, "host-b");
    got = claim(2, "host-a", "protected");
    assert_answer(&got, ARBITER_REFUSED, 2, "host-b");
    assert_non_null(strstr(got.why, "term 2, owner host-b"));
    got = claim(1, "host-a", "alone");
    assert_answer(&got, ARBITER_REFUSED, 2, "host-b");
    got = look();
    assert_answer(&got, ARBITER_GRANTED, 2, "host-b");
}

/* A claim after a read names what was read: whoever came in between keeps the term. */
static void test_claims_by_an_old_read(void **state)
{
    (void)state;
    struct arbiter *rival = open_at(plain.url, NULL, NULL, NULL), *here = arbiter;
    for (uint64_t term = 1; term <= 4; term++) {
        struct got got = look();
        assert_answer(&got, ARBITER_GRANTED, term - 1, term == 1 ? "" : term % 2 ? "host-a" : "host-b");
        if (term % 2) {
            arbiter = rival;
            got = claim(term, "host-b", "alone");
            assert_answer(&got, ARBITER_GRANTED, term, "host-b");
            arbiter = here;
        }
        got = claim(term, "host-a", "alone");
        assert_answer(&got, term % 2 ? ARBITER_REFUSED : ARBITER_GRANTED, term, term % 2 ? "host-b" : "host-a");
        got = look();
        assert_answer(&got, ARBITER_GRANTED, term, term % 2 ? "host-b" : "host-a");
    }
    arbiter_free(rival);
}

static void test_one_winner_per_term(void **state)
{
    (void)state;
    struct arbiter *rival = open_at(plain.url, NULL, NULL, NULL);
    unsigned wins[2] = {0};
    for (unsigned term = 1; term <= RACES; term++) {
        struct got got[2] = {{.seconds = now()}, {.seconds = now()}};
        struct arbiter_register want[2] = {of(term, "host-a", "alone"), of(term, "host-b", "alone")};
        int first = rand() % 2; /* NOLINT(cert-msc30-c,cert-msc50-cpp) */
        for (int i = 0; i < 2; i++) {
            int who = i ? !first : first;
            arbiter_claim(who ? rival : arbiter, vm, &want[who], 5000, on_answer, &got[who]);
        }
        for (int i = 0; i < 100 && !(got[0].calls && got[1].calls); i++)
            run_for(0.1);
        int winner = got[1].answer == ARBITER_GRANTED;
        assert_answer(&got[winner], ARBITER_GRANTED, term, want[winner].owner);
        assert_answer(&got[!winner], ARBITER_REFUSED, term, want[winner].owner);
        wins[winner]++;
    }
    print_message("%u races: host-a won %u, host-b %u\n", RACES, wins[0], wins[1]);
    arbiter_free(rival);
}

static void test_a_member_dies(void **state)
{
    (void)state;
    uint64_t term = 1;
    claim_until_granted(term++, "host-a");
    for (int i = 0; i < MEMBERS; i++) {
        etcd_member_kill(&plain, i);
        double took = claim_until_granted(term++, "host-a");
        struct got got = claim(term++, "host-b", "alone");
        print_message("member %d killed: answer after %.0f ms, the next after %.0f ms\n", i, took * 1e3,
                      got.seconds * 1e3);
        assert_answer(&got, ARBITER_GRANTED, term - 1, "host-b");
        etcd_member_start(&plain, i);
        claim_until_granted(term++, "host-a");
        run_for(1); /* it must have caught up before the next one goes */
    }
}

static void test_two_members_die(void **state)
{
    (void)state;
    claim_until_granted(1, "host-a");
    etcd_member_kill(&plain, 0);
    etcd_member_kill(&plain, 1);
    for (int i = 0; i < 3; i++) {
        struct got got = claim(2, "host-b", "alone");
        assert_int_equal(got.answer, ARBITER_NO_ANSWER);
        assert_non_null(strstr(got.why, "is etcd up there"));
        assert_true(got.seconds > 0.95); /* wait_for bounds it */
        if (!i)
            print_message("no majority: after %.0f ms: %s\n", got.seconds * 1e3, got.why);
    }
    etcd_member_start(&plain, 0);
    etcd_member_start(&plain, 1);
    print_message("restarted: answer after %.0f ms\n", claim_until_granted(2, "host-b") * 1e3);
    struct got got = claim(2, "host-a", "alone");
    assert_answer(&got, ARBITER_REFUSED, 2, "host-b");
}

/* The worst mistake of an operator: a term could be granted twice. */
static void test_two_clusters(void **state)
{
    (void)state;
    struct etcd_cluster other;
    char url[384];
    etcd_cluster_start(&other, false);
    use(other.url);
    claim_until_granted(1, "host-b"); /* it has a leader */
    snprintf(url, sizeof(url), "%s,%s", plain.url, etcd_member_url(&other, 0));
    use(url);
    claim_until_granted(1, "host-a");
    for (int i = 0; i < MEMBERS; i++)
        etcd_member_signal(&plain, i, SIGSTOP);
    struct got got = claim(2, "host-b", "alone");
    for (int i = 0; i < MEMBERS; i++)
        etcd_member_signal(&plain, i, SIGCONT);
    etcd_cluster_end(&other);
    assert_int_equal(got.answer, ARBITER_NO_ANSWER);
    assert_non_null(strstr(got.why, "of another cluster"));
}

/* A stopped member's kernel still accepts connections: only the time limit of the visit helps. */
static void test_a_member_hangs(void **state)
{
    (void)state;
    uint64_t term = 1;
    for (int i = 0; i < MEMBERS; i++) {
        claim_until_granted(term++, "host-a");
        etcd_member_signal(&plain, i, SIGSTOP);
        struct got got = claim(term, "host-b", "alone");
        bool at_once = got.answer == ARBITER_GRANTED; /* else it was the leader: there is an election */
        double took = got.seconds + (at_once ? 0 : claim_until_granted(term, "host-b"));
        got = claim(++term, "host-a", "alone");
        assert_answer(&got, ARBITER_GRANTED, term, "host-a");
        print_message("member %d hangs: answer after %.0f ms, the next after %.0f ms\n", i, took * 1e3,
                      got.seconds * 1e3);
        etcd_member_signal(&plain, i, SIGCONT);
        term++;
        run_for(1);
    }
}

static void test_all_hang_cancel_and_free(void **state)
{
    (void)state;
    struct got got = {0};
    struct arbiter_register want = of(1, "host-a", "alone");
    claim_until_granted(1, "host-a");
    arbiter_cancel(arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &got));
    struct arbiter_request *early = arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &got);
    for (int i = 0; i < MEMBERS; i++)
        etcd_member_signal(&plain, i, SIGSTOP);
    struct arbiter_request *r = arbiter_claim(arbiter, vm, &want, TIMEOUT_MS, on_answer, &got);
    arbiter_cancel(early);
    run_for(0.5); /* in the second visit */
    arbiter_cancel(r);
    run_for(0.7);
    assert_int_equal(got.calls, 0);
    struct got silence = look();
    assert_int_equal(silence.answer, ARBITER_NO_ANSWER);
    assert_true(silence.seconds > 0.95);
    for (int i = 0; i < 20; i++)
        arbiter_claim(arbiter, vm, &want, TIMEOUT_MS, on_answer, &got);
    run_for(0.2);
    arbiter_free(arbiter);
    arbiter = NULL;
    run_for(0.2);
    assert_int_equal(got.calls, 0);
    for (int i = 0; i < MEMBERS; i++)
        etcd_member_signal(&plain, i, SIGCONT);
    arbiter = open_at(plain.url, NULL, NULL, NULL);
    claim_until_granted(2, "host-b");
}

static void test_free_in_callback(void **state)
{
    (void)state;
    struct got got = {.free_arbiter = true}, never = {0};
    arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &got);
    for (int i = 0; i < 4; i++)
        arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &never);
    wait_for(&got);
    run_for(0.1);
    assert_null(arbiter);
    assert_true(never.calls < 5); /* those that came before the free */
}

/* A name is looked up by a thread of curl's, for which neither cancelling nor freeing waits. */
static void test_names(void **state)
{
    (void)state;
    char url[128];
    struct got never = {0};
    snprintf(url, sizeof(url), "etcd:http://no-such-host.invalid,http://localhost:%u", plain.client_port[0]);
    use(url);
    claim_until_granted(1, "host-a");
    use(url);
    double start = now();
    arbiter_cancel(arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &never));
    arbiter_read(arbiter, vm, TIMEOUT_MS, on_answer, &never);
    run_for(0.001);
    use(url);
    assert_true(now() - start < 1); /* a look-up that fails takes seconds */
    assert_true(never.calls == 0 || never.answer == ARBITER_GRANTED);
    use("etcd:http://no-such-host.invalid");
    struct got got = look();
    assert_int_equal(got.answer, ARBITER_NO_ANSWER);
}

/* Its transactions are carried out, and nobody hears of it. */
static void test_answer_lost(void **state)
{
    (void)state;
    char url[256];
    unsigned port = etcd_free_port();
    pid_t proxy = etcd_losing_proxy(port, plain.client_port[0]);
    snprintf(url, sizeof(url), "etcd:http://127.0.0.1:%u,%s", port, etcd_member_url(&plain, 1));
    use(url);
    struct got got = claim(1, "host-a", "alone");
    assert_answer(&got, ARBITER_GRANTED, 1, "host-a");
    print_message("a transaction's answer lost: granted after %.1f ms\n", got.seconds * 1e3);
    snprintf(url, sizeof(url), "etcd:http://127.0.0.1:%u", port); /* no other: the same one is read again */
    use(url);
    got = claim(2, "host-b", "alone");
    assert_answer(&got, ARBITER_GRANTED, 2, "host-b");
    print_message("the same without another member: granted after %.1f ms\n", got.seconds * 1e3);
    etcd_end_process(&proxy);
}

static void expect_from(const char *text, size_t n, const char *why)
{
    char url[64];
    unsigned port = etcd_free_port();
    pid_t server = etcd_fake_server(port, text, n);
    snprintf(url, sizeof(url), "etcd:http://127.0.0.1:%u", port);
    use(url);
    struct got got = {.seconds = now()};
    arbiter_read(arbiter, vm, 200, on_answer, &got);
    wait_for(&got);
    etcd_end_process(&server);
    if (got.answer != ARBITER_NO_ANSWER || !strstr(got.why, why))
        fail_msg("answer %d: %s; expected: %s", got.answer, got.why, why);
}

static void expect_text(const char *text, const char *why)
{
    expect_from(text, strlen(text), why);
}

static void test_others_than_etcd(void **state)
{
    (void)state;
    expect_text("", "does it want TLS");
    expect_text("nonsense\r\n", "HTTP/0.9");
    expect_text("HTTP/1.1 200 OK\r\n\r\n{}", "this its client port");
    expect_text("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "98 bytes remaining");
    expect_text("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", "HTTP 302");
    expect_text("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "etcdctl auth disable");
    enum { HUGE = (1 << 20) + 4096 };
    char *huge = malloc(HUGE);
    assert_non_null(huge);
    memset(huge, ' ', HUGE);
    const char head[] = "HTTP/1.1 200 OK\r\n\r\n";
    memcpy(huge, head, sizeof head - 1);
    expect_from(huge, HUGE, "more than 1024 KiB");
    free(huge);
}

static void expect_tls(const char *url, const char *ca, const char *cert, const char *key, const char *why)
{
    arbiter_free(arbiter);
    arbiter = open_at(url, ca, cert, key);
    struct got got = look();
    if (got.answer != ARBITER_NO_ANSWER || !strstr(got.why, why))
        fail_msg("answer %d: %s; expected: %s", got.answer, got.why, why);
}

static void test_certificates(void **state)
{
    (void)state;
    char url[128];
    claim_until_granted(1, "host-a");
    snprintf(url, sizeof(url), "etcd:%s", etcd_member_url(&secure, 0));
    expect_tls(url, secure.ca, NULL, NULL, "set etcd_cert and etcd_key");
    expect_tls(url, secure.other_ca, secure.cert, secure.key, "set etcd_ca");
    expect_tls(url, NULL, secure.cert, secure.key, "set etcd_ca");
    expect_tls(url, secure.key, secure.cert, secure.key, "etcd_ca is no PEM file");
    expect_tls(url, secure.ca, secure.ca, secure.key, "must be PEM files that fit each other");
    snprintf(url, sizeof(url), "etcd:http://127.0.0.1:%u", secure.client_port[0]);
    expect_tls(url, NULL, NULL, NULL, "https://");
    snprintf(url, sizeof(url), "etcd:https://localhost:%u",
             secure.client_port[0]); /* the certificate has the address */
    expect_tls(url, secure.ca, secure.cert, secure.key, "must name the URL's host");
    snprintf(url, sizeof(url), "etcd:https://127.0.0.1:%u", plain.client_port[0]);
    expect_tls(url, secure.ca, secure.cert, secure.key, "does it speak TLS");
}

static void expect_open_error(const struct config *c, const char *why)
{
    struct errmsg e;
    assert_null(arbiter_open_config(loop, c, &e));
    if (!strstr(e.text, why))
        fail_msg("%s; expected: %s", e.text, why);
}

static void test_open_errors(void **state)
{
    (void)state;
    expect_open_error(&(struct config){.arbiter = "etcd:h1"}, "write etcd:https://");
    expect_open_error(&(struct config){.arbiter = "etcd:https://h1", .etcd_cert = "/x"}, "belong together");
    expect_open_error(&(struct config){.arbiter = "etcd:http://h1", .etcd_ca = "/x"}, "write https://");
    expect_open_error(&(struct config){.arbiter = "etcd:https://h1", .etcd_ca = "/no/such"}, "PEM file");
}

static int start_all(void **state)
{
    (void)state;
    etcd_cluster_start(&plain, false);
    etcd_cluster_start(&secure, true);
    fresh(NULL);
    print_message("a new cluster: answer after %.0f ms\n", claim_until_granted(1, "host-a") * 1e3);
    clear(NULL);
    return 0;
}

static int end_all(void **state)
{
    (void)state;
    etcd_cluster_end(&plain);
    etcd_cluster_end(&secure);
    return 0;
}

#define PLAIN(f)  cmocka_unit_test_setup_teardown(f, fresh, clear)
#define SECURE(f) cmocka_unit_test_setup_teardown(f, fresh_secure, clear)
/* ---- the fleet ---- */

struct round {
    unsigned ends, hosts;
    char names[64], text[64], why[512];
};

static void on_host(const char *name, const char *text, size_t n, void *arg)
{
    struct round *r = arg;
    r->hosts++;
    strcat(r->names, name);
    assert_int_equal(strlen(text), n);
    snprintf(r->text, sizeof r->text, "%s", text);
}

static void on_round_done(const char *why, void *arg)
{
    struct round *r = arg;
    r->ends++;
    snprintf(r->why, sizeof r->why, "%s", why ? why : "");
    ev_break(loop, EVBREAK_ALL);
}

static void do_round(struct fleet *f, struct round *r, const char *name, const char *text)
{
    *r = (struct round){0};
    fleet_round(f, name, text);
    assert_int_equal(r->ends, 0);
    for (int i = 0; i < 100 && !r->ends; i++)
        run_for(0.1);
    assert_int_equal(r->ends, 1);
}

static void fleet_on(struct etcd_cluster *c, bool until_lease_ends)
{
    static const struct fleet_handlers handlers = {.host = on_host, .done = on_round_done};
    struct config config = {.arbiter = c->url};
    if (c->tls) {
        config.etcd_ca = c->ca;
        config.etcd_cert = c->cert;
        config.etcd_key = c->key;
    }
    struct round r;
    struct errmsg e;
    struct fleet *f = fleet_open(loop, &config, &handlers, &r, &e);
    assert_non_null(f);
    do_round(f, &r, "host-b", "{\"of\":\"b\"}");
    assert_string_equal(r.why, "");
    do_round(f, &r, "host-a", "{\"of\":\"a\"}");
    assert_string_equal(r.why, "");
    assert_int_equal(r.hosts, 2);
    assert_string_equal(r.names, "host-ahost-b");
    assert_string_equal(r.text, "{\"of\":\"b\"}");
    etcd_member_kill(c, 0); /* the first in the list: asked in vain, then the next one */
    do_round(f, &r, "host-a", "{\"of\":\"a\",\"again\":1}");
    assert_string_equal(r.why, "");
    assert_int_equal(r.hosts, 2);
    etcd_member_start(c, 0);
    if (until_lease_ends) { /* host-b says nothing any more */
        for (double until = now() + 60; now() < until && r.hosts != 1;)
            run_for(1), do_round(f, &r, "host-a", "{}");
        assert_string_equal(r.names, "host-a");
    }
    fleet_round(f, "host-a", "{}");
    fleet_free(f); /* in the middle of it: nothing comes any more */
    r.ends = 0;
    run_for(0.3);
    assert_int_equal(r.ends, 0);
}

static void test_fleet(void **state)
{
    (void)state;
    fleet_on(&plain, true);
}

static void test_fleet_secure(void **state)
{
    (void)state;
    fleet_on(&secure, false); /* a lease does not end otherwise over TLS */
}

int main(void)
{
    if (!etcd_is_installed()) {
        fputs("int_etcd: left out: there is no etcd or no openssl (packages etcd-server, openssl)\n", stderr);
        return NO_TEST;
    }
    const struct CMUnitTest tests[] = {
        PLAIN(test_terms_only_grow),
        PLAIN(test_claims_by_an_old_read),
        PLAIN(test_one_winner_per_term),
        PLAIN(test_free_in_callback),
        PLAIN(test_names),
        PLAIN(test_answer_lost),
        PLAIN(test_others_than_etcd),
        PLAIN(test_open_errors),
        SECURE(test_terms_only_grow),
        SECURE(test_certificates),
        PLAIN(test_a_member_dies),
        PLAIN(test_two_members_die),
        PLAIN(test_a_member_hangs),
        PLAIN(test_all_hang_cancel_and_free),
        PLAIN(test_two_clusters),
        PLAIN(test_fleet),
        SECURE(test_fleet_secure),
    };
    return cmocka_run_group_tests(tests, start_all, end_all);
}
