/*
 * unit_link: two links on one loop over loopback: who is let in, what is said to whom is not, that bytes arrive as
 * sent, and that any handler may free its link. Keys are made in a temporary folder.
 */
#include "common/file.h"
#include "common/link.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <ev.h>
#include <netdb.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { BIG = 24 << 20 };

struct end {
    uint8_t *room; /* for what comes next; NULL: the link's own */
    struct link *link;
    char trust[65]; /* "": nobody */
    bool up, closed, reset, drained;
    char reason[512];
    size_t got;
    uint64_t sum;
    size_t pieces;
    enum { KEEP, FREE_IN_UP, FREE_IN_INPUT, FREE_IN_DRAINED } habit;
};

static char dir[] = "/tmp/hikae-unit-link-XXXXXX";
static struct tls_identity *id_a, *id_b, *id_c;
static char print_a[65], print_b[65], print_c[65];
static struct ev_loop *loop;
static int server_fd;
static struct end server, client;
static int listener;
static char port[8];
static ev_io accept_io;

static uint64_t mix(uint64_t sum, const uint8_t *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum = (sum ^ data[i]) * 1099511628211u;
    return sum;
}

static void drop(struct end *x)
{
    link_free(x->link, 0);
    x->link = NULL;
    ev_break(loop, EVBREAK_ALL);
}

static void on_up(struct link *l, void *arg)
{
    struct end *x = arg;
    (void)l;
    x->up = true;
    if (x->habit == FREE_IN_UP)
        drop(x);
    else if (server.up && client.up)
        ev_break(loop, EVBREAK_ALL);
}

/* Every other time the link must do with its own. */
static uint8_t *room(struct link *l, size_t n, void *arg)
{
    static uint8_t ours[1 << 20];
    struct end *x = arg;
    (void)l;
    assert_true(n <= sizeof ours);
    x->room = x->room ? NULL : ours;
    return x->room;
}

static void on_input(struct link *l, const uint8_t *data, size_t n, void *arg)
{
    struct end *x = arg;
    (void)l;
    if (x->room)
        assert_ptr_equal(data, x->room);
    x->got += n;
    x->pieces++;
    x->sum = mix(x->sum, data, n);
    if (x->habit == FREE_IN_INPUT)
        drop(x);
}

static void on_drained(struct link *l, void *arg)
{
    struct end *x = arg;
    assert_int_equal(link_queued(l), 0);
    x->drained = true;
    if (x->habit == FREE_IN_DRAINED)
        drop(x);
}

static void on_closed(struct link *l, bool reset, const char *reason, void *arg)
{
    struct end *x = arg;
    assert_false(x->closed);
    assert_int_equal(link_send(l, "x", 1), -1);
    x->closed = true;
    x->reset = reset;
    snprintf(x->reason, sizeof(x->reason), "%s", reason);
    link_free(l, 100);
    x->link = NULL;
    ev_break(loop, EVBREAK_ALL);
}

static bool on_trusted(const char *fingerprint, void *arg)
{
    const struct end *x = arg;
    assert_int_equal(strlen(fingerprint), 64);
    return strcmp(fingerprint, x->trust) == 0;
}

static const struct link_handlers handlers = {
    .up = on_up, .room = room, .input = on_input, .drained = on_drained, .closed = on_closed, .trusted = on_trusted};

static void on_accept(struct ev_loop *l, ev_io *w, int events)
{
    (void)events;
    int fd = accept(w->fd, NULL, NULL);
    assert_true(fd >= 0);
    server_fd = fd;
    server.link = link_accept(l, id_b, fd, 300, &handlers, &server, NULL);
    assert_non_null(server.link);
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

#define RUN_UNTIL(condition)                                                                                           \
    do {                                                                                                               \
        double end_ = ev_time() + 10;                                                                                  \
        while (!(condition) && ev_time() < end_)                                                                       \
            run_for(0.01);                                                                                             \
        assert_true(condition);                                                                                        \
    } while (0)

static int setup(void **state)
{
    (void)state;
    memset(&server, 0, sizeof(server));
    memset(&client, 0, sizeof(client));
    strcpy(server.trust, print_a);
    loop = ev_loop_new(0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(at);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, n), 0);
    assert_int_equal(listen(listener, 5), 0);
    getsockname(listener, (struct sockaddr *)&at, &n);
    snprintf(port, sizeof(port), "%u", ntohs(at.sin_port));
    ev_io_init(&accept_io, on_accept, listener, EV_READ);
    ev_io_start(loop, &accept_io);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    link_free(client.link, 0);
    link_free(server.link, 0);
    ev_io_stop(loop, &accept_io);
    close(listener);
    ev_loop_destroy(loop);
    return 0;
}

static void start(struct tls_identity *who, const char *expected)
{
    client.link = link_connect(loop, who, "127.0.0.1", port, expected, 2000, &handlers, &client, NULL);
    assert_non_null(client.link);
}

static void test_mutual(void **state)
{
    (void)state;
    start(id_a, print_b);
    assert_string_equal(link_peer_fingerprint(client.link), "");
    assert_int_equal(link_send(client.link, "early", 5), 0); /* queued until up */
    RUN_UNTIL(server.got == 5 && client.up && client.drained);
    assert_string_equal(link_peer_fingerprint(client.link), print_b);
    assert_string_equal(link_peer_fingerprint(server.link), print_a);
    assert_non_null(strstr(link_peer_address(client.link), port));
    assert_true(link_bytes_sent(client.link) > 500);
    link_free(client.link, 100);
    client.link = NULL;
    RUN_UNTIL(server.closed);
    assert_true(server.reset);
}

/* Whenever a network goes, and for however long it may: something is sent again after it is back and before the
 * silence is a loss. The kernel's clock ticks in steps of up to 4 ms, and a round trip takes its time. */
static void test_a_blip_is_survived(void **state)
{
    (void)state;
    for (unsigned silence = 250; silence <= 4000; silence += 50) {
        unsigned survives = link_survives_ms(silence), tick = 4, round_trip = silence / 500;
        assert_true(survives > silence * 3 / 5);
        for (unsigned first = 0; first <= silence / 5; first++) {
            unsigned at = first, wait = link_retransmit_ms(silence) + round_trip;
            while (at < survives) {
                at += wait + tick;
                wait *= 2;
            }
            assert_true(at < silence);
        }
    }
}

static void test_the_kernel_retransmits_in_time(void **state)
{
    (void)state;
    enum { RTO_MIN_US = 45 };
    int us = 0;
    socklen_t n = sizeof us;
    start(id_a, print_b);
    RUN_UNTIL(server.up);
    if (getsockopt(server_fd, IPPROTO_TCP, RTO_MIN_US, &us, &n))
        skip(); /* before Linux 6.15 */
    link_expect_within(server.link, 500);
    assert_int_equal(getsockopt(server_fd, IPPROTO_TCP, RTO_MIN_US, &us, &n), 0);
    assert_in_range(us, 1000 * link_retransmit_ms(500), 1000 * (link_retransmit_ms(500) + 10));
    link_expect_within(server.link, 50); /* less than the kernel allows: as little as it does */
    assert_int_equal(getsockopt(server_fd, IPPROTO_TCP, RTO_MIN_US, &us, &n), 0);
    assert_in_range(us, 1000, 20000);
}

static void test_big_transfer_both_ways_with_pause(void **state)
{
    (void)state;
    uint8_t *data = malloc(BIG);
    for (size_t i = 0; i < BIG; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    uint64_t sum = mix(0, data, BIG);
    start(id_a, print_b);
    RUN_UNTIL(client.up && server.up);
    link_pause_reading(server.link, true);
    size_t at = 0, step = 1;
    while (at < BIG) { /* sizes around those of chunk and record */
        size_t n = step < BIG - at ? step : BIG - at;
        assert_int_equal(link_send(client.link, data + at, n), 0);
        assert_int_equal(link_send(server.link, data + at, n), 0);
        at += n;
        step = step * 3 % 300001 + 1;
    }
    RUN_UNTIL(client.got == BIG);
    run_for(0.05);
    assert_int_equal(server.got, 0);
    link_pause_reading(server.link, false);
    RUN_UNTIL(server.got > 0); /* amid it, with more to be read */
    link_pause_reading(server.link, true);
    uint64_t got = server.got;
    run_for(0.05);
    unsigned turns = ev_iteration(loop);
    run_for(0.05);
    assert_in_range(ev_iteration(loop) - turns, 0, 100); /* who waits does not spin */
    assert_true(server.got == got && got < BIG);
    assert_true(link_queued(client.link) > 0);
    link_pause_reading(server.link, false);
    RUN_UNTIL(server.got == BIG && client.drained);
    assert_true(server.sum == sum && client.sum == sum);
    assert_true(link_bytes_sent(client.link) > BIG && link_bytes_sent(client.link) < BIG + BIG / 50);
    assert_true(server.pieces < BIG / 16000);
    free(data);
}

static void test_stranger_is_refused(void **state)
{
    (void)state;
    start(id_c, print_b);
    RUN_UNTIL(client.closed && server.closed);
    assert_false(server.up);
    assert_non_null(strstr(server.reason, print_c));
    assert_non_null(strstr(server.reason, "is no [peer] of this host"));
    assert_non_null(strstr(client.reason, "refused this host's certificate"));
    assert_int_equal(server.got, 0);
}

static void test_stranger_that_talks_at_once(void **state)
{
    (void)state;
    start(id_c, print_b);
    static const uint8_t much[1 << 20];
    link_send(client.link, much, sizeof(much));
    RUN_UNTIL(client.closed && server.closed);
    assert_int_equal(server.got, 0);
    assert_non_null(strstr(client.reason, "refused this host's certificate"));
}

static void test_wrong_server_is_refused(void **state)
{
    (void)state;
    start(id_a, print_c);
    assert_int_equal(link_send(client.link, "secret", 6), 0);
    RUN_UNTIL(client.closed && server.closed);
    assert_false(client.up);
    assert_int_equal(server.got, 0);
    assert_non_null(strstr(client.reason, print_b));
    assert_non_null(strstr(client.reason, "expected was"));
    assert_non_null(strstr(server.reason, "refused this host's certificate"));
}

static void test_nobody_listens(void **state)
{
    (void)state;
    ev_io_stop(loop, &accept_io);
    close(listener);
    listener = -1;
    start(id_a, print_b);
    assert_false(client.closed); /* never from inside link_connect */
    RUN_UNTIL(client.closed);
    assert_non_null(strstr(client.reason, "refused: is hikae-secondary running"));
}

/* In place of the C library's: this name's server does not answer before `answers` is set. */
#define SLOW_NAME "slow.test"
enum { LOOKUPS_MAX = 8 };
static atomic_bool answers;
static atomic_int slow_lookups; /* that have not returned */

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!host || strcmp(host, SLOW_NAME) || (hints->ai_flags & AI_NUMERICHOST))
        return real(host, service, hints, found);
    while (!atomic_load(&answers))
        usleep(1000);
    int error = real("127.0.0.1", service, hints, found); /* memory that somebody has to free */
    atomic_fetch_sub(&slow_lookups, 1);
    return error;
}

static struct link *connect_to(const char *name, unsigned timeout_ms)
{
    if (!strcmp(name, SLOW_NAME))
        atomic_fetch_add(&slow_lookups, 1);
    return link_connect(loop, id_a, name, port, print_b, timeout_ms, &handlers, &client, NULL);
}

static void wait_for_lookups(void)
{
    atomic_store(&answers, true);
    RUN_UNTIL(!atomic_load(&slow_lookups));
    run_for(0.1); /* and what they do after that */
}

static void test_a_name(void **state)
{
    (void)state;
    client.link = connect_to("localhost", 2000);
    assert_non_null(client.link);
    RUN_UNTIL(client.up && server.up);
    assert_string_equal(link_peer_fingerprint(client.link), print_b);
}

static void test_a_name_that_is_none(void **state)
{
    (void)state;
    client.link = connect_to("no.such.host.invalid", 9000);
    assert_non_null(client.link);
    assert_false(client.closed);
    RUN_UNTIL(client.closed);
    assert_non_null(strstr(client.reason, "no.such.host.invalid port"));
    assert_non_null(strstr(client.reason, "[peer]"));
}

static void test_a_slow_name_holds_nobody(void **state)
{
    (void)state;
    atomic_store(&answers, false);
    client.link = connect_to(SLOW_NAME, 100);
    assert_non_null(client.link);
    assert_int_equal(atomic_load(&slow_lookups), 1); /* it was not waited for */
    RUN_UNTIL(client.closed);
    assert_non_null(strstr(client.reason, SLOW_NAME));
    assert_non_null(strstr(client.reason, "name server has no answer within 100 ms"));
    wait_for_lookups();
    link_free(client.link, 0);
    client.link = connect_to(SLOW_NAME, 5000);
    RUN_UNTIL(client.up && server.up);
}

static void test_free_while_a_name_is_looked_up(void **state)
{
    (void)state;
    struct errmsg e;
    atomic_store(&answers, false);
    for (int i = 0; i < LOOKUPS_MAX; i++) {
        struct link *l = connect_to(SLOW_NAME, 5000);
        assert_non_null(l);
        link_free(l, 0);
    }
    assert_null(link_connect(loop, id_a, SLOW_NAME, port, print_b, 5000, &handlers, &client, &e));
    assert_non_null(strstr(e.text, "name server"));
    wait_for_lookups();
    assert_false(client.up || client.closed);
    client.link = connect_to("localhost", 2000); /* there is room again */
    assert_non_null(client.link);
    RUN_UNTIL(client.up && server.up);
}

static int raw_socket(void)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void test_silence_and_no_tls(void **state)
{
    (void)state;
    int fd = raw_socket();
    RUN_UNTIL(server.closed);
    assert_non_null(strstr(server.reason, "no TLS handshake within 300 ms"));
    assert_false(server.reset);
    close(fd);
    memset(&server, 0, sizeof(server));
    fd = raw_socket();
    assert_int_equal(write(fd, "GET / HTTP/1.0\r\n\r\n", 18), 18);
    RUN_UNTIL(server.closed);
    assert_non_null(strstr(server.reason, "does not speak TLS 1.3"));
    close(fd);
}

static void test_client_gives_up_on_silence(void **state)
{
    (void)state;
    ev_io_stop(loop, &accept_io); /* the kernel accepts, nobody answers */
    client.link = link_connect(loop, id_a, "127.0.0.1", port, print_b, 100, &handlers, &client, NULL);
    RUN_UNTIL(client.closed);
    assert_non_null(strstr(client.reason, "no TLS handshake within 100 ms"));
}

/* A client made with OpenSSL directly, for what link.c would never do. */
struct odd {
    bool certificate;
    int version;
    const char *protocol;
};

static void *odd_client(void *arg)
{
    const struct odd *odd = arg;
    char path[100];
    SSL_CTX *c = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c, odd->version);
    if (odd->protocol)
        SSL_CTX_set_alpn_protos(c, (const unsigned char *)odd->protocol, (unsigned)strlen(odd->protocol));
    if (odd->certificate) {
        snprintf(path, sizeof(path), "%s/a.key", dir);
        SSL_CTX_use_PrivateKey_file(c, path, SSL_FILETYPE_PEM);
        snprintf(path, sizeof(path), "%s/a.crt", dir);
        SSL_CTX_use_certificate_file(c, path, SSL_FILETYPE_PEM);
    }
    int fd = raw_socket();
    SSL *ssl = SSL_new(c);
    SSL_set_fd(ssl, fd);
    char byte;
    if (SSL_connect(ssl) == 1)
        SSL_read(ssl, &byte, 1);
    SSL_free(ssl);
    SSL_CTX_free(c);
    close(fd);
    return NULL;
}

static void odd_is_refused(struct odd odd, const char *reason)
{
    pthread_t t;
    memset(&server, 0, sizeof(server));
    strcpy(server.trust, print_a);
    assert_int_equal(pthread_create(&t, NULL, odd_client, &odd), 0);
    RUN_UNTIL(server.closed);
    pthread_join(t, NULL);
    if (!strstr(server.reason, reason))
        fail_msg("reason was: %s", server.reason);
    assert_false(server.up);
}

static void test_odd_clients(void **state)
{
    (void)state;
    odd_is_refused((struct odd){true, TLS1_2_VERSION, "\x07hikae/1"}, "does not speak TLS 1.3");
    odd_is_refused((struct odd){false, TLS1_3_VERSION, "\x07hikae/1"}, "presented no certificate");
    odd_is_refused((struct odd){true, TLS1_3_VERSION, "\x07hikae/2"}, "does not speak the protocol hikae/1");
    odd_is_refused((struct odd){true, TLS1_3_VERSION, NULL}, "does not speak the protocol hikae/1");
}

static void test_last_words_arrive(void **state)
{
    (void)state;
    enum { WORDS = 3 << 20 };
    static uint8_t words[WORDS];
    start(id_a, print_b);
    RUN_UNTIL(client.up && server.up);
    /* The server has unread input when it goes: closing then sends a reset. */
    link_pause_reading(server.link, true);
    assert_int_equal(link_send(client.link, words, 100000), 0);
    run_for(0.02);
    assert_int_equal(link_send(server.link, words, WORDS / 100), 0);
    link_free(server.link, 1000);
    server.link = NULL;
    RUN_UNTIL(client.closed);
    assert_int_equal(client.got, WORDS / 100);
    assert_true(client.reset);
}

/* The peer is gone already: our last words are answered by a reset, and nobody will ever acknowledge them. */
static void test_last_words_to_nobody(void **state)
{
    (void)state;
    start(id_a, print_b);
    RUN_UNTIL(client.up && server.up);
    run_for(0.02); /* nothing is unread */
    link_free(server.link, 0);
    server.link = NULL;
    double begin = ev_time();
    link_free(client.link, 30000); /* it has not noticed */
    client.link = NULL;
    assert_true(ev_time() - begin < 15);
}

static void test_free_in_handlers(void **state)
{
    (void)state;
    for (int habit = FREE_IN_UP; habit <= FREE_IN_DRAINED; habit++) {
        for (int side = 0; side < 2; side++) {
            struct end *x = side ? &client : &server, *other = side ? &server : &client;
            memset(&server, 0, sizeof(server));
            memset(&client, 0, sizeof(client));
            strcpy(server.trust, print_a);
            x->habit = habit;
            start(id_a, print_b);
            if (habit != FREE_IN_UP) {
                RUN_UNTIL(client.up && server.up);
                link_send(other->link, "hello", 5);
                link_send(x->link, "hello", 5);
            }
            RUN_UNTIL(!x->link && other->closed);
            assert_true(other->reset);
        }
    }
}

static void test_identity_files(void **state)
{
    (void)state;
    struct errmsg e;
    char key[100], cert[100], other[100], missing[100];
    snprintf(key, sizeof(key), "%s/a.key", dir);
    snprintf(cert, sizeof(cert), "%s/a.crt", dir);
    snprintf(other, sizeof(other), "%s/b.crt", dir);
    snprintf(missing, sizeof(missing), "%s/missing", dir);
    struct stat st;
    assert_int_equal(stat(key, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(tls_identity_create(key, missing, "x", &e), -1);
    assert_non_null(strstr(e.text, "not overwritten"));
    assert_int_equal(access(missing, F_OK), -1);
    assert_null(tls_identity_load(missing, cert, &e));
    assert_non_null(strstr(e.text, "hikae init"));
    assert_null(tls_identity_load(key, missing, &e));
    assert_non_null(strstr(e.text, "hikae init"));
    assert_null(tls_identity_load(key, other, &e));
    assert_non_null(strstr(e.text, "is no key in PEM form, or not that of"));
    assert_null(tls_identity_load(key, key, &e));
    assert_non_null(strstr(e.text, "no certificate"));
    chmod(key, 0644);
    assert_null(tls_identity_load(key, cert, &e));
    assert_non_null(strstr(e.text, "chmod 600"));
    chmod(key, 0600);
}

static struct tls_identity *make(const char *name, char print[65])
{
    char key[100], cert[100];
    struct errmsg e = {""};
    snprintf(key, sizeof(key), "%s/%s.key", dir, name);
    snprintf(cert, sizeof(cert), "%s/%s.crt", dir, name);
    if (tls_identity_create(key, cert, name, &e))
        fail_msg("%s", e.text);
    struct tls_identity *id = tls_identity_load(key, cert, &e);
    if (!id)
        fail_msg("%s", e.text);
    tls_identity_fingerprint(id, print);
    return id;
}

static int make_all(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    id_a = make("a", print_a);
    id_b = make("b", print_b);
    id_c = make("c", print_c);
    return 0;
}

static int remove_all(void **state)
{
    (void)state;
    tls_identity_free(id_a);
    tls_identity_free(id_b);
    tls_identity_free(id_c);
    for (const char *name = "abc"; *name; name++) {
        char path[100];
        snprintf(path, sizeof(path), "%s/%c.key", dir, *name);
        unlink(path);
        snprintf(path, sizeof(path), "%s/%c.crt", dir, *name);
        unlink(path);
    }
    rmdir(dir);
    return 0;
}

#define LINK_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        LINK_TEST(test_mutual),
        cmocka_unit_test(test_a_blip_is_survived),
        LINK_TEST(test_the_kernel_retransmits_in_time),
        LINK_TEST(test_big_transfer_both_ways_with_pause),
        LINK_TEST(test_stranger_is_refused),
        LINK_TEST(test_stranger_that_talks_at_once),
        LINK_TEST(test_wrong_server_is_refused),
        LINK_TEST(test_nobody_listens),
        LINK_TEST(test_a_name),
        LINK_TEST(test_a_name_that_is_none),
        LINK_TEST(test_a_slow_name_holds_nobody),
        LINK_TEST(test_free_while_a_name_is_looked_up),
        LINK_TEST(test_silence_and_no_tls),
        LINK_TEST(test_client_gives_up_on_silence),
        LINK_TEST(test_odd_clients),
        LINK_TEST(test_last_words_arrive),
        LINK_TEST(test_last_words_to_nobody),
        LINK_TEST(test_free_in_handlers),
        cmocka_unit_test(test_identity_files),
    };
    return cmocka_run_group_tests(tests, make_all, remove_all);
}
