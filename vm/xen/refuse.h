/*
 * refuse: which configurations of a domain can't be checkpointed, and why. Pure: it looks at libxl's description only.
 */
#ifndef HIKAE_VM_XEN_REFUSE_H
#define HIKAE_VM_XEN_REFUSE_H

#include <libxl.h>

#include <stdbool.h>

/* Completes "can't be protected: "; NULL: nothing is wrong with it. */
const char *refuse_config(const libxl_domain_config *c);

/* The hotplug scripts by which a network interface comes to its bridge; whatever their folder. */
#define SCRIPT_BRIDGE      "vif-bridge"
#define SCRIPT_OPENVSWITCH "vif-openvswitch"
bool nic_has_script(const libxl_device_nic *n, const char *name);

/* libxl's three-valued bool, if its default is `otherwise`. */
bool defbool_is(libxl_defbool b, bool otherwise);
unsigned serial_ports(const libxl_domain_build_info *b);

/* How an HVM replica's device model is made to wait for its state, and to stand still when it has it; a domain that
 * took over has them still. */
enum { MODEL_ARGUMENTS = 3 };
extern const char *const model_arguments[MODEL_ARGUMENTS];

#endif
