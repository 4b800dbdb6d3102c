#include "tests/integration/disk_agents.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static int open_disk(const struct host *h, const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", h->dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

void disks_make(const struct host *h, unsigned blocks_0, unsigned blocks_1)
{
    int fd = open_disk(h, "0.img");
    assert_int_equal(ftruncate(fd, (off_t)blocks_0 * BLOCK), 0);
    close(fd);
    fd = open_disk(h, "1.img");
    assert_int_equal(ftruncate(fd, (off_t)blocks_1 * BLOCK), 0);
    close(fd);
}

void disk_put(const struct host *h, const char *name, unsigned block, unsigned seed)
{
    uint8_t data[BLOCK];
    int fd = open_disk(h, name);
    for (unsigned i = 0; i < BLOCK; i++)
        data[i] = (uint8_t)((i * 31 + seed * 7919) >> 3);
    assert_int_equal(pwrite(fd, data, BLOCK, (off_t)block * BLOCK), BLOCK);
    close(fd);
}

bool disk_equal(const struct agents *t, const char *name, unsigned block)
{
    uint8_t data[2][BLOCK];
    for (int i = 0; i < 2; i++) {
        int fd = open_disk(i ? &t->b : &t->a, name);
        assert_int_equal(pread(fd, data[i], BLOCK, (off_t)block * BLOCK), BLOCK);
        close(fd);
    }
    return !memcmp(data[0], data[1], BLOCK);
}

bool disks_equal(const struct agents *t)
{
    char command[500];
    snprintf(command, sizeof command, "cmp %s/0.img %s/0.img >&2 && cmp %s/1.img %s/1.img >&2; echo \"exit $?\"",
             t->a.dir, t->b.dir, t->a.dir, t->b.dir);
    return hikae_end(popen(command, "r")) == 0;
}

void guest_does(const struct host *h, const char *commands)
{
    char command[4096];
    snprintf(command, sizeof command,
             "tr ';' '\\n' <<'END' | qemu-io -t writeback --image-opts driver=nbd,server.type=unix,"
             "server.path=%s/run/disks/web/nbd.sock,export=0,reconnect-delay=60,open-timeout=30 >/dev/null; echo "
             "\"exit $?\"\n%s\nEND\n",
             h->dir, commands);
    assert_int_equal(hikae_end(popen(command, "r")), 0);
}
