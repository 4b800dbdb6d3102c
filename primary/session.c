/*
 * session: the connection to the secondary. HELLO both ways, CONFIG, READY, then epochs out and acks in. Any byte from
 * the peer is a sign of life; silence for the detection time is a lost link, like a reset.
 */
#include "common/config_parse.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "disk/client.h"
#include "primary/worker.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_RECORD = 1024 };
enum { LINK_QUEUE_MAX = 2 << 20, PUMP_MOST = 512 << 10, CONNECT_MS = 10000, FLUSH_MS = 100, ACK_MS = 10000 };

/* For how long a peer may be silent, and may hear nothing. Making the replica may take its host a while; from READY on
 * silence means something. */
static int64_t silence_bound(const struct worker *w)
{
    return (w->session.state == SESSION_READY ? 0 : VM_SETUP_MS) + (int64_t)w->config->detect_ms;
}

/* What is sent after the peer has heard nothing for too long makes nothing good. */
static int send_octets(struct worker *w, const void *data, size_t n)
{
    int64_t now = clock_now();
    if ((now - w->session.sent_at) / 1000000 <= silence_bound(w))
        w->session.sent_at = now;
    return link_send(w->session.link, data, n);
}

static int send_record(struct worker *w, uint16_t type, uint16_t flags, uint64_t epoch, const void *payload, size_t n)
{
    uint8_t joined[RECORD_HEADER_SIZE + SMALL_RECORD]; /* one TLS record for a small one, not two */
    record_header_write(joined, type, flags, (uint32_t)n, epoch);
    size_t small = n <= SMALL_RECORD ? n : 0;
    if (small)
        memcpy(joined + RECORD_HEADER_SIZE, payload, small);
    if (send_octets(w, joined, RECORD_HEADER_SIZE + small))
        return -1;
    return n > small ? send_octets(w, payload, n) : 0;
}

static void send_json(struct worker *w, uint16_t type, uint16_t flags, struct json_object *j)
{
    size_t n;
    const char *text = json_object_to_json_string_length(j, JSON_C_TO_STRING_PLAIN, &n);
    send_record(w, type, flags, 0, text, n);
    json_object_put(j);
}

static void send_hello(struct worker *w)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "version", json_object_new_int(PROTO_VERSION));
    struct json_object *features = json_object_new_array();
    json_object_array_add(features, json_object_new_string(FEATURE_REGIONS));
    json_object_array_add(features, json_object_new_string(FEATURE_DISKS));
    json_object_array_add(features, json_object_new_string(FEATURE_CHECK));
    json_object_array_add(features, json_object_new_string(FEATURE_SHARED));
    json_object_array_add(features, json_object_new_string(FEATURE_DISK_PAGES));
    json_object_array_add(features, json_object_new_string(FEATURE_GENERATIONS));
    json_object_object_add(j, "features", features);
    json_object_object_add(j, "agent", json_object_new_string("hikae-primary"));
    json_object_object_add(j, "host", json_object_new_string(w->config->name));
    json_object_object_add(j, "vm", json_object_new_string(w->name));
    json_object_object_add(j, "term", json_object_new_int64((int64_t)w->term));
    if (!config_has_arbiter(w->config))
        json_object_object_add(j, "arbiter", json_object_new_string("none"));
    json_object_object_add(j, "detect_ms", json_object_new_int((int)w->config->detect_ms));
    send_json(w, RECORD_HELLO, 0, j);
}

/* Gives up on this connection for a reason that the peer is told as well. */
static void refuse(struct worker *w, const char *what)
{
    session_bye(w, BYE_PROTOCOL, what);
    worker_event(w, EVENT_LINK_DOWN, "%s: %s", w->peer, what);
}

/* Where the VM is to be protected if it comes to run at the secondary and this host stays away. */
static struct json_object *other_candidates(const struct worker *w)
{
    struct json_object *all = json_object_new_array();
    for (unsigned i = 0; i < w->candidates.n; i++)
        if (i != w->candidates.at)
            json_object_array_add(all, json_object_new_string(w->candidates.names[i]));
    return all;
}

static struct json_object *describe_disks(const struct worker *w)
{
    struct json_object *all = json_object_new_array();
    for (unsigned i = 0; i < w->disks.n; i++) {
        struct json_object *disk = json_object_new_object();
        json_object_object_add(disk, "bytes", json_object_new_uint64(w->disks.at[i].bytes));
        if (i >= w->disks.n - w->disks.shared.disks) {
            char identity[DISK_IDENTITY_MAX] = "";
            if (w->disks.client)
                disk_store_identity(w->disks.client, i, identity);
            json_object_object_add(disk, "shared", json_object_new_boolean(true));
            json_object_object_add(disk, "identity", json_object_new_string(identity));
        }
        json_object_array_add(all, disk);
    }
    return all;
}

static void send_config(struct worker *w)
{
    struct errmsg e;
    struct json_object *replica = NULL;
    if (w->ops->describe(w->vm, &replica, &e)) {
        worker_event(w, EVENT_LINK_DOWN, "can't describe the VM: %s", e.text);
        return;
    }
    if (worker_is_outgrown(w)) {
        json_object_put(replica);
        return;
    }
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "backend", json_object_new_string(w->ops->name));
    json_object_object_add(j, "pages", json_object_new_int64((int64_t)w->info.pages));
    json_object_object_add(j, "replica", replica);
    json_object_object_add(j, "mode", json_object_new_int((int)w->record.mode));
    json_object_object_add(j, "interval_ms", json_object_new_int((int)w->record.interval_ms));
    json_object_object_add(j, "spares", other_candidates(w));
    json_object_object_add(j, "isolated", json_object_new_string(config_isolated_name(w->record.isolated)));
    json_object_object_add(j, "open_after_ms", json_object_new_int((int)w->record.open_after_ms));
    if (w->disks.n)
        json_object_object_add(j, "disks", describe_disks(w));
    w->disks.written.named = false;
    if (w->disks.n && w->session.knows_generations)
        written_describe(&w->disks.written, j);
    send_json(w, RECORD_CONFIG, 0, j);
}

static struct json_object *parse(const struct record *r)
{
    struct json_tokener *t = json_tokener_new();
    struct json_object *j = json_tokener_parse_ex(t, (const char *)r->payload, (int)r->length);
    if (json_tokener_get_error(t) != json_tokener_success || !json_object_is_type(j, json_type_object)) {
        json_object_put(j);
        j = NULL;
    }
    json_tokener_free(t);
    return j;
}

static void on_hello(struct worker *w, const struct record *r)
{
    struct json_object *j = parse(r), *v = NULL;
    int version = j && json_object_object_get_ex(j, "version", &v) ? json_object_get_int(v) : -1;
    bool knows_disks = json_list_has(j, "features", FEATURE_DISKS);
    w->session.knows_check = json_list_has(j, "features", FEATURE_CHECK);
    bool knows_shared = json_list_has(j, "features", FEATURE_SHARED);
    w->session.knows_disk_pages = json_list_has(j, "features", FEATURE_DISK_PAGES);
    w->session.knows_generations = json_list_has(j, "features", FEATURE_GENERATIONS);
    json_object_put(j);
    if (version == PROTO_VERSION && w->disks.n && !knows_disks) {
        refuse(w, "the VM has disks, which that host's release of Hikae does not replicate: upgrade it");
        return;
    }
    if (version == PROTO_VERSION && w->disks.shared.disks && !knows_shared) {
        refuse(w, "the VM has a shared disk, which that host's release of Hikae does not know: upgrade it");
        return;
    }
    if (version != PROTO_VERSION) {
        char what[128];
        snprintf(what, sizeof what, "speaks version %d of the protocol, this host version %d: use the same release",
                 version, PROTO_VERSION);
        refuse(w, what);
        return;
    }
    w->session.state = SESSION_CONFIG;
    session_note_disk_sync_rate(w); /* before it begins */
    send_config(w);
}

static void on_bye(struct worker *w, const struct record *r)
{
    enum bye_reason reason;
    char text[PROTO_REASON_MAX + 1];
    struct proto_error e;
    if (bye_read(r, &reason, text, &e)) {
        refuse(w, e.text);
        return;
    }
    bool guarded = w->state == PROTECTION_SEALED || w->state == PROTECTION_PROTECTED || w->state == PROTECTION_HANDING;
    if (reason == BYE_TAKEN_OVER && guarded)
        worker_event(w, EVENT_TAKEN_OVER, "%s has taken the VM over: %s", w->peer, text);
    else
        worker_event(w, EVENT_LINK_DOWN, "%s: %s (%s)", w->peer, text, bye_name(reason));
}

static void on_ready(struct worker *w, const struct record *r)
{
    struct json_object *j = parse(r);
    uint64_t pages = json_get_u64(j, "pages", 0);
    w->session.told_regions = json_get_bool(j, "regions", false);
    bool told_disks = json_get_bool(j, "disks", false), told_changes = json_get_bool(j, "changed", false);
    json_object_put(j);
    if (told_changes && !(w->disks.written.named && w->disks.written.file)) {
        refuse(w, "its disks are of a generation that was not asked for");
        return;
    }
    w->disks.written.told_changes = told_changes;
    if (w->disks.n && !told_disks) {
        refuse(w, "its replica is without the VM's disks");
        return;
    }
    if (pages != w->info.pages) {
        refuse(w, "its replica has another number of pages than the VM");
        return;
    }
    w->session.state = SESSION_READY;
    worker_event(w, EVENT_READY, "%s", "");
}

/* What the secondary has durably this host need not have noted any more. */
static void on_note(struct worker *w, const struct record *r)
{
    struct json_object *j = parse(r);
    uint64_t durable = json_get_u64(j, "durable", 0);
    json_object_put(j);
    if (durable && w->state == PROTECTION_PROTECTED)
        written_durable(&w->disks.written, durable, w->checkpoint.flight.last + 1);
}

static void on_record(struct worker *w, const struct record *r)
{
    struct session *s = &w->session;
    struct proto_error e;
    uint64_t echo;
    switch (r->type) {
    case RECORD_HELLO:
        on_hello(w, r);
        break;
    case RECORD_READY:
        on_ready(w, r);
        break;
    case RECORD_REGIONS:
        if (!s->told_regions)
            refuse(w, "REGIONS that its READY did not announce");
        else if (checkpoint_regions(w, r, &e))
            refuse(w, e.text);
        break;
    case RECORD_BLOCKS:
        if (!w->disks.n || w->disks.written.told_changes)
            refuse(w, "BLOCKS that its READY did not announce");
        else if (disks_blocks(w, r, &e))
            refuse(w, e.text);
        break;
    case RECORD_CHANGED:
        if (!w->disks.written.told_changes)
            refuse(w, "CHANGED that its READY did not announce");
        else if (disks_changed(w, r, &e))
            refuse(w, e.text);
        break;
    case RECORD_NOTE:
        on_note(w, r);
        break;
    case RECORD_CHECKED:
        if (verify_answered(w, r, &e))
            refuse(w, e.text);
        break;
    case RECORD_ACK:
        checkpoint_acked(w, r->epoch, r->payload);
        break;
    case RECORD_HEARTBEAT:
        if (heartbeat_read(r, &s->echo, &echo, &e))
            refuse(w, e.text);
        break;
    case RECORD_BYE:
        on_bye(w, r);
        break;
    default:
        break;
    }
}

/* The peer was silent for too long, or heard nothing for so long: then it may have taken the VM over, whatever came
 * from it before. */
static bool was_silent(struct worker *w)
{
    const struct session *s = &w->session;
    int64_t now = clock_now(), silent_ms = (now - s->heard_at) / 1000000, deaf_ms = (now - s->sent_at) / 1000000;
    int64_t bound = silence_bound(w);
    if (silent_ms > bound)
        worker_event(w, EVENT_LINK_DOWN, "%s is silent for %" PRId64 " ms", w->peer, silent_ms);
    else if (deaf_ms > bound)
        worker_event(w, EVENT_LINK_DOWN, "this process stood still: %s heard nothing for %" PRId64 " ms", w->peer,
                     deaf_ms);
    return silent_ms > bound || deaf_ms > bound;
}

static uint8_t *make_room(struct link *l, size_t n, void *arg)
{
    (void)l;
    struct worker *w = arg;
    return framer_room(w->session.framer, n);
}

static void on_input(struct link *l, const uint8_t *data, size_t n, void *arg)
{
    struct worker *w = arg;
    struct proto_error e;
    struct record r;
    /* If it was us who stood still, an ack may wait here from before the peer took the VM over. By now that VM has gone
     * on, and the output of this one is nobody's: the arbiter is asked first (promise 3). */
    if (was_silent(w))
        return;
    w->session.heard_at = clock_now();
    w->session.unread = 0;
    int got = framer_feed(w->session.framer, data, n, &e);
    while (!got && (got = framer_next(w->session.framer, &r, &e)) > 0) {
        got = stream_check_record(w->session.check, &r, &e);
        if (!got)
            on_record(w, &r);
        if (w->session.link != l)
            return; /* this connection was given up meanwhile */
    }
    if (got < 0)
        refuse(w, e.text);
}

static void on_up(struct link *l, void *arg)
{
    struct worker *w = arg;
    link_expect_within(l, w->config->detect_ms);
    w->session.state = SESSION_HELLO;
    w->session.heard_at = w->session.sent_at = clock_now();
    w->session.unread = 0;
    send_hello(w);
    ev_timer_again(w->loop, &w->session.heartbeat);
}

static void on_drained(struct link *l, void *arg)
{
    (void)l;
    session_pump(arg);
}

static void on_closed(struct link *l, bool reset, const char *reason, void *arg)
{
    (void)l, (void)reset;
    struct worker *w = arg;
    worker_event(w, EVENT_LINK_DOWN, "%s: %s", w->peer, reason);
}

static bool never_trusted(const char *fingerprint, void *arg)
{
    (void)fingerprint, (void)arg;
    return false; /* a client knows whom it expects */
}

static void send_heartbeat(struct worker *w)
{
    uint8_t payload[HEARTBEAT_SIZE];
    heartbeat_write(payload, ++w->session.sequence, w->session.echo);
    send_record(w, RECORD_HEARTBEAT, 0, 0, payload, sizeof payload);
}

/* Nothing is read here. But more has come in, and the peer's kernel has all that was sent until now: the peer lives,
 * and hears us, so it has not taken the VM over when what it said is read (promise 3; see on_input). */
static void notice_life(struct session *s)
{
    size_t unread = link_unread(s->link);
    if (unread > s->unread && link_backlog(s->link) == 0)
        s->heard_at = clock_now();
    s->unread = unread;
}

void session_keep_alive(struct worker *w)
{
    struct session *s = &w->session;
    if (s->state < SESSION_HELLO)
        return;
    notice_life(s);
    if ((double)(clock_now() - s->sent_at) / 1e9 >= s->heartbeat.repeat)
        send_heartbeat(w);
}

/* For how long output waits for an ack. A secondary that lives but doesn't acknowledge must not hold it for ever. */
static int64_t unacknowledged_ms(const struct worker *w)
{
    const struct flight *f = &w->checkpoint.flight;
    bool waiting = w->state == PROTECTION_SEALED || w->state == PROTECTION_PROTECTED || w->state == PROTECTION_HANDING;
    return waiting && f->n ? (clock_now() - f->at[0].paused_at) / 1000000 : 0;
}

static void on_heartbeat(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    if (was_silent(w))
        return;
    int64_t held_ms = unacknowledged_ms(w);
    if (held_ms > ACK_MS + w->config->detect_ms) {
        worker_event(w, EVENT_LINK_DOWN, "%s has not acknowledged an epoch for %" PRId64 " ms", w->peer, held_ms);
        return;
    }
    send_heartbeat(w);
}

static int load_identity(struct worker *w, struct errmsg *e)
{
    if (!w->session.identity)
        w->session.identity = tls_identity_load(w->config->key, w->config->certificate, e);
    return w->session.identity ? 0 : -1;
}

static int start(struct worker *w, struct errmsg *e)
{
    static const struct link_handlers handlers = {.up = on_up,
                                                  .room = make_room,
                                                  .input = on_input,
                                                  .drained = on_drained,
                                                  .closed = on_closed,
                                                  .trusted = never_trusted};
    struct session *s = &w->session;
    const struct config_peer *p = config_peer_by_name(w->config, w->peer);
    if (!p)
        return errmsg_set(e, "no [peer %s] in %s", w->peer, w->config->path);
    if (load_identity(w, e))
        return -1;
    s->framer = framer_new();
    s->check = stream_check_new(STREAM_FROM_SECONDARY);
    if (!s->framer || !s->check)
        return errmsg_set(e, "no memory");
    s->link = link_connect(w->loop, s->identity, p->address, p->port, p->fingerprint, CONNECT_MS, &handlers, w, e);
    s->state = SESSION_CONNECTING;
    return s->link ? 0 : -1;
}

void session_connect(struct worker *w)
{
    struct errmsg e;
    ev_timer_stop(w->loop, &w->session.reconnect);
    session_close(w);
    if (start(w, &e))
        worker_event(w, EVENT_LINK_DOWN, "%s: %s", w->peer, e.text);
}

static void on_reconnect(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    if (w->state == PROTECTION_CONNECTING)
        session_connect(w);
}

void session_connect_later(struct worker *w)
{
    worker_peer_failed(w);
    ev_timer_stop(w->loop, &w->session.reconnect);
    ev_timer_set(&w->session.reconnect, candidates_wait_ms(&w->candidates) / 1000., 0.);
    ev_timer_start(w->loop, &w->session.reconnect);
}

void session_hurry(struct worker *w)
{
    if (ev_is_active(&w->session.reconnect))
        session_connect(w);
}

void session_close(struct worker *w)
{
    struct session *s = &w->session;
    ev_timer_stop(w->loop, &s->heartbeat);
    if (s->link) {
        s->bytes_before += link_bytes_sent(s->link);
        link_free(s->link, 0);
    }
    framer_free(s->framer);
    stream_check_free(s->check);
    s->link = NULL;
    s->framer = NULL;
    s->check = NULL;
    s->told_regions = s->knows_check = s->knows_generations = false;
    s->state = SESSION_NONE;
}

void session_bye(struct worker *w, enum bye_reason reason, const char *text)
{
    struct session *s = &w->session;
    if (s->link && s->state > SESSION_CONNECTING) {
        uint8_t payload[4 + PROTO_REASON_MAX];
        send_record(w, RECORD_BYE, 0, 0, payload, bye_write(payload, reason, text));
        s->bytes_before += link_bytes_sent(s->link);
        link_free(s->link, FLUSH_MS);
        s->link = NULL;
    }
    session_close(w);
}

/* Where the network takes all that it is given, and the encoder is as fast as the encryption here, there would be a
 * next chunk until the end of the sync. So not all at once: what was sent is told to be drained in a later turn of the
 * loop, which then has seen to its timers and to what the peer says. */
void session_pump(struct worker *w)
{
    struct pipeline *p = w->checkpoint.pipeline;
    for (size_t sent = 0; p && w->session.link && sent < PUMP_MOST && link_queued(w->session.link) < LINK_QUEUE_MAX;) {
        struct pipeline_chunk *c = pipeline_take(p);
        if (!c)
            return;
        if (c->committed)
            flight_sent(&w->checkpoint.flight, c->committed, c->digest);
        sent += c->n;
        send_octets(w, c->data, c->n); /* if it fails, `closed` will say so */
        free(c);
    }
}

void session_note_addresses(struct worker *w)
{
    if (!w->session.link || w->session.state < SESSION_CONFIG || !w->record.addresses)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "addresses", json_object_get(w->record.addresses));
    send_json(w, RECORD_NOTE, RECORD_OPTIONAL, j);
}

void session_note_durable(struct worker *w, uint64_t epoch)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "durable", json_object_new_uint64(epoch));
    if (w->session.link)
        send_json(w, RECORD_NOTE, RECORD_OPTIONAL, j);
    else
        json_object_put(j);
}

void session_note_disk_sync_rate(struct worker *w)
{
    if (!w->session.link || w->session.state < SESSION_CONFIG || !w->disks.n)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "disk_sync_rate", json_object_new_uint64(disks_sync_rate(w)));
    send_json(w, RECORD_NOTE, RECORD_OPTIONAL, j);
}

void session_hand_over(struct worker *w, uint64_t epoch, struct json_object *payload)
{
    size_t n;
    const char *text = json_object_to_json_string_length(payload, JSON_C_TO_STRING_PLAIN, &n);
    send_record(w, RECORD_HANDOVER, 0, epoch, text, n);
    json_object_put(payload);
}

void session_init(struct worker *w)
{
    struct session *s = &w->session;
    double period = w->config->detect_ms / 5000.;
    ev_timer_init(&s->heartbeat, on_heartbeat, period, period);
    ev_timer_init(&s->reconnect, on_reconnect, 0., 0.);
    s->heartbeat.data = s->reconnect.data = w;
    /* After a stall of this process what has come in is read before silence is judged. */
    ev_set_priority(&s->heartbeat, EV_MINPRI);
}
