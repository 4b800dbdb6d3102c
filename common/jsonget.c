#include "common/jsonget.h"

#include <ctype.h>
#include <json-c/json.h>
#include <limits.h>
#include <string.h>

struct json_object *json_get(struct json_object *j, const char *key)
{
    struct json_object *value = NULL;
    if (json_object_is_type(j, json_type_object))
        json_object_object_get_ex(j, key, &value);
    return value;
}

const char *json_get_text(struct json_object *j, const char *key, const char *otherwise)
{
    struct json_object *value = json_get(j, key);
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : otherwise;
}

uint64_t json_get_u64(struct json_object *j, const char *key, uint64_t otherwise)
{
    struct json_object *value = json_get(j, key);
    if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
        return otherwise;
    return json_object_get_uint64(value);
}

double json_get_double(struct json_object *j, const char *key, double otherwise)
{
    struct json_object *value = json_get(j, key);
    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double))
        return otherwise;
    return json_object_get_double(value);
}

bool json_get_bool(struct json_object *j, const char *key, bool otherwise)
{
    struct json_object *value = json_get(j, key);
    return json_object_is_type(value, json_type_boolean) ? json_object_get_boolean(value) : otherwise;
}

struct json_object *json_get_array(struct json_object *j, const char *key)
{
    struct json_object *value = json_get(j, key);
    return json_object_is_type(value, json_type_array) ? value : NULL;
}

bool json_list_has(struct json_object *j, const char *key, const char *text)
{
    struct json_object *all = json_get_array(j, key);
    for (size_t i = 0; all && i < json_object_array_length(all); i++) {
        struct json_object *one = json_object_array_get_idx(all, i);
        if (json_object_is_type(one, json_type_string) && !strcmp(json_object_get_string(one), text))
            return true;
    }
    return false;
}

struct json_object *json_parse_object(const char *text, unsigned long n)
{
    enum { DEPTH = 32 };
    if (n > INT_MAX)
        return NULL;
    struct json_tokener *t = json_tokener_new_ex(DEPTH);
    if (!t)
        return NULL;
    json_tokener_set_flags(t, JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *j = json_tokener_parse_ex(t, text, (int)n);
    bool good = j && json_tokener_get_error(t) == json_tokener_success && json_object_is_type(j, json_type_object);
    for (unsigned long i = json_tokener_get_parse_end(t); good && i < n; i++)
        good = isspace((unsigned char)text[i]);
    json_tokener_free(t);
    if (!good) {
        json_object_put(j);
        return NULL;
    }
    return j;
}
