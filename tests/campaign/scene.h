/*
 * scene: what the campaign plays with: two hosts, one of which runs the VM, and the arbiter's members.
 */
#ifndef HIKAE_CAMPAIGN_SCENE_H
#define HIKAE_CAMPAIGN_SCENE_H

#include "tools/demo/host.h"

#include <stdbool.h>

struct scene {
    const struct options *options; /* of the hosts */
    const char *dir;               /* where everything's folders are */
    struct host hosts[2];
    int active; /* the host that runs the VM */
};

#endif
