/* Unit tests of vm/process.h: programs that outlive who started them. */
#include "vm/process.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { TIMES = 200, WAIT_MS = 20000 };

static char dir[64];
static struct errmsg error;

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/hikae-process-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/said", dir);
    unlink(path);
    return rmdir(dir);
}

/* What the program has said when it is over. */
static const char *said_by(pid_t pid)
{
    static char text[256];
    char path[128];
    if (pid < 0)
        fail_msg("%s", error.text);
    for (int ms = 0; process_start_time(pid) && ms < WAIT_MS; ms++)
        usleep(1000);
    snprintf(path, sizeof path, "%s/said", dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    return text;
}

/* One that asks to be ended with its parent, as nbdkit does, is not ended by the end of the process between it and us.
 */
static void test_no_parent(void **state)
{
    (void)state;
    char *command[] = {(char *)"setpriv",
                       (char *)"--pdeathsig",
                       (char *)"TERM",
                       (char *)"sh",
                       (char *)"-c",
                       (char *)"echo lives",
                       NULL};
    char path[128];
    snprintf(path, sizeof path, "%s/said", dir);
    for (unsigned i = 0; i < TIMES; i++)
        assert_string_equal(said_by(process_spawn(command, NULL, path, &error)), "lives\n");
}

/* Not what ls says of a descriptor that the shell closes meanwhile: its end of the pipe. */
static void test_socket(void **state)
{
    (void)state;
    char path[128];
    char *command[] = {(char *)"sh", (char *)"-c",
                       (char *)"echo $LISTEN_FDS $(($LISTEN_PID - $$)); ls -l /proc/$$/fd 2>/dev/null | grep -c socket",
                       NULL};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(path, sizeof path, "%s/said", dir);
    setenv("LISTEN_PID", "1", 1); /* ours is nobody else's */
    assert_string_equal(said_by(process_spawn_listening(command, fd, path, &error)), "1 0\n1\n");
    assert_string_equal(said_by(process_spawn((char *[]){(char *)"sh", (char *)"-c", (char *)"echo $LISTEN_PID", NULL},
                                              NULL, path, &error)),
                        "\n");
    close(fd);
}

static void test_descriptors(void **state)
{
    (void)state;
    char path[128];
    char *command[] = {(char *)"sh", (char *)"-c", (char *)"cat <&3; cat <&4; ls /proc/self/fd | wc -l", NULL};
    int a[2], b[2];
    assert_int_equal(pipe2(a, O_CLOEXEC) | pipe2(b, O_CLOEXEC), 0);
    assert_int_equal(write(a[1], "a", 1) + write(b[1], "b", 1), 2);
    close(a[1]);
    close(b[1]);
    snprintf(path, sizeof path, "%s/said", dir);
    const int fds[] = {b[0], a[0]};
    assert_string_equal(said_by(process_spawn_with(command, NULL, fds, 2, path, &error)), "ba6\n"); /* ls has one */
    close(a[0]);
    close(b[0]);
}

static void test_no_program(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/said", dir);
    char *command[] = {(char *)"/dev/null", NULL};
    assert_int_equal(process_spawn(command, NULL, path, &error), -1);
    assert_non_null(strstr(error.text, "/dev/null: Permission denied"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_parent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_program, setup, teardown),
    };
    return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
