/* int_disk_kernel: what comes before the kernel's NBD client: the handshake, with a real disk server and with others
 * that are none, and what is written at a device. The devices themselves need the module nbd: tests/xenlab. */
#include "disk/kernel.h"
#include "disk/nbd.h"
#include "tests/integration/disk_harness.h"

#include <endian.h>
#include <linux/nbd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, BYTES = 4 * MIB };

static struct lab lab;

static int teardown(void **state)
{
    (void)state;
    lab_remove(&lab);
    return 0;
}

/* ---- with a disk server ---- */

static void transfer(int fd, uint32_t type, uint64_t offset, void *data, uint32_t n)
{
    struct nbd_request request = {
        .magic = htobe32(NBD_REQUEST_MAGIC), .type = htobe32(type), .from = htobe64(offset), .len = htobe32(n)};
    struct nbd_reply reply;
    assert_int_equal(send(fd, &request, sizeof request, 0), sizeof request);
    if (type == NBD_CMD_WRITE)
        assert_int_equal(send(fd, data, n, 0), n);
    assert_int_equal(recv(fd, &reply, sizeof reply, MSG_WAITALL), sizeof reply);
    assert_int_equal(be32toh(reply.magic), NBD_REPLY_MAGIC);
    assert_int_equal(reply.error, 0);
    if (type == NBD_CMD_READ)
        assert_int_equal(recv(fd, data, n, MSG_WAITALL), n);
}

/* After the handshake the connection is what the kernel wants: the next octet is a request's. */
static void test_handshake(void **state)
{
    (void)state;
    uint8_t out[4096], in[4096];
    struct nbd_export x;
    lab_make(&lab, 2, BYTES);
    lab_start(&lab);
    int fd = nbd_open(lab.run, "1", &x, &error);
    MUST(fd);
    assert_int_equal(x.bytes, BYTES);
    assert_int_equal(x.flags & (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_TRIM | NBD_FLAG_READ_ONLY),
                     NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_TRIM);
    memset(out, 0x5a, sizeof out);
    transfer(fd, NBD_CMD_WRITE, MIB + 512, out, sizeof out);
    transfer(fd, NBD_CMD_READ, MIB + 512, in, sizeof in);
    assert_memory_equal(in, out, sizeof in);
    transfer(fd, NBD_CMD_FLUSH, 0, NULL, 0);
    uint8_t *store = lab_store(&lab, 1, BYTES);
    assert_memory_equal(store + MIB + 512, out, sizeof out);
    free(store);
    /* No time-out is left on it, which would be its end in the kernel's hands. */
    struct timeval wait;
    socklen_t n = sizeof wait;
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, &n), 0);
    assert_int_equal(wait.tv_sec + wait.tv_usec, 0);
    close(fd);
}

static void expect_failure(const char *dir, const char *name, const char *because)
{
    struct nbd_export x;
    error.text[0] = '\0';
    assert_int_equal(nbd_open(dir, name, &x, &error), -1);
    if (!strstr(error.text, because))
        fail_msg("%s: %s", because, error.text);
}

static void test_no_such_disk(void **state)
{
    (void)state;
    lab_make(&lab, 1, BYTES);
    lab_start(&lab);
    expect_failure(lab.run, "1", "disk 1");
    MUST(disk_server_stop(lab.run, &error));
    expect_failure(lab.run, "0", "No such file");
}

/* ---- with something else ---- */

struct impostor {
    int listener;
    const void *says;
    size_t n;
    bool hangs_up;
};

static void *impersonate(void *arg)
{
    const struct impostor *i = arg;
    char ignored[256];
    int fd = accept(i->listener, NULL, NULL);
    (void)!send(fd, i->says, i->n, MSG_NOSIGNAL);
    if (i->hangs_up)
        shutdown(fd, SHUT_WR);
    while (recv(fd, ignored, sizeof ignored, 0) > 0)
        ;
    close(fd);
    return NULL;
}

static void impostor_says(const void *says, size_t n, bool hangs_up, const char *because)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct impostor i = {.listener = socket(AF_UNIX, SOCK_STREAM, 0), .says = says, .n = n, .hangs_up = hangs_up};
    pthread_t thread;
    snprintf(a.sun_path, sizeof a.sun_path, "%s/nbd.sock", lab.dir);
    unlink(a.sun_path);
    assert_int_equal(bind(i.listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(i.listener, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, impersonate, &i), 0);
    expect_failure(lab.dir, "0", because);
    pthread_join(thread, NULL);
    close(i.listener);
}

#define WELCOME "NBDMAGICIHAVEOPT\0\1"
#define ANSWER  WELCOME "\0\3\xe8\x89\4\x55\x65\xa9\0\0\0\7"

static void test_impostors(void **state)
{
    (void)state;
    lab_make(&lab, 1, BYTES);
    impostor_says("HTTP/1.1 400 Bad Request\r\n", 26, true, "no NBD server");
    impostor_says(WELCOME, 10, true, "reset");
    impostor_says(WELCOME, sizeof WELCOME - 1, false, "no answer");
    impostor_says(ANSWER "\0\0\0\1\x7f\xff\xff\xff", sizeof ANSWER - 1 + 8, true, "protocol"); /* a reply of 2 GiB */
    impostor_says(ANSWER "\0\0\0\1\0\0\0\0", sizeof ANSWER - 1 + 8, true, "how large"); /* of which it says nothing */
    impostor_says(ANSWER "\x80\0\0\2\0\0\0\0", sizeof ANSWER - 1 + 8, true, "refuses");
}

/* ---- what is written at a device ---- */

static void test_backend(void **state)
{
    (void)state;
    static const char *const others[] = {
        "", "hikae:", "hikae:1:0:", "hikae:1:0", "hikae:1:8:/run/x", "nbd:1:0:/run/x", "hikae:x:0:/run/x"};
    struct kernel_disk k = {.domid = 12, .disk = 3, .dir = "/run/hikae/disks/web"}, back;
    char text[KERNEL_DISK_BACKEND_MAX + 1];
    MUST(kernel_disk_format(text, &k, &error));
    strcat(text, "\n"); /* as sysfs says it */
    assert_true(kernel_disk_parse(text, &back));
    assert_int_equal(back.domid, 12);
    assert_int_equal(back.disk, 3);
    assert_string_equal(back.dir, k.dir);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (kernel_disk_parse(others[i], &back))
            fail_msg("%s was taken for ours", others[i]);
    lab_make(&lab, 1, BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_handshake, teardown),
        cmocka_unit_test_teardown(test_no_such_disk, teardown),
        cmocka_unit_test_teardown(test_impostors, teardown),
        cmocka_unit_test_teardown(test_backend, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
