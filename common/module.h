/*
 * module: where what is loaded at run time lies.
 */
#ifndef HIKAE_COMMON_MODULE_H
#define HIKAE_COMMON_MODULE_H

#include <stddef.h>

/* The path of module `file` (e.g. hikae-vm-qemu.so): in the folder that HIKAE_MODULE_DIR names, else in the build tree
 * that this program runs from, else in the installed folder. Whether it is there is not looked at. -1: `out` is too
 * small. */
int module_path(const char *file, char *out, size_t size);

#endif
