/*
 * network: the lines of the VM's NICs that the process which becomes its primary worker inherits. They are opened while
 * the arbiter is asked; what comes over them before that process reads them waits in their queues. So the VM can be
 * resumed at once, and loses nothing.
 */
#ifndef HIKAE_SECONDARY_NETWORK_H
#define HIKAE_SECONDARY_NETWORK_H

#include "netbuf/relay.h"
#include "vm/vm.h"

struct network {
    unsigned n; /* lines that are open: of the first n NICs */
    struct relay_line lines[VM_MAX_NICS];
    uint8_t macs[VM_MAX_NICS][6];
};

/* Can the output of this replica be held here, once it runs? Found out before it has to. */
int network_check(const struct vm_info *vm, struct errmsg *e);
/* Does nothing if they are open. A NIC that can't be connected now is left to the primary worker. */
void network_open(struct network *net, const struct vm_info *vm);
void network_announce(const struct network *net, const struct vm_info *vm);
void network_inherit(const struct network *net); /* to the program that this process executes next */
void network_close(struct network *net);

#endif
