/*
 * host: a machine of the sandbox, made of namespaces. Its init is process 1 of a PID namespace: SIGKILL to it ends
 * everything on the host at once, as a power cut does. What is like a disk (keys, config, state, logs) outlives that;
 * /run, /dev/shm and the network do not.
 */
#ifndef HIKAE_DEMO_HOST_H
#define HIKAE_DEMO_HOST_H

#include "common/errmsg.h"
#include "tools/demo/options.h"

#include <stdbool.h>
#include <sys/types.h>

/* Where a host sees its own "disk", whichever host it is: a VM's settings name the same paths on both. */
#define HOST_DISK "/run/disk"

struct host {
    const char *name; /* "host-a" */
    int number;       /* 1, 2: the last byte of its addresses, 10.77.0.10+n and 10.78.0.n */
    pid_t pid;        /* of its init, as we see it; 0: it is down */
    unsigned boots;
    char dir[160];    /* its "disk" */
    char run_dir[64]; /* where the sockets of its agents are */
    char config[192]; /* path of hikae.conf */
    char fingerprint[65];
};

enum { KERNEL_LINE = 400 };
/* The guest's command line, of at most KERNEL_LINE bytes. */
void host_kernel_line(const struct options *o, char *out, size_t size);
/* Makes folders, keys and configs of both hosts, paired with each other. `dir` must exist. */
int hosts_prepare(struct host hosts[2], const char *dir, const struct options *o, struct errmsg *e);
/* Fresh namespaces, both agents started. */
int host_boot(struct host *h, const struct options *o, struct errmsg *e);
/* Takes its cables out: nobody hears of it any more, RST and FIN included. */
void host_cut(const struct host *h);
/* SIGKILL; does not wait. */
void host_kill(const struct host *h);
/* While somebody waits for its end, host_wait_gone not being called yet: tells the fencing when it has come. */
void host_look_for_end(const struct host *h);
/* After host_kill: returns when nothing of it is left. */
void host_wait_gone(struct host *h);
/* Did its init end without us? */
/* Is the file system on the store of the database's disk, as it is on this host now, one that needs no repair? */
int host_fsck(const struct host *h, const struct options *o, struct errmsg *e);
bool host_is_alive(struct host *h);
/* With options.restart: while held back, agents that end stay down. */
void host_hold_agents(const struct host *h, bool hold);
/* `hikae --config ITS words...` */
int host_hikae(const struct host *h, const struct options *o, struct errmsg *e, const char *const words[]);
/* The last lines of its logs, to stderr. */
void host_show_logs(const struct host *h);

#endif
