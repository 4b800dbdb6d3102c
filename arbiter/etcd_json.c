/*
 * etcd_json: see etcd_json.h. In the gateway's JSON keys and values are base64, 64-bit numbers are strings, and fields
 * that are zero, false or empty are left out. Each answer has a header with the cluster's id: that is how we know that
 * it is etcd who speaks.
 */
#include "arbiter/etcd_json.h"
#include "arbiter/register.h"
#include "common/config.h"
#include "common/jsonget.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_MAX = 128 << 10 };

/* ---- endpoints ---- */

/* "https://host:port" or NULL. */
static char *endpoint(const char *text, size_t n)
{
    char *copy = strndup(text, n), *out = NULL, *scheme = NULL, *host = NULL, *port = NULL, *path = NULL;
    char *user = NULL, *query = NULL, *fragment = NULL;
    CURLU *u = curl_url();
    if (!copy || !u)
        abort();
    if (!curl_url_set(u, CURLUPART_URL, copy, CURLU_NON_SUPPORT_SCHEME) &&
        !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) && !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
        !curl_url_get(u, CURLUPART_PATH, &path, 0)) {
        curl_url_get(u, CURLUPART_PORT, &port, 0);
        curl_url_get(u, CURLUPART_USER, &user, 0);
        curl_url_get(u, CURLUPART_QUERY, &query, 0);
        curl_url_get(u, CURLUPART_FRAGMENT, &fragment, 0);
        bool good = (!strcmp(scheme, "https") || !strcmp(scheme, "http")) && *host && !strcmp(path, "/") && !user &&
                    !query && !fragment;
        if (good && asprintf(&out, "%s://%s:%s", scheme, host, port ? port : "2379") < 0)
            abort();
    }
    char *parts[] = {scheme, host, port, path, user, query, fragment};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        curl_free(parts[i]);
    curl_url_cleanup(u);
    free(copy);
    return out;
}

int etcd_endpoints(const char *list, char *out[ETCD_ENDPOINTS_MAX], size_t *n, struct errmsg *e)
{
    *n = 0;
    const char *bad = NULL;
    for (const char *at = list; at && !bad; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (*n == ETCD_ENDPOINTS_MAX)
            bad = "too many endpoints, name at most 16";
        else if (!(out[*n] = endpoint(at, strcspn(at, ","))))
            bad = "write etcd:https://HOST:2379,https://HOST:2379,.. without blanks and paths";
        else
            ++*n;
    }
    if (!bad)
        return 0;
    while (*n)
        free(out[--*n]);
    return errmsg_set(e, "arbiter = etcd:%s: %s", list, bad);
}

void etcd_key(const char *vm, char out[ETCD_KEY_BYTES])
{
    snprintf(out, ETCD_KEY_BYTES, "/hikae/vms/%s/register", vm);
}

/* ---- requests ---- */

static struct json_object *base64(const char *text)
{
    size_t n = strlen(text);
    unsigned char *out = malloc(n / 3 * 4 + 8);
    if (!out)
        abort();
    EVP_EncodeBlock(out, (const unsigned char *)text, (int)n);
    struct json_object *j = json_object_new_string((char *)out);
    free(out);
    return j;
}

/* {key: value}; takes `value`. */
static struct json_object *object_of(const char *key, struct json_object *value)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, key, value);
    return j;
}

static struct json_object *array_of(struct json_object *value)
{
    struct json_object *j = json_object_new_array_ext(1);
    json_object_array_add(j, value);
    return j;
}

static char *text_of(struct json_object *j)
{
    char *text = strdup(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
    if (!text)
        abort();
    json_object_put(j);
    return text;
}

char *etcd_range_body(const char *key)
{
    return text_of(object_of("key", base64(key))); /* linearizable is the default */
}

char *etcd_txn_body(const char *key, uint64_t revision, const struct arbiter_register *want)
{
    char number[24], *value = register_text(want);
    snprintf(number, sizeof(number), "%llu", (unsigned long long)revision);
    struct json_object *compare = object_of("key", base64(key)), *put = object_of("key", base64(key));
    json_object_object_add(compare, "result", json_object_new_string("EQUAL"));
    json_object_object_add(compare, "target", json_object_new_string(revision ? "MOD" : "CREATE"));
    json_object_object_add(compare, revision ? "mod_revision" : "create_revision", json_object_new_string(number));
    json_object_object_add(put, "value", base64(value));
    free(value);
    struct json_object *txn = object_of("compare", array_of(compare));
    json_object_object_add(txn, "success", array_of(object_of("request_put", put)));
    json_object_object_add(txn, "failure", array_of(object_of("request_range", object_of("key", base64(key)))));
    return text_of(txn);
}

/* ---- replies ---- */

/* malloc'd, with a NUL after it; NULL if it is no base64. */
static char *from_base64(const char *text, size_t *n)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = strlen(text), body = strspn(text, alphabet), padding = strspn(text + body, "=");
    if (length % 4 || length > VALUE_MAX || body + padding != length || padding > 2)
        return NULL;
    unsigned char *out = malloc(length / 4 * 3 + 1);
    if (!out)
        abort();
    int decoded = length ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)length) : 0;
    if (decoded < (int)padding) {
        free(out);
        return NULL;
    }
    *n = (size_t)decoded - padding;
    out[*n] = 0;
    return (char *)out;
}

/* A 64-bit number of the gateway's; left out: 0. */
static int number(struct json_object *j, const char *key, uint64_t *out)
{
    const char *text = json_get_text(j, key, "0");
    size_t digits = strspn(text, "0123456789");
    errno = 0;
    *out = strtoull(text, NULL, 10);
    bool text_or_nothing = !json_get(j, key) || json_object_is_type(json_get(j, key), json_type_string);
    return digits && !text[digits] && !errno && text_or_nothing ? 0 : -1;
}

static bool says(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

/* What etcd says, without what could not be printed. */
static void clean(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 127)
            *text = ' ';
}

static int refused_by_etcd(long status, struct json_object *j, const char *body, size_t n, struct errmsg *why)
{
    char text[200];
    const char *message = json_get_text(j, "message", json_get_text(j, "error", NULL));
    if (message)
        snprintf(text, sizeof(text), "%s", message);
    else
        snprintf(text, sizeof(text), "%.*s", (int)(n < 100 ? n : 100), body);
    clean(text);
    if (says(text, "user name is empty") || says(text, "permission denied") || says(text, "auth token") ||
        status == 401 || status == 403)
        return errmsg_set(why,
                          "etcd wants a user (HTTP %ld: %s): its JSON gateway takes none from a certificate; switch "
                          "`etcdctl auth disable` and let client certificates decide who gets in",
                          status, text);
    if (says(text, "HTTP request to an HTTPS server"))
        return errmsg_set(why, "it speaks TLS: write https:// and set etcd_ca, etcd_cert and etcd_key");
    if (status == 404)
        return errmsg_set(why, "there is no /v3/kv (HTTP 404): etcd must be 3.4 or later, with enable-grpc-gateway on");
    if (says(text, "no space"))
        return errmsg_set(why, "etcd is full (%s): compact and defragment it, then `etcdctl alarm disarm`", text);
    return errmsg_set(why, "HTTP %ld: %s", status, text);
}

/* The reply's object, to be put by the caller; NULL with `why`. */
static struct json_object *reply(long status, const char *body, size_t n, struct errmsg *why)
{
    struct json_object *j = json_parse_object(body, n);
    uint64_t cluster = 0;
    if (status != 200)
        refused_by_etcd(status, j, body, n, why);
    else if (!j || number(json_get(j, "header"), "cluster_id", &cluster) || !cluster)
        errmsg_set(why, "what answers does not speak as etcd does: is this its client port?");
    else
        return j;
    json_object_put(j);
    return NULL;
}

static int damaged(const char *key, struct errmsg *why)
{
    return errmsg_set(why, "%s is damaged: find out which host runs the VM, then `etcdctl del %s`", key, key);
}

/* `range` is a RangeResponse. */
static int found_in(const char *key, struct json_object *range, struct etcd_found *found, struct errmsg *why)
{
    *found = (struct etcd_found){0};
    uint64_t count, cut = json_get_bool(range, "more", false);
    struct json_object *kvs = json_get_array(range, "kvs");
    size_t entries = kvs ? json_object_array_length(kvs) : 0, n;
    if (!json_get(range, "header") || number(range, "count", &count) || count != entries || entries > 1 || cut)
        return errmsg_set(why, "what answers does not speak as etcd does: is this its client port?");
    if (!entries)
        return 0;
    struct json_object *kv = json_object_array_get_idx(kvs, 0);
    char *name = from_base64(json_get_text(kv, "key", ""), &n), *value = NULL;
    int r = 0;
    if (!name || strcmp(name, key) || number(kv, "mod_revision", &found->revision) || !found->revision)
        r = errmsg_set(why, "etcd's answer is about another key than %s", key);
    else if (!(value = from_base64(json_get_text(kv, "value", ""), &n)) || register_parse(value, n, &found->now))
        r = damaged(key, why);
    free(name);
    free(value);
    return r;
}

int etcd_range_reply(const char *key, long status, const char *body, size_t n, struct etcd_found *found,
                     struct errmsg *why)
{
    struct json_object *j = reply(status, body, n, why);
    int r = j ? found_in(key, j, found, why) : -1;
    if (!r)
        number(json_get(j, "header"), "cluster_id", &found->cluster); /* reply() has seen that it is good */
    json_object_put(j);
    return r;
}

int etcd_txn_reply(const char *key, long status, const char *body, size_t n, bool *put, struct etcd_found *found,
                   struct errmsg *why)
{
    *found = (struct etcd_found){0};
    struct json_object *j = reply(status, body, n, why);
    if (!j)
        return -1;
    struct json_object *all = json_get_array(j, "responses");
    struct json_object *first = all && json_object_array_length(all) == 1 ? json_object_array_get_idx(all, 0) : NULL;
    *put = json_get_bool(j, "succeeded", false);
    int r = 0;
    if (!json_get(first, *put ? "response_put" : "response_range"))
        r = errmsg_set(why, "etcd's answer to a transaction has no result");
    else if (!*put)
        r = found_in(key, json_get(first, "response_range"), found, why);
    json_object_put(j);
    return r;
}

/* ---- the fleet ---- */

#define HOSTS "/hikae/hosts/"

static struct json_object *decimal(uint64_t n)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
    return json_object_new_string(text);
}

char *etcd_lease_body(unsigned seconds)
{
    return text_of(object_of("TTL", decimal(seconds)));
}

char *etcd_host_body(const char *name, const char *text, uint64_t lease)
{
    char key[ETCD_KEY_BYTES];
    snprintf(key, sizeof(key), HOSTS "%s", name);
    struct json_object *j = object_of("key", base64(key));
    json_object_object_add(j, "value", base64(text));
    json_object_object_add(j, "lease", decimal(lease));
    return text_of(j);
}

char *etcd_hosts_body(void)
{
    struct json_object *j = object_of("key", base64(HOSTS));
    json_object_object_add(j, "range_end", base64("/hikae/hosts0")); /* '0' is the character after '/' */
    return text_of(j);
}

int etcd_lease_reply(long status, const char *body, size_t n, uint64_t *lease, struct errmsg *why)
{
    struct json_object *j = reply(status, body, n, why);
    if (!j)
        return -1;
    int r = 0;
    if (number(j, "ID", lease) || !*lease)
        r = errmsg_set(why, "etcd's answer to the request for a lease has none");
    json_object_put(j);
    return r;
}

int etcd_put_reply(long status, const char *body, size_t n, struct errmsg *why)
{
    struct json_object *j = reply(status, body, n, why);
    int r = j ? 0 : -1;
    json_object_put(j);
    return r;
}

int etcd_hosts_reply(long status, const char *body, size_t n,
                     void (*host)(const char *name, const char *text, size_t n, void *arg), void *arg,
                     struct errmsg *why)
{
    struct json_object *j = reply(status, body, n, why), *kvs = json_get_array(j, "kvs");
    for (size_t i = 0; kvs && i < json_object_array_length(kvs); i++) {
        struct json_object *kv = json_object_array_get_idx(kvs, i);
        size_t length, ignored;
        char *key = from_base64(json_get_text(kv, "key", ""), &ignored);
        char *text = from_base64(json_get_text(kv, "value", ""), &length);
        if (key && text && !strncmp(key, HOSTS, strlen(HOSTS)) && config_name_is_valid(key + strlen(HOSTS)))
            host(key + strlen(HOSTS), text, length, arg);
        free(key);
        free(text);
    }
    int r = j ? 0 : -1;
    json_object_put(j);
    return r;
}
