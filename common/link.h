/*
 * link: one TCP connection between two agents under TLS 1.3, both sides authenticated, ALPN "hikae/1", non-blocking on
 * a libev loop. It moves bytes; what they mean is proto/'s business. Serves promise 6 (nobody gets in).
 *
 * A peer is known by the SHA-256 fingerprint of its certificate and by nothing else (no CA, no names, no expiry).
 */
#ifndef HIKAE_COMMON_LINK_H
#define HIKAE_COMMON_LINK_H

#include "common/errmsg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ev_loop;
struct link;
struct tls_identity;

/* Loads this host's key and certificate. Errors name the file and say `hikae init`. */
struct tls_identity *tls_identity_load(const char *key_path, const char *cert_path, struct errmsg *e);
void tls_identity_free(struct tls_identity *id);
/* 64 hex digits and NUL. */
void tls_identity_fingerprint(const struct tls_identity *id, char out[65]);
/* Makes a P-256 key and a self-signed certificate with CN `host`. Never overwrites: both files must not exist. Files
 * are written whole or not at all (0600, 0644). */
int tls_identity_create(const char *key_path, const char *cert_path, const char *host, struct errmsg *e);

struct link_handlers {
    /* The handshake is done and the peer's fingerprint is one that `trusted` accepted. */
    void (*up)(struct link *l, void *arg);
    /* Where what comes in next may be put: room for n octets, until `input`, which is called with it. NULL, or no such
     * handler: the link has room of its own. */
    uint8_t *(*room)(struct link *l, size_t n, void *arg);
    /* Bytes came in. Closing or freeing `l` in here is allowed. */
    void (*input)(struct link *l, const uint8_t *data, size_t n, void *arg);
    /* All that was queued is in the kernel (called after each drain from non-empty to empty). */
    void (*drained)(struct link *l, void *arg);
    /* The connection ended; no further calls; free it with link_free. `reset`: the kernel told us that the peer is gone
     * (FIN, RST, TLS close), as opposed to a local error. */
    void (*closed)(struct link *l, bool reset, const char *reason, void *arg);
    /* During the handshake: is this fingerprint (64 hex digits) one we are paired with? */
    bool (*trusted)(const char *fingerprint, void *arg);
};

/* Starts connecting; the outcome is `up` or `closed`. `fingerprint`: whom we expect there (trusted is not asked).
 * Gives up after timeout_ms, in which a name is looked up as well, without blocking. */
struct link *link_connect(struct ev_loop *loop, struct tls_identity *id, const char *address, const char *port,
                          const char *fingerprint, unsigned timeout_ms, const struct link_handlers *h, void *arg,
                          struct errmsg *e);
/* Takes over an accepted socket and does the server's side of the handshake, within timeout_ms. Owns fd. */
struct link *link_accept(struct ev_loop *loop, struct tls_identity *id, int fd, unsigned timeout_ms,
                         const struct link_handlers *h, void *arg, struct errmsg *e);
/* Writes what goes at once and queues a copy of the rest. Returns 0, or -1 when the link is closed. The queue is not
 * bounded here: keep it so with link_queued. */
int link_send(struct link *l, const void *data, size_t n);
size_t link_unread(const struct link *l);       /* octets that have come in and wait to be read, of TLS */
size_t link_queued(const struct link *l);       /* bytes not yet handed to the kernel */
size_t link_backlog(const struct link *l);      /* those, and what the peer's kernel has not acknowledged */
uint64_t link_bytes_sent(const struct link *l); /* TLS bytes given to the kernel since the start, overhead included */
const char *link_peer_fingerprint(const struct link *l); /* "" before up */
const char *link_peer_address(const struct link *l);     /* "10.0.0.2:41234", for the log */
/* Both sides take silence_ms of silence for a loss and send something each fifth of that. From now on the kernel sends
 * again what was lost so soon, and so often, that a network which is gone for no longer than link_survives_ms is not
 * taken for that. Best effort: Linux before 6.15 has no such setting for a socket, and what is lost twice there is sent
 * again after 600 ms. */
void link_expect_within(struct link *l, unsigned silence_ms);
/* The first retransmission, in ms; each further one takes twice as long as the one before. Pure. */
unsigned link_retransmit_ms(unsigned silence_ms);
unsigned link_survives_ms(unsigned silence_ms); /* pure */
/* Stop or go on reading (back-pressure by TCP). */
void link_pause_reading(struct link *l, bool pause);
/* Tries to flush for at most flush_ms (blocking), closes, frees. No handler is called any more. */
void link_free(struct link *l, unsigned flush_ms);

#endif
