#include "tests/integration/disk_harness.h"

#include "disk/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct errmsg error;

/* ---- the server ---- */

void lab_make(struct lab *l, unsigned disks, uint64_t bytes)
{
    snprintf(l->dir, sizeof l->dir, "/tmp/hikae-disk-XXXXXX");
    assert_non_null(mkdtemp(l->dir));
    snprintf(l->run, sizeof l->run, "%s/run", l->dir);
    l->disks = disks;
    for (unsigned i = 0; i < disks; i++) {
        snprintf(l->disk[i], sizeof l->disk[i], "%s/%u.img", l->dir, i);
        int fd = open(l->disk[i], O_RDWR | O_CREAT, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
        close(fd);
    }
}

void lab_start(struct lab *l)
{
    const char *paths[DISK_MAX];
    for (unsigned i = 0; i < l->disks; i++)
        paths[i] = l->disk[i];
    MUST(disk_server_start(l->run, paths, l->disks, &error));
}

/* The kernel takes a killed process's files from it one after the other: its socket may be closed already while its
 * stores are still locked. */
void lab_start_again(const struct lab *l)
{
    enum { TRIES = 200, MOMENT_US = 50000 };
    int bad, tries = TRIES;
    while ((bad = disk_server_start(l->run, NULL, 0, &error)) && strstr(error.text, "in use") && --tries)
        usleep(MOMENT_US);
    if (bad)
        fail_msg("%s", error.text);
}

void lab_remove(struct lab *l)
{
    const char *const command[] = {"rm", "-rf", "--one-file-system", l->dir, NULL};
    MUST(disk_server_stop(l->run, &error));
    run_wait(run_begin(NULL, NULL, command));
}

pid_t lab_server(const struct lab *l)
{
    struct ucred peer = {.pid = -1};
    socklen_t n = sizeof peer;
    int fd = disk_socket_open(l->run, &error);
    if (fd < 0)
        fail_msg("%s", error.text);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n), 0);
    close(fd);
    return peer.pid;
}

struct disk_client *lab_connect(const struct lab *l)
{
    struct disk_client *c = disk_connect(l->run, &error);
    if (!c)
        fail_msg("%s", error.text);
    return c;
}

uint8_t *lab_store(const struct lab *l, unsigned disk, uint64_t bytes)
{
    int fd = open(l->disk[disk], O_RDONLY);
    uint8_t *data = malloc(bytes);
    assert_true(fd >= 0 && data);
    for (uint64_t at = 0; at < bytes;) {
        ssize_t n = pread(fd, data + at, bytes - at, (off_t)at);
        assert_true(n > 0);
        at += (uint64_t)n;
    }
    close(fd);
    return data;
}

/* ---- programs ---- */

pid_t run_begin(const char *in, const char *said, const char *const *command)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    int input = open(in ? in : "/dev/null", O_RDONLY);
    int output = open(said ? said : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (dup2(input, 0) == 0 && dup2(output, 1) == 1 && dup2(output, 2) == 2)
        execvp(command[0], (char *const *)(uintptr_t)command);
    _exit(127);
}

int run_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool run_ends_within(pid_t pid, int ms)
{
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    assert_true(p.fd >= 0);
    bool ended = poll(&p, 1, ms) == 1;
    close(p.fd);
    return ended;
}

static void path_of(const struct lab *l, unsigned disk, const char *what, char out[128])
{
    snprintf(out, 128, "%s/%u.%s", l->dir, disk, what);
}

pid_t guest_begin(const struct lab *l, unsigned disk, const char *script)
{
    char in[128], said[128], image[256];
    path_of(l, disk, "in", in);
    path_of(l, disk, "said", said);
    FILE *f = fopen(in, "w");
    assert_non_null(f);
    assert_true(fputs(script, f) >= 0);
    assert_int_equal(fclose(f), 0);
    snprintf(image, sizeof image,
             "driver=nbd,server.type=unix,server.path=%s/nbd.sock,export=%u,reconnect-delay=60,discard=unmap", l->run,
             disk);
    const char *const command[] = {"qemu-io", "--image-opts", "-t", "writeback", image, NULL};
    return run_begin(in, said, command);
}

const char *guest_said(const struct lab *l, unsigned disk)
{
    static char text[4096];
    char said[128];
    path_of(l, disk, "said", said);
    FILE *f = fopen(said, "r");
    text[f ? fread(text, 1, sizeof text - 1, f) : 0] = '\0';
    if (f)
        fclose(f);
    return text;
}

int guest(const struct lab *l, unsigned disk, const char *script)
{
    int status = run_wait(guest_begin(l, disk, script));
    if (status == 127)
        fail_msg("qemu-io can't be run: is qemu-utils installed?");
    return status;
}

/* ---- the reader ---- */

unsigned replay(struct disk_client *c, uint64_t mark, uint8_t *const *disks, uint64_t bytes)
{
    struct disk_write w;
    unsigned n = 0;
    int status;
    for (; (status = disk_next(c, mark, &w)) == 1; n++) {
        assert_true(w.disk < disk_count(c) && w.offset + w.length <= bytes);
        assert_int_not_equal(w.kind, DISK_ERROR);
        if (w.kind == DISK_DATA)
            memcpy(disks[w.disk] + w.offset, w.data, w.length);
        else
            memset(disks[w.disk] + w.offset, 0, w.length);
    }
    assert_int_equal(status, 0);
    disk_release(c);
    return n;
}
