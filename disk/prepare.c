#include "disk/prepare.h"

#include "common/log.h"
#include "disk/account_place.h"
#include "disk/shared.h"

/* Without one, re-syncs compare all. */
static int place_account(const struct config *c, const char *vm, const char *dir, const struct store_paths *stores,
                         struct errmsg *e)
{
    struct errmsg why;
    if (!account_place(c, vm, dir, stores, &why) && !account_distrust_changed(c, vm, stores, &why))
        return 0;
    log_warn("%s", why.text);
    return account_remove(c, vm, e);
}

int disks_prepare(const struct config *c, const char *vm, const char *dir, const struct store_paths *stores,
                  uint64_t term, bool drains, struct errmsg *e)
{
    if (stores_recover(c, vm, &medium_kernel, e) || shared_apply(c, vm, term, &medium_kernel, e))
        return -1;
    shared_drop(c, vm);
    if (!stores->count)
        return 0;
    return drains ? place_account(c, vm, dir, stores, e) : account_remove(c, vm, e);
}
