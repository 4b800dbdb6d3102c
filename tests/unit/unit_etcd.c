/*
 * unit_etcd: what is said to etcd, byte for byte, and what is made of its answers, above all of those that are not
 * etcd's.
 */
#include "arbiter/etcd_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KEY    "/hikae/vms/web/register"
#define KEY_64 "L2hpa2FlL3Ztcy93ZWIvcmVnaXN0ZXI="
#define HEADER                                                                                                         \
    "\"header\":{\"cluster_id\":\"14841639068965178418\",\"member_id\":\"1\",\"revision\":\"9\",\"raft_term\":\"2\"}"
#define TEXT_64 "eyJ0ZXJtIjo3LCJvd25lciI6Imhvc3QtYSIsIm1vZGUiOiJhbG9uZSJ9"
#define KV                                                                                                             \
    "{\"key\":\"" KEY_64 "\",\"create_revision\":\"2\",\"mod_revision\":\"8\",\"version\":\"7\",\"value\":\"" TEXT_64  \
    "\"}"
#define RANGE "{" HEADER ",\"kvs\":[" KV "],\"count\":\"1\"}"

static void test_endpoints(void **state)
{
    (void)state;
    struct errmsg e;
    char *out[ETCD_ENDPOINTS_MAX];
    size_t n;
    static const char *const expected[] = {"https://h1:2379", "http://10.0.0.2:99", "https://[fd00::1]:2379"};
    assert_int_equal(etcd_endpoints("https://h1,http://10.0.0.2:99/,https://[fd00::1]:2379", out, &n, &e), 0);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(out[i], expected[i]);
        free(out[i]);
    }
    static const char *const bad[] = {"",
                                      "h1:2379",
                                      "https://",
                                      "https://h1,",
                                      ",https://h1",
                                      "https://h1, https://h2",
                                      "https://h1:2379/v3",
                                      "https://user:secret@h1",
                                      "https://h1?x=1",
                                      "https://h1#x",
                                      "ftp://h1",
                                      "https://h1:99999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(etcd_endpoints(bad[i], out, &n, &e), -1);
        assert_int_equal(n, 0);
        assert_non_null(strstr(e.text, "write etcd:https://HOST:2379"));
    }
    char many[512] = "http://h";
    for (int i = 0; i < ETCD_ENDPOINTS_MAX; i++)
        strcat(many, ",http://h");
    assert_int_equal(etcd_endpoints(many, out, &n, &e), -1);
    assert_non_null(strstr(e.text, "at most 16"));
}

static void assert_body(char *body, const char *expected)
{
    assert_string_equal(body, expected);
    free(body);
}

static void test_requests(void **state)
{
    (void)state;
    char key[ETCD_KEY_BYTES];
    struct arbiter_register want = {.term = 7, .owner = "host-a", .mode = "alone"};
    etcd_key("web", key);
    assert_string_equal(key, KEY);
    assert_body(etcd_range_body(key), "{\"key\":\"" KEY_64 "\"}");
    assert_body(etcd_txn_body(key, 8, &want),
                "{\"compare\":[{\"key\":\"" KEY_64
                "\",\"result\":\"EQUAL\",\"target\":\"MOD\",\"mod_revision\":\"8\"}],"
                "\"success\":[{\"request_put\":{\"key\":\"" KEY_64 "\",\"value\":\"" TEXT_64 "\"}}],"
                "\"failure\":[{\"request_range\":{\"key\":\"" KEY_64 "\"}}]}");
    assert_body(etcd_txn_body(key, 0, &want),
                "{\"compare\":[{\"key\":\"" KEY_64
                "\",\"result\":\"EQUAL\",\"target\":\"CREATE\",\"create_revision\":\"0\"}],"
                "\"success\":[{\"request_put\":{\"key\":\"" KEY_64 "\",\"value\":\"" TEXT_64 "\"}}],"
                "\"failure\":[{\"request_range\":{\"key\":\"" KEY_64 "\"}}]}");
}

static int range(long status, const char *body, struct etcd_found *found, struct errmsg *why)
{
    memset(why, 0, sizeof(*why));
    return etcd_range_reply(KEY, status, body, strlen(body), found, why);
}

static void test_range(void **state)
{
    (void)state;
    struct etcd_found found;
    struct errmsg why;
    assert_int_equal(range(200, RANGE, &found, &why), 0);
    assert_int_equal(found.revision, 8);
    assert_true(found.cluster == 14841639068965178418u);
    assert_int_equal(found.now.term, 7);
    assert_string_equal(found.now.owner, "host-a");
    assert_string_equal(found.now.mode, "alone");
    assert_int_equal(range(200, "{" HEADER "}", &found, &why), 0);
    assert_int_equal(found.revision, 0);
    assert_int_equal(found.now.term, 0);
}

/* None of them may pass for a register, least of all for one that is not there. */
static void test_not_a_range(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{}",
        "null",
        "[]",
        "<html>It works</html>",
        "{" HEADER,
        RANGE "x",
        "{\"header\":{}}",
        "{\"header\":7}",
        "{\"header\":{\"cluster_id\":\"0\"}}",
        "{\"header\":{\"cluster_id\":7}}",
        "{\"header\":{\"cluster_id\":\"-1\"}}",
        "{" HEADER ",\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[" KV "]}",
        "{" HEADER ",\"kvs\":[" KV "," KV "],\"count\":\"2\"}",
        "{" HEADER ",\"kvs\":[" KV "],\"count\":1}",
        "{" HEADER ",\"kvs\":[" KV "],\"count\":\"1\",\"more\":true}",
        "{" HEADER ",\"kvs\":[7],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[{}],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_64 "\",\"mod_revision\":\"8\"}],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_64 "\",\"value\":\"" TEXT_64 "\"}],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_64 "\",\"mod_revision\":\"8x\",\"value\":\"" TEXT_64
        "\"}],\"count\":\"1\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"L2hpa2E=\",\"mod_revision\":\"8\",\"value\":\"" TEXT_64
        "\"}],\"count\":\"1\"}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct etcd_found found;
        struct errmsg why;
        if (range(200, bad[i], &found, &why) != -1 || !*why.text)
            fail_msg("taken for an answer: %s", bad[i]);
    }
}

/* Cut or changed in one byte: an error, or a register; never one that nobody owns. */
static void test_broken_range(void **state)
{
    (void)state;
    static const char good[] = RANGE;
    static const char put_there[] = {0, ' ', '"', ',', '{', '}', '[', ']', '0', '1', 'x', '\x7f', '\xff'};
    struct etcd_found found;
    struct errmsg why;
    size_t taken = 0;
    for (size_t n = 0; n < sizeof(good) - 1; n++) {
        char *copy = malloc(n + 1); /* exactly so much, for the sanitizer */
        assert_non_null(copy);
        memcpy(copy, good, n);
        assert_int_equal(etcd_range_reply(KEY, 200, copy, n, &found, &why), -1);
        free(copy);
    }
    for (size_t at = 0; at < sizeof(good) - 1; at++)
        for (size_t i = 0; i < sizeof(put_there); i++) {
            char copy[sizeof(good)];
            memcpy(copy, good, sizeof(good));
            copy[at] = put_there[i];
            if (etcd_range_reply(KEY, 200, copy, sizeof(good) - 1, &found, &why))
                continue;
            assert_true(found.revision > 0 && found.now.term > 0 && *found.now.owner && *found.now.mode);
            taken++;
        }
    assert_true(taken > 0);
}

static void test_damaged_value(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "e30=", /* {} */
        "e30",  /* cut */
        "e3==", /* its padding hides half a byte: no object either */
        "====",
        "e30=e30=",
        "e 30",
        "eyJ0ZXJtIjo3fQ==",                                         /* {"term":7} */
        "eyJ0ZXJtIjowLCJvd25lciI6Imhvc3QtYSIsIm1vZGUiOiJhbG9uZSJ9", /* term 0 */
        "eyJ0ZXJtIjo3LCJvd25lciI6Ii4uL3giLCJtb2RlIjoiYWxvbmUifQ==", /* owner ../x */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char body[1024];
        struct etcd_found found;
        struct errmsg why;
        snprintf(body, sizeof(body),
                 "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_64
                 "\",\"mod_revision\":\"8\",\"value\":\"%s\"}],\"count\":\"1\"}",
                 bad[i]);
        if (range(200, body, &found, &why) != -1 || !strstr(why.text, "etcdctl del"))
            fail_msg("%s: %s", bad[i], why.text);
    }
}

static void test_errors_name_the_remedy(void **state)
{
    (void)state;
    static const struct {
        long status;
        const char *body, *remedy;
    } cases[] = {
        {400,
         "{\"error\":\"etcdserver: user name is empty\",\"message\":\"etcdserver: user name is empty\",\"code\":3}",
         "etcdctl auth disable"},
        {401, "", "etcdctl auth disable"},
        {403, "{\"error\":\"etcdserver: permission denied\",\"code\":7}", "etcdctl auth disable"},
        {404, "404 page not found\n", "3.4 or later"},
        {400, "Client sent an HTTP request to an HTTPS server.\n", "write https://"},
        {503, "{\"error\":\"etcdserver: no leader\",\"code\":14}", "HTTP 503: etcdserver: no leader"},
        {500, "{\"error\":\"etcdserver: mvcc: database space exceeded: no space\"}", "alarm disarm"},
        {500, "\x1b[2J\n", "HTTP 500:  [2J"},
        {301, "", "HTTP 301"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct etcd_found found;
        struct errmsg why;
        if (range(cases[i].status, cases[i].body, &found, &why) != -1 || !strstr(why.text, cases[i].remedy))
            fail_msg("%s: %s", cases[i].body, why.text);
    }
}

static int txn(const char *body, bool *put, struct etcd_found *found)
{
    struct errmsg why;
    return etcd_txn_reply(KEY, 200, body, strlen(body), put, found, &why);
}

static void test_txn(void **state)
{
    (void)state;
    bool put;
    struct etcd_found found;
    assert_int_equal(txn("{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}", &put, &found), 0);
    assert_true(put);
    assert_int_equal(txn("{" HEADER ",\"responses\":[{\"response_range\":" RANGE "}]}", &put, &found), 0);
    assert_false(put);
    assert_int_equal(found.now.term, 7);
    assert_int_equal(txn("{" HEADER ",\"responses\":[{\"response_range\":{" HEADER "}}]}", &put, &found), 0);
    assert_false(put);
    assert_int_equal(found.revision, 0);
    static const char *const bad[] = {
        "{}",
        "{\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}",
        "{" HEADER ",\"succeeded\":true}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[]}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_range\":" RANGE "}]}",
        "{" HEADER ",\"responses\":[{\"response_put\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":7}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":" RANGE "},{\"response_put\":{}}]}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (txn(bad[i], &put, &found) != -1)
            fail_msg("taken for an answer: %s", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_endpoints),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_not_a_range),
        cmocka_unit_test(test_damaged_value),
        cmocka_unit_test(test_broken_range),
        cmocka_unit_test(test_errors_name_the_remedy),
        cmocka_unit_test(test_txn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
