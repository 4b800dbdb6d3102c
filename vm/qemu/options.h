/*
 * options: the allow-list of QEMU options: what a VM may have to be replicated, and what may be taken over from another
 * host without giving it this one (no scripts, no sockets, no files but kernel and initrd, no monitors).
 */
#ifndef HIKAE_VM_QEMU_OPTIONS_H
#define HIKAE_VM_QEMU_OPTIONS_H

#include "vm/qemu/template.h"

struct option_context {
    struct template *t;
    struct template_found *found;
    enum template_source source;
    const char *base;
};

/* Checks option `name` (without leading dashes) and adds it to t->args, or leaves it out, or refuses. `value` is the
 * next word (NULL: there is none). Returns the number of words used, 1 or 2; -1 with e. */
int option_take(struct option_context *c, const char *name, const char *value, struct errmsg *e);

#endif
