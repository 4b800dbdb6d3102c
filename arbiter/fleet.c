#include "arbiter/fleet.h"
#include "common/config.h"

#include <stdlib.h>
#include <string.h>

struct fleet {
    const struct fleet_ops *ops;
    void *backend;
};

struct fleet *fleet_open(struct ev_loop *loop, const struct config *c, const struct fleet_handlers *h, void *arg,
                         struct errmsg *e)
{
    static const struct fleet_ops *const kinds[] = {&fleet_etcd_ops, &fleet_file_ops, &fleet_none_ops};
    const char *url = c->arbiter ? c->arbiter : "";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strncmp(url, kinds[i]->kind, strlen(kinds[i]->kind)))
            continue;
        void *backend = kinds[i]->open(loop, c, h, arg, e);
        struct fleet *f = backend ? calloc(1, sizeof *f) : NULL;
        if (backend && !f)
            abort();
        if (f)
            *f = (struct fleet){.ops = kinds[i], .backend = backend};
        return f;
    }
    errmsg_set(e, "no arbiter is configured: it is what carries the fleet");
    return NULL;
}

void fleet_free(struct fleet *f)
{
    if (!f)
        return;
    f->ops->close(f->backend);
    free(f);
}

void fleet_round(struct fleet *f, const char *name, const char *text)
{
    f->ops->round(f->backend, name, text);
}
