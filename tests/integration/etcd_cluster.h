/*
 * etcd_cluster: three members of a real etcd on loopback, and a proxy that loses answers. All data is in a temporary
 * folder; all processes die with the test.
 */
#ifndef HIKAE_TESTS_ETCD_CLUSTER_H
#define HIKAE_TESTS_ETCD_CLUSTER_H

#include <stdbool.h>
#include <sys/types.h>

enum { MEMBERS = 3 };

struct etcd_cluster {
    char dir[64];
    bool tls;
    unsigned client_port[MEMBERS], peer_port[MEMBERS];
    pid_t pids[MEMBERS]; /* 0: not up */
    char url[256];       /* for `arbiter =` */
    char ca[96], cert[96], key[96], other_ca[96];
};

bool etcd_is_installed(void);
/* Returns when all are started; they may not answer yet. */
void etcd_cluster_start(struct etcd_cluster *c, bool tls);
void etcd_cluster_end(struct etcd_cluster *c);
void etcd_member_start(struct etcd_cluster *c, int i);
void etcd_member_signal(const struct etcd_cluster *c, int i, int signum);
void etcd_member_kill(struct etcd_cluster *c, int i);
const char *etcd_member_url(const struct etcd_cluster *c, int i); /* static buffer */

unsigned etcd_free_port(void);
/* A process that listens on `port` and answers every connection with `text` alone, then closes it. */
pid_t etcd_fake_server(unsigned port, const char *text, size_t n);
/* A process that forwards requests from `port` to the member's port; a transaction's answer it throws away, with the
 * connection. */
pid_t etcd_losing_proxy(unsigned port, unsigned member_port);
void etcd_end_process(pid_t *pid);

#endif
