/*
 * session: the connection of a primary. Who it is (TLS, fingerprint), what VM it brings and whether it may (config,
 * supervisor, arbiter), then epochs in and acks out. Any byte is a sign of life; the detector looks for silence.
 */
#include "common/config_parse.h"
#include "common/file.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "proto/changed.h"
#include "secondary/cleaner.h"
#include "secondary/fence.h"
#include "secondary/worker.h"
#include "vm/remains.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SMALL_RECORD = 1024 };
enum { HANDSHAKE_MS = 10000, FLUSH_MS = 100 };

static void send_record(struct worker *w, uint16_t type, uint64_t epoch, const void *payload, size_t n)
{
    uint8_t joined[RECORD_HEADER_SIZE + SMALL_RECORD]; /* one TLS record for a small one, not two */
    record_header_write(joined, type, 0, (uint32_t)n, epoch);
    size_t small = n <= SMALL_RECORD ? n : 0;
    if (small)
        memcpy(joined + RECORD_HEADER_SIZE, payload, small);
    if (w->link && !link_send(w->link, joined, RECORD_HEADER_SIZE + small) && n > small)
        link_send(w->link, payload, n);
}

static void send_json(struct worker *w, uint16_t type, struct json_object *j)
{
    size_t n;
    const char *text = json_object_to_json_string_length(j, JSON_C_TO_STRING_PLAIN, &n);
    send_record(w, type, 0, text, n);
    json_object_put(j);
}

void session_send(struct worker *w, uint16_t type, const void *payload, size_t n)
{
    send_record(w, type, 0, payload, n);
}

/* ---- ends ---- */

void session_close(struct worker *w)
{
    ev_timer_stop(w->loop, &w->detector);
    tell_end(w);
    disks_end_telling(w);
    check_end(w);
    w->acks.n = 0;
    if (w->link)
        link_free(w->link, 0);
    w->link = NULL;
}

void session_bye(struct worker *w, enum bye_reason reason, const char *text)
{
    if (w->link) {
        uint8_t payload[4 + PROTO_REASON_MAX];
        send_record(w, RECORD_BYE, 0, payload, bye_write(payload, reason, text));
        link_free(w->link, FLUSH_MS);
        w->link = NULL;
    }
    session_close(w);
}

void session_turn_away(struct worker *w, enum bye_reason reason, const char *what)
{
    log_warn("%s at %s is turned away: %s", w->peer ? w->peer->name : "a peer",
             w->link ? link_peer_address(w->link) : "?", what);
    session_bye(w, reason, what);
    worker_event(w, STANDBY_EVENT_TROUBLE, "%s", what);
}

/* ---- greeting ---- */

/* Asks the supervisor, which lets go of an older replica of the same VM first. */
static void ask_admission(struct worker *w)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "cmd", json_object_new_string("admit"));
    json_object_object_add(j, "vm", json_object_new_string(w->vm_name));
    json_object_object_add(j, "pid", json_object_new_int((int)getpid()));
    if (w->supervisor)
        control_send(w->supervisor, j);
    json_object_put(j);
    if (!w->supervisor)
        session_turn_away(w, BYE_REFUSED, "this host's agent is restarting, try again");
}

/* By its record the VM still runs on this host, though it doesn't any more, or must not: its primary agent is about to
 * find that out and to end what is left. Until then there is no room for its replica. */
static bool has_former_self(const struct worker *w)
{
    struct vm_record r;
    struct errmsg e;
    bool has = !vm_record_load(w->config->state_dir, w->vm_name, &r, &e) && !strcmp(r.role, "running");
    vm_record_clear(&r);
    return has;
}

static void on_register_read(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct worker *w = arg;
    char what[256];
    w->request = NULL;
    if (answer == ARBITER_NO_ANSWER) {
        snprintf(what, sizeof what, "this host's arbiter does not answer: %s", why);
        session_turn_away(w, BYE_REFUSED, what);
        return;
    }
    if (now->term != w->term || strcmp(now->owner, w->peer->name)) {
        snprintf(what, sizeof what,
                 "it claims term %" PRIu64 ", but the arbiter says: %s, term %" PRIu64
                 " (do both hosts use the same arbiter, and each other's names in [peer]?)",
                 w->term, now->term ? now->owner : "nobody", now->term);
        session_turn_away(w, BYE_REFUSED, what);
        return;
    }
    if (has_former_self(w)) {
        session_turn_away(w, BYE_REFUSED,
                          "this host's hikae-primary has not given up the VM yet, which ran here before");
        return;
    }
    ask_admission(w);
}

/* arbiter = none: there is nobody to ask whether the primary's word is true, only what this host has known itself. The
 * term is noted, so that an older primary is not believed later. */
static void on_noted(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct worker *w = arg;
    char what[256];
    w->request = NULL;
    if (answer == ARBITER_GRANTED) {
        ask_admission(w);
        return;
    }
    if (answer == ARBITER_NO_ANSWER)
        snprintf(what, sizeof what, "this host's own register can't be used: %s", why);
    else
        snprintf(what, sizeof what,
                 "it claims term %" PRIu64 ", but this host knows of %s, term %" PRIu64
                 " (arbiter = none: if the VM runs twice, `hikae stop` the one that is not wanted)",
                 w->term, now->owner, now->term);
    session_turn_away(w, BYE_REFUSED, what);
}

static void say_hello(struct worker *w)
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
    json_object_object_add(j, "agent", json_object_new_string("hikae-secondary"));
    json_object_object_add(j, "host", json_object_new_string(w->config->name));
    json_object_object_add(j, "vm", json_object_new_string(w->vm_name));
    json_object_object_add(j, "term", json_object_new_uint64(w->term));
    send_json(w, RECORD_HELLO, j);
    w->said_hello = true;
}

void session_admitted(struct worker *w, const char *refusal)
{
    if (refusal)
        session_turn_away(w, BYE_REFUSED, refusal);
    else
        say_hello(w);
}

static const char *check_hello(struct worker *w, struct json_object *j, char what[256])
{
    int version = (int)json_get_u64(j, "version", 0);
    const char *vm = json_get_text(j, "vm", "");
    if (version != PROTO_VERSION) {
        snprintf(what, 256, "it speaks version %d of the protocol, this host version %d: use the same release", version,
                 PROTO_VERSION);
        return what;
    }
    if (!config_name_is_valid(vm))
        return "HELLO without a valid VM name";
    if (!config_peer_may_send(w->peer, vm)) {
        snprintf(what, 256, "VM %s is not in accept = of [peer %s] in this host's configuration", vm, w->peer->name);
        return what;
    }
    if (!strcmp(json_get_text(j, "arbiter", ""), "none") == config_has_arbiter(w->config))
        return "one host has arbiter = none, the other one has an arbiter: both need the same";
    snprintf(w->vm_name, sizeof w->vm_name, "%s", vm);
    w->term = json_get_u64(j, "term", 0);
    w->knows_regions = json_list_has(j, "features", FEATURE_REGIONS);
    return w->term ? NULL : "HELLO without a term";
}

static void on_hello(struct worker *w, const struct record *r)
{
    char what[256];
    struct json_object *j = json_parse_object((const char *)r->payload, r->length);
    const char *wrong = j ? check_hello(w, j, what) : "HELLO is no JSON object";
    json_object_put(j);
    if (wrong) {
        session_turn_away(w, BYE_REFUSED, wrong);
        return;
    }
    log_open("hikae-secondary", w->vm_name);
    log_info("%s at %s brings VM %s, term %" PRIu64, w->peer->name, link_peer_address(w->link), w->vm_name, w->term);
    /* before an older replica is let go of for this one */
    if (config_has_arbiter(w->config))
        failover_read_register(w, on_register_read);
    else if (has_former_self(w))
        session_turn_away(
            w, BYE_REFUSED,
            "the VM runs here (arbiter = none: if it runs twice, `hikae stop` the one that is not wanted)");
    else
        failover_note_primary(w, on_noted);
}

/* ---- making the replica ---- */

static int check_bridges(const struct worker *w, struct errmsg *e)
{
    for (unsigned i = 0; i < w->info.nic_count; i++) {
        const char *bridge = w->info.nics[i].bridge;
        if (*bridge && !if_nametoindex(bridge))
            return errmsg_set(
                e,
                "host %s has no bridge '%s' for the VM's network: make it, or name another one with bridge = in "
                "[vm %s] there",
                w->config->name, bridge, w->vm_name);
    }
    return 0;
}

/* A worker that died together with its supervisor has left its replica, and only the record that we are about to
 * replace knows of it. The primary has claimed a newer term since: that replica can't start any more. */
static void clear_predecessor(const struct worker *w)
{
    struct vm_record old;
    struct errmsg e;
    if (!vm_record_load(w->config->state_dir, w->vm_name, &old, &e) && !strcmp(old.role, "standby") && *old.run_dir &&
        strcmp(old.run_dir, w->run_dir)) {
        char remains[REMAINS_PATH_MAX];
        struct vm_spec spec = {.name = w->vm_name, .run_dir = old.run_dir};
        spec.remains = cleaner_remains(w->config, w->vm_name, remains);
        const struct vm_ops *ops = vm_backend(old.backend, &e);
        if (!ops || ops->clear(&spec, &e) < 0)
            log_warn("an older replica is left in %s: %s", old.run_dir, e.text);
        rmdir(old.run_dir);
    }
    vm_record_clear(&old);
}

static int make_replica(struct worker *w, struct json_object *config, struct errmsg *e)
{
    struct json_object *settings = json_get(config, "replica");
    char program[512];
    const char *bridge = json_get_text(config_vm(w->config, w->vm_name)->settings, "bridge", NULL);
    uint64_t pages = json_get_u64(config, "pages", 0);
    const char *backend = json_get_text(config, "backend", "");
    if (!json_object_is_type(settings, json_type_object) || !config_name_is_valid(backend))
        return errmsg_set(e, "CONFIG without backend or replica");
    if (bridge) /* this host's bridge may have another name */
        json_object_object_add(settings, "local_bridge", json_object_new_string(bridge));
    w->ops = vm_backend(backend, e);
    if (!w->ops)
        return -1;
    worker_run_dir(w->run_dir, w->config, w->vm_name, (int)getpid());
    clear_predecessor(w);
    char remains[REMAINS_PATH_MAX];
    remains_path(remains, w->config->run_dir, w->vm_name);
    if (!w->knows_regions || !w->config->keep_memory_ms)
        remains_discard(remains);
    if (fence_check(w->config, w->vm_name, e) || dir_make(w->run_dir, 0700, e) || disks_open(w, config, e))
        return -1;
    struct vm_spec spec = {.name = w->vm_name, .run_dir = w->run_dir, .settings = settings, .remains = remains};
    spec.disks = disks_exports(w->disks, &spec.disk_count);
    if (w->ops->replica_create(&spec, &w->vm, e) || disks_attach(w, e))
        return -1;
    clear_predecessor(w); /* this one may have begun with it */
    w->ops->info(w->vm, &w->info);
    if (check_bridges(w, e) || network_check(&w->info, e) || primary_program(program, w->program, e))
        return -1; /* found out now, not when it has to take over */
    if (w->info.pages != pages)
        return errmsg_set(e, "the VM has %" PRIu64 " pages, its replica here %" PRIu64, pages, w->info.pages);
    w->replica = replica_new(w->ops->memory(w->vm), pages, w->config->staging_bytes, w->config->spool_dir);
    return w->replica ? tell_init(w, e) : errmsg_set(e, "no memory for the replica");
}

static void on_vm_event(struct ev_loop *loop, ev_io *io, int events)
{
    (void)events;
    struct worker *w = io->data;
    enum vm_state s = w->ops->state(w->vm);
    if (s != VM_GONE && s != VM_SHUT_DOWN)
        return;
    ev_io_stop(loop, io);
    worker_event(w, STANDBY_EVENT_DAMAGED, "the replica's process died");
}

static void watch_replica(struct worker *w)
{
    ev_io_init(&w->vm_event, on_vm_event, w->ops->event_fd(w->vm), EV_READ);
    w->vm_event.data = w;
    ev_io_start(w->loop, &w->vm_event);
}

/* What the primary agent here has to know when the VM comes to run here: written now, not in the hurry of a failover.
 */
static int save_record(struct worker *w, struct json_object *config, struct errmsg *e)
{
    struct vm_record *r = &w->record;
    snprintf(r->name, sizeof r->name, "%s", w->vm_name);
    snprintf(r->backend, sizeof r->backend, "%s", w->ops->name);
    snprintf(r->peer, sizeof r->peer, "%s", w->peer->name);
    snprintf(r->role, sizeof r->role, "standby");
    snprintf(r->run_dir, sizeof r->run_dir, "%s", w->run_dir);
    r->term = w->term;
    r->mode =
        json_get_u64(config, "mode", TRIGGER_ON_OUTPUT) == TRIGGER_PERIODIC ? TRIGGER_PERIODIC : TRIGGER_ON_OUTPUT;
    uint64_t interval = json_get_u64(config, "interval_ms", 20);
    r->interval_ms = interval >= 1 && interval <= 10000 ? (unsigned)interval : 20;
    json_object_put(r->spares);
    r->spares = json_object_get(json_get_array(config, "spares"));
    uint64_t open_after = json_get_u64(config, "open_after_ms", 5000);
    r->disk_sync_rate = UINT64_MAX; /* each host has its own */
    r->open_after_ms = open_after >= 2000 && open_after <= 600000 ? (unsigned)open_after : 5000;
    config_parse_isolated(json_get_text(config, "isolated", "freeze"), &r->isolated); /* freeze if it is neither */
    return vm_record_save(w->config->state_dir, r, e);
}

static void on_config(struct worker *w, const struct record *r)
{
    struct errmsg e;
    if (!w->said_hello) {
        session_turn_away(w, BYE_PROTOCOL, "CONFIG before this host has answered HELLO");
        return;
    }
    struct json_object *j = json_parse_object((const char *)r->payload, r->length);
    int result = j ? make_replica(w, j, &e) : errmsg_set(&e, "CONFIG is no JSON object");
    if (!result)
        result = save_record(w, j, &e);
    json_object_put(j);
    if (result) {
        session_turn_away(w, BYE_REFUSED, e.text);
        return;
    }
    watch_replica(w);
    worker_event(w, STANDBY_EVENT_MADE, "%s", "");
}

void session_say_ready(struct worker *w)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "pages", json_object_new_uint64(w->info.pages));
    json_object_object_add(j, "regions", json_object_new_boolean(w->teller != NULL));
    json_object_object_add(j, "disks", json_object_new_boolean(w->disks != NULL));
    if (disks_tell_changes(w))
        json_object_object_add(j, "changed", json_object_new_boolean(1));
    send_json(w, RECORD_READY, j);
    tell_begin(w);
    struct errmsg e;
    if (disks_begin_telling(w, &e))
        session_turn_away(w, BYE_TROUBLE, e.text);
}

/* ---- records ---- */

static void on_bye(struct worker *w, const struct record *r)
{
    enum bye_reason reason;
    char text[PROTO_REASON_MAX + 1];
    struct proto_error e;
    if (bye_read(r, &reason, text, &e)) {
        session_turn_away(w, BYE_PROTOCOL, e.text);
        return;
    }
    log_info("%s says goodbye: %s: %s", w->peer->name, bye_name(reason), text);
    w->crashed = reason == BYE_VM_CRASHED;
    if (w->crashed)
        worker_event(w, STANDBY_EVENT_CRASHED, "%s", text);
    else if (reason == BYE_UNPROTECT || reason == BYE_VM_STOPPED)
        worker_event(w, STANDBY_EVENT_RELEASED, "%s", text);
    else
        worker_event(w, STANDBY_EVENT_TROUBLE, "%s", text);
}

static void on_note(struct worker *w, const struct record *r)
{
    struct json_object *j = json_parse_object((const char *)r->payload, r->length);
    struct json_object *addresses = json_get_array(j, "addresses"), *durable = json_get(j, "durable");
    struct errmsg e = {""};
    if (addresses) {
        json_object_put(w->record.addresses);
        w->record.addresses = json_object_get(addresses);
    }
    if (durable && !json_object_is_type(durable, json_type_int))
        errmsg_set(&e, "NOTE: \"durable\" is no integer");
    else if (durable)
        disks_note_durable(w, json_object_get_uint64(durable), &e);
    if (json_get(j, "disk_sync_rate")) {
        w->disk_sync_rate = json_get_u64(j, "disk_sync_rate", 0);
        disks_set_sync_rate(w);
    }
    json_object_put(j);
    if (*e.text)
        session_turn_away(w, BYE_PROTOCOL, e.text);
}

/* What the primary tells of its part of the move, for the timeline. */
static void note_handover(struct worker *w, struct json_object *j)
{
    static const char *const told[][2] = {
        {"paused_at", "paused"}, {"captured_at", "captured"}, {"sent_at", "sent"}, {"pages", "pages"}};
    failover_mark(w, "detected");
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        if (json_get(j, told[i][0]))
            json_object_object_add(w->timeline, told[i][1], json_object_new_double(json_get_double(j, told[i][0], 0)));
}

static void on_handover(struct worker *w, const struct record *r)
{
    if (!disks_are_durable(w)) {
        session_turn_away(w, BYE_PROTOCOL, "HANDOVER before what was written to shared disks is durable on them");
        return;
    }
    struct json_object *j = json_parse_object((const char *)r->payload, r->length);
    if (!json_get_bool(j, "protect", true)) { /* a migration: its old host is done with it */
        w->record.peer[0] = 0;
        json_object_put(w->record.spares);
        w->record.spares = NULL;
    }
    if (w->state == STANDBY_READY)
        w->handed = true;
    note_handover(w, j);
    json_object_put(j);
    worker_event(w, STANDBY_EVENT_HANDED, "handed over by %s", w->peer->name);
}

static void on_commit(struct worker *w, const struct record *r)
{
    struct errmsg e;
    if (replica_check(w->replica, &e)) {
        session_turn_away(w, BYE_PROTOCOL, e.text);
        return;
    }
    if (w->state != STANDBY_SYNCING && w->state != STANDBY_READY)
        return; /* too late: it is being decided without it */
    w->epoch = r->epoch;
    w->committed_at = worker_now();
    worker_event(w, STANDBY_EVENT_COMMIT, "%s", "");
}

/* ---- acks ---- */

static struct epoch_ack *ack_at(struct epoch_acks *a, size_t i)
{
    return &a->at[(a->first + i) % a->capacity];
}

static void acks_grow(struct epoch_acks *a)
{
    struct epoch_acks larger = {.capacity = 2 * a->capacity + 4, .n = a->n};
    larger.at = calloc(larger.capacity, sizeof *larger.at);
    if (!larger.at)
        abort();
    for (size_t i = 0; i < a->n; i++)
        larger.at[i] = *ack_at(a, i);
    free(a->at);
    *a = larger;
}

void session_send_acks(struct worker *w)
{
    struct epoch_acks *a = &w->acks;
    uint8_t payload[COMMIT_SIZE];
    /* from a claim on nothing is acknowledged any more */
    while (a->n && w->state == STANDBY_READY && disks_let_ack(w, ack_at(a, 0)->epoch)) {
        commit_write(payload, ack_at(a, 0)->digest, 0);
        send_record(w, RECORD_ACK, ack_at(a, 0)->epoch, payload, sizeof payload);
        a->first = (a->first + 1) % a->capacity;
        a->n--;
    }
}

void session_ack(struct worker *w)
{
    struct epoch_acks *a = &w->acks;
    if (a->n == a->capacity)
        acks_grow(a);
    a->n++;
    struct epoch_ack *due = ack_at(a, a->n - 1);
    due->epoch = w->epoch;
    memcpy(due->digest, w->digest, sizeof due->digest);
    session_send_acks(w);
}

static void on_content(struct worker *w, const struct record *r)
{
    struct errmsg e;
    if (!w->replica) {
        session_turn_away(w, BYE_PROTOCOL, "an epoch before the replica is ready");
        return;
    }
    enum replica_result result = r->type == RECORD_DISK ? disks_take(w, r, &e) : replica_take(w->replica, r, &e);
    if (result != REPLICA_TAKEN)
        session_turn_away(w, result == REPLICA_NO_ROOM ? BYE_TROUBLE : BYE_PROTOCOL, e.text);
}

static void on_record(struct worker *w, const struct record *r)
{
    struct proto_error e;
    uint64_t echo;
    switch (r->type) {
    case RECORD_HELLO:
        on_hello(w, r);
        break;
    case RECORD_CONFIG:
        on_config(w, r);
        break;
    case RECORD_PAGES:
    case RECORD_DISK:
    case RECORD_DEVICE:
        on_content(w, r);
        break;
    case RECORD_COMMIT:
        memcpy(w->digest, r->payload, sizeof w->digest);
        if (w->replica)
            on_commit(w, r);
        break;
    case RECORD_CHECK:
        if (check_take(w, r, &e))
            session_turn_away(w, BYE_PROTOCOL, e.text);
        break;
    case RECORD_HANDOVER:
        on_handover(w, r);
        break;
    case RECORD_HEARTBEAT:
        if (heartbeat_read(r, &w->echo, &echo, &e))
            session_turn_away(w, BYE_PROTOCOL, e.text);
        break;
    case RECORD_NOTE:
        on_note(w, r);
        break;
    case RECORD_BYE:
        on_bye(w, r);
        break;
    default:
        break;
    }
}

static void record_stream(struct worker *w, const uint8_t *data, size_t n)
{
    if (w->recording && fwrite(data, 1, n, w->recording) != n) {
        log_warn("the recording of the stream ends: %s", strerror(errno));
        fclose(w->recording);
        w->recording = NULL;
    }
}

static uint8_t *make_room(struct link *l, size_t n, void *arg)
{
    (void)l;
    struct worker *w = arg;
    return framer_room(w->framer, n);
}

static void on_input(struct link *l, const uint8_t *data, size_t n, void *arg)
{
    struct worker *w = arg;
    struct proto_error e;
    struct record r;
    w->heard_at = worker_now();
    record_stream(w, data, n);
    int got = framer_feed(w->framer, data, n, &e);
    while (!got && (got = framer_next(w->framer, &r, &e)) > 0) {
        got = stream_check_record(w->check, &r, &e);
        if (!got)
            on_record(w, &r);
        if (w->link != l)
            return; /* the connection was ended meanwhile: what it still brings does not count */
    }
    if (got < 0)
        session_turn_away(w, BYE_PROTOCOL, e.text);
}

/* ---- the connection ---- */

static bool is_trusted(const char *fingerprint, void *arg)
{
    struct worker *w = arg;
    return config_peer_by_fingerprint(w->config, fingerprint);
}

static void open_recording(struct worker *w)
{
    static const uint8_t head[16] = "HIKAESTREAM\0\1";
    char path[512];
    if (!w->config->record)
        return;
    snprintf(path, sizeof path, "%s/%s.%d.stream", w->config->record, w->peer->name, (int)getpid());
    w->recording = fopen(path, "wbe");
    if (!w->recording)
        log_warn("%s: %s: the stream is not recorded", path, strerror(errno));
    else
        record_stream(w, head, sizeof head);
}

static void on_up(struct link *l, void *arg)
{
    struct worker *w = arg;
    w->peer = config_peer_by_fingerprint(w->config, link_peer_fingerprint(l));
    w->heard_at = worker_now();
    link_expect_within(l, w->config->detect_ms);
    open_recording(w);
    ev_timer_again(w->loop, &w->detector);
}

static void on_closed(struct link *l, bool reset, const char *reason, void *arg)
{
    (void)reset;
    struct worker *w = arg;
    if (!w->peer)
        log_warn("a connection from %s failed: %s", link_peer_address(l), reason);
    session_close(w);
    worker_event(w, STANDBY_EVENT_RESET, "%s", reason);
}

static void on_drained(struct link *l, void *arg)
{
    (void)l;
    tell_on(arg);
    disks_tell_on(arg);
}

/* The failure detector, and our sign of life. */
static void on_detector(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    struct worker *w = t->data;
    if (disks_hold_reading(w)) /* what it says is not read just now */
        w->heard_at = worker_now();
    int64_t silent_ms = (worker_now() - w->heard_at) / 1000000;
    /* making a VM may take its agent a while; once epochs come, silence means something */
    int64_t bound = w->epoch ? w->config->detect_ms : 10000 + w->config->detect_ms;
    if (silent_ms > bound) {
        worker_event(w, STANDBY_EVENT_SILENT, "%s is silent for %" PRId64 " ms", w->peer->name, silent_ms);
        return;
    }
    uint8_t payload[HEARTBEAT_SIZE];
    heartbeat_write(payload, ++w->sequence, w->echo);
    if (w->said_hello)
        send_record(w, RECORD_HEARTBEAT, 0, payload, sizeof payload);
    disks_tell_durable(w);
}

int session_begin(struct worker *w, int fd, struct errmsg *e)
{
    static const struct link_handlers handlers = {.up = on_up,
                                                  .room = make_room,
                                                  .input = on_input,
                                                  .drained = on_drained,
                                                  .closed = on_closed,
                                                  .trusted = is_trusted};
    double period = w->config->detect_ms / 5000.;
    ev_timer_init(&w->detector, on_detector, period, period);
    w->detector.data = w;
    /* After a stall of this process what has come in is read before silence is judged: no failover for our own hiccup.
     */
    ev_set_priority(&w->detector, EV_MINPRI);
    w->framer = framer_new();
    w->check = stream_check_new(STREAM_FROM_PRIMARY);
    w->identity = tls_identity_load(w->config->key, w->config->certificate, e);
    if (!w->identity)
        return -1;
    if (!w->framer || !w->check)
        return errmsg_set(e, "no memory");
    w->link = link_accept(w->loop, w->identity, fd, HANDSHAKE_MS, &handlers, w, e);
    return w->link ? 0 : -1;
}
