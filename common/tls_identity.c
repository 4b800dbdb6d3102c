/* tls_identity: this host's key and self-signed certificate. No CA, no expiry: a host is the fingerprint of its
 * certificate. */
#include "common/file.h"
#include "common/link.h"
#include "common/link_tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_key_file(const char *path, struct errmsg *e)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return errmsg_set(e, "%s: %s%s", path, strerror(errno),
                          errno == ENOENT ? ": `hikae init` makes key and certificate" : "");
    if (st.st_mode & 027)
        return errmsg_set(e,
                          "%s: others may read or change this key: chmod 600 it, and if others could have read it make "
                          "a new one with `hikae init --force`",
                          path);
    return 0;
}

struct tls_identity *tls_identity_load(const char *key_path, const char *cert_path, struct errmsg *e)
{
    if (check_key_file(key_path, e))
        return NULL;
    struct tls_identity *id = calloc(1, sizeof(*id));
    if (!id || !(id->context = link_tls_context(e))) {
        free(id);
        return NULL;
    }
    ERR_clear_error();
    if (access(cert_path, R_OK) < 0)
        errmsg_set(e, "%s: %s: `hikae init` makes key and certificate", cert_path, strerror(errno));
    else if (SSL_CTX_use_certificate_file(id->context, cert_path, SSL_FILETYPE_PEM) != 1)
        errmsg_set(e, "%s: is no certificate in PEM form (%s): `hikae init --force` makes new ones", cert_path,
                   link_tls_reason());
    else if (SSL_CTX_use_PrivateKey_file(id->context, key_path, SSL_FILETYPE_PEM) != 1 ||
             SSL_CTX_check_private_key(id->context) != 1)
        errmsg_set(e, "%s: is no key in PEM form, or not that of %s (%s): `hikae init --force` makes new ones",
                   key_path, cert_path, link_tls_reason());
    else if (link_tls_fingerprint(SSL_CTX_get0_certificate(id->context), id->fingerprint))
        errmsg_set(e, "%s: OpenSSL has no SHA-256", cert_path);
    else
        return id;
    ERR_clear_error();
    tls_identity_free(id);
    return NULL;
}

void tls_identity_free(struct tls_identity *id)
{
    if (!id)
        return;
    SSL_CTX_free(id->context);
    free(id);
}

void tls_identity_fingerprint(const struct tls_identity *id, char out[65])
{
    memcpy(out, id->fingerprint, 65);
}

static X509 *make_certificate(EVP_PKEY *key, const char *host)
{
    X509 *x = X509_new();
    unsigned char serial[16] = {0};
    BIGNUM *number = NULL;
    bool good = x && RAND_bytes(serial, sizeof(serial)) == 1;
    serial[0] &= 0x7f; /* a serial is positive */
    serial[15] |= 1;
    good = good && X509_set_version(x, X509_VERSION_3) && (number = BN_bin2bn(serial, sizeof(serial), NULL)) &&
           BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x)) &&
           ASN1_TIME_set_string(X509_getm_notBefore(x), "20000101000000Z") &&
           ASN1_TIME_set_string(X509_getm_notAfter(x), "99991231235959Z") && X509_set_pubkey(x, key) &&
           X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)host, -1,
                                      -1, 0) &&
           X509_set_issuer_name(x, X509_get_subject_name(x)) && X509_sign(x, key, EVP_sha256());
    BN_free(number);
    if (good)
        return x;
    X509_free(x);
    return NULL;
}

static int write_bio(BIO *b, const char *path, mode_t mode, struct errmsg *e)
{
    char *data;
    long n = BIO_get_mem_data(b, &data);
    return n <= 0 ? errmsg_set(e, "%s: out of memory", path) : file_write_atomic(path, data, (size_t)n, mode, e);
}

static int check_absent(const char *path, struct errmsg *e)
{
    struct stat st;
    if (lstat(path, &st) == 0)
        return errmsg_set(e, "%s: is there already and is not overwritten", path);
    return errno == ENOENT ? 0 : errmsg_set(e, "%s: %s", path, strerror(errno));
}

int tls_identity_create(const char *key_path, const char *cert_path, const char *host, struct errmsg *e)
{
    if (check_absent(key_path, e) || check_absent(cert_path, e))
        return -1;
    int r = -1;
    BIO *key_text = BIO_new(BIO_s_secmem()), *cert_text = BIO_new(BIO_s_mem());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = key ? make_certificate(key, host) : NULL;
    if (!x || !key_text || !cert_text || !PEM_write_bio_PrivateKey(key_text, key, NULL, NULL, 0, NULL, NULL) ||
        !PEM_write_bio_X509(cert_text, x))
        errmsg_set(e, "OpenSSL cannot make a key: %s", link_tls_reason());
    else if (write_bio(key_text, key_path, 0600, e) == 0) {
        r = write_bio(cert_text, cert_path, 0644, e);
        if (r)
            unlink(key_path);
    }
    BIO_free(key_text);
    BIO_free(cert_text);
    EVP_PKEY_free(key);
    X509_free(x);
    ERR_clear_error();
    return r;
}
