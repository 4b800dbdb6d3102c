/*
 * Unit tests of netbuf/relay.h: a unix socket plays the VM's network card, a packet socket beside the tap plays the
 * LAN. All in user and network namespaces of its own; where these are not to be had, the tests are skipped and say why.
 */
#include "netbuf/relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
enum { TYPE = 0x88b5 /* local experiments */, FRAME = 100, HELD = 10, OVERHEAD = 16 /* of a held frame */ };
enum { LIMIT = HELD * (FRAME + OVERHEAD) };
static char why_not[200]; /* not empty: skipped */

struct rig {
    struct ev_loop *loop;
    struct relay *relay;
    int vm, lan;
    unsigned held, full, learnt, lost;
    char dir[32], path[64];
};

static void on_held(void *arg)
{
    ((struct rig *)arg)->held++;
}

static void on_full(void *arg)
{
    ((struct rig *)arg)->full++;
}

static void on_learnt(void *arg)
{
    ((struct rig *)arg)->learnt++;
}

static void on_lost(const char *why, void *arg)
{
    assert_true(*why);
    ((struct rig *)arg)->lost++;
}

static void turn(struct rig *g)
{
    for (int i = 0; i < 20; i++)
        ev_run(g->loop, EVRUN_NOWAIT);
}

/* What the LAN sees: frames of the guest, and nothing that we sent ourselves. */
static int lan_open(void)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(3 /* ETH_P_ALL */));
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(3)};
    a.sll_ifindex = (int)if_nametoindex("hikae0");
    assert_true(fd >= 0 && a.sll_ifindex > 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void begin(struct rig *g)
{
    static const struct netbuf_handlers handlers = {
        .held = on_held, .full = on_full, .learnt = on_learnt, .lost = on_lost};
    if (*why_not)
        skip();
    *g = (struct rig){.loop = ev_loop_new(EVFLAG_AUTO)};
    strcpy(g->dir, "/tmp/unit_relay.XXXXXX");
    assert_non_null(mkdtemp(g->dir));
    snprintf(g->path, sizeof g->path, "%s/nic", g->dir);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, g->path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 1), 0);
    struct relay_config c = {.stream_path = g->path, .bridge = "", .limit_bytes = LIMIT};
    memcpy(c.mac, mac, 6);
    struct errmsg e = {""};
    g->relay = relay_open(g->loop, &c, NULL, &handlers, g, &e);
    if (!g->relay)
        fail_msg("%s", e.text);
    g->vm = accept(listener, NULL, NULL);
    close(listener);
    g->lan = lan_open();
}

static void end(struct rig *g)
{
    relay_close(g->relay);
    ev_loop_destroy(g->loop);
    close(g->vm);
    close(g->lan);
    unlink(g->path);
    rmdir(g->dir);
}

static void frame_make(uint8_t out[FRAME], uint8_t number)
{
    memset(out, number, FRAME);
    memset(out, 0xff, 6);
    memcpy(out + 6, mac, 6);
    out[12] = TYPE >> 8;
    out[13] = TYPE & 0xff;
}

static void vm_sends(struct rig *g, uint8_t number)
{
    uint8_t octets[4 + FRAME] = {0, 0, 0, FRAME};
    frame_make(octets + 4, number);
    assert_int_equal(send(g->vm, octets, sizeof octets, MSG_NOSIGNAL), sizeof octets);
}

/* The next frame of ours on the LAN is `number`. */
static bool lan_got(struct rig *g, uint8_t number)
{
    uint8_t want[FRAME], got[2000];
    frame_make(want, number);
    for (ssize_t n; (n = recv(g->lan, got, sizeof got, 0)) >= 0;)
        if (n == FRAME && got[12] == TYPE >> 8 && got[13] == (TYPE & 0xff))
            return !memcmp(got, want, FRAME);
    return false;
}

static bool lan_is_quiet(struct rig *g)
{
    uint8_t got[2000];
    for (ssize_t n; (n = recv(g->lan, got, sizeof got, 0)) >= 0;)
        if (n >= 14 && !memcmp(got + 6, mac, 6))
            return false;
    return true;
}

static void test_held_until_released(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    vm_sends(&g, 1); /* a new relay holds */
    turn(&g);
    assert_true(lan_is_quiet(&g));
    assert_int_equal(g.held, 1);
    assert_true(relay_has_output(g.relay));
    vm_sends(&g, 2); /* not read yet: the drain takes it into this epoch */
    relay_drain(g.relay);
    relay_barrier(g.relay, 1);
    assert_false(relay_has_output(g.relay));
    vm_sends(&g, 3);
    turn(&g);
    assert_int_equal(g.held, 2); /* once an epoch */
    assert_true(lan_is_quiet(&g));
    relay_release(g.relay, 1);
    assert_true(lan_got(&g, 1));
    assert_true(lan_got(&g, 2));
    assert_true(lan_is_quiet(&g));
    relay_let_go(g.relay);
    assert_true(lan_got(&g, 3));
    vm_sends(&g, 4);
    turn(&g);
    assert_true(lan_got(&g, 4)); /* at once */
    relay_hold(g.relay);
    vm_sends(&g, 5);
    turn(&g);
    assert_true(lan_is_quiet(&g));
    assert_int_equal(relay_counts(g.relay).frames, 1);
    assert_int_equal(g.lost, 0);
    end(&g);
}

static void test_sealed(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    vm_sends(&g, 1);
    turn(&g);
    relay_barrier(g.relay, 1);
    relay_seal(g.relay);
    vm_sends(&g, 2);
    turn(&g);
    relay_release(g.relay, 1);
    turn(&g);
    assert_true(lan_is_quiet(&g));
    assert_int_equal(relay_counts(g.relay).frames, 0);
    assert_int_equal(relay_counts(g.relay).dropped, 1);
    end(&g);
}

/* A full buffer: the guest waits, nothing is lost, the order stays. */
static void test_full(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    enum { SENT = 35 };
    for (uint8_t i = 0; i < SENT; i++)
        vm_sends(&g, i);
    uint8_t next = 0;
    for (uint64_t epoch = 1; epoch <= 4; epoch++) {
        turn(&g);
        assert_int_equal(g.full, epoch < 4 ? epoch : 3);
        assert_in_range(relay_counts(g.relay).bytes, 1, LIMIT + FRAME - 1);
        relay_barrier(g.relay, epoch);
        relay_release(g.relay, epoch);
        for (unsigned i = 0; i < HELD && next < SENT; i++)
            assert_true(lan_got(&g, next++));
        assert_true(lan_is_quiet(&g));
    }
    assert_int_equal(next, SENT);
    end(&g);
}

/* A frame that comes octet by octet, and several at once. */
static void test_cut_frames(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    relay_let_go(g.relay);
    uint8_t octets[2 * (4 + FRAME)] = {0, 0, 0, FRAME};
    frame_make(octets + 4, 1);
    octets[4 + FRAME + 3] = FRAME;
    frame_make(octets + 4 + FRAME + 4, 2);
    for (size_t i = 0; i < sizeof octets; i++) {
        assert_int_equal(send(g.vm, octets + i, 1, 0), 1);
        ev_run(g.loop, EVRUN_NOWAIT);
    }
    assert_true(lan_got(&g, 1));
    assert_true(lan_got(&g, 2));
    assert_int_equal(send(g.vm, octets, sizeof octets, 0), sizeof octets);
    turn(&g);
    assert_true(lan_got(&g, 1));
    assert_true(lan_got(&g, 2));
    end(&g);
}

static void test_no_frames(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    assert_int_equal(send(g.vm, "GET / HTTP/1.0\r\n", 16, 0), 16);
    turn(&g);
    assert_int_equal(g.lost, 1);
    vm_sends(&g, 1);
    turn(&g);
    relay_drain(g.relay);
    assert_int_equal(g.lost, 1); /* once */
    end(&g);
}

/* What comes from the LAN goes to the guest at once, also while the output is held. */
static void test_inbound(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    uint8_t frame[FRAME], got[4 + FRAME + 2000], skipped;
    memset(frame, 0x77, sizeof frame);
    memcpy(frame, mac, 6);
    frame[12] = TYPE >> 8;
    frame[13] = TYPE & 0xff;
    assert_int_equal(send(g.lan, frame, sizeof frame, 0), FRAME);
    turn(&g);
    ssize_t n = 0;
    for (skipped = 0; skipped < 20; skipped++) { /* the interface itself may say something too */
        n = recv(g.vm, got, 4, MSG_DONTWAIT);
        assert_int_equal(n, 4);
        size_t length = (size_t)got[2] << 8 | got[3];
        assert_int_equal(got[0] | got[1], 0);
        assert_int_equal(recv(g.vm, got + 4, length, MSG_DONTWAIT), length);
        if (length == FRAME && !memcmp(got + 4, frame, FRAME))
            break;
    }
    assert_true(skipped < 20);
    end(&g);
}

static void test_announce(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    uint8_t octets[4 + 42] = {0, 0, 0, 42};
    memcpy(octets + 4 + 6, mac, 6);
    static const uint8_t arp[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 1, 2, 3, 10, 9, 8, 7};
    memcpy(octets + 4 + 12, arp, sizeof arp);
    assert_int_equal(send(g.vm, octets, sizeof octets, 0), sizeof octets);
    turn(&g);
    assert_int_equal(g.learnt, 1);
    assert_int_equal(relay_neighbours(g.relay)->count, 1);
    assert_true(lan_is_quiet(&g)); /* held */
    relay_announce(g.relay);
    uint8_t got[2000];
    bool told = false;
    for (ssize_t n; (n = recv(g.lan, got, sizeof got, 0)) >= 0;)
        told |= n == 60 && got[12] == 8 && got[13] == 6 && !memcmp(got + 28, arp + 16, 4);
    assert_true(told);
    end(&g);
}

/* The VM goes while its frames wait for room: said once, and no busy loop on the dead socket afterwards. */
static void test_lost_while_full(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    for (uint8_t i = 0; i < 15; i++)
        vm_sends(&g, i);
    turn(&g);
    assert_int_equal(g.full, 1);
    close(g.vm);
    uint8_t frame[FRAME];
    memset(frame, 0x77, sizeof frame);
    memcpy(frame, mac, 6);
    assert_int_equal(send(g.lan, frame, sizeof frame, 0), FRAME); /* can't be passed on: that is how it is noticed */
    turn(&g);
    assert_int_equal(g.lost, 1);
    relay_barrier(g.relay, 1);
    relay_release(g.relay, 1);
    turn(&g);
    assert_int_equal(g.lost, 1);
    assert_int_equal(ev_pending_count(g.loop), 0);
    assert_false(ev_run(g.loop, EVRUN_NOWAIT)); /* no watcher is active */
    g.vm = -1;
    end(&g);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        snprintf(why_not, sizeof why_not, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static int enter_namespaces(void **state)
{
    (void)state;
    char map[40];
    uid_t uid = getuid();
    if (unshare(CLONE_NEWNET)) { /* not root: in a user namespace, where the system allows it */
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
            snprintf(why_not, sizeof why_not, "no network namespace of our own: %s", strerror(errno));
        } else {
            snprintf(map, sizeof map, "0 %u 1", (unsigned)uid);
            write_file("/proc/self/setgroups", "deny");
            write_file("/proc/self/uid_map", map);
        }
    }
    if (!*why_not && access("/dev/net/tun", R_OK | W_OK))
        snprintf(why_not, sizeof why_not, "/dev/net/tun: %s", strerror(errno));
    if (*why_not)
        fprintf(stderr, "unit_relay: SKIPPED, it needs a network namespace and /dev/net/tun: %s\n", why_not);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held_until_released),
        cmocka_unit_test(test_sealed),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_cut_frames),
        cmocka_unit_test(test_no_frames),
        cmocka_unit_test(test_inbound),
        cmocka_unit_test(test_announce),
        cmocka_unit_test(test_lost_while_full),
    };
    return cmocka_run_group_tests(tests, enter_namespaces, NULL);
}
