/*
 * Tests of netbuf/plug.h on the kernel's own sch_plug: a tap plays the guest's interface (what is written to its
 * descriptor is what the guest sends), packet sockets of single protocols play the LAN (they see what gets past the
 * plug). In user and network namespaces of its own; where these or sch_plug are not to be had, the tests are skipped
 * and say why.
 */
#include "netbuf/plug.h"
#include "netbuf/tap.h"

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
#include <unistd.h>

#include <cmocka.h>

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
enum { TYPE = 0x88b5 /* local experiments */, ARP = 0x0806, IPV6 = 0x86dd, FRAME = 100, LIMIT = 100 * FRAME };
static char why_not[300]; /* not empty: skipped */

struct rig {
    struct ev_loop *loop;
    struct plug *plug;
    int guest, lan;
    char ifname[16];
    unsigned held, full, learnt, lost;
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

static int lan_open(const struct rig *g, uint16_t type)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(type));
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(type)};
    struct timeval patience = {.tv_usec = 100000};
    a.sll_ifindex = (int)if_nametoindex(g->ifname);
    assert_true(fd >= 0 && a.sll_ifindex > 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    return fd;
}

static void plug_in(struct rig *g)
{
    static const struct netbuf_handlers handlers = {
        .held = on_held, .full = on_full, .learnt = on_learnt, .lost = on_lost};
    struct plug_config c = {.ifname = g->ifname, .limit_bytes = LIMIT};
    struct errmsg e = {""};
    memcpy(c.mac, mac, 6);
    g->plug = plug_open(g->loop, &c, &handlers, g, &e);
    if (!g->plug)
        fail_msg("%s", e.text);
}

static void begin(struct rig *g)
{
    struct errmsg e = {""};
    if (*why_not)
        skip();
    *g = (struct rig){.loop = ev_loop_new(EVFLAG_AUTO)};
    g->guest = tap_open("", g->ifname, &e);
    if (g->guest < 0)
        fail_msg("%s", e.text);
    plug_in(g);
    g->lan = lan_open(g, TYPE);
}

static bool ifb_exists(const struct rig *g)
{
    char name[32];
    snprintf(name, sizeof name, "hikae-%u", if_nametoindex(g->ifname));
    return if_nametoindex(name) > 0;
}

static void end(struct rig *g)
{
    plug_let_go(g->plug);
    plug_close(g->plug);
    assert_false(ifb_exists(g)); /* nothing of ours is left */
    ev_loop_destroy(g->loop);
    close(g->lan);
    close(g->guest);
}

static void sends(struct rig *g, uint16_t type, uint8_t number)
{
    uint8_t frame[FRAME];
    memset(frame, number, sizeof frame);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    frame[12] = (uint8_t)(type >> 8);
    frame[13] = (uint8_t)(type & 0xff);
    assert_int_equal(write(g->guest, frame, sizeof frame), sizeof frame);
}

/* The number of the next frame on the LAN, -1: silence. */
static int lan_next(int lan)
{
    uint8_t frame[2000];
    ssize_t n = recv(lan, frame, sizeof frame, 0);
    return n == FRAME ? frame[FRAME - 1] : -1;
}

static void test_held_until_released(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    sends(&g, TYPE, 1);
    sends(&g, TYPE, 2);
    turn(&g);
    assert_int_equal(g.held, 1);
    assert_true(plug_has_output(g.plug));
    assert_int_equal(lan_next(g.lan), -1);
    plug_drain(g.plug);
    assert_int_equal(plug_barrier(g.plug, 1), 0);
    sends(&g, TYPE, 3); /* of epoch 2 */
    turn(&g);
    plug_release(g.plug, 1);
    assert_int_equal(lan_next(g.lan), 1);
    assert_int_equal(lan_next(g.lan), 2);
    assert_int_equal(lan_next(g.lan), -1);
    assert_int_equal(plug_barrier(g.plug, 2), 0);
    plug_release(g.plug, 1); /* an old ack */
    assert_int_equal(lan_next(g.lan), -1);
    plug_release(g.plug, 2);
    assert_int_equal(lan_next(g.lan), 3);
    assert_int_equal(plug_counts(g.plug).released, 3);
    end(&g);
}

/* Two epochs in flight: the qdisc alone would let frames of the second out with the first's ack. */
static void test_two_in_flight(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    sends(&g, TYPE, 1);
    plug_drain(g.plug);
    assert_int_equal(plug_barrier(g.plug, 1), 0);
    sends(&g, TYPE, 2);
    sends(&g, TYPE, 3);
    plug_drain(g.plug);
    assert_int_equal(plug_barrier(g.plug, 2), 0);
    g.held = 0;
    plug_release(g.plug, 1);
    assert_int_equal(g.held, 1); /* another checkpoint is wanted for what is left */
    assert_int_equal(lan_next(g.lan), 1);
    assert_int_equal(lan_next(g.lan), -1);
    plug_release(g.plug, 2);
    assert_int_equal(lan_next(g.lan), -1);
    assert_int_equal(plug_barrier(g.plug, 3), 0);
    plug_release(g.plug, 3);
    assert_int_equal(lan_next(g.lan), 2);
    assert_int_equal(lan_next(g.lan), 3);
    end(&g);
}

static void test_every_protocol(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    static const uint16_t types[] = {ARP, IPV6};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        int lan = lan_open(&g, types[i]);
        sends(&g, types[i], 7);
        assert_int_equal(lan_next(lan), -1);
        plug_drain(g.plug);
        assert_int_equal(plug_barrier(g.plug, i + 1), 0);
        plug_release(g.plug, i + 1);
        assert_int_equal(lan_next(lan), 7);
        close(lan);
    }
    end(&g);
}

static void test_open_and_closed_again(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    sends(&g, TYPE, 1);
    plug_let_go(g.plug);
    assert_int_equal(lan_next(g.lan), 1);
    sends(&g, TYPE, 2);
    turn(&g);
    assert_int_equal(lan_next(g.lan), 2);
    assert_int_equal(g.held, 0);
    plug_hold(g.plug);
    sends(&g, TYPE, 3);
    turn(&g);
    assert_int_equal(g.held, 1);
    assert_int_equal(lan_next(g.lan), -1);
    end(&g);
}

/* The process dies with a closed plug; the next one takes it over, closed. */
static void test_taken_over(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    sends(&g, TYPE, 1);
    plug_close(g.plug);
    assert_true(ifb_exists(&g));
    sends(&g, TYPE, 2);
    assert_int_equal(lan_next(g.lan), -1);
    plug_in(&g);
    assert_int_equal(lan_next(g.lan), -1);
    plug_let_go(g.plug);
    assert_int_equal(lan_next(g.lan), 1);
    assert_int_equal(lan_next(g.lan), 2);
    end(&g);
}

static void test_sealed(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    sends(&g, TYPE, 1);
    plug_seal(g.plug);
    sends(&g, TYPE, 2);
    assert_int_equal(lan_next(g.lan), -1);
    assert_false(ifb_exists(&g));
    plug_close(g.plug);
    plug_in(&g); /* whoever comes next begins anew */
    assert_int_equal(lan_next(g.lan), -1);
    sends(&g, TYPE, 3);
    plug_let_go(g.plug);
    assert_int_equal(lan_next(g.lan), 3);
    end(&g);
}

static void test_full(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    for (uint8_t i = 0; i < LIMIT / FRAME / 2 + 1; i++)
        sends(&g, TYPE, i);
    turn(&g);
    assert_int_equal(g.full, 1); /* told before anything is lost */
    for (int i = 0; i < LIMIT / FRAME; i++)
        sends(&g, TYPE, 200);
    for (int i = 0; i < 30 && plug_counts(g.plug).dropped == 0; i++) {
        usleep(100000);
        turn(&g);
    }
    assert_true(plug_counts(g.plug).dropped > 0);
    end(&g);
}

static void test_interface_goes(void **state)
{
    (void)state;
    struct rig g;
    begin(&g);
    close(g.guest); /* the tap goes with it */
    turn(&g);
    assert_int_equal(g.lost, 1);
    plug_close(g.plug);
    ev_loop_destroy(g.loop);
    close(g.lan);
}

/* Asked beforehand: where a plug can be had nothing is left of the trial, and where it can't the other way is named. */
static void test_check(void **state)
{
    (void)state;
    struct errmsg e = {""};
    char name[32];
    int status = plug_check(&e);
    snprintf(name, sizeof name, "hikae-c%d", (int)getpid());
    assert_int_equal(if_nametoindex(name), 0);
    assert_int_equal(status, *why_not ? -1 : 0);
    if (strstr(e.text, "sch_plug"))
        assert_non_null(strstr(e.text, "netbuf = relay"));
}

/* Both go: the agent, with a closed plug, and the domain with its interface. */
static void test_swept(void **state)
{
    (void)state;
    struct rig g, other;
    begin(&g);
    begin(&other);
    char name[32];
    snprintf(name, sizeof name, "hikae-%u", if_nametoindex(g.ifname));
    plug_close(g.plug);
    plug_sweep();
    assert_true(if_nametoindex(name) > 0); /* it may hold what its owner will let go of */
    close(g.guest);
    plug_sweep();
    assert_int_equal(if_nametoindex(name), 0);
    assert_true(ifb_exists(&other));
    end(&other);
    ev_loop_destroy(g.loop);
    close(g.lan);
}

/* Root of its own, nobody else's network. */
static void enter(void)
{
    char map[64];
    unsigned uid = geteuid(), gid = getegid();
    if (unshare((uid ? CLONE_NEWUSER : 0) | CLONE_NEWNET)) {
        snprintf(why_not, sizeof why_not, "no network namespace: %s", strerror(errno));
        return;
    }
    const char *const files[] = {"/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"};
    for (int i = 0; uid && i < 3; i++) {
        int fd = open(files[i], O_WRONLY | O_CLOEXEC);
        snprintf(map, sizeof map, "0 %u 1", i == 1 ? uid : gid);
        const char *text = i == 0 ? "deny" : map;
        if (fd < 0 || write(fd, text, strlen(text)) < 0)
            snprintf(why_not, sizeof why_not, "%s: %s", files[i], strerror(errno));
        if (fd >= 0)
            close(fd);
    }
}

/* Does this kernel have what a plug needs? */
static void try_once(void)
{
    struct errmsg e = {""};
    struct rig g = {.loop = ev_loop_new(EVFLAG_AUTO)};
    static const struct netbuf_handlers none = {0};
    struct plug_config c = {.ifname = g.ifname, .limit_bytes = LIMIT};
    g.guest = *why_not ? -1 : tap_open("", g.ifname, &e);
    g.plug = g.guest < 0 ? NULL : plug_open(g.loop, &c, &none, &g, &e);
    if (!g.plug && !*why_not)
        snprintf(why_not, sizeof why_not, "%s", e.text);
    if (g.plug)
        plug_let_go(g.plug);
    plug_close(g.plug);
    if (g.guest >= 0)
        close(g.guest);
    ev_loop_destroy(g.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held_until_released),
        cmocka_unit_test(test_two_in_flight),
        cmocka_unit_test(test_every_protocol),
        cmocka_unit_test(test_open_and_closed_again),
        cmocka_unit_test(test_taken_over),
        cmocka_unit_test(test_sealed),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_interface_goes),
        cmocka_unit_test(test_swept),
        cmocka_unit_test(test_check),
    };
    enter();
    try_once();
    if (*why_not)
        fprintf(stderr, "skipped: %s\n", why_not);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
