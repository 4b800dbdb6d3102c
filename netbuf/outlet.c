#include "netbuf/outlet.h"

#include "netbuf/plug.h"
#include "netbuf/relay.h"

#include <stdlib.h>
#include <string.h>

struct outlet { /* one of them */
    struct relay *relay;
    struct plug *plug;
};

struct outlet *outlet_open(struct ev_loop *loop, const struct outlet_config *c, const struct relay_line *line,
                           const struct netbuf_handlers *h, void *arg, struct errmsg *e)
{
    struct outlet *o = calloc(1, sizeof *o);
    if (!o) {
        errmsg_set(e, "no memory for the output buffer");
        return NULL;
    }
    if (*c->ifname) {
        struct plug_config plug = {.ifname = c->ifname, .limit_bytes = c->limit_bytes};
        memcpy(plug.mac, c->mac, sizeof plug.mac);
        o->plug = plug_open(loop, &plug, h, arg, e);
    } else {
        struct relay_config relay = {.stream_path = c->stream_path, .bridge = c->bridge, .limit_bytes = c->limit_bytes};
        memcpy(relay.mac, c->mac, sizeof relay.mac);
        o->relay = relay_open(loop, &relay, line, h, arg, e);
    }
    if (o->plug || o->relay)
        return o;
    free(o);
    return NULL;
}

void outlet_close(struct outlet *o)
{
    if (o->plug)
        plug_close(o->plug);
    else
        relay_close(o->relay);
    free(o);
}

void outlet_drain(struct outlet *o)
{
    if (o->plug)
        plug_drain(o->plug);
    else
        relay_drain(o->relay);
}

void outlet_poll(struct outlet *o)
{
    if (o->relay)
        relay_poll(o->relay);
}

int outlet_barrier(struct outlet *o, uint64_t epoch)
{
    if (o->plug)
        return plug_barrier(o->plug, epoch);
    relay_barrier(o->relay, epoch);
    return 0;
}

void outlet_release(struct outlet *o, uint64_t epoch)
{
    if (o->plug)
        plug_release(o->plug, epoch);
    else
        relay_release(o->relay, epoch);
}

void outlet_hold(struct outlet *o)
{
    if (o->plug)
        plug_hold(o->plug);
    else
        relay_hold(o->relay);
}

void outlet_let_go(struct outlet *o)
{
    if (o->plug)
        plug_let_go(o->plug);
    else
        relay_let_go(o->relay);
}

void outlet_seal(struct outlet *o)
{
    if (o->plug)
        plug_seal(o->plug);
    else
        relay_seal(o->relay);
}

void outlet_announce(struct outlet *o)
{
    if (o->relay)
        relay_announce(o->relay);
}

struct netbuf_counts outlet_counts(const struct outlet *o)
{
    return o->plug ? plug_counts(o->plug) : relay_counts(o->relay);
}

bool outlet_has_output(const struct outlet *o)
{
    return o->plug ? plug_has_output(o->plug) : relay_has_output(o->relay);
}

struct neighbour_table *outlet_neighbours(struct outlet *o)
{
    return o->plug ? plug_neighbours(o->plug) : relay_neighbours(o->relay);
}
