/*
 * The handshake is the "fixed newstyle" of https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md:
 * greeting, flags, the option GO, its replies. All numbers are big-endian.
 */
#include "disk/nbd.h"

#include "disk/socket.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING   UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define I_HAVE_OPT UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define REPLY      UINT64_C(0x3e889045565a9)

enum {
    FIXED_NEWSTYLE = 1,
    NO_ZEROES = 2,
    OPT_GO = 7,
    INFO_EXPORT = 0,
    ANSWER_S = 5,
    EXPORT_NAME_MAX = 64,
    REPLY_MAX = 4096
};
#define REP_ACK      1U
#define REP_INFO     3U
#define REP_IS_ERROR 0x80000000U
#define REP_UNKNOWN  0x80000006U

struct greeting {
    uint64_t magic, options;
    uint16_t flags;
} __attribute__((packed));
struct go {
    uint32_t client_flags;
    uint64_t magic;
    uint32_t option, length, name_length;
    char rest[EXPORT_NAME_MAX + 2]; /* the name, and the number of informations asked for: none */
} __attribute__((packed));
struct reply {
    uint64_t magic;
    uint32_t option, type, length;
} __attribute__((packed));
struct export_info {
    uint16_t type;
    uint64_t bytes;
    uint16_t flags;
} __attribute__((packed));

static int receive(int fd, void *out, size_t n)
{
    ssize_t got = recv(fd, out, n, MSG_WAITALL);
    if (got == (ssize_t)n)
        return 0;
    if (got >= 0)
        errno = ECONNRESET;
    return -1;
}

static int failed(const char *dir, struct errmsg *e)
{
    return errmsg_set(e, "the disk server in %s: %s", dir, errno == EAGAIN ? "no answer within 5 s" : strerror(errno));
}

static int send_go(int fd, const char *name)
{
    size_t n = strlen(name);
    struct go go = {.client_flags = htobe32(FIXED_NEWSTYLE | NO_ZEROES),
                    .magic = htobe64(I_HAVE_OPT),
                    .option = htobe32(OPT_GO),
                    .length = htobe32((uint32_t)(4 + n + 2)),
                    .name_length = htobe32((uint32_t)n)};
    size_t size = sizeof go - sizeof go.rest + n + 2;
    memcpy(go.rest, name, n);
    return send(fd, &go, size, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

/* 1: the export is ours from here on; 0: there is more to come; -1 */
static int take_reply(int fd, const char *dir, const char *name, struct nbd_export *out, struct errmsg *e)
{
    struct reply r;
    struct export_info info;
    uint8_t data[REPLY_MAX];
    if (receive(fd, &r, sizeof r) < 0)
        return failed(dir, e);
    uint32_t type = be32toh(r.type), length = be32toh(r.length);
    if (be64toh(r.magic) != REPLY || be32toh(r.option) != OPT_GO || length > sizeof data)
        return errmsg_set(e, "the disk server in %s does not keep to the NBD protocol", dir);
    if (length && receive(fd, data, length) < 0)
        return failed(dir, e);
    if (type == REP_UNKNOWN)
        return errmsg_set(e, "the disk server in %s has no disk %s", dir, name);
    if (type & REP_IS_ERROR)
        return errmsg_set(e, "the disk server in %s refuses disk %s (NBD error %u)", dir, name, type & ~REP_IS_ERROR);
    if (type == REP_INFO && length == sizeof info) {
        memcpy(&info, data, sizeof info);
        if (be16toh(info.type) == INFO_EXPORT)
            *out = (struct nbd_export){.bytes = be64toh(info.bytes), .flags = be16toh(info.flags)};
    }
    return type == REP_ACK;
}

static int negotiate(int fd, const char *dir, const char *name, struct nbd_export *out, struct errmsg *e)
{
    struct greeting g;
    int status = 0;
    *out = (struct nbd_export){0};
    if (receive(fd, &g, sizeof g) < 0)
        return failed(dir, e);
    if (be64toh(g.magic) != GREETING || be64toh(g.options) != I_HAVE_OPT || !(be16toh(g.flags) & FIXED_NEWSTYLE))
        return errmsg_set(e, "%s/nbd.sock is no NBD server's", dir);
    if (send_go(fd, name) < 0)
        return failed(dir, e);
    while (status == 0)
        status = take_reply(fd, dir, name, out, e);
    if (status > 0 && !out->bytes)
        return errmsg_set(e, "the disk server in %s does not say how large disk %s is", dir, name);
    return status < 0 ? -1 : 0;
}

static int bound_waits(int fd, time_t s)
{
    struct timeval bound = {.tv_sec = s};
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound) < 0 ||
                   setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound) < 0
               ? -1
               : 0;
}

int nbd_open(const char *dir, const char *export_name, struct nbd_export *out, struct errmsg *e)
{
    struct sockaddr_un address;
    if (strlen(export_name) > EXPORT_NAME_MAX)
        return errmsg_set(e, "%s: too long a name for a disk", export_name);
    if (disk_socket_address(dir, "nbd.sock", &address, e) < 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), status = 0;
    if (fd < 0 || bound_waits(fd, ANSWER_S) < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        status = failed(dir, e);
    if (status == 0)
        status = negotiate(fd, dir, export_name, out, e);
    if (status == 0 && bound_waits(fd, 0) < 0) /* for the kernel such a time-out is the connection's end */
        status = failed(dir, e);
    if (status == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}
