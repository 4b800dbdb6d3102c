#include "netbuf/neighbour.h"

#include <string.h>

enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_ARP = 0x0806, ETHERTYPE_RARP = 0x8035, ETHERTYPE_IPV6 = 0x86dd };
enum { ETHERNET_HEAD = 14, ARP_SIZE = 28, IPV6_HEAD = 40, NA_SIZE = 32 };

static unsigned get16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static bool is_unicast(const struct neighbour_address *a)
{
    static const uint8_t zero[16];
    if (a->length != 4 && a->length != 16)
        return false;
    if (!memcmp(a->octets, zero, a->length))
        return false;
    return a->length == 4 ? a->octets[0] < 224 && a->octets[0] != 127 : a->octets[0] != 0xff;
}

bool neighbour_add(struct neighbour_table *t, const struct neighbour_address *a)
{
    if (!is_unicast(a))
        return false;
    for (size_t i = 0; i < t->count; i++)
        if (t->at[i].length == a->length && !memcmp(t->at[i].octets, a->octets, a->length))
            return false;
    if (t->count < NEIGHBOUR_MAX) {
        t->at[t->count++] = *a;
    } else {
        t->at[t->oldest] = *a;
        t->oldest = (t->oldest + 1) % NEIGHBOUR_MAX;
    }
    return true;
}

static bool add(struct neighbour_table *t, const uint8_t *octets, uint8_t length)
{
    struct neighbour_address a = {.length = length};
    memcpy(a.octets, octets, length);
    return neighbour_add(t, &a);
}

bool neighbour_learn(struct neighbour_table *t, const uint8_t *frame, size_t n)
{
    if (n < ETHERNET_HEAD || memcmp(frame + 6, t->mac, 6))
        return false;
    switch (get16(frame + 12)) {
    case ETHERTYPE_ARP:
        /* Ethernet, IPv4: the sender's protocol address */
        return n >= ETHERNET_HEAD + ARP_SIZE && get16(frame + 16) == ETHERTYPE_IPV4 && add(t, frame + 28, 4);
    case ETHERTYPE_IPV6:
        /* a neighbour solicitation or advertisement that comes from its own address */
        return n >= ETHERNET_HEAD + IPV6_HEAD + 1 && frame[20] == 58 && (frame[54] == 135 || frame[54] == 136) &&
               add(t, frame + 22, 16);
    default:
        return false;
    }
}

static void ethernet(uint8_t *f, const uint8_t to[6], const uint8_t from[6], unsigned type)
{
    memcpy(f, to, 6);
    memcpy(f + 6, from, 6);
    put16(f + 12, type);
}

static size_t arp(const struct neighbour_table *t, const uint8_t *ip, uint8_t *f)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    memset(f, 0, 60);
    ethernet(f, broadcast, t->mac, ip ? ETHERTYPE_ARP : ETHERTYPE_RARP);
    uint8_t *a = f + ETHERNET_HEAD;
    put16(a, 1);
    put16(a + 2, ETHERTYPE_IPV4);
    a[4] = 6;
    a[5] = 4;
    put16(a + 6, ip ? 1 : 3); /* a request for oneself, as RFC 5227 wants an announcement; RARP: request reverse */
    memcpy(a + 8, t->mac, 6);
    if (ip) {
        memcpy(a + 14, ip, 4);
        memcpy(a + 24, ip, 4);
    } else {
        memcpy(a + 18, t->mac, 6);
    }
    return 60;
}

static unsigned checksum_add(unsigned sum, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i + 1 < n; i += 2)
        sum += get16(p + i);
    return sum;
}

static size_t advertisement(const struct neighbour_table *t, const uint8_t *ip, uint8_t *f)
{
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1}, all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    memset(f, 0, ETHERNET_HEAD + IPV6_HEAD + NA_SIZE);
    ethernet(f, all_nodes_mac, t->mac, ETHERTYPE_IPV6);
    uint8_t *h = f + ETHERNET_HEAD, *na = h + IPV6_HEAD;
    h[0] = 0x60;
    put16(h + 4, NA_SIZE);
    h[6] = 58;  /* ICMPv6 */
    h[7] = 255; /* RFC 4861 7.1.2 */
    memcpy(h + 8, ip, 16);
    memcpy(h + 24, all_nodes, 16);
    na[0] = 136;
    na[4] = 0x20; /* override */
    memcpy(na + 8, ip, 16);
    na[24] = 2; /* option: target link-layer address */
    na[25] = 1;
    memcpy(na + 26, t->mac, 6);
    unsigned sum = checksum_add(NA_SIZE + 58, h + 8, 32); /* pseudo header: length, next header, addresses */
    sum = checksum_add(sum, na, NA_SIZE);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    put16(na + 2, ~sum & 0xffff);
    return ETHERNET_HEAD + IPV6_HEAD + NA_SIZE;
}

size_t neighbour_announce(const struct neighbour_table *t, size_t i, uint8_t out[NEIGHBOUR_FRAME_MAX])
{
    if (i >= t->count)
        return arp(t, NULL, out);
    return t->at[i].length == 4 ? arp(t, t->at[i].octets, out) : advertisement(t, t->at[i].octets, out);
}
