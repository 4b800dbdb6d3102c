/*
 * evil: one end of a connection that a test holds in place of an agent: a paired host, with its key, that does what it
 * should not. It has an event loop of its own, which runs only within evil_serve and EVIL_WAIT.
 */
#ifndef HIKAE_TESTS_EVIL_H
#define HIKAE_TESTS_EVIL_H

#include "proto/epoch.h"
#include "tests/integration/agents.h"

struct evil {
    struct ev_loop *loop;
    struct tls_identity *identity;
    struct link *link; /* NULL: there is none (any more) */
    struct framer *framer;
    int listener; /* of one that acts as secondary, else -1 */
    bool up, closed;
    bool got[RECORD_TYPES];            /* by record type */
    uint64_t committed;                /* last COMMIT that came */
    uint8_t digest[PROTO_DIGEST_SIZE]; /* of that */
    uint64_t acked;                    /* last ACK that came */
    unsigned bye;                      /* reason; 0: none came */
    char bye_text[PROTO_REASON_MAX + 1];
    /* Called for each record that came; may be NULL. */
    void (*on_record)(struct evil *e, const struct record *r);
    void *arg;
};

/* Acts as host `who`. */
struct evil *evil_new(const struct host *who);
void evil_free(struct evil *e);
/* Connects to the secondary agent of `to` and waits until the link is up. */
void evil_connect(struct evil *e, const struct host *to);
/* Listens where the secondary agent of `as` would. */
void evil_listen(struct evil *e, const struct host *as);
void evil_hang_up(struct evil *e);
void evil_send(struct evil *e, const void *data, size_t n);
void evil_record(struct evil *e, uint16_t type, uint16_t flags, uint64_t epoch, const void *payload, size_t n);
void evil_json(struct evil *e, uint16_t type, const char *json);
void evil_ack(struct evil *e, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE]);
void evil_bye(struct evil *e, enum bye_reason reason, const char *text);
void evil_heartbeat(struct evil *e);
void evil_serve(struct evil *e, unsigned ms);

#define EVIL_WAIT(e, condition)                                                                                        \
    for (double until_ = agents_now() + AGENTS_PATIENCE_S; !(condition);) {                                            \
        if (agents_now() > until_)                                                                                     \
            fail_msg("waited in vain for: %s", #condition);                                                            \
        evil_serve(e, 5);                                                                                              \
    }

#endif
