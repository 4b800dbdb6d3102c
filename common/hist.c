#include "common/hist.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

/* Bucket i < 64 holds the value i; above, each power of two has 64 buckets of equal width. */
enum { STEPS = 64, STEP_BITS = 6, BUCKETS = STEPS + (64 - STEP_BITS) * STEPS };

struct hist {
    uint64_t count, max;
    uint64_t buckets[BUCKETS];
};

struct hist *hist_new(void)
{
    struct hist *h = calloc(1, sizeof(*h));
    if (!h)
        abort();
    return h;
}

void hist_free(struct hist *h)
{
    free(h);
}

static unsigned bucket_of(uint64_t value)
{
    if (value < STEPS)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - STEP_BITS;
    return STEPS + shift * STEPS + (unsigned)((value >> shift) - STEPS);
}

static uint64_t upper_edge(unsigned bucket)
{
    if (bucket < STEPS)
        return bucket;
    unsigned shift = (bucket - STEPS) / STEPS;
    uint64_t base = STEPS + (bucket - STEPS) % STEPS;
    return ((base + 1) << shift) - 1; /* the topmost wraps to UINT64_MAX, as it should */
}

void hist_add(struct hist *h, uint64_t value)
{
    h->count++;
    h->buckets[bucket_of(value)]++;
    if (value > h->max)
        h->max = value;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    if (from->max > into->max)
        into->max = from->max;
    for (unsigned i = 0; i < BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

void hist_subtract(struct hist *h, const struct hist *earlier)
{
    uint64_t highest = 0;
    h->count -= earlier->count;
    for (unsigned i = 0; i < BUCKETS; i++) {
        h->buckets[i] -= earlier->buckets[i];
        if (h->buckets[i])
            highest = upper_edge(i);
    }
    if (highest < h->max)
        h->max = highest;
}

uint64_t hist_count(const struct hist *h)
{
    return h->count;
}

uint64_t hist_max(const struct hist *h)
{
    return h->max;
}

uint64_t hist_percentile(const struct hist *h, double percent)
{
    if (!h->count)
        return 0;
    double rank = percent / 100 * (double)h->count;
    uint64_t need = rank <= 1 ? 1 : (uint64_t)rank;
    if ((double)need < rank)
        need++;
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= need)
            return upper_edge(i) < h->max ? upper_edge(i) : h->max;
    }
    return h->max;
}

struct json_object *hist_to_json(const struct hist *h)
{
    struct json_object *j = json_object_new_object(), *list = json_object_new_array();
    json_object_object_add(j, "count", json_object_new_uint64(h->count));
    json_object_object_add(j, "max", json_object_new_uint64(h->max));
    for (unsigned i = 0; i < BUCKETS; i++) {
        if (!h->buckets[i])
            continue;
        struct json_object *pair = json_object_new_array();
        json_object_array_add(pair, json_object_new_int((int)i));
        json_object_array_add(pair, json_object_new_uint64(h->buckets[i]));
        json_object_array_add(list, pair);
    }
    json_object_object_add(j, "buckets", list);
    return j;
}

static int get_u64(struct json_object *j, uint64_t *out)
{
    if (!json_object_is_type(j, json_type_int) || json_object_get_int64(j) < 0)
        return -1;
    *out = json_object_get_uint64(j);
    return 0;
}

static int read_buckets(struct hist *h, struct json_object *list)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *pair = json_object_array_get_idx(list, i);
        uint64_t bucket, n;
        if (!json_object_is_type(pair, json_type_array) || json_object_array_length(pair) != 2 ||
            get_u64(json_object_array_get_idx(pair, 0), &bucket) || get_u64(json_object_array_get_idx(pair, 1), &n) ||
            bucket >= BUCKETS || h->buckets[bucket] || __builtin_add_overflow(sum, n, &sum))
            return -1;
        h->buckets[bucket] = n;
    }
    return sum == h->count ? 0 : -1;
}

int hist_from_json(struct hist *h, struct json_object *j)
{
    struct json_object *count, *max, *list;
    if (!json_object_is_type(j, json_type_object) || !json_object_object_get_ex(j, "count", &count) ||
        !json_object_object_get_ex(j, "max", &max) || !json_object_object_get_ex(j, "buckets", &list) ||
        !json_object_is_type(list, json_type_array))
        return -1;
    struct hist *fresh = hist_new();
    int r = get_u64(count, &fresh->count) || get_u64(max, &fresh->max) || read_buckets(fresh, list) ? -1 : 0;
    if (!r)
        memcpy(h, fresh, sizeof(*h));
    hist_free(fresh);
    return r;
}
