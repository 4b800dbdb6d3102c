#include "netbuf/traffic.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/act/mirred.h>
#include <netlink/route/action.h>
#include <netlink/route/classifier.h>
#include <netlink/route/cls/matchall.h>
#include <netlink/route/link.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/qdisc/plug.h>
#include <netlink/route/tc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILTER_PRIORITY = 1, QUEUE_FRAMES = 10000 };
static const uint32_t INGRESS_HANDLE = 0xffff0000, PLUG_HANDLE = 0x10000;

struct traffic {
    struct nl_sock *nl;
    int ifindex, ifb;
    char ifb_name[IFNAMSIZ];
    bool made; /* by this process, not found */
};

static int nl_error(struct errmsg *e, const char *what, const char *ifname, int status)
{
    return errmsg_set(e, "%s %s: %s", what, ifname, nl_geterror(status));
}

static int make_ifb(struct traffic *t, struct errmsg *e)
{
    struct rtnl_link *link = rtnl_link_alloc();
    int status = link ? 0 : -NLE_NOMEM;
    if (link) {
        rtnl_link_set_name(link, t->ifb_name);
        rtnl_link_set_flags(link, IFF_UP);
        rtnl_link_set_txqlen(link, QUEUE_FRAMES);
        status = rtnl_link_set_type(link, "ifb");
    }
    if (status == 0)
        status = rtnl_link_add(t->nl, link, NLM_F_CREATE | NLM_F_EXCL);
    if (link)
        rtnl_link_put(link);
    if (status < 0 && status != -NLE_EXIST)
        return errmsg_set(e, "making the interface %s: %s (is the kernel module ifb there? modprobe ifb)", t->ifb_name,
                          nl_geterror(status));
    t->made = status == 0;
    t->ifb = (int)if_nametoindex(t->ifb_name);
    return t->ifb ? 0 : errmsg_set(e, "%s: %s", t->ifb_name, strerror(errno));
}

static struct rtnl_qdisc *qdisc(int ifindex, const char *kind, uint32_t handle, uint32_t parent)
{
    struct rtnl_qdisc *q = rtnl_qdisc_alloc();
    if (!q)
        return NULL;
    rtnl_tc_set_ifindex(TC_CAST(q), ifindex);
    rtnl_tc_set_handle(TC_CAST(q), handle);
    rtnl_tc_set_parent(TC_CAST(q), parent);
    if (rtnl_tc_set_kind(TC_CAST(q), kind) == 0)
        return q;
    rtnl_qdisc_put(q);
    return NULL;
}

static struct rtnl_qdisc *plug(const struct traffic *t)
{
    return qdisc(t->ifb, "plug", PLUG_HANDLE, TC_H_ROOT);
}

static struct rtnl_qdisc *ingress(const struct traffic *t)
{
    return qdisc(t->ifindex, "ingress", INGRESS_HANDLE, TC_H_INGRESS);
}

/* A new plug is closed; one that is there is closed by the barrier that the caller sets. */
static int make_plug(struct traffic *t, uint64_t limit_bytes, struct errmsg *e)
{
    struct rtnl_qdisc *q = plug(t);
    int status = q ? rtnl_qdisc_plug_set_limit(q, limit_bytes > INT32_MAX ? INT32_MAX : (int)limit_bytes) : -NLE_NOMEM;
    if (status == 0)
        status = rtnl_qdisc_add(t->nl, q, NLM_F_CREATE | NLM_F_EXCL);
    if (q)
        rtnl_qdisc_put(q);
    if (status < 0 && status != -NLE_EXIST)
        return errmsg_set(e,
                          "a plug on %s: %s (is the kernel module sch_plug there? modprobe "
                          "sch_plug; or, for a QEMU guest: netbuf = relay)",
                          t->ifb_name, nl_geterror(status));
    return status == -NLE_EXIST ? traffic_order(t, TRAFFIC_BARRIER, e) : 0;
}

static int make_ingress(struct traffic *t, const char *ifname, struct errmsg *e)
{
    struct rtnl_qdisc *q = ingress(t);
    int status = q ? rtnl_qdisc_add(t->nl, q, NLM_F_CREATE | NLM_F_EXCL) : -NLE_NOMEM;
    if (q)
        rtnl_qdisc_put(q);
    return status < 0 && status != -NLE_EXIST ? nl_error(e, "the ingress of", ifname, status) : 0;
}

static struct rtnl_act *redirection(const struct traffic *t)
{
    struct rtnl_act *a = rtnl_act_alloc();
    if (!a)
        return NULL;
    if (rtnl_tc_set_kind(TC_CAST(a), "mirred") == 0 && rtnl_mirred_set_action(a, TCA_EGRESS_REDIR) == 0 &&
        rtnl_mirred_set_policy(a, TC_ACT_STOLEN) == 0 && rtnl_mirred_set_ifindex(a, (uint32_t)t->ifb) == 0)
        return a;
    rtnl_act_put(a);
    return NULL;
}

/* All protocols: IPv4 alone would let ARP and IPv6 through. */
static struct rtnl_cls *filter(const struct traffic *t)
{
    struct rtnl_cls *c = rtnl_cls_alloc();
    if (!c)
        return NULL;
    rtnl_tc_set_ifindex(TC_CAST(c), t->ifindex);
    rtnl_tc_set_parent(TC_CAST(c), INGRESS_HANDLE);
    rtnl_tc_set_handle(TC_CAST(c), 1);
    rtnl_cls_set_prio(c, FILTER_PRIORITY);
    rtnl_cls_set_protocol(c, ETH_P_ALL);
    if (rtnl_tc_set_kind(TC_CAST(c), "matchall") == 0)
        return c;
    rtnl_cls_put(c);
    return NULL;
}

static int add_redirection(struct traffic *t)
{
    struct rtnl_cls *c = filter(t);
    struct rtnl_act *a = redirection(t);
    int status = c && a ? rtnl_mall_append_action(c, a) : -NLE_NOMEM;
    if (status == 0)
        status = rtnl_cls_add(t->nl, c, NLM_F_CREATE | NLM_F_EXCL);
    if (c)
        rtnl_cls_put(c);
    if (a)
        rtnl_act_put(a);
    return status;
}

static int make_redirection(struct traffic *t, const char *ifname, struct errmsg *e)
{
    int status = add_redirection(t);
    if (status == -NLE_EXIST && !t->made)
        return 0;               /* to the ifb that was there too */
    if (status == -NLE_EXIST) { /* it leads to one that is gone */
        struct rtnl_cls *old = filter(t);
        if (old) {
            (void)rtnl_cls_delete(t->nl, old, 0);
            rtnl_cls_put(old);
        }
        status = add_redirection(t);
    }
    return status < 0 ? nl_error(e, "redirecting what comes from", ifname, status) : 0;
}

struct traffic *traffic_open(const char *ifname, uint64_t limit_bytes, int *ifindex, struct errmsg *e)
{
    struct traffic *t = calloc(1, sizeof *t);
    if (!t) {
        errmsg_set(e, "out of memory");
        return NULL;
    }
    traffic_sweep();
    *ifindex = t->ifindex = (int)if_nametoindex(ifname);
    t->nl = nl_socket_alloc();
    int status = -1;
    snprintf(t->ifb_name, sizeof t->ifb_name, "hikae-%d", t->ifindex);
    if (!t->ifindex)
        errmsg_set(e, "there is no interface %s on this host", ifname);
    else if (!t->nl || nl_connect(t->nl, NETLINK_ROUTE) < 0)
        errmsg_set(e, "netlink: %s", strerror(errno));
    else if (make_ifb(t, e) == 0 && make_plug(t, limit_bytes, e) == 0 && make_ingress(t, ifname, e) == 0 &&
             make_redirection(t, ifname, e) == 0)
        status = 0;
    if (status == 0)
        return t;
    if (t->made)
        traffic_remove(t); /* a predecessor's is left alone: it may hold what must not leave */
    traffic_free(t);
    return NULL;
}

int traffic_check(struct errmsg *e)
{
    struct traffic t = {.nl = nl_socket_alloc()};
    int status = -1;
    snprintf(t.ifb_name, sizeof t.ifb_name, "hikae-c%d", (int)(getpid() % 10000000));
    if (!t.nl || nl_connect(t.nl, NETLINK_ROUTE) < 0)
        errmsg_set(e, "netlink: %s", strerror(errno));
    else if (make_ifb(&t, e) == 0)
        status = make_plug(&t, 1 << 20, e);
    if (t.made)
        traffic_seal(&t);
    if (t.nl)
        nl_socket_free(t.nl);
    return status;
}

void traffic_free(struct traffic *t)
{
    if (t && t->nl)
        nl_socket_free(t->nl);
    free(t);
}

int traffic_order(struct traffic *t, enum traffic_order order, struct errmsg *e)
{
    struct rtnl_qdisc *q = plug(t);
    int status = -NLE_NOMEM;
    if (q)
        status = order == TRAFFIC_BARRIER   ? rtnl_qdisc_plug_buffer(q)
                 : order == TRAFFIC_RELEASE ? rtnl_qdisc_plug_release_one(q)
                                            : rtnl_qdisc_plug_release_indefinite(q);
    if (status == 0)
        status = rtnl_qdisc_add(t->nl, q, 0);
    if (q)
        rtnl_qdisc_put(q);
    return status < 0 ? nl_error(e, "the plug on", t->ifb_name, status) : 0;
}

void traffic_seal(struct traffic *t)
{
    struct rtnl_link *link = rtnl_link_alloc();
    if (!link)
        return;
    rtnl_link_set_ifindex(link, t->ifb);
    (void)rtnl_link_delete(t->nl, link);
    rtnl_link_put(link);
}

void traffic_remove(struct traffic *t)
{
    struct rtnl_qdisc *q = ingress(t);
    if (q) {
        (void)rtnl_qdisc_delete(t->nl, q); /* its filter goes with it */
        rtnl_qdisc_put(q);
    }
    traffic_seal(t);
}

static void remove_if_ifb(struct nl_sock *nl, unsigned index)
{
    struct rtnl_link *link;
    if (rtnl_link_get_kernel(nl, (int)index, NULL, &link) < 0)
        return;
    const char *type = rtnl_link_get_type(link);
    if (type && strcmp(type, "ifb") == 0)
        (void)rtnl_link_delete(nl, link);
    rtnl_link_put(link);
}

/* An ifb is named after the interface that it is for. Numbers of interfaces are not given twice. */
void traffic_sweep(void)
{
    struct if_nameindex *all = if_nameindex();
    struct nl_sock *nl = nl_socket_alloc();
    char name[IFNAMSIZ], rest;
    unsigned of;
    bool connected = all && nl && nl_connect(nl, NETLINK_ROUTE) == 0;
    for (size_t i = 0; connected && all[i].if_index; i++)
        if (sscanf(all[i].if_name, "hikae-%u%c", &of, &rest) == 1 && !if_indextoname(of, name))
            remove_if_ifb(nl, all[i].if_index);
    if (nl)
        nl_socket_free(nl);
    if (all)
        if_freenameindex(all);
}

uint64_t traffic_drops(struct traffic *t)
{
    struct nl_cache *cache;
    uint64_t drops = 0;
    if (rtnl_qdisc_alloc_cache(t->nl, &cache) < 0)
        return 0;
    struct rtnl_qdisc *q = rtnl_qdisc_get(cache, t->ifb, PLUG_HANDLE);
    if (q) {
        drops = rtnl_tc_get_stat(TC_CAST(q), RTNL_TC_DROPS);
        rtnl_qdisc_put(q);
    }
    nl_cache_free(cache);
    return drops;
}
