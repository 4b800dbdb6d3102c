/*
 * int_fence: the fencing command. The VM does not run on the host that takes over before the command has ended well,
 * whatever else it does.
 */
#include "common/file.h"
#include "tests/integration/agents.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { CONTROL_MS = 1500 };

static char dir[] = "/tmp/hikae-fence-XXXXXX", program[128], said[128], go[128];

/* A script that says what it is told, and ends as `body` has it. */
static void write_command(const char *body)
{
    char text[1024];
    struct errmsg e;
    snprintf(program, sizeof program, "%s/fence", dir);
    snprintf(said, sizeof said, "%s/said", dir);
    snprintf(go, sizeof go, "%s/go", dir);
    unlink(said);
    unlink(go);
    int n =
        snprintf(text, sizeof text,
                 "#!/bin/sh\necho \"$1 $HIKAE_VM $HIKAE_TERM $HIKAE_HOST $HIKAE_LOST_HOST\" >>%s\n%s\n", said, body);
    assert_int_equal(file_write_atomic(program, text, (size_t)n, 0700, &e), 0);
}

static struct agents *with_fence(const char *host_lines)
{
    char lines[256];
    snprintf(lines, sizeof lines, "detect = 2s\nfence = %s now\n%s", program, host_lines);
    return agents_new(&(struct agents_options){.host = lines, .vm = "pages = 256\nrate = 2000\n"});
}

static void was_told(const char *what)
{
    size_t n;
    struct errmsg e;
    char *text = file_read_all(said, 1 << 16, &n, &e);
    if (!text || !strstr(text, what))
        fail_msg("the command was told \"%s\", not \"%s\"", text ? text : "nothing", what);
    free(text);
}

static void allow(void)
{
    struct errmsg e;
    assert_int_equal(file_write_atomic(go, "", 0, 0600, &e), 0);
}

static void succeeds(void **state)
{
    (void)state;
    write_command("exit 0");
    struct agents *t = with_fence("");
    agents_protect(t);
    host_kill(&t->a);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    was_told("now web 2 b a\n");
    agents_free(t);
}

static void fails_and_then_succeeds(void **state)
{
    (void)state;
    char what[160];
    snprintf(what, sizeof what, "test -e %s/go", dir);
    write_command(what);
    struct agents *t = with_fence("");
    agents_protect(t);
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "FENCING");
    host_wait_reason(&t->b, SECONDARY, "ended with status 1");
    agents_sleep_ms(CONTROL_MS);
    assert_true(host_state_is(&t->b, SECONDARY, "FENCING"));
    assert_int_equal(agents_running(t), 0);
    allow();
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    agents_free(t);
}

/* Until its time is up, and what it has started is ended with it. */
static void hangs(void **state)
{
    (void)state;
    char what[200];
    snprintf(what, sizeof what, "test -e %s/go || { sleep 1000 & echo $! >%s/child; wait; }", dir, dir);
    write_command(what);
    struct agents *t = with_fence("fence_timeout = 1s\n");
    agents_protect(t);
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "FENCING");
    host_wait_reason(&t->b, SECONDARY, "longer than 1.0 s");
    assert_int_equal(agents_running(t), 0);
    allow();
    host_wait_running(&t->b);
    snprintf(what, sizeof what, "%s/child", dir);
    FILE *f = fopen(what, "re");
    int child = 0;
    assert_int_equal(f ? fscanf(f, "%d", &child) : 0, 1);
    fclose(f);
    WAIT_FOR(!agents_is_alive(child));
    agents_free(t);
}

static void can_not_be_run(void **state)
{
    (void)state;
    write_command("exit 0");
    chmod(program, 0600);
    struct agents *t = with_fence("");
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_reason(&t->a, PRIMARY, "host b can't run it");
    assert_int_equal(host_replica_pid(&t->b), 0);
    agents_free(t);
}

/* The host that had it says so itself: it runs other VMs too. */
static void vm_alone_crashes(void **state)
{
    (void)state;
    write_command("exit 0");
    struct agents *t = with_fence("");
    struct stat st;
    agents_protect(t);
    kill(host_vm_pid(&t->a), SIGKILL);
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    assert_int_equal(stat(said, &st), -1);
    agents_free(t);
}

/* What its worker leaves is taken up by another process: that does not start the VM without fencing either. */
static void worker_dies_meanwhile(void **state)
{
    (void)state;
    char what[160];
    struct stat st;
    snprintf(what, sizeof what, "test -e %s/go", dir);
    write_command(what);
    struct agents *t = with_fence("");
    agents_protect(t);
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "FENCING");
    kill(host_worker(&t->b, SECONDARY), SIGKILL);
    agents_sleep_ms(CONTROL_MS);
    assert_int_equal(agents_running(t), 0);
    unlink(said);
    WAIT_FOR(stat(said, &st) == 0 && st.st_size > 0);
    was_told("now web 2 b a\n");
    allow();
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    agents_free(t);
}

/* It has the VM by the arbiter's word and does nothing with it: it is ended, and another process starts the VM. */
static void worker_stands_still_meanwhile(void **state)
{
    (void)state;
    char what[160];
    snprintf(what, sizeof what, "test -e %s/go", dir);
    write_command(what);
    struct agents *t = with_fence("worker_bound = 2s\n");
    agents_protect(t);
    host_kill(&t->a);
    host_wait_state(&t->b, SECONDARY, "FENCING");
    pid_t worker = host_worker(&t->b, SECONDARY);
    kill(worker, SIGSTOP);
    allow();
    WAIT_FOR(!agents_is_alive(worker));
    host_wait_log(&t->b, SECONDARY, "has not moved");
    host_wait_running(&t->b);
    host_check_memory(&t->b);
    assert_int_equal(agents_running(t), 1);
    agents_free(t);
}

#define ONE(test) cmocka_unit_test_teardown(test, agents_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(succeeds),         ONE(fails_and_then_succeeds), ONE(hangs),
        ONE(can_not_be_run),   ONE(worker_dies_meanwhile),   ONE(worker_stands_still_meanwhile),
        ONE(vm_alone_crashes),
    };
    agents_enter_sandbox();
    if (!mkdtemp(dir))
        return 1;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    char files[4][160];
    static const char *const names[] = {"fence", "said", "go", "child"};
    for (int i = 0; i < 4; i++) {
        snprintf(files[i], sizeof files[i], "%s/%s", dir, names[i]);
        unlink(files[i]);
    }
    rmdir(dir);
    return r;
}
