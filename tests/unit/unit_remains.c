/* Unit tests of vm/remains.h: one file, one owner, at most one of a VM, and nothing left over. */
#include "vm/remains.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BYTES = 8192, RACERS = 8, RACES = 50 };

static char dir[64], remains[REMAINS_PATH_MAX];
static struct errmsg e;

static const char *in(const char *name)
{
    static char paths[4][128];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, 128, "%s/%s", dir, name);
    return path;
}

static void make(const char *name, off_t bytes)
{
    int fd = open(in(name), O_CREAT | O_TRUNC | O_RDWR, 0600);
    assert_true(fd >= 0 && ftruncate(fd, bytes) == 0 && pwrite(fd, name, 1, 0) == 1);
    close(fd);
}

static bool is_there(const char *name)
{
    return access(in(name), F_OK) == 0;
}

static char first_octet(const char *name)
{
    char c = 0;
    int fd = open(in(name), O_RDONLY);
    assert_true(fd >= 0 && read(fd, &c, 1) == 1);
    close(fd);
    return c;
}

static void keep(const char *name, const char *kept)
{
    if (remains_keep(remains, in(name), in(kept), &e))
        fail_msg("%s", e.text);
    assert_false(is_there(name));
    assert_true(is_there(kept) && remains_exist(remains));
}

static void is_handed_over_once(void **state)
{
    (void)state;
    make("a", BYTES);
    keep("a", "a.kept");
    assert_true(remains_take(remains, in("new"), BYTES));
    assert_int_equal(first_octet("new"), 'a');
    assert_false(is_there("a.kept") || remains_exist(remains));
    assert_false(remains_take(remains, in("second"), BYTES));
    assert_false(is_there("second"));
    unlink(in("new"));
}

static void another_size_is_discarded(void **state)
{
    (void)state;
    make("a", BYTES);
    keep("a", "a.kept");
    assert_false(remains_take(remains, in("new"), 2 * BYTES));
    assert_false(is_there("new") || is_there("a.kept") || remains_exist(remains));
}

static void the_newer_replaces_the_older(void **state)
{
    (void)state;
    make("a", BYTES);
    make("b", BYTES);
    keep("a", "a.kept");
    keep("b", "b.kept");
    assert_false(is_there("a.kept"));
    assert_int_equal(remains_keep(remains, in("missing"), in("c.kept"), &e), -1);
    assert_true(is_there("b.kept")); /* what failed took nothing away */
    remains_discard(remains);
    assert_false(is_there("b.kept") || remains_exist(remains));
    remains_discard(remains);
}

/* A link that somebody else put there, to what is none of ours. */
static void only_files_are_taken(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in("folder"), 0700), 0);
    assert_int_equal(symlink(in("folder"), remains), 0);
    assert_false(remains_take(remains, in("new"), BYTES));
    assert_true(is_there("folder"));
    make("a", BYTES);
    assert_int_equal(link(in("a"), in("other")), 0); /* somebody else has a name of it */
    assert_int_equal(symlink(in("a"), remains), 0);
    assert_false(remains_take(remains, in("new"), BYTES));
    assert_false(is_there("new") || remains_exist(remains));
    unlink(in("other"));
    rmdir(in("folder"));
}

static void expire_after_a_while(void **state)
{
    (void)state;
    struct timespec old[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
    char half[REMAINS_PATH_MAX + 16];
    make("a", BYTES);
    make("b", BYTES);
    make("c", BYTES);
    keep("a", "a.kept");
    assert_true(remains_expire(dir, 600000) == 60.);
    assert_true(is_there("a.kept"));
    assert_int_equal(utimensat(AT_FDCWD, remains, old, AT_SYMLINK_NOFOLLOW), 0);
    snprintf(half, sizeof half, "%s.12345", remains); /* of a process that died while it had it */
    assert_int_equal(symlink(in("b"), half), 0);
    assert_int_equal(utimensat(AT_FDCWD, half, old, AT_SYMLINK_NOFOLLOW), 0);
    assert_int_equal(symlink(in("c"), in("vms/web.lock")), 0); /* not ours */
    remains_expire(dir, 600000);
    assert_false(is_there("a.kept") || is_there("b") || remains_exist(remains) || remains_exist(half));
    assert_true(is_there("c"));
    unlink(in("vms/web.lock"));
    unlink(in("c"));
    make("a", BYTES);
    keep("a", "a.kept");
    assert_true(remains_expire(dir, 0) == 1.);
    assert_false(is_there("a.kept"));
}

/* Many take, keep and discard at the same time: each file ends with one owner, or with none and removed. */
static void one_of_many_gets_it(void **state)
{
    (void)state;
    for (int race = 0; race < RACES; race++) {
        pid_t all[RACERS];
        unsigned won = 0;
        make("a", BYTES);
        keep("a", "a.kept");
        for (int i = 0; i < RACERS; i++) {
            all[i] = fork();
            assert_true(all[i] >= 0);
            if (all[i] == 0) {
                char mine[32];
                snprintf(mine, sizeof mine, "mine%d", i);
                if (i % 4 == 3)
                    remains_discard(remains);
                _exit(i % 4 != 3 && remains_take(remains, in(mine), BYTES));
            }
        }
        for (int i = 0; i < RACERS; i++) {
            int status;
            char mine[32];
            snprintf(mine, sizeof mine, "mine%d", i);
            assert_int_equal(waitpid(all[i], &status, 0), all[i]);
            won += WEXITSTATUS(status) == 1;
            assert_int_equal(is_there(mine), WEXITSTATUS(status) == 1);
            unlink(in(mine));
        }
        assert_true(won <= 1);
        assert_false(is_there("a.kept") || remains_exist(remains));
    }
}

static int begin(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/unit_remains-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(mkdir(in("vms"), 0700), 0);
    remains_path(remains, dir, "web");
    return 0;
}

/* Nothing may be left over, whatever the test did. */
static int end(void **state)
{
    (void)state;
    return rmdir(in("vms")) || rmdir(dir);
}

#define ONE(test) cmocka_unit_test_setup_teardown(test, begin, end)

static void make_room(void **state)
{
    (void)state;
    char vms[96], of_another[REMAINS_PATH_MAX], of_web[160];
    snprintf(vms, sizeof vms, "%s/vms", dir);
    remains_path(of_another, dir, "db");
    make("memory", BYTES);
    assert_int_equal(remains_keep(of_another, in("memory"), in("kept"), &e), 0);
    assert_true(remains_exist(of_another) && is_there("kept"));
    snprintf(of_web, sizeof of_web, "%s/web.123", vms);
    remains_make_room(of_web);
    assert_false(remains_exist(of_another) || is_there("kept"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(is_handed_over_once),
        ONE(another_size_is_discarded),
        ONE(the_newer_replaces_the_older),
        ONE(only_files_are_taken),
        ONE(expire_after_a_while),
        ONE(one_of_many_gets_it),
        ONE(make_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
