/* register: see register.h. */
#include "arbiter/register.h"
#include "common/config.h"
#include "common/jsonget.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

bool register_same(const struct arbiter_register *a, const struct arbiter_register *b)
{
    return a->term == b->term && !strcmp(a->owner, b->owner) && !strcmp(a->mode, b->mode);
}

char *register_text(const struct arbiter_register *r)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "term", json_object_new_uint64(r->term));
    json_object_object_add(j, "owner", json_object_new_string(r->owner));
    json_object_object_add(j, "mode", json_object_new_string(r->mode));
    char *text = strdup(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
    if (!text)
        abort();
    json_object_put(j);
    return text;
}

int register_parse(const char *text, size_t n, struct arbiter_register *out)
{
    struct json_object *j = json_parse_object(text, n);
    const char *owner = json_get_text(j, "owner", ""), *mode = json_get_text(j, "mode", "");
    uint64_t term = json_get_u64(j, "term", 0);
    int r = -1;
    if (term && config_name_is_valid(owner) && *mode && strlen(mode) < sizeof(out->mode)) {
        *out = (struct arbiter_register){.term = term};
        strcpy(out->owner, owner);
        strcpy(out->mode, mode);
        r = 0;
    }
    json_object_put(j);
    return r;
}

enum arbiter_answer register_refuse(const struct arbiter_register *now, struct errmsg *why)
{
    errmsg_set(why, "the register is at term %llu, owner %s, %s", (unsigned long long)now->term,
               *now->owner ? now->owner : "nobody", *now->mode ? now->mode : "unused");
    return ARBITER_REFUSED;
}
