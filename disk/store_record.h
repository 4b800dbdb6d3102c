/*
 * store_record: STATE_DIR/disks/VM.json, what is known of a VM's disks on this host, and the places of it all.
 */
#ifndef HIKAE_DISK_STORE_RECORD_H
#define HIKAE_DISK_STORE_RECORD_H

#include "disk/store.h"

#include <stdbool.h>

struct store_record {
    bool exists, syncing;
    struct store_paths paths;
};

int store_record_load(const struct config *c, const char *vm, struct store_record *r, struct errmsg *e);
/* Durable when it returns 0. Makes the directory. */
int store_record_save(const char *path, const struct store_record *r, struct errmsg *e);
/* STATE_DIR/disks/VM.SUFFIX. -1: too long. */
int store_state_path(char out[STORE_PATH_MAX], const struct config *c, const char *vm, const char *suffix,
                     struct errmsg *e);
/* Where a replica's disk is made that no section names. */
int store_image_path(char out[STORE_PATH_MAX], const struct config *c, const char *vm, unsigned disk, struct errmsg *e);
/* Those of the section [vm]. */
int store_paths_of_section(const struct config *c, const char *vm, struct store_paths *out, struct errmsg *e);
bool store_paths_are_equal(const struct store_paths *a, const struct store_paths *b);

#endif
