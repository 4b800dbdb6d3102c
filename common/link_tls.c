#include "common/link_tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/sslerr.h>
#include <string.h>

static const unsigned char protocol[] = "\x07hikae/1"; /* ALPN's form: a length octet before the name */
enum { PROTOCOL_BYTES = sizeof(protocol) - 1 };
enum { READ_BUFFER = 128 << 10 };

int link_tls_fingerprint(X509 *certificate, char out[65])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (!X509_digest(certificate, EVP_sha256(), sum, &n) || n != 32)
        return -1;
    for (unsigned i = 0; i < n; i++) {
        out[2 * i] = "0123456789abcdef"[sum[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[sum[i] & 15];
    }
    out[64] = 0;
    return 0;
}

/* Replaces OpenSSL's check of chains, names and dates: here a host is its key. That the peer has the private key is
 * proven by the handshake itself. */
static int verify(X509_STORE_CTX *store, void *unused)
{
    (void)unused;
    const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_judge *judge = SSL_get_app_data(ssl);
    X509 *certificate = X509_STORE_CTX_get0_cert(store);
    if (judge && certificate && link_tls_fingerprint(certificate, judge->fingerprint) == 0 &&
        judge->accepts(judge->fingerprint, judge->arg)) {
        X509_STORE_CTX_set_error(store, X509_V_OK);
        return 1;
    }
    if (judge)
        judge->refused = true;
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED); /* the peer sees the alert bad_certificate */
    return 0;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_length, const unsigned char *offered,
                           unsigned offered_length, void *unused)
{
    (void)ssl;
    (void)unused;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_length, protocol, PROTOCOL_BYTES, offered, offered_length) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

SSL_CTX *link_tls_context(struct errmsg *e)
{
    SSL_CTX *c = SSL_CTX_new(TLS_method());
    if (!c || !SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) || !SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") ||
        !SSL_CTX_set1_groups_list(c, "X25519:P-256") ||
        SSL_CTX_set_alpn_protos(c, protocol, PROTOCOL_BYTES) != 0 /* here 0 is success */) {
        errmsg_set(e, "OpenSSL has no TLS 1.3 as we need it: %s", link_tls_reason());
        SSL_CTX_free(c);
        return NULL;
    }
    SSL_CTX_set_alpn_select_cb(c, choose_protocol, NULL);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(c, verify, NULL);
    /* A resumed session would carry over an old verdict on the peer. */
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(c, 0);
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(c, 1);
    SSL_CTX_set_default_read_buffer_len(c, READ_BUFFER);
    return c;
}

SSL *link_tls_new(const struct tls_identity *id, int fd, bool server, struct tls_judge *judge)
{
    SSL *ssl = SSL_new(id->context);
    if (!ssl || !SSL_set_fd(ssl, fd)) {
        SSL_free(ssl);
        return NULL;
    }
    SSL_set_app_data(ssl, judge);
    if (server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    return ssl;
}

bool link_tls_protocol_agreed(const SSL *ssl)
{
    const unsigned char *name;
    unsigned n;
    SSL_get0_alpn_selected(ssl, &name, &n);
    return n == PROTOCOL_BYTES - 1 && !memcmp(name, protocol + 1, n);
}

const char *link_tls_reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_error());
    return text ? text : "unknown error";
}

/* Errors with a code of our peer's alert are SSL_AD_REASON_OFFSET + alert. */
static int alert_text(int reason, bool server, const char *who, struct errmsg *e)
{
    switch (reason - SSL_AD_REASON_OFFSET) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_CERTIFICATE_REQUIRED:
        return errmsg_set(e,
                          "%s refused this host's certificate: its configuration has no [peer] with our `hikae "
                          "fingerprint`%s",
                          who, server ? ", or another one for the address it called" : "");
    case SSL_AD_NO_APPLICATION_PROTOCOL:
        return errmsg_set(e, "%s does not speak the protocol hikae/1: is it another version?", who);
    case SSL_AD_PROTOCOL_VERSION:
        return errmsg_set(e, "%s does not speak TLS 1.3: is it a hikae agent?", who);
    default:
        return errmsg_set(e, "%s ended the connection: %s", who, link_tls_reason());
    }
}

static void library_failure(bool server, const char *who, bool *reset, struct errmsg *e)
{
    int reason = ERR_GET_REASON(ERR_peek_error());
    switch (reason) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        *reset = true;
        errmsg_set(e, "%s closed the connection", who);
        break;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        errmsg_set(e, "%s presented no certificate", who);
        break;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_UNEXPECTED_MESSAGE:
    case SSL_R_BAD_PROTOCOL_VERSION_NUMBER:
        errmsg_set(e, "%s does not speak TLS 1.3: is it a hikae agent?", who);
        break;
    case SSL_R_NO_APPLICATION_PROTOCOL:
        errmsg_set(e, "%s does not speak the protocol hikae/1: is it another version?", who);
        break;
    default:
        if (reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
            *reset = true;
            alert_text(reason, server, who, e);
        } else {
            errmsg_set(e, "%s: TLS failed: %s", who, link_tls_reason());
        }
    }
}

void link_tls_failure(const SSL *ssl, int r, int error, bool server, const char *who, bool *reset, struct errmsg *e)
{
    *reset = false;
    switch (SSL_get_error(ssl, r)) {
    case SSL_ERROR_ZERO_RETURN:
        *reset = true;
        errmsg_set(e, "%s closed the connection", who);
        break;
    case SSL_ERROR_SYSCALL:
        *reset = !error || error == ECONNRESET || error == EPIPE;
        errmsg_set(e, *reset ? "%s closed the connection (%s)" : "%s: the connection failed: %s", who,
                   error ? strerror(error) : "end of stream");
        break;
    default:
        library_failure(server, who, reset, e);
    }
}
