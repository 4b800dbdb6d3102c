/*
 * int_disk_output: a VM that goes on alone has its output let go of only when what it was told to be on its disks is
 * there: also if the disk server that owed it that has died. Both agents, a disk server on each side; an observer on
 * the bridge sees the frames.
 */
#include "disk/owing.h"
#include "tests/integration/disk_agents.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static uint64_t frames(struct observer *o)
{
    return observer_read(o).frames;
}

static void waits_for_what_is_owed(void **state)
{
    (void)state;
    if (!agents_have_sandbox())
        skip();
    struct agents *t = agents_new(&(struct agents_options){.vm = WITH_DISKS "frames = 2\nbridge = br0\n"});
    struct observer *o = observer_new();
    char dir[200];
    struct errmsg e;
    disks_make(&t->a, 64, 64);
    disks_make(&t->b, 64, 64);
    agents_protect(t);
    WAIT_FOR(frames(o) > 20);
    snprintf(dir, sizeof dir, "%s/run/disks/web", t->a.dir);
    _Atomic uint32_t *owing = owing_map(dir, &e);
    assert_non_null(owing);
    assert_false(owing_is_noted(dir));
    atomic_store(owing, 1); /* as a server that is not done yet, or was killed */
    assert_true(owing_is_noted(dir));
    host_kill(&t->b);
    host_wait_state(&t->a, PRIMARY, "CONNECTING");
    host_wait_running(&t->a);
    uint64_t before = frames(o);
    agents_sleep_ms(500);
    assert_int_equal(frames(o), before);
    atomic_store(owing, 0);
    WAIT_FOR(frames(o) > before + 20);
    assert_int_equal(observer_read(o).backwards, 0);
    host_start_both(&t->b);
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
    before = frames(o);
    WAIT_FOR(frames(o) > before + 20);
    owing_unmap(owing);
    observer_free(o);
    agents_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(waits_for_what_is_owed, agents_teardown),
    };
    agents_enter_sandbox();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
