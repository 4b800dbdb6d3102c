/*
 * nbd: a client's first words to an NBD server on a unix socket, for a connection that is then given to the kernel.
 */
#ifndef HIKAE_DISK_NBD_H
#define HIKAE_DISK_NBD_H

#include "common/errmsg.h"

#include <stdint.h>

struct nbd_export {
    uint64_t bytes;
    uint16_t flags; /* NBD_FLAG_* of linux/nbd.h */
};

/* Connects to the server at DIR/nbd.sock and asks for an export. The connection, whose next octet belongs to a request
 * or to the answer of one, blocking and without time-outs; the caller closes it. -1 with `e`: nobody listens there, no
 * such export, no answer within 5 s, or it is no NBD server. */
int nbd_open(const char *dir, const char *export_name, struct nbd_export *out, struct errmsg *e);

#endif
