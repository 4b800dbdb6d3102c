#include "secondary/network.h"
#include "common/log.h"
#include "netbuf/plug.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int network_check(const struct vm_info *vm, struct errmsg *e)
{
    for (unsigned i = 0; i < vm->nic_count; i++)
        if (*vm->nics[i].ifname)
            return plug_check(e);
    return 0;
}

void network_open(struct network *net, const struct vm_info *vm)
{
    struct errmsg e;
    while (net->n < vm->nic_count) {
        const struct vm_nic *nic = &vm->nics[net->n];
        if (!*nic->stream_path)
            return; /* its interface is there already: the backend made it with the replica */
        struct relay_config c = {.stream_path = nic->stream_path, .bridge = nic->bridge};
        memcpy(c.mac, nic->mac, sizeof c.mac);
        if (relay_line_open(&c, &net->lines[net->n], &e)) {
            log_warn("%s", e.text);
            return;
        }
        memcpy(net->macs[net->n++], nic->mac, sizeof nic->mac);
    }
}

void network_announce(const struct network *net, const struct vm_info *vm)
{
    for (unsigned i = 0; i < net->n; i++)
        relay_line_announce(&net->lines[i], vm->nics[i].mac);
}

void network_inherit(const struct network *net)
{
    char text[VM_MAX_NICS * 48] = "";
    for (unsigned i = 0; i < net->n; i++) {
        const struct relay_line *l = &net->lines[i];
        size_t used = strlen(text);
        const uint8_t *m = net->macs[i];
        snprintf(text + used, sizeof text - used, "%d:%d:%02x:%02x:%02x:%02x:%02x:%02x ", l->tap, l->vm, m[0], m[1],
                 m[2], m[3], m[4], m[5]);
        fcntl(l->tap, F_SETFD, 0);
        fcntl(l->vm, F_SETFD, 0);
    }
    setenv("HIKAE_LINES", text, 1);
}

void network_close(struct network *net)
{
    while (net->n)
        relay_line_close(&net->lines[--net->n]);
}
