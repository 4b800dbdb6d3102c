/*
 * config_whole: what config.c, which reads the file, and config_lookup.c, which answers questions, share.
 */
#ifndef HIKAE_COMMON_CONFIG_WHOLE_H
#define HIKAE_COMMON_CONFIG_WHOLE_H

#include "common/config.h"

/* What config_load really allocates: also the defaults that config_vm has given out. */
struct whole {
    struct config config;
    struct config_vm **defaults;
    size_t default_count;
};

void config_vm_defaults(struct config_vm *vm, const char *name);
void config_vm_add_disk(struct config_vm *vm, const char *path, bool shared);
void config_vm_clear(struct config_vm *vm);
/* `p`; aborts if it is NULL: a few hundred bytes at start-up. */
void *config_need(void *p);

#endif
