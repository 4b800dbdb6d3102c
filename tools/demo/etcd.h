/*
 * etcd: the cluster of three that `--arbiter etcd` asks for. Its members are no hosts of the demo: they sit at the
 * switch of the replication link and outlive the hosts that are lost.
 */
#ifndef HIKAE_DEMO_ETCD_H
#define HIKAE_DEMO_ETCD_H

#include "common/errmsg.h"

#include <stdbool.h>

/* For `arbiter =`. */
#define ETCD_URL "etcd:http://10.78.0.101:2379,http://10.78.0.102:2379,http://10.78.0.103:2379"

/* Inside the sandbox; data and logs in `dir`. They may not answer yet when it returns. */
enum { ETCD_MEMBERS = 3 };

int etcd_start(const char *dir, struct errmsg *e);
void etcd_end(void);
/* SIGSTOP, SIGCONT, or SIGKILL, after which etcd_member_restart brings the member back with its data. */
void etcd_member_signal(int i, int signum);
int etcd_member_restart(int i, const char *dir, struct errmsg *e);
/* Do all members answer, and know a leader? */
bool etcd_is_healthy(void);

#endif
