/* figures: see figures.h. Kept sorted: there are some hundreds. */
#include "tests/campaign/figures.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void figures_add(struct figures *f, double value)
{
    if (f->count == f->room) {
        f->room = f->room ? 2 * f->room : 64;
        f->values = realloc(f->values, f->room * sizeof *f->values);
        if (!f->values)
            abort();
    }
    size_t at = f->count++;
    while (at && f->values[at - 1] > value) {
        f->values[at] = f->values[at - 1];
        at--;
    }
    f->values[at] = value;
}

double figures_percentile(const struct figures *f, unsigned percent)
{
    size_t rank = (f->count * percent + 99) / 100;
    return f->count ? f->values[rank ? rank - 1 : 0] : 0;
}

static struct json_object *tenths(const struct figures *f, unsigned percent)
{
    char text[32];
    double x = figures_percentile(f, percent);
    snprintf(text, sizeof text, "%.1f", x);
    return f->count ? json_object_new_double_s(x, text) : NULL;
}

struct json_object *figures_to_json(const struct figures *f)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "count", json_object_new_uint64(f->count));
    json_object_object_add(j, "p50", tenths(f, 50));
    json_object_object_add(j, "p99", tenths(f, 99));
    json_object_object_add(j, "max", tenths(f, 100));
    return j;
}

void figures_clear(struct figures *f)
{
    free(f->values);
    *f = (struct figures){0};
}
