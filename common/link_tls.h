/*
 * link_tls: what OpenSSL must be told so that a link is TLS 1.3, mutual, pinned and without resumption; and its
 * failures in words. Internal to link.c and tls_identity.c.
 */
#ifndef HIKAE_COMMON_LINK_TLS_H
#define HIKAE_COMMON_LINK_TLS_H

#include "common/errmsg.h"

#include <openssl/ssl.h>
#include <stdbool.h>

struct tls_identity {
    SSL_CTX *context; /* for both roles */
    char fingerprint[65];
};

/* Set as app data of the SSL: judges the certificate that the peer presents. */
struct tls_judge {
    bool (*accepts)(const char *fingerprint, void *arg);
    void *arg;
    char fingerprint[65]; /* of the certificate seen; "" before */
    bool refused;
};

SSL_CTX *link_tls_context(struct errmsg *e);
int link_tls_fingerprint(X509 *certificate, char out[65]);
/* NULL when out of memory. */
SSL *link_tls_new(const struct tls_identity *id, int fd, bool server, struct tls_judge *judge);
/* After the handshake: did both sides agree on hikae/1? */
bool link_tls_protocol_agreed(const SSL *ssl);
/* What result `r` of an SSL call means that is neither success nor "try again". `error` is errno after the call. Sets
 * *reset when the peer or its kernel ended the connection. `server`: our role; `who`: the peer, for the text. */
void link_tls_failure(const SSL *ssl, int r, int error, bool server, const char *who, bool *reset, struct errmsg *e);
/* The first error in OpenSSL's queue, in its own words. */
const char *link_tls_reason(void);

#endif
