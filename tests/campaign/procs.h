/*
 * procs: the processes of a host, found from outside by its PID namespace and told apart by their command lines.
 */
#ifndef HIKAE_CAMPAIGN_PROCS_H
#define HIKAE_CAMPAIGN_PROCS_H

#include "tools/demo/host.h"

enum role {
    ROLE_PRIMARY,          /* its supervisor */
    ROLE_PRIMARY_WORKER,   /* also one that was a secondary's until it took over */
    ROLE_SECONDARY,        /* its supervisor */
    ROLE_SECONDARY_WORKER, /* holds a replica */
    ROLE_QEMU,
    ROLE_OTHER,
    ROLE_ANY
};

/* To each process of that role; returns how many got it. */
int procs_signal(const struct host *h, enum role role, int signum);
int procs_count(const struct host *h, enum role role);
/* Folders of VMs in the host's run_dir. */
int procs_run_dirs(const struct host *h);

#endif
