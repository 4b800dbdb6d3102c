/*
 * logs: what both hosts' agents wrote down of who owns the VM. The arbiter may grant a term once.
 */
#ifndef HIKAE_CAMPAIGN_LOGS_H
#define HIKAE_CAMPAIGN_LOGS_H

#include "tools/demo/host.h"

struct log_grants {
    unsigned granted; /* terms */
    unsigned twice;   /* of these, the ones that more than one agent says it was granted */
};

/* Of an earlier run in the same folder: its terms are not ours. Before the hosts boot. */
void logs_forget(const struct host hosts[2]);
struct log_grants logs_grants(const struct host hosts[2]);

#endif
