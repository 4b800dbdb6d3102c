/* identity: this host's fingerprint, for the commands that print or compare it. */
#ifndef HIKAE_TOOLS_HIKAE_IDENTITY_H
#define HIKAE_TOOLS_HIKAE_IDENTITY_H

#include "common/config.h"

/* False after printing why there is none. */
bool identity_fingerprint(const struct config *config, char out[65]);

#endif
