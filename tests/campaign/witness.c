/* witness: see witness.h. Its figures are in memory that it shares with its owner. */
#include "tests/campaign/witness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BUFFER_BYTES = 8 << 20, CABLES = 4096, ELSEWHERE = 2, UNKNOWN = 3 };

struct figures {
    _Atomic uint64_t frames[2], switches, overlooked;
};

struct witness {
    pid_t pid;
    struct figures *figures;
};

/* Only the guest's frames: its address as source. */
static int only_the_guests(int fd, const char *mac)
{
    unsigned m[6] = {0};
    sscanf(mac, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 6),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, m[0] << 8 | m[1], 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, m[2] << 24 | m[3] << 16 | m[4] << 8 | m[5], 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 64),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

static int open_socket(const char *mac)
{
    int size = BUFFER_BYTES;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* deaf until it is bound, the filter comes first */
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    if (only_the_guests(fd, mac) || bind(fd, (struct sockaddr *)&all, sizeof all)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Which host's LAN cable is it? A host has a new one after each boot. */
static int host_at(const char *const cables[2], int cable)
{
    static unsigned char known[CABLES]; /* 1 + the answer */
    char name[IF_NAMESIZE];
    if (cable <= 0 || cable >= CABLES)
        return UNKNOWN;
    if (known[cable])
        return known[cable] - 1;
    if (!if_indextoname((unsigned)cable, name))
        return UNKNOWN;
    int found = ELSEWHERE;
    for (int i = 0; i < 2; i++)
        if (!strcmp(name, cables[i]))
            found = i;
    known[cable] = (unsigned char)(1 + found);
    return found;
}

static _Noreturn void watch(int fd, const char *const cables[2], struct figures *f)
{
    int last = UNKNOWN;
    for (;;) {
        char frame[64];
        struct sockaddr_ll from = {0};
        struct tpacket_stats lost;
        socklen_t n = sizeof from, stats_n = sizeof lost;
        if (recvfrom(fd, frame, sizeof frame, 0, (struct sockaddr *)&from, &n) < 0 && errno != EINTR &&
            errno != ENETDOWN)
            _exit(1);
        if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &lost, &stats_n) == 0)
            f->overlooked += lost.tp_drops;
        int host = from.sll_pkttype == PACKET_OUTGOING ? ELSEWHERE : host_at(cables, from.sll_ifindex);
        if (host >= ELSEWHERE)
            continue;
        f->frames[host]++;
        if (last != UNKNOWN && last != host)
            f->switches++;
        last = host;
    }
}

struct witness *witness_start(const char *mac, const char *const cables[2], struct errmsg *e)
{
    int fd = open_socket(mac);
    struct witness *w = calloc(1, sizeof *w);
    if (fd < 0 || !w) {
        errmsg_set(e, "witness of the LAN's frames: %s", strerror(errno));
        free(w);
        return NULL;
    }
    w->figures = mmap(NULL, sizeof *w->figures, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    w->pid = w->figures == MAP_FAILED ? -1 : fork();
    if (w->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setsid();
        watch(fd, cables, w->figures);
    }
    close(fd);
    if (w->pid < 0) {
        errmsg_set(e, "witness of the LAN's frames: %s", strerror(errno));
        free(w);
        return NULL;
    }
    return w;
}

void witness_stop(struct witness *w)
{
    if (!w)
        return;
    kill(w->pid, SIGKILL);
    waitpid(w->pid, NULL, 0);
    munmap(w->figures, sizeof *w->figures);
    free(w);
}

struct witness_report witness_report(const struct witness *w)
{
    const struct figures *f = w->figures;
    return (struct witness_report){
        .frames = {f->frames[0], f->frames[1]}, .switches = f->switches, .overlooked = f->overlooked};
}
