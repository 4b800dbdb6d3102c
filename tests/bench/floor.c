#include "tests/bench/floor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* TLS records as ours, four to a segment of the kernel's, written in the pieces that the guest writes. */
enum { RECORD = 16 << 10, SEGMENT = 64 << 10, PIECE = 256 << 10, FILE_BYTES = 256 << 20, TURNS = 2, BUFFER = 1 << 20 };
enum { KEY = 16, NONCE = 12, TAG = 16 };

struct path {
    int out, in, file;
    EVP_CIPHER_CTX *seal, *open;
    uint8_t plain[PIECE], wire[SEGMENT + SEGMENT / RECORD * TAG];
};

static int listen_once(struct sockaddr_in *at)
{
    socklen_t n = sizeof *at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd >= 0 && !bind(fd, (struct sockaddr *)at, sizeof *at) && !listen(fd, 1) &&
        !getsockname(fd, (struct sockaddr *)at, &n))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* One thread writes to it and reads from it: a segment fits in. */
static int connect_to_itself(struct path *p)
{
    struct sockaddr_in at;
    int much = BUFFER, listener = listen_once(&at);
    if (listener < 0)
        return -1;
    p->out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(p->out, SOL_SOCKET, SO_SNDBUF, &much, sizeof much);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &much, sizeof much);
    if (p->out >= 0 && !connect(p->out, (struct sockaddr *)&at, sizeof at))
        p->in = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    close(listener);
    return p->in < 0 ? -1 : 0;
}

static int make_file(struct path *p, const char *dir)
{
    char name[256];
    if (snprintf(name, sizeof name, "%s/hikae-floor-XXXXXX", dir) >= (int)sizeof name)
        return -1;
    p->file = mkostemp(name, O_CLOEXEC);
    if (p->file < 0)
        return -1;
    unlink(name);
    for (off_t at = 0; at < FILE_BYTES; at += PIECE) /* so that none of it has to be allocated later */
        if (pwrite(p->file, p->plain, PIECE, at) != PIECE)
            return -1;
    return fsync(p->file);
}

/* Half a TLS 1.3 record layer, which has no other work per octet. */
static int seal(struct path *p, const uint8_t *plain, uint8_t *wire)
{
    uint8_t nonce[NONCE] = {0};
    int n;
    return EVP_EncryptInit_ex(p->seal, NULL, NULL, NULL, nonce) &&
                   EVP_EncryptUpdate(p->seal, wire, &n, plain, RECORD) && EVP_EncryptFinal_ex(p->seal, wire + n, &n) &&
                   EVP_CIPHER_CTX_ctrl(p->seal, EVP_CTRL_GCM_GET_TAG, TAG, wire + RECORD)
               ? 0
               : -1;
}

static int unseal(struct path *p, uint8_t *wire, uint8_t *plain)
{
    uint8_t nonce[NONCE] = {0};
    int n;
    return EVP_DecryptInit_ex(p->open, NULL, NULL, NULL, nonce) &&
                   EVP_DecryptUpdate(p->open, plain, &n, wire, RECORD) &&
                   EVP_CIPHER_CTX_ctrl(p->open, EVP_CTRL_GCM_SET_TAG, TAG, wire + RECORD) &&
                   EVP_DecryptFinal_ex(p->open, plain + n, &n) > 0
               ? 0
               : -1;
}

static int pass_segment(struct path *p, uint8_t *plain)
{
    int bad = 0;
    for (int i = 0; i < SEGMENT / RECORD; i++)
        bad |= seal(p, plain + i * RECORD, p->wire + i * (RECORD + TAG));
    bad |= send(p->out, p->wire, sizeof p->wire, MSG_NOSIGNAL) != (ssize_t)sizeof p->wire;
    bad |= recv(p->in, p->wire, sizeof p->wire, MSG_WAITALL) != (ssize_t)sizeof p->wire;
    for (int i = 0; i < SEGMENT / RECORD; i++)
        bad |= unseal(p, p->wire + i * (RECORD + TAG), plain + i * RECORD);
    return bad ? -1 : 0;
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static double pass_all(struct path *p)
{
    int bad = 0;
    double begin = cpu_ms();
    for (int turn = 0; turn < TURNS; turn++)
        for (off_t at = 0; at < FILE_BYTES && !bad; at += PIECE) {
            for (int i = 0; i < PIECE; i += SEGMENT)
                bad |= pass_segment(p, p->plain + i);
            bad |= pwrite(p->file, p->plain, PIECE, at) != PIECE;
        }
    return bad ? -1 : (cpu_ms() - begin) / (TURNS * (FILE_BYTES >> 20));
}

static int open_path(struct path *p, const char *dir)
{
    static const uint8_t key[KEY] = "0123456789abcde";
    p->out = p->in = p->file = -1;
    p->seal = EVP_CIPHER_CTX_new();
    p->open = EVP_CIPHER_CTX_new();
    bool ready = p->seal && p->open && EVP_EncryptInit_ex(p->seal, EVP_aes_128_gcm(), NULL, key, NULL) &&
                 EVP_DecryptInit_ex(p->open, EVP_aes_128_gcm(), NULL, key, NULL);
    return ready && !make_file(p, dir) && !connect_to_itself(p) ? 0 : -1;
}

double floor_ms_per_mb(const char *dir, struct errmsg *e)
{
    struct path *p = calloc(1, sizeof *p);
    double ms = p && !open_path(p, dir) ? pass_all(p) : -1;
    if (ms < 0)
        errmsg_set(e, "the floor can't be measured in %s: %s", dir, strerror(errno));
    if (!p)
        return ms;
    const int fds[] = {p->out, p->in, p->file};
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    EVP_CIPHER_CTX_free(p->seal);
    EVP_CIPHER_CTX_free(p->open);
    free(p);
    return ms;
}
