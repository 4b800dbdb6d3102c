/*
 * wire: what happens to packets between the two hosts, by nftables in the network namespace of the host that would
 * receive them: the sender knows nothing of it, as with a real wire. The arbiter's members are not concerned.
 */
#ifndef HIKAE_CAMPAIGN_WIRE_H
#define HIKAE_CAMPAIGN_WIRE_H

#include "tools/demo/host.h"

/* What comes to `to` from the other host meets `rule`, nft's, such as "drop". Replaces the rule before. */
int wire_set(const struct host *to, const char *rule, struct errmsg *e);
/* Clears both hosts. A host without rules, or down, is well. */
void wire_clear(const struct host hosts[2]);
/* Bytes per second that TCP gets through from hosts[0] to hosts[1], without TLS. 0 with `e` on failure. */
double wire_rate(const struct host hosts[2], struct errmsg *e);

#endif
