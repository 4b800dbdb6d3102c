/*
 * skeleton: the smallest stream from which libxl makes a domain that a replica can live in: no RAM, only the special
 * pages above it (empty), its CPU policy, parameters and some HVM context. Pure.
 *
 * The format is Xen's: docs/specs/libxl-migration-stream.pandoc (version 2) around libxc-migration-stream.pandoc
 * (version 3).
 */
#ifndef HIKAE_VM_XEN_SKELETON_H
#define HIKAE_VM_XEN_SKELETON_H

#include "vm/xen/shape.h"

/* Appends the stream to `out`. -1: no memory. */
int skeleton_write(const struct shape *s, unsigned xen_major, unsigned xen_minor, struct vm_blob *out);

#endif
