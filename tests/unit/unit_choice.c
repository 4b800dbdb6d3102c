/* Unit tests of primary/choice.h. */
#include "common/config.h"
#include "primary/choice.h"

#include <json-c/json.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct config_peer peers[] = {{.name = (char *)"b"}, {.name = (char *)"c"}, {.name = (char *)"d"}};
static const struct config config = {.peers = peers, .peer_count = 3};

static const char *choose(const char *hosts, uint64_t mib, struct errmsg *why)
{
    struct json_object *j = json_tokener_parse(hosts);
    assert_non_null(j);
    const char *to = choice_make(&config, j, mib << 20, why);
    json_object_put(j);
    return to;
}

#define B "{\"name\":\"b\",\"silent\":false,\"room_bytes\":1073741824}"
#define C "{\"name\":\"c\",\"silent\":false,\"room_bytes\":4294967296}"
#define D "{\"name\":\"d\",\"silent\":true,\"room_bytes\":8589934592}"
#define X "{\"name\":\"x\",\"silent\":false,\"room_bytes\":8589934592}"

static void test_most_room(void **state)
{
    (void)state;
    struct errmsg why;
    assert_string_equal(choose("[" B "," C "," D "," X "]", 512, &why), "c"); /* d is silent, x no peer */
    assert_string_equal(why.text, "c has room for 4096 MiB, the VM needs 512 MiB");
    assert_string_equal(choose("[" B "," D "]", 1024, &why), "b");
    assert_string_equal(choose("[" B ",{\"name\":\"c\",\"silent\":false,\"room_bytes\":1073741824}]", 1, &why), "b");
}

static void test_none(void **state)
{
    (void)state;
    struct errmsg why;
    assert_null(choose("[" B "," C "," D "]", 5000, &why));
    assert_string_equal(why.text, "no host has room for the 5000 MiB of the VM; b: room for 1024 MiB; c: room for 4096 "
                                  "MiB; d: has not said anything lately");
    assert_null(choose("[]", 1, &why));
    assert_null(choose("[{\"name\":\"b\"},{},7]", 1, &why)); /* whoever does not say that he is there is not */
    struct json_object *none = json_object_new_array();
    assert_null(choice_make(&(struct config){0}, none, 1, &why));
    assert_non_null(strstr(why.text, "has no [peer]"));
    json_object_put(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_most_room), cmocka_unit_test(test_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
