/*
 * int_fleet: what each host hears of the others through the file arbiter, and whom `protect --to auto` would take.
 */
#include "common/file.h"
#include "common/jsonget.h"
#include "tests/integration/agents.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* What `h` knows of host `name`; NULL: nothing. Owned by the caller. */
static struct json_object *known(const struct host *h, const char *name)
{
    struct json_object *reply = host_ask(h, PRIMARY, "{\"cmd\":\"fleet\"}"), *found = NULL;
    struct json_object *all = json_get_array(reply, "hosts");
    for (size_t i = 0; all && i < json_object_array_length(all); i++)
        if (!strcmp(json_get_text(json_object_array_get_idx(all, i), "name", ""), name))
            found = json_object_get(json_object_array_get_idx(all, i));
    json_object_put(reply);
    return found;
}

static bool is_fresh(const struct host *h, const char *name)
{
    struct json_object *j = known(h, name);
    bool fresh = j && !json_get_bool(j, "silent", true) && json_get_u64(j, "room_bytes", 0);
    json_object_put(j);
    return fresh;
}

static bool knows_vm(const struct host *h, const char *name, const char *state)
{
    struct json_object *j = known(h, name), *vms = json_get_array(j, "vms");
    struct json_object *vm = vms && json_object_array_length(vms) ? json_object_array_get_idx(vms, 0) : NULL;
    bool knows = vm && !strcmp(json_get_text(vm, "vm", ""), "web") && !strcmp(json_get_text(vm, "state", ""), state);
    json_object_put(j);
    return knows;
}

static void each_hears_of_the_other(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    agents_protect(t);
    WAIT_FOR(knows_vm(&t->b, "a", "PROTECTED"));
    WAIT_FOR(knows_vm(&t->a, "a", "PROTECTED"));
    struct json_object *j = known(&t->b, "a");
    assert_string_equal(json_get_text(j, "fingerprint", ""), t->a.fingerprint);
    json_object_put(j);
    host_kill(&t->a);
    WAIT_FOR(knows_vm(&t->b, "b", "UNPROTECTED") || knows_vm(&t->b, "b", "CONNECTING"));
    assert_true(knows_vm(&t->b, "a", "PROTECTED")); /* its last word; its age says the rest */
    agents_free(t);
}

/* A host that said something long before this agent was started counts as silent from the first. */
static void old_words_are_silence(void **state)
{
    (void)state;
    static const char text[] = "{\"name\":\"c\",\"at_ms\":1000,\"room_bytes\":1099511627776}";
    char path[160];
    struct errmsg e;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    snprintf(path, sizeof path, "%s/arbiter/hosts", t->dir);
    assert_int_equal(dir_make(path, 0700, &e), 0);
    snprintf(path, sizeof path, "%s/arbiter/hosts/c.json", t->dir);
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, &e), 0);
    host_start(&t->a, PRIMARY);
    WAIT_FOR(is_fresh(&t->a, "a"));
    struct json_object *j = known(&t->a, "c");
    assert_non_null(j);
    assert_true(json_get_bool(j, "silent", false));
    json_object_put(j);
    j = known(&t->a, "b"); /* a peer that never said anything */
    assert_true(json_get_bool(j, "silent", false));
    assert_null(json_get(j, "age_ms"));
    json_object_put(j);
    agents_free(t);
}

static void auto_takes_who_has_spoken(void **state)
{
    (void)state;
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\nmemory = 1M\n"});
    host_start_both(&t->a);
    host_refuses(&t->a, PRIMARY, "b: has not said anything lately", "{\"cmd\":\"choose\",\"vm\":\"web\"}");
    host_start_both(&t->b);
    WAIT_FOR(is_fresh(&t->a, "b"));
    struct json_object *reply = host_ask(&t->a, PRIMARY, "{\"cmd\":\"choose\",\"vm\":\"web\"}");
    assert_string_equal(json_get_text(reply, "to", ""), "b");
    assert_non_null(strstr(json_get_text(reply, "text", ""), "the VM needs 1 MiB"));
    json_object_put(reply);
    host_refuses(&t->a, PRIMARY, "no VM 'other'", "{\"cmd\":\"choose\",\"vm\":\"other\"}");
    agents_free(t);
}

static void says_when_it_hears_nothing(void **state)
{
    (void)state;
    char here[96], there[96];
    struct agents *t = agents_new(&(struct agents_options){.vm = "pages = 256\n"});
    snprintf(here, sizeof here, "%s/arbiter", t->dir);
    snprintf(there, sizeof there, "%s/elsewhere", t->dir);
    assert_int_equal(rename(here, there), 0);
    FILE *f = fopen(here, "we"); /* in its place something that is no folder */
    fclose(f);
    host_start(&t->a, PRIMARY);
    struct json_object *reply = NULL;
    WAIT_FOR((json_object_put(reply), reply = host_ask(&t->a, PRIMARY, "{\"cmd\":\"fleet\"}"),
              *json_get_text(reply, "trouble", "")));
    json_object_put(reply);
    assert_int_equal(remove(here), 0);
    assert_int_equal(rename(there, here), 0);
    WAIT_FOR(is_fresh(&t->a, "a"));
    agents_free(t);
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(each_hears_of_the_other),
        ONE(old_words_are_silence),
        ONE(auto_takes_who_has_spoken),
        ONE(says_when_it_hears_nothing),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
