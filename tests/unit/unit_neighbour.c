/* Unit tests of netbuf/neighbour.h: frames written out octet by octet, and checksums summed up again another way. */
#include "netbuf/neighbour.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t mac[6] = {0x52, 0x54, 0, 0xaa, 0xbb, 0xcc};
static const uint8_t ip4[4] = {10, 1, 2, 3};
static const uint8_t ip6[16] = {0xfe, 0x80, [8] = 0x50, 0x54, 0, 0xff, 0xfe, 0xaa, 0xbb, 0xcc};

static struct neighbour_table table_new(void)
{
    struct neighbour_table t = {0};
    memcpy(t.mac, mac, 6);
    return t;
}

/* A frame of the guest, `type` with `address` at `at`. */
static size_t frame_make(uint8_t *f, size_t n, unsigned type, const uint8_t *address, size_t length, size_t at)
{
    memset(f, 0, n);
    memset(f, 0xff, 6);
    memcpy(f + 6, mac, 6);
    f[12] = (uint8_t)(type >> 8);
    f[13] = (uint8_t)type;
    memcpy(f + at, address, length);
    return n;
}

static size_t arp_make(uint8_t *f, const uint8_t *ip)
{
    frame_make(f, 42, 0x0806, ip, 4, 28);
    f[15] = 1;
    f[16] = 8;
    f[18] = 6;
    f[19] = 4;
    return 42;
}

/* A neighbour solicitation (135) or advertisement (136), or another ICMPv6 message. */
static size_t discovery_make(uint8_t *f, const uint8_t *ip, uint8_t type)
{
    frame_make(f, 55, 0x86dd, ip, 16, 22);
    f[20] = 58;
    f[54] = type;
    return 55;
}

static void test_learns(void **state)
{
    (void)state;
    uint8_t f[64];
    struct neighbour_table t = table_new();
    assert_true(neighbour_learn(&t, f, arp_make(f, ip4)));
    assert_int_equal(t.count, 1);
    assert_int_equal(t.at[0].length, 4);
    assert_memory_equal(t.at[0].octets, ip4, 4);
    assert_false(neighbour_learn(&t, f, arp_make(f, ip4))); /* known */
    assert_false(neighbour_learn(&t, f, frame_make(f, 34, 0x0800, ip4, 4, 26)));
    /* what it sends may be somebody else's packet */
    assert_false(neighbour_learn(&t, f, frame_make(f, 34, 0x0800, (uint8_t[]){192, 0, 2, 9}, 4, 26)));
    assert_true(neighbour_learn(&t, f, discovery_make(f, ip6, 136)));
    assert_false(neighbour_learn(&t, f, discovery_make(f, ip6, 135))); /* known */
    assert_int_equal(t.count, 2);
    assert_int_equal(t.at[1].length, 16);
    assert_memory_equal(t.at[1].octets, ip6, 16);
}

static void test_does_not_learn(void **state)
{
    (void)state;
    uint8_t f[64];
    struct neighbour_table t = table_new();
    static const uint8_t no_unicast[][4] = {{0}, {224, 0, 0, 1}, {239, 1, 1, 1}, {255, 255, 255, 255}, {127, 0, 0, 1}};
    for (size_t i = 0; i < sizeof no_unicast / 4; i++) {
        assert_false(neighbour_learn(&t, f, arp_make(f, no_unicast[i]))); /* zero: an ARP probe */
        assert_false(neighbour_learn(&t, f, frame_make(f, 34, 0x0800, no_unicast[i], 4, 26)));
    }
    static const uint8_t unspecified[16], multicast[16] = {0xff, 2, [15] = 1};
    assert_false(neighbour_learn(&t, f, discovery_make(f, unspecified, 135))); /* address detection */
    assert_false(neighbour_learn(&t, f, discovery_make(f, multicast, 136)));
    assert_false(neighbour_learn(&t, f, discovery_make(f, ip6, 128))); /* an echo request may be forwarded */
    assert_false(neighbour_learn(&t, f, frame_make(f, 55, 0x86dd, ip6, 16, 22)));
    arp_make(f, ip4);
    f[11] ^= 1; /* not the guest's: it may bridge for others */
    assert_false(neighbour_learn(&t, f, 42));
    arp_make(f, ip4);
    f[16] = 0x86; /* ARP of something else */
    assert_false(neighbour_learn(&t, f, 42));
    assert_false(neighbour_learn(&t, f, frame_make(f, 54, 0x88cc, ip6, 16, 22)));
    struct neighbour_address odd = {.length = 5, .octets = {10, 1}};
    assert_false(neighbour_add(&t, &odd)); /* from another host's words */
    odd.length = 0;
    assert_false(neighbour_add(&t, &odd));
    assert_int_equal(t.count, 0);
}

/* Cut anywhere, each in memory of its own so that a sanitizer sees a read behind the end. */
static void test_short(void **state)
{
    (void)state;
    uint8_t f[64];
    static const struct {
        unsigned type;
        size_t needs, length, at;
    } kinds[] = {{0x0806, 42, 4, 28}, {0x86dd, 55, 16, 22}};
    for (size_t k = 0; k < 2; k++) {
        for (size_t n = 0; n <= kinds[k].needs; n++) {
            struct neighbour_table t = table_new();
            frame_make(f, 64, kinds[k].type, kinds[k].length == 4 ? ip4 : ip6, kinds[k].length, kinds[k].at);
            if (kinds[k].type == 0x0806)
                f[16] = 8;
            else
                discovery_make(f, ip6, 136);
            uint8_t *cut = test_malloc(n + 1);
            memcpy(cut + 1, f, n); /* ends where its memory ends */
            assert_int_equal(neighbour_learn(&t, cut + 1, n), n == kinds[k].needs);
            test_free(cut);
        }
    }
}

static void test_full(void **state)
{
    (void)state;
    struct neighbour_table t = table_new();
    struct neighbour_address a = {.length = 4, .octets = {10, 0, 0, 0}};
    for (uint8_t i = 0; i < NEIGHBOUR_MAX + 3; i++) {
        a.octets[3] = (uint8_t)(i + 1);
        assert_true(neighbour_add(&t, &a));
        assert_false(neighbour_add(&t, &a));
    }
    assert_int_equal(t.count, NEIGHBOUR_MAX);
    for (uint8_t i = 0; i < NEIGHBOUR_MAX; i++) /* the oldest three made room */
        assert_int_equal(t.at[i].octets[3], i < 3 ? NEIGHBOUR_MAX + i + 1 : i + 1);
}

/* 10.1.2.3 and the IPv6 address that begins with the same octets are two. */
static void test_families_apart(void **state)
{
    (void)state;
    struct neighbour_table t = table_new();
    struct neighbour_address four = {.length = 4, .octets = {10, 1, 2, 3}}, six = four;
    six.length = 16;
    assert_true(neighbour_add(&t, &four));
    assert_true(neighbour_add(&t, &six));
    assert_int_equal(t.count, 2);
}

static void test_gratuitous_arp(void **state)
{
    (void)state;
    static const uint8_t want[60] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 8, 6, /* to all, from the guest, ARP */
        0,    1,    8,    0,    6,    4,    0,    1,                               /* Ethernet, IPv4, request */
        0x52, 0x54, 0,    0xaa, 0xbb, 0xcc, 10,   1,    2, 3,                      /* sender */
        0,    0,    0,    0,    0,    0,    10,   1,    2, 3,                      /* target: itself */
    };
    struct neighbour_table t = table_new();
    struct neighbour_address a = {.length = 4, .octets = {10, 1, 2, 3}};
    neighbour_add(&t, &a);
    uint8_t out[NEIGHBOUR_FRAME_MAX];
    memset(out, 0xee, sizeof out);
    assert_int_equal(neighbour_announce(&t, 0, out), 60);
    assert_memory_equal(out, want, 60);
}

static void test_rarp(void **state)
{
    (void)state;
    static const uint8_t want[60] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0,    0xaa, 0xbb, 0xcc, 0x80, 0x35, 0,    1, 8,    0,    6,
        4,    0,    3,    0x52, 0x54, 0,    0xaa, 0xbb, 0xcc, 0,    0,    0,    0,    0x52, 0x54, 0, 0xaa, 0xbb, 0xcc,
    };
    struct neighbour_table t = table_new();
    uint8_t out[NEIGHBOUR_FRAME_MAX];
    memset(out, 0xee, sizeof out);
    assert_int_equal(neighbour_announce(&t, 0, out), 60);
    assert_memory_equal(out, want, 60);
}

static void test_advertisement(void **state)
{
    (void)state;
    struct neighbour_table t = table_new();
    struct neighbour_address a = {.length = 16};
    memcpy(a.octets, ip6, 16);
    neighbour_add(&t, &a);
    uint8_t f[NEIGHBOUR_FRAME_MAX];
    memset(f, 0xee, sizeof f);
    assert_int_equal(neighbour_announce(&t, 0, f), 86);
    static const uint8_t head[] = {0x33, 0x33, 0,    0,    0, 1, 0x52, 0x54, 0,  0xaa, 0xbb,
                                   0xcc, 0x86, 0xdd, 0x60, 0, 0, 0,    0,    32, 58,   255};
    static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
    assert_memory_equal(f, head, sizeof head);
    assert_memory_equal(f + 22, ip6, 16);
    assert_memory_equal(f + 38, all_nodes, 16);
    assert_int_equal(f[54], 136);  /* neighbour advertisement */
    assert_int_equal(f[58], 0x20); /* override, neither solicited nor a router */
    assert_memory_equal(f + 62, ip6, 16);
    static const uint8_t option[] = {2, 1, 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc};
    assert_memory_equal(f + 78, option, sizeof option);
    /* The sum over pseudo header and message with its checksum is all ones. */
    uint32_t sum = 32 + 58;
    for (size_t i = 22; i < 86; i += 2)
        sum += (uint32_t)f[i] * 256 + f[i + 1];
    assert_int_equal(sum % 0xffff, 0);
    assert_true(f[56] || f[57]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns), cmocka_unit_test(test_does_not_learn), cmocka_unit_test(test_short),
        cmocka_unit_test(test_full),   cmocka_unit_test(test_families_apart), cmocka_unit_test(test_gratuitous_arp),
        cmocka_unit_test(test_rarp),   cmocka_unit_test(test_advertisement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
