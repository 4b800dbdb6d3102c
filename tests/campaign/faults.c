/* faults: see faults.h. */
#include "tests/campaign/faults.h"

#include "tests/campaign/procs.h"
#include "tests/campaign/wire.h"
#include "tools/demo/etcd.h"
#include "tools/demo/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DISK_BYTES = 4 << 20 };

static struct host *active(struct scene *s)
{
    return &s->hosts[s->active];
}

static struct host *standby(struct scene *s)
{
    return &s->hosts[!s->active];
}

static int lose(struct host *h, bool silently, double *at)
{
    if (silently)
        host_cut(h);
    *at = wall_ms();
    host_kill(h);
    host_wait_gone(h);
    return 0;
}

static int boot(const struct scene *s, struct host *h, struct errmsg *e)
{
    return host_boot(h, s->options, e);
}

/* There must be such a process, or the event is not what it says. */
static int strike(const struct host *h, enum role role, int signum, double *at, struct errmsg *e)
{
    *at = wall_ms();
    int hit = procs_signal(h, role, signum);
    return hit > 0 ? 0 : errmsg_set(e, "%s has no process of role %d to signal", h->name, (int)role);
}

/* Twice: one may be forked while we look. */
static int freeze(const struct host *h, double *at, struct errmsg *e)
{
    if (strike(h, ROLE_ANY, SIGSTOP, at, e))
        return -1;
    (void)procs_signal(h, ROLE_ANY, SIGSTOP);
    return 0;
}

/* Both directions, or that towards one host alone. Its moment is when the last rule is in. */
static int spoil(const struct scene *s, const struct host *to, const char *rule, double *at, struct errmsg *e)
{
    for (int i = 0; i < 2; i++)
        if ((!to || to == &s->hosts[i]) && wire_set(&s->hosts[i], rule, e))
            return -1;
    *at = wall_ms();
    return 0;
}

static int spoil_by(const struct scene *s, const char *format, unsigned amount, double *at, struct errmsg *e)
{
    char rule[128];
    snprintf(rule, sizeof rule, format, amount);
    return spoil(s, NULL, rule, at, e);
}

/* Ends that nobody is told of: the worker dies, its FIN and RST are lost. */
static int half_open(const struct scene *s, const struct host *h, const struct host *other, enum role role, double *at,
                     struct errmsg *e)
{
    return spoil(s, other, "tcp flags & (fin | rst) != 0 drop", at, e) || strike(h, role, SIGKILL, at, e) ? -1 : 0;
}

static void filler_of(const struct host *h, char path[224])
{
    snprintf(path, 224, "%s/state/filler", h->dir);
}

static int fill_disk(const struct host *h, struct errmsg *e)
{
    static const char block[4096] = {1};
    char path[224];
    filler_of(h, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    ssize_t n;
    while ((n = write(fd, block, sizeof block)) > 0)
        ;
    int why = errno;
    close(fd);
    return n < 0 && why == ENOSPC ? 0 : errmsg_set(e, "%s: %s", path, strerror(why));
}

static int end_agents(const struct host *h, double *at, struct errmsg *e)
{
    host_hold_agents(h, true);
    return strike(h, ROLE_PRIMARY, SIGKILL, at, e) || strike(h, ROLE_PRIMARY_WORKER, SIGKILL, at, e) ? -1 : 0;
}

static void signal_members(unsigned but, int signum)
{
    for (unsigned i = 0; i < ETCD_MEMBERS; i++)
        if (i != but)
            etcd_member_signal((int)i, signum);
}

static int disk_full(const struct host *h, double *at, struct errmsg *e)
{
    return fill_disk(h, e) || strike(h, ROLE_SECONDARY_WORKER, SIGKILL, at, e) ? -1 : 0;
}

int fault_begin(struct scene *s, const struct event *v, double *at, struct errmsg *e)
{
    *at = wall_ms();
    switch (v->kind) {
    case KIND_HOST_KILLED:
        return lose(active(s), false, at);
    case KIND_POWER_CUT:
        return lose(active(s), true, at);
    case KIND_STANDBY_HOST_KILLED:
        return lose(standby(s), false, at);
    case KIND_VM_KILLED:
        return strike(active(s), ROLE_QEMU, SIGKILL, at, e);
    case KIND_REPLICA_KILLED:
        return strike(standby(s), ROLE_QEMU, SIGKILL, at, e);
    case KIND_AGENTS_KILLED:
        return end_agents(active(s), at, e);
    case KIND_WORKER_STOPPED:
    case KIND_WORKER_BLINKED:
        return strike(active(s), ROLE_PRIMARY_WORKER, SIGSTOP, at, e);
    case KIND_REPLICA_BLINKED:
        return strike(standby(s), ROLE_SECONDARY_WORKER, SIGSTOP, at, e);
    case KIND_HOST_FROZEN:
    case KIND_HOST_BLINKED:
        return freeze(active(s), at, e);
    case KIND_WORKER_KILLED:
        return strike(active(s), ROLE_PRIMARY_WORKER, SIGKILL, at, e);
    case KIND_SUPERVISOR_KILLED:
        return strike(active(s), ROLE_PRIMARY, SIGKILL, at, e);
    case KIND_STANDBY_SUPERVISOR_KILLED:
        return strike(standby(s), ROLE_SECONDARY, SIGKILL, at, e);
    case KIND_STANDBY_WORKER_KILLED:
        return strike(standby(s), ROLE_SECONDARY_WORKER, SIGKILL, at, e);
    case KIND_HALF_OPEN_PRIMARY:
        return half_open(s, active(s), standby(s), ROLE_PRIMARY_WORKER, at, e);
    case KIND_HALF_OPEN_STANDBY:
        return half_open(s, standby(s), active(s), ROLE_SECONDARY_WORKER, at, e);
    case KIND_LINK_CUT:
    case KIND_BLIP:
        return spoil(s, NULL, "drop", at, e);
    case KIND_CUT_FROM_PRIMARY:
        return spoil(s, standby(s), "drop", at, e);
    case KIND_CUT_TO_PRIMARY:
        return spoil(s, active(s), "drop", at, e);
    case KIND_LOSS_1:
    case KIND_LOSS_5:
    case KIND_LOSS_20:
        return spoil_by(s, "numgen random mod 100 < %u drop", v->amount, at, e);
    case KIND_SLOW_LINK:
        return spoil_by(s, "limit rate over %u mbytes/second burst 256 kbytes drop", v->amount, at, e);
    case KIND_DISK_FULL:
        return disk_full(standby(s), at, e);
    case KIND_ETCD_KILLED:
        etcd_member_signal((int)v->amount, SIGKILL);
        return 0;
    case KIND_ETCD_STOPPED:
        etcd_member_signal((int)v->amount, SIGSTOP);
        return 0;
    case KIND_ARBITER_LOST:
        signal_members(v->amount, SIGSTOP);
        return 0;
    case KINDS:
        break;
    }
    return errmsg_set(e, "no such kind of event");
}

int fault_end(struct scene *s, const struct event *v, int was_active, struct errmsg *e)
{
    struct host *first = &s->hosts[was_active], *second = &s->hosts[!was_active];
    char path[224];
    switch (v->kind) {
    case KIND_HOST_KILLED:
    case KIND_POWER_CUT:
        return boot(s, first, e);
    case KIND_STANDBY_HOST_KILLED:
        return boot(s, second, e);
    case KIND_AGENTS_KILLED:
        host_hold_agents(first, false);
        return 0;
    case KIND_WORKER_STOPPED:
    case KIND_WORKER_BLINKED:
    case KIND_HOST_FROZEN:
    case KIND_HOST_BLINKED:
        procs_signal(first, ROLE_ANY, SIGCONT);
        return 0;
    case KIND_REPLICA_BLINKED:
        procs_signal(second, ROLE_ANY, SIGCONT);
        return 0;
    case KIND_DISK_FULL:
        filler_of(second, path);
        return unlink(path) ? errmsg_set(e, "%s: %s", path, strerror(errno)) : 0;
    case KIND_ETCD_KILLED:
        return etcd_member_restart((int)v->amount, s->dir, e);
    case KIND_ETCD_STOPPED:
    case KIND_ARBITER_LOST:
        signal_members(ETCD_MEMBERS, SIGCONT);
        return 0;
    default:
        wire_clear(s->hosts);
        return 0;
    }
}

int fault_prepare_disks(const struct scene *s, struct errmsg *e)
{
    for (int i = 0; i < 2; i++) {
        char path[224], size[32];
        snprintf(path, sizeof path, "%s/state", s->hosts[i].dir);
        snprintf(size, sizeof size, "mode=0700,size=%d", DISK_BYTES);
        if (mount("tmpfs", path, "tmpfs", 0, size))
            return errmsg_set(e, "mount %s: %s", path, strerror(errno));
    }
    return 0;
}
