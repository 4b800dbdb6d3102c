/*
 * network: the VM's NICs, an outlet each. A worker that was a secondary's a moment ago inherits their ends
 * (secondary/network.c) and passes frames before it does anything else: the VM runs already.
 */
#include "common/log.h"
#include "netbuf/plug.h"
#include "netbuf/relay.h"
#include "primary/worker.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <net/ethernet.h>
#include <netinet/ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANNOUNCEMENTS = 4 };
static const double ANNOUNCE_S = 0.3, NOTE_S = 0.5;

static void on_held(void *arg)
{
    struct worker *w = arg;
    w->checkpoint.trigger.output = true;
    checkpoint_arm(w);
}

static void on_full(void *arg)
{
    struct worker *w = arg;
    log_info("the output buffer is full: checkpoint now");
    w->checkpoint.trigger.full = true;
    checkpoint_arm(w);
}

/* The guest decides how often: told to the secondary at most every NOTE_S. */
static void on_learnt(void *arg)
{
    struct worker *w = arg;
    if (!ev_is_active(&w->note))
        ev_timer_start(w->loop, &w->note);
}

static void on_note(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop, (void)events;
    struct worker *w = timer->data;
    struct json_object *all = json_object_new_array();
    for (unsigned i = 0; i < w->outlet_count; i++) {
        const struct neighbour_table *t = outlet_neighbours(w->outlets[i]);
        for (size_t a = 0; a < t->count; a++) {
            char text[INET6_ADDRSTRLEN];
            inet_ntop(t->at[a].length == 4 ? AF_INET : AF_INET6, t->at[a].octets, text, sizeof text);
            json_object_array_add(all, json_object_new_string(text));
        }
    }
    json_object_put(w->record.addresses);
    w->record.addresses = all;
    session_note_addresses(w);
}

static void on_outlet_lost(const char *why, void *arg)
{
    struct worker *w = arg;
    log_warn("the guest's network: %s", why);
    ev_timer_start(w->loop, &w->network_lost); /* nothing is done here: the outlet is still at work */
}

/* What the VM's last host knew of its addresses, so that the announcement after a failover can name them. */
static void teach(struct outlet *r, struct json_object *addresses)
{
    for (size_t i = 0; addresses && i < json_object_array_length(addresses); i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(addresses, i));
        struct neighbour_address a = {.length = 4};
        if (inet_pton(AF_INET, text, a.octets) == 1 || (a.length = 16, inet_pton(AF_INET6, text, a.octets) == 1))
            neighbour_add(outlet_neighbours(r), &a);
    }
}

static int open_one(struct worker *w, const struct outlet_config *c, const struct relay_line *line, struct errmsg *e)
{
    static const struct netbuf_handlers handlers = {
        .held = on_held, .full = on_full, .learnt = on_learnt, .lost = on_outlet_lost};
    struct outlet *r = outlet_open(w->loop, c, line, &handlers, w, e);
    if (!r)
        return -1;
    teach(r, w->record.addresses);
    w->outlets[w->outlet_count++] = r;
    return 0;
}

int network_open(struct worker *w, struct errmsg *e)
{
    while (w->outlet_count < w->info.nic_count) {
        const struct vm_nic *nic = &w->info.nics[w->outlet_count];
        struct outlet_config c = {.stream_path = nic->stream_path,
                                  .bridge = nic->bridge,
                                  .ifname = nic->ifname,
                                  .limit_bytes = w->settings->buffer_bytes};
        memcpy(c.mac, nic->mac, sizeof c.mac);
        if (open_one(w, &c, NULL, e))
            return -1;
    }
    return 0;
}

/* "TAP:VM:MAC TAP:VM:MAC ..", made by network_inherit of secondary/network.c. */
void network_adopt(struct worker *w)
{
    struct relay_line line;
    struct errmsg e;
    char text[24];
    const char *at = getenv("HIKAE_LINES");
    for (int used; at && w->outlet_count < VM_MAX_NICS; at += used) {
        if (sscanf(at, "%d:%d:%17s %n", &line.tap, &line.vm, text, &used) != 3)
            break;
        struct outlet_config c = {.bridge = "", .ifname = "", .limit_bytes = w->settings->buffer_bytes};
        const struct ether_addr *mac = ether_aton(text);
        if (!mac)
            break;
        memcpy(c.mac, mac, sizeof c.mac);
        fcntl(line.tap, F_SETFD, FD_CLOEXEC);
        fcntl(line.vm, F_SETFD, FD_CLOEXEC);
        if (open_one(w, &c, &line, &e)) {
            log_warn("%s", e.text);
            break;
        }
        outlet_let_go(w->outlets[w->outlet_count - 1]); /* the term is ours, and no replica is there */
        outlet_poll(w->outlets[w->outlet_count - 1]);
    }
    unsetenv("HIKAE_LINES");
}

void network_let_go(struct worker *w)
{
    for (unsigned i = 0; i < w->outlet_count; i++)
        outlet_let_go(w->outlets[i]);
}

void network_hold(struct worker *w)
{
    for (unsigned i = 0; i < w->outlet_count; i++)
        outlet_hold(w->outlets[i]);
}

void network_seal(struct worker *w)
{
    for (unsigned i = 0; i < w->outlet_count; i++)
        outlet_seal(w->outlets[i]);
}

void network_close(struct worker *w)
{
    while (w->outlet_count)
        outlet_close(w->outlets[--w->outlet_count]);
    plug_sweep();
}

static void on_announce(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)events;
    struct worker *w = t->data;
    for (unsigned i = 0; i < w->outlet_count; i++)
        outlet_announce(w->outlets[i]);
    if (++w->announcements >= ANNOUNCEMENTS)
        ev_timer_stop(loop, t);
}

void network_announce(struct worker *w)
{
    on_announce(w->loop, &w->announce, 0);
    ev_timer_again(w->loop, &w->announce);
}

void network_init(struct worker *w)
{
    ev_timer_init(&w->announce, on_announce, ANNOUNCE_S, ANNOUNCE_S);
    ev_timer_init(&w->note, on_note, NOTE_S, 0.);
    w->announce.data = w->note.data = w;
}
