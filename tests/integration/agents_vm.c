/*
 * agents_vm: see agents.h. The fake VMs as seen from outside: their control pages, and the frames that reach the
 * bridge.
 */
#include "tests/integration/agents.h"
#include "vm/process.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static bool sandboxed;

/* ---- control pages ---- */

void machine_unmap(struct machine *m)
{
    if (m)
        munmap(m, sizeof *m);
}

static struct machine *map_machine(const char *dir)
{
    char path[200];
    snprintf(path, sizeof path, "%s/control", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    void *at = size >= (off_t)sizeof(struct machine) ? mmap(NULL, sizeof(struct machine), PROT_READ, MAP_SHARED, fd, 0)
                                                     : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (at == MAP_FAILED)
        return NULL;
    struct machine *m = at;
    if (m->magic == MACHINE_MAGIC && m->pid > 0 && m->start_time && process_start_time(m->pid) == m->start_time)
        return m;
    machine_unmap(m);
    return NULL;
}

size_t host_machines(const struct host *h, bool replica, struct machine **out, char (*dirs)[160], size_t max)
{
    char vms[120], dir[160];
    size_t n = 0;
    snprintf(vms, sizeof vms, "%s/run/vms", h->dir);
    DIR *d = opendir(vms);
    for (const struct dirent *entry; d && n < max && (entry = readdir(d));) {
        if (strncmp(entry->d_name, "web.", 4) || strlen(entry->d_name) > 30)
            continue;
        snprintf(dir, sizeof dir, "%s/%.30s", vms, entry->d_name);
        struct machine *m = map_machine(dir);
        if (m && (m->replica != 0) == replica) {
            if (dirs)
                strcpy(dirs[n], dir);
            out[n++] = m;
        } else {
            machine_unmap(m);
        }
    }
    if (d)
        closedir(d);
    return n;
}

static pid_t first_pid(const struct host *h, bool replica)
{
    struct machine *m;
    pid_t pid = 0;
    if (host_machines(h, replica, &m, NULL, 1)) {
        pid = m->pid;
        machine_unmap(m);
    }
    return pid;
}

pid_t host_vm_pid(const struct host *h)
{
    return first_pid(h, false);
}

pid_t host_replica_pid(const struct host *h)
{
    return first_pid(h, true);
}

struct machine *host_vm(const struct host *h)
{
    struct machine *all[8];
    size_t n = host_machines(h, false, all, NULL, 8);
    for (size_t i = 1; i < n; i++)
        machine_unmap(all[i]);
    if (n != 1)
        fail_msg("%zu VMs live on host %s, not one", n, h->name);
    return all[0];
}

void host_wait_running(const struct host *h)
{
    WAIT_FOR(host_vm_pid(h));
    struct machine *m = host_vm(h);
    uint64_t step = m->step;
    WAIT_FOR(m->step > step + 10);
    machine_unmap(m);
}

void host_check_memory(const struct host *h)
{
    struct machine *m = host_vm(h);
    uint64_t checked = m->checked;
    WAIT_FOR(m->checked > checked + 3 * m->pages); /* every page about thrice */
    assert_int_equal(m->errors, 0);
    machine_unmap(m);
}

static unsigned advancing(struct machine *const *all, size_t n)
{
    uint64_t steps[16];
    unsigned count = 0;
    for (size_t i = 0; i < n; i++)
        steps[i] = all[i]->step;
    agents_sleep_ms(300); /* longer than any checkpoint */
    for (size_t i = 0; i < n; i++)
        count += all[i]->step != steps[i];
    return count;
}

unsigned agents_running(const struct agents *t)
{
    struct machine *all[16];
    size_t n = host_machines(&t->a, false, all, NULL, 8);
    n += host_machines(&t->b, false, all + n, NULL, 8);
    unsigned count = advancing(all, n);
    for (size_t i = 0; i < n; i++)
        machine_unmap(all[i]);
    return count;
}

void agents_protect(struct agents *t)
{
    host_start_both(&t->a);
    host_start_both(&t->b);
    host_order(&t->a, PRIMARY, "{\"cmd\":\"protect\",\"vm\":\"web\",\"to\":\"b\"}");
    host_wait_state(&t->a, PRIMARY, "PROTECTED");
}

/* ---- sandbox ---- */

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, text, strlen(text));
        close(fd);
    }
}

static bool unshare_all(void)
{
    char map[48];
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (geteuid() == 0)
        return unshare(CLONE_NEWNET | CLONE_NEWNS) == 0;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS))
        return false;
    write_text("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1\n", uid);
    write_text("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %u 1\n", gid);
    write_text("/proc/self/gid_map", map);
    return true;
}

static bool bring_up(int control, const char *name)
{
    struct ifreq r = {.ifr_flags = IFF_UP | IFF_RUNNING};
    strcpy(r.ifr_name, name);
    return ioctl(control, SIOCSIFFLAGS, &r) == 0;
}

void agents_enter_sandbox(void)
{
    if (!unshare_all())
        return;
    (void)mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    bool lo = bring_up(control, "lo"); /* the agents' own connection needs it in any case */
    sandboxed = lo && tun >= 0 && ioctl(control, SIOCBRADDBR, "br0") == 0 && bring_up(control, "br0");
    if (!sandboxed)
        fprintf(stderr, "no /dev/net/tun or no bridges here: tests that look at frames are skipped\n");
    close(control);
    if (tun >= 0)
        close(tun);
}

bool agents_have_sandbox(void)
{
    return sandboxed;
}

/* ---- frames ---- */

struct observer {
    int fd;
    struct observer_counts counts;
};

struct observer *observer_new(void)
{
    struct observer *o = calloc(1, sizeof *o);
    int room = 16 << 20;
    assert_non_null(o);
    o->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(MACHINE_ETHERTYPE));
    assert_true(o->fd >= 0);
    setsockopt(o->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(MACHINE_ETHERTYPE), .sll_ifindex = (int)if_nametoindex("br0")};
    assert_int_equal(bind(o->fd, (struct sockaddr *)&at, sizeof at), 0);
    return o;
}

void observer_free(struct observer *o)
{
    close(o->fd);
    free(o);
}

static uint64_t big_endian(const uint8_t octets[8])
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | octets[i];
    return v;
}

struct observer_counts observer_read(struct observer *o)
{
    struct observer_counts *c = &o->counts;
    struct machine_frame frame;
    for (ssize_t n; (n = recv(o->fd, &frame, sizeof frame, 0)) > 0;) {
        if (n != (ssize_t)sizeof frame)
            continue;
        uint64_t sequence = big_endian(frame.sequence);
        if (sequence <= c->last) {
            c->backwards++;
            fprintf(stderr, "frame %llu came after %llu\n", (unsigned long long)sequence, (unsigned long long)c->last);
        }
        uint64_t nonce = big_endian(frame.nonce);
        c->changes += c->frames && nonce != c->nonce;
        c->frames++;
        c->last = sequence;
        c->nonce = nonce;
    }
    return *c;
}
