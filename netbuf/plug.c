#include "netbuf/plug.h"

#include "common/log.h"
#include "netbuf/plug_account.h"
#include "netbuf/traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SNAP = 128 /* enough for ARP and neighbour discovery */, BURST = 256 };
static const double LOOK_AT_DROPS_S = 1.;

enum gate { GATE_HOLD, GATE_OPEN, GATE_SEALED };

struct plug {
    struct ev_loop *loop;
    struct netbuf_handlers handlers;
    void *arg;
    struct traffic *traffic;
    int watch; /* packet socket: sees each frame of the guest before it is held */
    ev_io watch_in;
    ev_timer look;
    enum gate gate;
    bool lost, told_full;
    struct plug_account account;
    uint64_t held_bytes, limit_bytes; /* held: since something was last released, an upper bound */
    uint64_t released, dropped;
    struct neighbour_table neighbours;
};

static void lose(struct plug *p, const char *why)
{
    ev_io_stop(p->loop, &p->watch_in);
    ev_timer_stop(p->loop, &p->look);
    if (!p->lost) {
        p->lost = true;
        p->handlers.lost(why, p->arg);
    }
}

/* A plug that does not do what it is told has no way back: the successor makes it anew. */
static int order(struct plug *p, enum traffic_order what)
{
    struct errmsg e;
    if (!traffic_order(p->traffic, what, &e))
        return 0;
    log_error("%s", e.text);
    lose(p, "the output buffer does not obey");
    return -1;
}

/* ---- what the guest sends ---- */

static void tell_full(struct plug *p)
{
    if (p->told_full || p->gate != GATE_HOLD)
        return;
    p->told_full = true;
    p->handlers.full(p->arg);
}

static void take(struct plug *p, const uint8_t *frame, size_t n, size_t length)
{
    if (neighbour_learn(&p->neighbours, frame, n))
        p->handlers.learnt(p->arg);
    if (p->gate != GATE_HOLD)
        return;
    p->account.running++;
    p->held_bytes += length;
    if (p->held_bytes > p->limit_bytes / 2)
        tell_full(p);
}

/* True: there may be more. */
static bool watch_once(struct plug *p)
{
    uint8_t frame[SNAP];
    char control[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    struct sockaddr_ll from;
    struct iovec v = {.iov_base = frame, .iov_len = sizeof frame};
    struct msghdr m = {.msg_name = &from,
                       .msg_namelen = sizeof from,
                       .msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof control};
    ssize_t n = p->lost ? -1 : recvmsg(p->watch, &m, MSG_DONTWAIT);
    if (n < 0) {
        if (!p->lost && errno != EAGAIN && errno != EINTR)
            lose(p, "the VM's network interface is gone");
        return false;
    }
    size_t length = (size_t)n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
            struct tpacket_auxdata aux;
            memcpy(&aux, CMSG_DATA(c), sizeof aux);
            length = aux.tp_len;
        }
    if (from.sll_pkttype != PACKET_OUTGOING)
        take(p, frame, (size_t)n, length);
    return true;
}

void plug_drain(struct plug *p)
{
    while (watch_once(p))
        ;
}

static void on_watch(struct ev_loop *loop, ev_io *w, int events)
{
    (void)loop, (void)events;
    struct plug *p = w->data;
    bool had = plug_has_output(p);
    for (int i = 0; i < BURST && watch_once(p); i++) /* timers and acks must have their turn */
        ;
    if (!had && p->gate == GATE_HOLD && plug_has_output(p))
        p->handlers.held(p->arg);
}

static void on_look(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct plug *p = t->data;
    uint64_t drops = traffic_drops(p->traffic);
    if (drops > p->dropped) {
        log_warn("the output buffer was full: %llu frames of the guest are lost so far", (unsigned long long)drops);
        tell_full(p);
    }
    p->dropped = drops;
}

/* ---- the gate ---- */

int plug_barrier(struct plug *p, uint64_t epoch)
{
    return plug_account_close(&p->account, epoch) ? order(p, TRAFFIC_BARRIER) : 0;
}

void plug_release(struct plug *p, uint64_t epoch)
{
    uint64_t frames;
    if (p->gate != GATE_HOLD || !plug_account_release(&p->account, epoch, &frames) || order(p, TRAFFIC_RELEASE))
        return;
    p->released += frames;
    p->held_bytes = 0;
    p->told_full = false;
    if (plug_has_output(p)) /* epochs that were closed meanwhile wait for a barrier */
        p->handlers.held(p->arg);
}

void plug_hold(struct plug *p)
{
    if (p->gate == GATE_HOLD || p->gate == GATE_SEALED)
        return;
    /* What was sent until now has left, or leaves with the first release: its order to leave was given before. */
    p->account = (struct plug_account){0};
    if (order(p, TRAFFIC_BARRIER) == 0)
        p->gate = GATE_HOLD;
}

void plug_let_go(struct plug *p)
{
    if (p->gate == GATE_OPEN || order(p, TRAFFIC_OPEN))
        return;
    p->gate = GATE_OPEN;
    p->released += plug_account_held(&p->account);
    p->account = (struct plug_account){0};
    p->held_bytes = 0;
    p->told_full = false;
}

void plug_seal(struct plug *p)
{
    p->gate = GATE_SEALED;
    ev_io_stop(p->loop, &p->watch_in);
    ev_timer_stop(p->loop, &p->look);
    traffic_seal(p->traffic);
}

struct netbuf_counts plug_counts(const struct plug *p)
{
    return (struct netbuf_counts){.frames = plug_account_held(&p->account),
                                  .bytes = p->held_bytes,
                                  .released = p->released,
                                  .dropped = p->dropped};
}

bool plug_has_output(const struct plug *p)
{
    return plug_account_waiting(&p->account);
}

struct neighbour_table *plug_neighbours(struct plug *p)
{
    return &p->neighbours;
}

/* ---- life ---- */

static int open_watch(struct plug *p, int ifindex, struct errmsg *e)
{
    struct sock_filter snap = BPF_STMT(BPF_RET | BPF_K, SNAP);
    struct sock_fprog program = {.len = 1, .filter = &snap};
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = ifindex};
    int on = 1;
    p->watch = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->watch < 0 || setsockopt(p->watch, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) ||
        setsockopt(p->watch, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) ||
        bind(p->watch, (struct sockaddr *)&a, sizeof a))
        return errmsg_set(e, "watching the VM's network interface: %s", strerror(errno));
    return 0;
}

struct plug *plug_open(struct ev_loop *loop, const struct plug_config *c, const struct netbuf_handlers *h, void *arg,
                       struct errmsg *e)
{
    struct plug *p = calloc(1, sizeof *p);
    int ifindex;
    if (!p) {
        errmsg_set(e, "no memory for the output buffer");
        return NULL;
    }
    *p = (struct plug){
        .loop = loop, .handlers = *h, .arg = arg, .watch = -1, .gate = GATE_HOLD, .limit_bytes = c->limit_bytes};
    memcpy(p->neighbours.mac, c->mac, 6);
    p->traffic = traffic_open(c->ifname, c->limit_bytes, &ifindex, e);
    if (!p->traffic || open_watch(p, ifindex, e)) {
        plug_close(p);
        return NULL;
    }
    p->dropped = traffic_drops(p->traffic);
    ev_io_init(&p->watch_in, on_watch, p->watch, EV_READ);
    ev_timer_init(&p->look, on_look, LOOK_AT_DROPS_S, LOOK_AT_DROPS_S);
    p->watch_in.data = p->look.data = p;
    ev_io_start(loop, &p->watch_in);
    ev_timer_start(loop, &p->look);
    log_info("the guest's network: a plug on %s", c->ifname);
    return p;
}

int plug_check(struct errmsg *e)
{
    return traffic_check(e);
}

void plug_sweep(void)
{
    traffic_sweep();
}

void plug_close(struct plug *p)
{
    if (!p)
        return;
    if (p->traffic && p->watch >= 0) {
        ev_io_stop(p->loop, &p->watch_in);
        ev_timer_stop(p->loop, &p->look);
    }
    if (p->traffic && p->gate == GATE_OPEN)
        traffic_remove(p->traffic);
    if (p->watch >= 0)
        close(p->watch);
    traffic_free(p->traffic);
    free(p);
}
