#include "disk/kernel.h"

#include "common/log.h"
#include "disk/log.h"
#include "disk/nbd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKEND "hikae:%u:%u:%s" /* domain, disk, folder */

/* SECTOR: what a guest takes for granted. RETRY_MS: so often the kernel looks at a request that is not answered; if its
 * connection was replaced meanwhile it is asked again. A server that is merely slow is left in peace: a request that it
 * still has in hand must not be overtaken by its own repetition. */
enum { SECTOR = 512, RETRY_MS = 3000, PATIENCE_S = 86400, PATH_SIZE = 80 };

/* ---- what is written at a device ---- */

int kernel_disk_format(char out[KERNEL_DISK_BACKEND_MAX], const struct kernel_disk *k, struct errmsg *e)
{
    int n = snprintf(out, KERNEL_DISK_BACKEND_MAX, BACKEND, k->domid, k->disk, k->dir);
    return n < KERNEL_DISK_BACKEND_MAX ? 0 : errmsg_set(e, "%s: the folder's name is too long", k->dir);
}

bool kernel_disk_parse(const char *backend, struct kernel_disk *k)
{
    int head = 0;
    if (sscanf(backend, "hikae:%u:%u:%n", &k->domid, &k->disk, &head) < 2 || !head || k->disk >= DISK_MAX)
        return false;
    size_t n = strcspn(backend + head, "\n");
    if (n == 0 || n >= sizeof k->dir)
        return false;
    memcpy(k->dir, backend + head, n);
    k->dir[n] = '\0';
    return true;
}

/* ---- devices ---- */

static bool read_device(const char *name, struct kernel_disk *k)
{
    char path[PATH_SIZE], backend[KERNEL_DISK_BACKEND_MAX], end;
    if (sscanf(name, "nbd%u%c", &k->index, &end) != 1)
        return false;
    snprintf(path, sizeof path, "/sys/block/nbd%u/backend", k->index);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false; /* it is not connected */
    ssize_t n = read(fd, backend, sizeof backend - 1);
    close(fd);
    if (n <= 0)
        return false;
    backend[n] = '\0';
    return kernel_disk_parse(backend, k);
}

int kernel_disks(const char *dir, int (*found)(const struct kernel_disk *k, void *arg), void *arg)
{
    int status = 0;
    DIR *all = opendir("/sys/block");
    for (struct dirent *one; all && status == 0 && (one = readdir(all));) {
        struct kernel_disk k;
        if (read_device(one->d_name, &k) && strcmp(k.dir, dir) == 0)
            status = found(&k, arg);
    }
    if (all)
        closedir(all);
    return status;
}

/* ---- generic netlink ---- */

struct answer {
    bool done;
    int error; /* of the kernel, negative */
    uint16_t family;
    uint32_t index;
};

struct talk {
    struct nl_sock *socket;
    struct nl_cb *callbacks;
    struct answer answer;
};

static int on_message(struct nl_msg *m, void *arg)
{
    struct talk *t = arg;
    struct nlmsghdr *head = nlmsg_hdr(m);
    struct nlattr *attribute;
    int left;
    bool of_control = head->nlmsg_type == GENL_ID_CTRL;
    nlmsg_for_each_attr(attribute, head, GENL_HDRLEN, left)
    {
        if (of_control && nla_type(attribute) == CTRL_ATTR_FAMILY_ID)
            t->answer.family = nla_get_u16(attribute);
        else if (!of_control && nla_type(attribute) == NBD_ATTR_INDEX)
            t->answer.index = nla_get_u32(attribute);
    }
    return NL_OK;
}

static int on_ack(struct nl_msg *m, void *arg)
{
    (void)m;
    ((struct talk *)arg)->answer.done = true;
    return NL_STOP;
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *error, void *arg)
{
    (void)from;
    struct talk *t = arg;
    t->answer.error = error->error;
    t->answer.done = true;
    return NL_STOP;
}

static struct nl_msg *message(uint16_t family, uint8_t command, uint8_t version)
{
    struct nl_msg *m = nlmsg_alloc_simple(family, NLM_F_REQUEST | NLM_F_ACK);
    struct genlmsghdr *head = m ? nlmsg_reserve(m, sizeof *head, NLMSG_ALIGNTO) : NULL;
    if (!head)
        abort(); /* no memory */
    *head = (struct genlmsghdr){.cmd = command, .version = version};
    return m;
}

/* Takes the message. A negative errno, or 0. */
static int call(struct talk *t, struct nl_msg *m)
{
    t->answer = (struct answer){.done = false};
    int status = nl_send_auto(t->socket, m);
    nlmsg_free(m);
    while (status >= 0 && !t->answer.done)
        status = nl_recvmsgs(t->socket, t->callbacks);
    return t->answer.done ? t->answer.error : -EIO;
}

static void hang_up(struct talk *t)
{
    if (t->callbacks)
        nl_cb_put(t->callbacks);
    if (t->socket)
        nl_socket_free(t->socket);
}

/* The number of the family "nbd" is t->answer.family. */
static int talk(struct talk *t, struct errmsg *e)
{
    *t = (struct talk){.socket = nl_socket_alloc(), .callbacks = nl_cb_alloc(NL_CB_DEFAULT)};
    if (!t->socket || !t->callbacks)
        abort(); /* no memory */
    nl_cb_set(t->callbacks, NL_CB_VALID, NL_CB_CUSTOM, on_message, t);
    nl_cb_set(t->callbacks, NL_CB_ACK, NL_CB_CUSTOM, on_ack, t);
    nl_cb_err(t->callbacks, NL_CB_CUSTOM, on_error, t);
    int status = nl_connect(t->socket, NETLINK_GENERIC);
    if (status < 0) {
        hang_up(t);
        return errmsg_set(e, "generic netlink: %s", nl_geterror(status));
    }
    struct nl_msg *m = message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
    nla_put_string(m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME);
    status = call(t, m);
    if (status == 0)
        return 0;
    hang_up(t);
    return errmsg_set(e, "the kernel's NBD client can't be talked to: %s%s", strerror(-status),
                      status == -ENOENT ? ": modprobe nbd" : "");
}

static void put_socket(struct nl_msg *m, int fd)
{
    struct nlattr *all = nla_nest_start(m, NBD_ATTR_SOCKETS), *one = nla_nest_start(m, NBD_SOCK_ITEM);
    nla_put_u32(m, NBD_SOCK_FD, (uint32_t)fd);
    nla_nest_end(m, one);
    nla_nest_end(m, all);
}

/* ---- connecting ---- */

static int open_export(const struct kernel_disk *k, struct nbd_export *x, struct errmsg *e)
{
    char name[12];
    snprintf(name, sizeof name, "%u", k->disk);
    return nbd_open(k->dir, name, x, e);
}

static void set_retry(const struct kernel_disk *k)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/sys/block/nbd%u/queue/io_timeout", k->index);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) { /* without it, it is the kernel's 30 s */
        dprintf(fd, "%d", (int)RETRY_MS);
        close(fd);
    }
}

/* What both ways of connecting begin with: the export is open and the kernel is talked to. A descriptor of the export,
 * or -1 with nothing left to end. */
static int prepare(const struct kernel_disk *k, char backend[KERNEL_DISK_BACKEND_MAX], struct nbd_export *x,
                   struct talk *t, struct errmsg *e)
{
    if (kernel_disk_format(backend, k, e) < 0 || talk(t, e) < 0)
        return -1;
    int fd = open_export(k, x, e);
    if (fd < 0)
        hang_up(t);
    return fd;
}

int kernel_disk_connect(struct kernel_disk *k, struct errmsg *e)
{
    char backend[KERNEL_DISK_BACKEND_MAX];
    struct nbd_export x;
    struct talk t;
    int fd = prepare(k, backend, &x, &t, e);
    if (fd < 0)
        return -1;
    struct nl_msg *m = message(t.answer.family, NBD_CMD_CONNECT, NBD_GENL_VERSION);
    nla_put_u64(m, NBD_ATTR_SIZE_BYTES, x.bytes);
    nla_put_u64(m, NBD_ATTR_BLOCK_SIZE_BYTES, SECTOR);
    nla_put_u64(m, NBD_ATTR_SERVER_FLAGS, x.flags);
    nla_put_u64(m, NBD_ATTR_DEAD_CONN_TIMEOUT, PATIENCE_S);
    nla_put_string(m, NBD_ATTR_BACKEND_IDENTIFIER, backend);
    put_socket(m, fd);
    int status = call(&t, m);
    k->index = t.answer.index;
    close(fd); /* the kernel has it */
    hang_up(&t);
    if (status < 0)
        return errmsg_set(e, "disk %u of %s can't be made a block device of this host: %s", k->disk, k->dir,
                          strerror(-status));
    set_retry(k);
    return 0;
}

static int disconnect_one(const struct kernel_disk *k, struct errmsg *e)
{
    struct talk t;
    if (talk(&t, e) < 0)
        return -1;
    struct nl_msg *m = message(t.answer.family, NBD_CMD_DISCONNECT, NBD_GENL_VERSION);
    nla_put_u32(m, NBD_ATTR_INDEX, k->index);
    int status = call(&t, m);
    hang_up(&t);
    return status < 0 ? errmsg_set(e, "/dev/nbd%u can't be taken away: %s", k->index, strerror(-status)) : 0;
}

struct wanted {
    const struct kernel_disk *k;
    struct errmsg *e;
};

static int disconnect_if_wanted(const struct kernel_disk *k, void *arg)
{
    struct wanted *w = arg;
    if (k->disk != w->k->disk || k->domid != w->k->domid)
        return 0;
    return disconnect_one(k, w->e) < 0 ? -1 : 0;
}

int kernel_disk_disconnect(const struct kernel_disk *k, struct errmsg *e)
{
    struct wanted w = {.k = k, .e = e};
    return kernel_disks(k->dir, disconnect_if_wanted, &w);
}

static int disconnect_found(const struct kernel_disk *k, void *arg)
{
    struct errmsg *e = arg;
    if (disconnect_one(k, e) < 0)
        log_warn("%s", e->text);
    return 0;
}

void kernel_disks_disconnect(const char *dir)
{
    struct errmsg e;
    (void)kernel_disks(dir, disconnect_found, &e);
}

/* ---- connecting anew ---- */

static int reconnect_one(const struct kernel_disk *k, struct errmsg *e)
{
    char backend[KERNEL_DISK_BACKEND_MAX];
    struct nbd_export x;
    struct talk t;
    int fd = prepare(k, backend, &x, &t, e);
    if (fd < 0)
        return -1;
    struct nl_msg *m = message(t.answer.family, NBD_CMD_RECONFIGURE, NBD_GENL_VERSION);
    nla_put_u32(m, NBD_ATTR_INDEX, k->index);
    nla_put_string(m, NBD_ATTR_BACKEND_IDENTIFIER, backend);
    put_socket(m, fd);
    int status = call(&t, m);
    close(fd);
    hang_up(&t);
    return status < 0 /* a connection that is well is left alone, and that is no error */
               ? errmsg_set(e, "/dev/nbd%u can't be connected to its disk server again: %s", k->index,
                            strerror(-status))
               : 0;
}

static int reconnect_found(const struct kernel_disk *k, void *arg)
{
    return reconnect_one(k, arg);
}

int kernel_disks_reconnect(const char *dir, struct errmsg *e)
{
    return kernel_disks(dir, reconnect_found, e);
}
